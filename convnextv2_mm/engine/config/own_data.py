"""Look at a user's own images and annotations, and write the lists that a run reads.

Each task has a function that takes the ``own`` section of a recipe in ``configs/own`` and gives an
:class:`OwnData`. Where no validation data are given, a part is split off: by a seed and the names
of the files, so that it is the same in each run.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import FUNCTIONS

from ...errors import BadData
from ...utils.atomic import atomic_write
from ...utils.image_files import images_below, shorten

IGNORED = 255
SAMPLE = 200  # images that are measured
_VAL_FOLDERS = ('val', 'valid', 'validation', 'test')


@dataclass
class OwnData:
    """What a run needs to know of its data.

    Attributes:
        num_train: Images to train on.
        num_val: Images to validate on.
        train: Values for the keys of the training data set, by name.
        val: The same for validation.
        sample: At most ``SAMPLE`` of the images to train on, to measure.
        classes: Their names, in the order of their labels.
        notes: What was chosen and why, in a line each.
        has_masks: Whether objects have masks.
    """

    num_train: int
    num_val: int
    train: dict[str, Any]
    val: dict[str, Any]
    sample: list[Path]
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    has_masks: bool = False


def look_at_images(own: Mapping, lists: Path) -> OwnData:
    """Images without labels, for pre-training."""
    folder = _folder(own, 'images')
    names = list_images(folder)
    data = dict(data_prefix=str(folder))
    if own['val']:
        val_folder = _folder(own, 'val')
        train, val, origin = names, list_images(val_folder), f'from {val_folder}'
    else:
        val_folder = folder
        train, val = split(names, own, folder)
        origin = _split_origin(own)
    notes = [f'{len(train)} images to train on, {len(val)} to validate on, {origin}']
    if own['masks']:
        notes.append(f'patches with the highest values of {own["masks"]} are masked first')
    return OwnData(
        num_train=len(train),
        num_val=len(val),
        train=data | _mask_maps(own, folder) | _write(lists / 'train.txt', '\n'.join(train)),
        val=dict(data_prefix=str(val_folder))
        | _mask_maps(own, val_folder)
        | _write(lists / 'val.txt', '\n'.join(val)),
        sample=choose_sample(folder, train),
        notes=notes,
    )


def _mask_maps(own: Mapping, images: Path) -> dict[str, str]:
    """Arguments of what loads the maps of ``own.masks``; none where that is a function."""
    if not own['masks']:
        return {}
    masks = Path(own['masks'])
    if not masks.is_dir():
        is_name = all(part.isidentifier() for part in own['masks'].split('.'))
        if is_name and FUNCTIONS.get(own['masks']):
            return {}
        raise FileNotFoundError(f'own.masks {masks} is neither a folder nor a function MODULE.NAME')
    pairs = pair(images, masks)
    suffixes = {path[len(str(Path(name).with_suffix(''))) :] for name, path in pairs.items()}
    if len(suffixes) > 1:
        raise ValueError(f'{masks} has maps that end in {" and ".join(sorted(suffixes))}')
    return dict(images=str(images), masks=str(masks), suffix=suffixes.pop())


def look_at_class_folders(own: Mapping, lists: Path) -> OwnData:
    """Images in the folders of their classes."""
    folder = _folder(own, 'images')
    val_folder = _folder(own, 'val') if own['val'] else None
    if val_folder is None and (parts := _train_and_val(folder)):
        folder, val_folder = parts
    found = {name: list_images(folder / name, folder) for name in _subfolders(folder)}
    if len(found) < 2:
        raise ValueError(
            f'{folder} has {len(found)} folders of classes: it must have at least 2, with the '
            'images of a class in each'
        )
    classes = _class_names(own['classes']) or tuple(found)
    if set(classes) != set(found):
        odd = sorted(set(classes) ^ set(found))[0]
        raise ValueError(f'own.classes and the folders in {folder} differ: {odd!r} is in one only')
    if val_folder:
        val_found = {n: list_images(val_folder / n, val_folder) for n in _subfolders(val_folder)}
        if unknown := sorted(set(val_found) - set(found)):
            raise ValueError(f'{val_folder} has the class {unknown[0]!r}, which {folder} has not')
        origin = f'from {val_folder}'
    else:
        val_folder, val_found = folder, {}
        for name, images in found.items():
            if len(images) > 1:  # the only image of a class is for training
                found[name], val_found[name] = split(images, own, folder)
        origin = _split_origin(own)
    train, val = (
        [f'{image} {classes.index(name)}' for name, images in part.items() for image in images]
        for part in (found, val_found)
    )
    if not val:
        raise ValueError(f'{folder} has one image of each class: none is left to validate on')
    notes = [
        f'{len(train)} images to train on, {len(val)} to validate on, {origin}',
        f'{shorten(classes)}, named after the folders',
    ]
    if missing := [name for name in classes if not val_found.get(name)]:
        notes.append(f'no image to validate on: {shorten(missing)}')
    names = [line.rsplit(' ', 1)[0] for line in train]
    return OwnData(
        num_train=len(train),
        num_val=len(val),
        train=dict(data_prefix=str(folder)) | _write(lists / 'train.txt', '\n'.join(train)),
        val=dict(data_prefix=str(val_folder)) | _write(lists / 'val.txt', '\n'.join(val)),
        sample=choose_sample(folder, names),
        classes=classes,
        notes=notes,
    )


def look_at_coco(own: Mapping, lists: Path) -> OwnData:
    """Images with objects in COCO's format."""
    folder = _folder(own, 'images')
    val_folder = _folder(own, 'val_images') if own['val_images'] else folder
    train_file = _file(own, 'train')
    content = read_coco(train_file)
    names = {c['id']: str(c['name']) for c in sorted(content['categories'], key=lambda c: c['id'])}
    classes = _class_names(own['classes']) or tuple(dict.fromkeys(names.values()))
    if unknown := [name for name in classes if name not in names.values()]:
        raise ValueError(
            f'own.classes has {unknown[0]!r}, but the categories of {train_file} are '
            f'{", ".join(names.values())}'
        )
    if own['val']:
        val_file, origin = _file(own, 'val'), f'from {own["val"]}'
        val_content = read_coco(val_file)
        others = {str(c['name']) for c in val_content['categories']} - set(names.values())
        if others:
            raise ValueError(
                f'{val_file} has the category {sorted(others)[0]!r}, which {train_file} has not'
            )
    else:
        parts = split([image['file_name'] for image in content['images']], own, train_file)
        content, val_content = (_part_of_coco(content, set(part)) for part in parts)
        train_file, val_file = lists / 'train.json', lists / 'val.json'
        for path, part in ((train_file, content), (val_file, val_content)):
            _write(path, json.dumps(part))
        origin = _split_origin(own)
    for path, part, images in ((train_file, content, folder), (val_file, val_content, val_folder)):
        _check_files(path, [image['file_name'] for image in part['images']], images)
    counts = Counter(names.get(a['category_id']) for a in content['annotations'])
    number = sum(counts[name] for name in classes)
    if not number:
        raise ValueError(f'{train_file} has no object of {shorten(classes)} to train on')
    train_images, val_images = content['images'], val_content['images']
    notes = [
        f'{len(train_images)} images to train on with {number} objects, '
        f'{len(val_images)} to validate on, {origin}',
        f'{shorten(classes)}, from the categories of {own["train"]}',
    ]
    if missing := [name for name in classes if not counts[name]]:
        notes.append(f'no object to train on: {shorten(missing)}')
    masks = _segmentations(content)
    if without := sum(not mask for mask in masks):
        notes.append(f'boxes only: {without} of {len(masks)} objects have no mask')
    return OwnData(
        num_train=len(train_images),
        num_val=len(val_images),
        train=dict(
            img=str(folder),
            ann_file=str(train_file),
            # Run lengths cannot stay polygons: mmdet would drop their objects.
            poly2mask=any(isinstance(mask, Mapping) for mask in masks),
        ),
        val=dict(img=str(val_folder), ann_file=str(val_file)),
        sample=choose_sample(folder, [image['file_name'] for image in train_images]),
        classes=classes,
        notes=notes,
        has_masks=has_masks(content),
    )


