"""Predictions of images as files: a picture, what was predicted, and one file for all of them."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from pycocotools import mask as coco_mask
from torch import nn

from ..engine.config.datasets import find_datasets
from ..utils.atomic import atomic_write, write_csv
from ..visualization.drawing import (
    class_colour,
    draw_prediction,
    open_window,
    result_names,
    write_image,
)
from .inference import find_images, predict

DRAWN_FROM = 0.3  # score of a detection


def save_predictions(
    model: nn.Module,
    images: Sequence[str],
    out: Path,
    score_thr: float | None = None,
    show: bool = False,
) -> None:
    """Predict on images, and write for each a picture ``NAME.png`` and the prediction itself.

    The prediction is ``NAME.json`` (boxes in pixels, masks as COCO run lengths, labels or loss), or
    ``NAME_labels.png`` (class of each pixel as the number that it has in the label maps of the
    training, in 16 bits where one is above 255). Images of the same name keep their folders.

    For all images there is one more file: ``predictions.json``, results in COCO's format with the
    ids of the config's annotation file, or else counted from 1; ``predictions.csv`` with the
    probability of each class; or ``legend.csv``, what the numbers of label maps mean.

    Args:
        model: From :func:`~convnextv2_mm.apis.inference.load_model`.
        images: From :func:`choose_images`.
        out: Folder for the results.
        score_thr: Detections below are left out everywhere; by default those below 0.3 are not
            drawn, and all are written.
        show: Show each picture in a window; without a display, a line says that there is none.

    Raises:
        BadData: If an image cannot be read.
        OSError: If a result cannot be written.
    """
    names = result_names(images)
    window = open_window() if show else None
    if show and window is None:
        print('no display: --show opens no window, the pictures are only written', file=sys.stderr)
    meta = model.dataset_meta
    values = stored_values(model.cfg, len(meta.get('classes') or ()))
    drawn_from = DRAWN_FROM if score_thr is None else score_thr
    rows: list[dict] = []
    for image, sample in zip(track_iter_progress(images), predict(model, images), strict=True):
        picture = draw_prediction(sample, model.cfg, meta, drawn_from)
        write_image(picture, out / f'{names[image]}.png')
        if score_thr is not None and 'pred_instances' in sample:
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        rows += write_prediction(sample, meta.get('classes', ()), out / names[image], values)
        if window is not None:
            window.show(picture, win_name=image)
    _write_all(rows, model, out, values)


def choose_images(paths: Sequence[str], out: Path) -> list[str]:
    """The image files, each once; without those in ``out`` where it lies in one of the folders.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no image.
        ValueError: If a picture would replace one of the images.
    """
    found = list(dict.fromkeys(find_images(paths)))
    out = out.resolve()
    if any(Path(path).resolve() in out.parents for path in paths):
        # A run before has written pictures there.
        found = [f for f in found if f in paths or out not in Path(f).resolve().parents]
    if not found:
        raise FileNotFoundError(f'{", ".join(paths)} holds no image but those in --out {out}')
    names = result_names(found)
    for image in found:
        if Path(image).resolve() == (out / f'{names[image]}.png').resolve():
            raise ValueError(f'--out {out} is not allowed: a picture would replace {image}')
    return found


def write_prediction(
    sample: BaseDataElement, classes: Sequence[str], path: Path, values: Sequence[int]
) -> list[dict]:
    """Write what was predicted for one image beside ``path``, a name without ending.

    Args:
        sample: From :func:`~convnextv2_mm.apis.inference.predict`.
        classes: Their names.
        path: Where.
        values: Number of each class in label maps.

    Returns:
        What the file for all images has of this one.
    """
    rows: list[dict] = []
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        table = np.array([*values, *range(len(values), labels.max() + 1)])
        labels = table[labels].astype(np.uint8 if table.max() <= 255 else np.uint16)
        if not cv2.imwrite(f'{path}_labels.png', labels):
            raise OSError(f'cannot write {path}_labels.png')
        return rows
    result: list | dict
    if 'pred_instances' in sample:
        rows = _instances(sample)
        result = [
            dict(label=classes[row['label']], score=row['score'], bbox=row['corners'])
            | (dict(mask=row['segmentation']) if 'segmentation' in row else {})
            for row in rows
        ]
    elif 'pred_score' in sample:
        label = int(sample.pred_label)
        scores = sample.pred_score.tolist()
        result = dict(label=classes[label], score=scores[label])
        rows = [dict(image=sample.img_path, **result, scores=scores)]
    else:
        result = dict(reconstruction_loss=sample.reconstruction_loss)
    path.with_name(f'{path.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    return rows


def _instances(sample: BaseDataElement) -> list[dict]:
    """The objects of an image: label, score, corners of the box, and mask where there is one."""
    found = sample.pred_instances.cpu()
    rows = [
        dict(image=sample.img_path, label=label, score=score, corners=[round(v, 2) for v in bbox])
        for label, score, bbox in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
        )
    ]
    for row, mask in zip(rows, found.get('masks', []), strict=False):
        row['segmentation'] = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        row['segmentation']['counts'] = row['segmentation']['counts'].decode()
    return rows


def _write_all(rows: Sequence[dict], model: nn.Module, out: Path, values: Sequence[int]) -> None:
    """Write the file for all images."""
    meta = model.dataset_meta
    classes = list(meta.get('classes') or ())
    task = model.cfg.default_scope
    if task == 'mmdet':
        with atomic_write(out / 'predictions.json') as path:
            path.write_text(json.dumps(coco_results(rows, classes, model.cfg)))
    elif task == 'mmseg':
        table = [['value', 'class', 'colour']]
        for label, (value, name) in enumerate(zip(values, classes, strict=True)):
            red, green, blue = class_colour(meta, label)
            table.append([str(value), name, f'#{red:02x}{green:02x}{blue:02x}'])
        write_csv(out / 'legend.csv', table)
    elif rows:
        table = [['image', 'label', 'score', *classes]]
        for row in rows:
            scores = [f'{score:.6f}' for score in row['scores']]
            table.append([row['image'], row['label'], f'{row["score"]:.6f}', *scores])
        write_csv(out / 'predictions.csv', table)


def coco_results(rows: Sequence[Mapping], classes: Sequence[str], config: Config) -> list[dict]:
    """Objects in COCO's format for results, which pycocotools' ``loadRes`` reads.

    Ids of images and categories are those of the annotation file of the config's test, where it
    has them; other images and classes are counted on.
    """
    category_ids, image_ids = _ids_of_annotations(config)
    for name in classes:
        category_ids.setdefault(name, max(category_ids.values(), default=0) + 1)
    results = []
    for row in rows:
        key = str(Path(row['image']).resolve())
        image_id = image_ids.setdefault(key, max(image_ids.values(), default=0) + 1)
        left, top, right, bottom = row['corners']
        box = [left, top, round(right - left, 2), round(bottom - top, 2)]
        entry = dict(image_id=image_id, category_id=category_ids[classes[row['label']]], bbox=box)
        entry |= dict(score=row['score'], file_name=Path(row['image']).name)
        if 'segmentation' in row:
            entry['segmentation'] = row['segmentation']
        results.append(entry)
    return results


def _ids_of_annotations(config: Config) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of categories by name, and of images by path, in the annotations of the test."""
    dataset = find_datasets(config.test_dataloader)[0]
    root = Path(dataset.get('data_root') or '')
    file = root / (dataset.get('ann_file') or '')
    if not file.is_file():
        return {}, {}
    content = json.loads(file.read_text(encoding='utf-8'))
    folder = root / (dataset.get('data_prefix') or {}).get('img', '')
    categories = {c['name']: c['id'] for c in content.get('categories', [])}
    images = {str((folder / i['file_name']).resolve()): i['id'] for i in content.get('images', [])}
    return categories, images


def stored_values(config: Config, num_classes: int) -> list[int]:
    """The number of each class in the label maps that a segmentor was trained on.

    It is another one than the label where 0 is no class (``reduce_zero_label``), where the data set
    takes some of its classes only, or where the loader has a ``mapping``.
    """
    if config.default_scope != 'mmseg':
        return list(range(num_classes))
    dataset = find_datasets(config.test_dataloader)[0]
    kind = DATASETS.get(dataset.type)
    shift = dataset.get('reduce_zero_label')
    for base in kind.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get('reduce_zero_label')
        if shift is None and parameter is not None:
            shift = parameter.default
    known = list(kind.METAINFO.get('classes') or ())
    chosen = (dataset.get('metainfo') or {}).get('classes') or known
    labels = list(range(num_classes))
    # Another number of classes is that of a checkpoint that was trained on other data.
    if known and list(chosen) != known and len(chosen) == num_classes:
        labels = [known.index(name) for name in chosen]
    values = [label + bool(shift) for label in labels]
    mapping = {
        int(value): int(stored)
        for step in dataset.pipeline
        for stored, value in (step.get('mapping') or {}).items()
    }
    return [mapping.get(value, value) for value in values]
