"""Predict on images: reconstructions, labels, detections or segmentations, as the config says.

Writes for each image a picture ``NAME.png`` and the prediction itself: ``NAME.json`` (boxes in
pixels, masks as COCO run lengths, labels or loss), or ``NAME_labels.png`` (class of each pixel).
Images of the same name keep their folders.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from convnextv2_mm.engine.pictures import (
    draw_prediction,
    open_window,
    result_names,
    write_picture,
)
from convnextv2_mm.engine.run_setup import (
    image_reader,
    load_model,
    one_sentence_errors,
    read_config,
)
from convnextv2_mm.errors import BadData

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from pycocotools import mask as coco_mask


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', nargs='+', help='image files')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the results')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw detections from here on')
    parser.add_argument(
        '--show', action='store_true', help='show each picture in a window; the space bar goes on'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config'
    )
    return parser.parse_args()


def write_prediction(sample: BaseDataElement, classes: Sequence[str], path: Path) -> None:
    """Write what was predicted for one image beside ``path``, a name without ending."""
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        cv2.imwrite(f'{path}_labels.png', labels)
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


def predict(
    config: Config,
    checkpoint: str,
    images: list[str],
    out: Path,
    score_thr: float,
    device: str,
    show: bool = False,
) -> None:
    """Predict on image files with the model of a config, and write the results to ``out``."""
    names = result_names(images)
    with one_sentence_errors():
        for image in images:
            if not Path(image).is_file():
                raise FileNotFoundError(f'image {image} does not exist')
            if Path(image).resolve() == (out / f'{names[image]}.png').resolve():
                raise ValueError(f'--out {out} is not allowed: a picture would replace {image}')
        read = image_reader(config)
        model = load_model(config, checkpoint, device)
        dataset = config.test_dataloader.dataset
        with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
            meta = registry.get(dataset.type).METAINFO | (dataset.get('metainfo') or {})
    window = open_window() if show else None
    if show and window is None:
        print('no display: --show opens no window, the pictures are only written', file=sys.stderr)
    for image in track_iter_progress(images):
        with torch.no_grad():
            with one_sentence_errors((BadData,)):
                data = read(image)
            sample = model.test_step(data)[0]
        picture = draw_prediction(sample, config, meta, score_thr)
        write_picture(picture, out / f'{names[image]}.png')
        write_prediction(sample, meta.get('classes', ()), out / names[image])
        if window is not None:
            window.show(picture, win_name=image)


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        config = read_config(args.config, args.cfg_options)
    out = Path(args.out)
    predict(config, args.checkpoint, args.images, out, args.score_thr, args.device, args.show)
    print(f'\n{len(args.images)} images written to {out}')


if __name__ == '__main__':
    main()
