"""Normalize the values of a COCO file to the form that pycocotools and MMDetection expect.

Many tools write COCO files, and not all write what COCO's own hold. Values whose meaning is plain
are changed here; all others stay as they are, and :mod:`convnextv2_mm.datasets.coco_problems` names
them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any


def normalize_values(content: Any) -> None:
    """Normalize the contents of a COCO file in place, whatever they are.

    - Ids and sizes such as ``3.0`` and ``'3'`` become ``3``.
    - Polygons get float coordinates: of whole numbers MMDetection makes integer arrays, and cuts
      off what is behind the point whenever it scales them.
    - A flat list of coordinates becomes a list of one polygon.
    - Without ``iscrowd`` an object is no crowd; ``true`` and ``1.0`` are 1.
    - No annotations are an empty list, and an area of null is none.
    """
    if not isinstance(content, dict):
        return
    if content.get('annotations') is None:
        content['annotations'] = []
    fields = ['id']
    for part, field in (('images', 'image_id'), ('categories', 'category_id')):
        # Beside an id such as 'a' or '007', which is no plain number, '8' is text too.
        if not any(isinstance(_as_whole(e.get('id')), str) for e in _entries(content, part)):
            fields.append(field)
            for entry in _entries(content, part):
                _make_whole(entry, ('id',))
    for image in _entries(content, 'images'):
        _make_whole(image, ('height', 'width'))
    for annotation in _entries(content, 'annotations'):
        _make_whole(annotation, fields)
        crowd = annotation.setdefault('iscrowd', 0)
        if type(crowd) is not int and crowd in (0, 1):
            annotation['iscrowd'] = int(crowd)
        if annotation.get('area', 0) is None:
            del annotation['area']
        mask = annotation.get('segmentation')
        if isinstance(mask, list) and mask:
            parts = [mask] if type(mask[0]) in (int, float) else mask
            annotation['segmentation'] = [_as_floats(part) for part in parts]
        elif isinstance(mask, dict) and isinstance(mask.get('size'), list):
            mask['size'] = [_as_whole(side) for side in mask['size']]


def _entries(content: dict, part: str) -> Iterator[dict]:
    entries = content.get(part)
    if isinstance(entries, list):
        yield from (entry for entry in entries if isinstance(entry, dict))


def _make_whole(entry: dict, fields: Sequence[str]) -> None:
    for field in fields:
        value = entry.get(field)
        if type(value) is not int and value is not None:
            entry[field] = _as_whole(value)


def _as_whole(value: Any) -> Any:
    """The whole number that a value is, or stands for; otherwise the value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.removeprefix('-').isdecimal() and str(int(value)) == value:
        return int(value)
    return value


def _as_floats(part: Any) -> Any:
    """Numbers as floats; otherwise the value. As a C array, which takes no text for numbers."""
    try:
        return array('d', part).tolist() if isinstance(part, list) else part
    except (TypeError, OverflowError):
        return part