def look_at_label_maps(own: Mapping, lists: Path) -> OwnData:
    """Images with a label map each."""
    images, masks = _folder(own, 'images'), _folder(own, 'masks')
    if images.resolve() == masks.resolve():
        raise ValueError(
            f'own.masks {masks} is own.images too: label maps would be taken for images'
        )
    pairs = pair(images, masks)
    parts = _train_and_val(images)
    if parts:
        train_folder, val_folder = (part.name for part in parts)
        train, val = (
            [name for name in pairs if Path(name).parts[0] == part]
            for part in (train_folder, val_folder)
        )
        origin = f'from {parts[1]}'
    else:
        train, val = split(list(pairs), own, images)
        origin = _split_origin(own)
    if not train or not val:
        raise ValueError(f'{images} has {len(train)} images to train on and {len(val)} to validate')
    named = _class_names(own['classes'])
    notes = [f'{len(train)} images to train on, {len(val)} to validate on, {origin}']
    mapping: dict[int, int] = {}
    if named:
        classes, note = named, f'{shorten(named)}, from own.classes'
    else:
        values = find_labels([masks / pairs[name] for name in (*train, *val)])
        classes, mapping, note = classes_of_labels(values, masks)
    notes.append(note)
    prefix = dict(img_path=str(images), seg_map_path=str(masks), mapping=mapping)
    return OwnData(
        num_train=len(train),
        num_val=len(val),
        train=prefix | _write_pairs(lists / 'train.json', train, pairs),
        val=prefix | _write_pairs(lists / 'val.json', val, pairs),
        sample=choose_sample(images, train),
        classes=classes,
        notes=notes,
    )


