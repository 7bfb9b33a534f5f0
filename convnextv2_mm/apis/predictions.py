"""Predictions of images as files: a picture, and what was predicted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from pycocotools import mask as coco_mask
from torch import nn

from ..visualization.drawing import draw_prediction, open_window, result_names, write_image
from .inference import find_images, predict


def save_predictions(
    model: nn.Module,
    images: Sequence[str],
    out: Path,
    score_thr: float = 0.3,
    show: bool = False,
) -> None:
    """Predict on images, and write for each a picture ``NAME.png`` and the prediction itself.

    The prediction is ``NAME.json`` (boxes in pixels, masks as COCO run lengths, labels or loss), or
    ``NAME_labels.png`` (class of each pixel, in 16 bits where there are more than 256 classes).
    Images of the same name keep their folders.

    Args:
        model: From :func:`~convnextv2_mm.apis.inference.load_model`.
        images: From :func:`choose_images`.
        out: Folder for the results.
        score_thr: Detections below are not drawn.
        show: Show each picture in a window; without a display, a line says that there is none.

    Raises:
        BadData: If an image cannot be read.
        OSError: If a result cannot be written.
    """
    names = result_names(images)
    window = open_window() if show else None
    if show and window is None:
        print('no display: --show opens no window, the pictures are only written', file=sys.stderr)
    samples = predict(model, images)
    for image, sample in zip(track_iter_progress(images), samples, strict=True):
        picture = draw_prediction(sample, model.cfg, model.dataset_meta, score_thr)
        write_image(picture, out / f'{names[image]}.png')
        write_prediction(sample, model.dataset_meta.get('classes', ()), out / names[image])
        if window is not None:
            window.show(picture, win_name=image)


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


def write_prediction(sample: BaseDataElement, classes: Sequence[str], path: Path) -> None:
    """Write what was predicted for one image beside ``path``, a name without ending."""
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        highest = max(len(classes) - 1, labels.max())
        labels = labels.astype(np.uint8 if highest <= 255 else np.uint16)
        if not cv2.imwrite(f'{path}_labels.png', labels):
            raise OSError(f'cannot write {path}_labels.png')
        return
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu()
        result = [
            dict(label=classes[label], score=score, bbox=[round(v, 2) for v in bbox])
            for label, score, bbox in zip(
                found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
            )
        ]
        for entry, mask in zip(result, found.get('masks', []), strict=False):
            entry['mask'] = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            entry['mask']['counts'] = entry['mask']['counts'].decode()
    elif 'pred_score' in sample:
        label = int(sample.pred_label)
        result = dict(label=classes[label], score=float(sample.pred_score[label]))
    else:
        result = dict(reconstruction_loss=sample.reconstruction_loss)
    path.with_name(f'{path.name}.json').write_text(json.dumps(result, indent=1) + '\n')
