"""Predict on images: reconstructions, labels, detections or segmentations, as the config says.

Takes image files, and folders with all images in them. Classes have the names of the config's data
set; if it has none, those that training has written into the checkpoint; else their numbers.

Writes for each image a picture ``NAME.png`` and the prediction itself: ``NAME.json`` (boxes in
pixels, masks as COCO run lengths, labels or loss), or ``NAME_labels.png`` (class of each pixel, in
16 bits where there are more than 256 classes). Images of the same name keep their folders.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from convnextv2_mm.apis.inference import find_images, image_reader, load_model
from convnextv2_mm.checkpoints.reading import inspect_file
from convnextv2_mm.cli import add_cfg_options, device_name
from convnextv2_mm.engine.config.checks import check_num_classes, class_names, written_class_names
from convnextv2_mm.engine.config.datasets import find_datasets
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.errors import BadData, exit_on_user_error
from convnextv2_mm.visualization.drawing import (
    draw_prediction,
    open_window,
    result_names,
    write_image,
)

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from pycocotools import mask as coco_mask
from torch import nn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', nargs='+', help='image files, and folders of them')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the results')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw detections from here on')
    parser.add_argument(
        '--show', action='store_true', help='show each picture in a window; the space bar goes on'
    )
    parser.add_argument(
        '--device', type=device_name, default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    add_cfg_options(parser)
    return parser.parse_args()


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


def find_meta(config: Config, checkpoint: str, model: nn.Module) -> dict:
    """Names and colours of the classes: of the config's test data, or else of the checkpoint.

    Raises:
        ValueError: If the model has another number of classes than the config names, and the
            checkpoint names none.
    """
    dataset = find_datasets(config.test_dataloader)[0]
    with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
        meta = registry.get(dataset.type).METAINFO | (dataset.get('metainfo') or {})
    numbers = [getattr(part, 'num_classes', None) or 0 for part in model.modules()]
    if not any(numbers):
        return meta
    saved = saved_meta(checkpoint)
    trained, written = tuple(saved.get('classes') or ()), written_class_names(dataset)
    try:
        check_num_classes(model, config, ['test'])
    except ValueError as error:
        if not trained:
            raise
        print(f'warning: {error}; the names come from the checkpoint', file=sys.stderr)
        return saved
    if trained and written is None:
        return saved
    if trained and trained != written:
        print(
            f'warning: the checkpoint was trained on {shorten(trained)}, and the config names '
            f'{shorten(written)}; the names come from the config',
            file=sys.stderr,
        )
    numbered = tuple(map(str, range(max(numbers))))
    return meta | dict(classes=written or class_names(dataset) or numbered)


def saved_meta(checkpoint: str) -> dict:
    """What the training data set said of itself, which MMEngine writes into a checkpoint."""
    node = inspect_file(checkpoint)
    for key in ('meta', 'dataset_meta'):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def shorten(names: Sequence[str]) -> str:
    """The number of classes, and the first of their names."""
    return f'{len(names)} classes ({", ".join(names[:3])}{", ..." * (len(names) > 3)})'


def choose_images(paths: Sequence[str], out: Path) -> list[str]:
    """The image files, each once; without those in ``out`` where it lies in one of the folders.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no image.
    """
    found = list(dict.fromkeys(find_images(paths)))
    out = out.resolve()
    if any(Path(path).resolve() in out.parents for path in paths):
        # A run before has written pictures there.
        found = [f for f in found if f in paths or out not in Path(f).resolve().parents]
    if not found:
        raise FileNotFoundError(f'{", ".join(paths)} holds no image but those in --out {out}')
    return found


def predict(
    config: Config,
    checkpoint: str,
    images: list[str],
    out: Path,
    score_thr: float,
    device: str,
    show: bool = False,
) -> int:
    """Predict on images with the model of a config, write the results to ``out``, and count them.

    Args:
        images: Files, and folders of them.
    """
    with exit_on_user_error():
        images = choose_images(images, out)
        names = result_names(images)
        for image in images:
            if Path(image).resolve() == (out / f'{names[image]}.png').resolve():
                raise ValueError(f'--out {out} is not allowed: a picture would replace {image}')
        read = image_reader(config)
        model = load_model(config, checkpoint, device)
        meta = find_meta(config, checkpoint, model)
    window = open_window() if show else None
    if show and window is None:
        print('no display: --show opens no window, the pictures are only written', file=sys.stderr)
    for image in track_iter_progress(images):
        with torch.no_grad():
            with exit_on_user_error((BadData,)):
                data = read(image)
            sample = model.test_step(data)[0]
        picture = draw_prediction(sample, config, meta, score_thr)
        write_image(picture, out / f'{names[image]}.png')
        write_prediction(sample, meta.get('classes', ()), out / names[image])
        if window is not None:
            window.show(picture, win_name=image)
    return len(images)


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        config = read_config(args.config, args.cfg_options)
    out = Path(args.out)
    options = (args.score_thr, args.device, args.show)
    count = predict(config, args.checkpoint, args.images, out, *options)
    print(f'\n{count} images written to {out}')


if __name__ == '__main__':
    main()