def classes_of_labels(
    values: Sequence[int], source: Path
) -> tuple[tuple[str, ...], dict[int, int], str]:
    """Names of classes, and the label of each value, from the values that label maps hold.

    Args:
        values: In ascending order.
        source: Where they come from, for the error.

    Returns:
        The names, the labels of those values that are not a label yet, and a line that says so.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    kept = list(values)
    if kept != [0, IGNORED]:  # those are masks in black and white
        kept = [value for value in kept if value != IGNORED]
    if len(kept) < 2:
        raise ValueError(
            f'the label maps in {source} hold only the values {", ".join(map(str, values))}: at '
            f'least 2 classes are needed, and {IGNORED} is none'
        )
    names = tuple(map(str, kept))
    if kept == list(range(len(kept))):
        return names, {}, f'{len(names)} classes: the label maps hold the values 0 to {kept[-1]}'
    mapping = {value: label for label, value in enumerate(kept)}
    text = ', '.join(names[:10]) + ', ...' * (len(names) > 10)
    return names, mapping, f'{len(names)} classes: the label maps hold the values {text}'


def find_labels(files: Sequence[Path]) -> list[int]:
    """The values that occur in label maps, in ascending order.

    Raises:
        BadData: If one cannot be read or is a picture in colours.
    """
    found: set[int] = set()
    with ThreadPoolExecutor() as pool:
        for values in pool.map(_values, files):
            found |= values
    return sorted(found)


def _values(file: Path) -> set[int]:
    from ...datasets.transforms.loading import LoadAnnotations  # brings mmseg with it

    values = LoadAnnotations().read(str(file))
    return set(np.unique(values.astype(np.int64)).tolist())


def pair(images: Path, masks: Path) -> dict[str, str]:
    """The label map of each image, by name: the same, or with one more ending such as ``_mask``.

    Raises:
        FileNotFoundError: If there is none for an image.
    """
    names = list_images(images)
    maps = {str(Path(name).with_suffix('')): name for name in list_images(masks)}
    stems = {name: str(Path(name).with_suffix('')) for name in names}
    first = stems[names[0]]
    endings = ['', *(stem[len(first) :] for stem in sorted(maps) if stem.startswith(first))]
    counts = {end: sum(stem + end in maps for stem in stems.values()) for end in endings}
    ending = max(counts, key=lambda end: counts[end])
    missing = [name for name, stem in stems.items() if stem + ending not in maps]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images in {images} have no label map of the same name '
            f'in {masks}, such as {missing[0]}'
        )
    return {name: maps[stem + ending] for name, stem in stems.items()}


def read_coco(path: Path) -> dict:
    """Annotations in COCO's format, with normalized values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is another one, or has no images, objects or categories.
    """
    from ...datasets.coco_problems import find_coco_problems  # bring mmdet with them
    from ...datasets.coco_values import normalize_values

    if not path.is_file():
        raise FileNotFoundError(f'annotations {path} do not exist')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not a json file: {error}') from error
    normalize_values(content)
    for problem in find_coco_problems(content, masks=False):
        if problem.kind in ('structure', 'duplicate id'):
            raise ValueError(f'{path}: {problem.sentence}')
    for key in ('images', 'annotations', 'categories'):
        if not content[key]:
            raise ValueError(f'{path} has no {key}')
    return content


def has_masks(content: dict) -> bool:
    """Whether the objects of annotations in COCO's format have masks."""
    found = _segmentations(content)
    return bool(found) and all(found)


def _segmentations(content: dict) -> list:
    return [a.get('segmentation') for a in content['annotations'] if not a.get('iscrowd')]


def _part_of_coco(content: dict, names: set[str]) -> dict:
    images = [image for image in content['images'] if image['file_name'] in names]
    ids = {image['id'] for image in images}
    annotations = [entry for entry in content['annotations'] if entry['image_id'] in ids]
    return content | dict(images=images, annotations=annotations)


def _check_files(source: Path, names: Sequence[str], folder: Path) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images of {source} are not in {folder}, such as '
            f'{missing[0]}'
        )


