"""Drawings in the formats of ImageNet, COCO and ADE20K, where the configs expect them."""

import json
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from pycocotools import mask as coco_mask

from convnextv2_mm.datasets.shapes.drawing import Drawing, draw

SIDE = 128  # pixels; most drawings lose a part of their height
HEIGHTS = (128, 104, 96, 120)


def write_real_formats(root: Path, num_train: int = 2, num_val: int = 2) -> None:
    """Write ``data/imagenet``, ``data/imagenet21k``, ``data/coco`` and ``data/ade`` below a folder.

    The first classes of ImageNet and COCO, and the first labels of ADE20K, are those of the shapes.
    """
    for split, number in (('train', num_train), ('val', num_val)):
        drawings = [_cropped(draw(0, split, i, SIDE), HEIGHTS[i % 4]) for i in range(number)]
        _write_imagenet(root / 'data/imagenet' / split, drawings)
        _write_imagenet21k(root / 'data/imagenet21k', split, drawings)
        _write_coco(root / 'data/coco', f'{split}2017', drawings)
        _write_ade(root / 'data/ade/ADEChallengeData2016', split, drawings)


def _cropped(drawing: Drawing, height: int) -> Drawing:
    masks = drawing.masks[:, :height]
    seen = masks.any(axis=(1, 2))
    return Drawing(drawing.image[:height], masks[seen], drawing.labels[seen])


def _write(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def _write_imagenet(folder: Path, drawings: list[Drawing]) -> None:
    for label in range(1000):  # ImageNet has a folder for each of its classes
        (folder / f'n{label:08}').mkdir(parents=True)
    for index, drawing in enumerate(drawings):
        _write(drawing.image, folder / f'n{drawing.labels[0]:08}' / f'{index}.JPEG')


def _write_imagenet21k(root: Path, split: str, drawings: list[Drawing]) -> None:
    lines = []
    for index, drawing in enumerate(drawings):
        name = f'n{drawing.labels[0]:08}/{index}.JPEG'
        _write(drawing.image, root / split / name)
        lines.append(f'{name} {drawing.labels[0]}')
    path = root / 'meta' / f'{split}.txt'  # in place of 21,841 folders
    path.parent.mkdir(exist_ok=True)
    path.write_text('\n'.join(lines))


def _write_coco(root: Path, split: str, drawings: list[Drawing]) -> None:
    content = dict(images=[], annotations=[], categories=[])
    for number, name in enumerate(CocoDataset.METAINFO['classes'], 1):
        content['categories'].append(dict(id=number, name=name))
    for index, drawing in enumerate(drawings):
        name, (height, width) = f'{index:012}.jpg', drawing.image.shape[:2]
        _write(drawing.image, root / split / name)
        image = dict(id=index + 1, file_name=name, height=height, width=width)
        content['images'].append(image)
        for mask, label in zip(drawing.masks, drawing.labels.tolist(), strict=True):
            content['annotations'].append(_annotation(image, mask, label))
        run_lengths = coco_mask.encode(np.asfortranarray(mask))
        run_lengths['counts'] = run_lengths['counts'].decode()
        crowd = _annotation(image, mask, label) | dict(iscrowd=1, segmentation=run_lengths)
        content['annotations'].append(crowd)
    for number, annotation in enumerate(content['annotations'], 1):
        annotation['id'] = number
    path = root / 'annotations' / f'instances_{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _annotation(image: dict, mask: np.ndarray, label: int) -> dict:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return dict(
        image_id=image['id'],
        category_id=label + 1,
        iscrowd=0,
        area=int(mask.sum()),
        bbox=coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist(),
        segmentation=[outline.ravel().tolist() for outline in outlines if len(outline) > 2],
    )


def _write_ade(root: Path, split: str, drawings: list[Drawing]) -> None:
    folder = dict(train='training', val='validation')[split]
    for index, drawing in enumerate(drawings, 1):
        name = f'ADE_{split}_{index:08}'
        labels = np.zeros(drawing.image.shape[:2], np.uint8)
        for mask, label in zip(drawing.masks, drawing.labels.tolist(), strict=True):
            labels[mask] = label + 1
        _write(drawing.image, root / 'images' / folder / f'{name}.jpg')
        path = root / 'annotations' / folder / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), labels)