def split(names: Sequence[str], own: Mapping, source: Path) -> tuple[list[str], list[str]]:
    """Split off ``own.val_fraction`` of the names, at least one.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or there is only one name.
    """
    fraction, seed = own['val_fraction'], own['seed']
    if not 0 < fraction < 1:
        raise ValueError(f'own.val_fraction {fraction} is not allowed: it must be between 0 and 1')
    if len(names) < 2:
        raise ValueError(f'{source} has {len(names)} image: at least 2 are needed')
    order = sorted(names, key=lambda name: hashlib.sha256(f'{seed} {name}'.encode()).digest())
    chosen = set(order[: min(max(1, round(fraction * len(names))), len(names) - 1)])
    return [n for n in names if n not in chosen], [n for n in names if n in chosen]


def _split_origin(own: Mapping) -> str:
    return f'split off by seed {own["seed"]} (own.val_fraction {own["val_fraction"]})'


def list_images(folder: Path, root: Path | None = None) -> list[str]:
    """Names of the images below a folder, relative to ``root`` or the folder itself, in order.

    Raises:
        FileNotFoundError: If there is none.
    """
    return [path.relative_to(root or folder).as_posix() for path in images_below(folder)]


def choose_sample(folder: Path, names: Sequence[str]) -> list[Path]:
    """At most ``SAMPLE`` of the files, evenly spread."""
    return [folder / name for name in names[:: -(-len(names) // SAMPLE)]]


def median_side(files: Sequence[Path]) -> int:
    """Median of the longer side of images in pixels, by their headers.

    Raises:
        BadData: If none of them can be read.
    """
    from ...datasets.transforms.loading import image_size  # brings mmseg with it

    sides = []
    for file in files:
        try:
            if file.suffix == '.npy':
                sides.append(max(np.load(file, mmap_mode='r').shape[:2]))
            elif size := image_size(file.read_bytes()):
                sides.append(max(size))
        except (OSError, ValueError):  # a damaged one: the data set says so
            continue
    if not sides:
        raise BadData(f'{files[0]} is not an image that can be read')
    return round(statistics.median(sides))


def count_channels(file: Path) -> int:
    """Channels of an image: of .npy files and TIFFs as they are, of others three.

    Raises:
        BadData: If it cannot be read.
    """
    from ...datasets.transforms.channels import find_channels

    return find_channels(str(file), file.read_bytes())


def measure_colours(files: Sequence[Path], channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over images.

    Raises:
        BadData: If one cannot be read.
    """
    from ...datasets.transforms.channels import decode_channels

    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for file in files:
        pixels = decode_channels(str(file), file.read_bytes(), channels).astype(np.float64)
        total += pixels.sum((0, 1))
        squares += np.square(pixels).sum((0, 1))
        count += pixels.shape[0] * pixels.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std == 0] = 1.0  # a channel that is the same everywhere
    return [float(f'{v:.4g}') for v in mean], [float(f'{v:.4g}') for v in std]


def _train_and_val(folder: Path) -> tuple[Path, Path] | None:
    """The folders of both splits, if those are what a folder holds."""
    found = _subfolders(folder)
    val = [name for name in _VAL_FOLDERS if name in found]
    return (folder / 'train', folder / val[0]) if 'train' in found and val else None


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _class_names(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(given, str):
        if not Path(given).is_file():
            raise FileNotFoundError(f'own.classes {given} is no file: it must be one, or a list')
        given = [line.strip() for line in Path(given).read_text(encoding='utf-8').splitlines()]
        given = [line for line in given if line]
    return tuple(map(str, given)) if given else None


def _given(own: Mapping, key: str) -> Path:
    if not own[key]:
        raise ValueError(f'own.{key} is missing: docs/own_data.md says what it is')
    return Path(own[key])


def _folder(own: Mapping, key: str) -> Path:
    path = _given(own, key)
    if not path.is_dir():
        raise FileNotFoundError(f'own.{key} {path} is not a folder')
    return path


def _file(own: Mapping, key: str) -> Path:
    path = _given(own, key)
    if not path.is_file():
        raise FileNotFoundError(f'own.{key} {path} is not a file')
    return path


def _write(path: Path, text: str) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(text, encoding='utf-8')
    return dict(ann_file=str(path))


def _write_pairs(path: Path, names: Iterable[str], pairs: Mapping[str, str]) -> dict[str, str]:
    """Write a list of images with their label maps in MMEngine's format."""
    entries = [dict(img_path=name, seg_map_path=pairs[name]) for name in names]
    return _write(path, json.dumps(dict(metainfo={}, data_list=entries), indent=0))
