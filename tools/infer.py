"""Predict on images: reconstructions, labels, detections or segmentations, as the config says.

Takes image files, and folders with all images in them. Classes have the names of the config's data
set; if it has none, those that training has written into the checkpoint; else their numbers.

Writes for each image a picture ``NAME.png`` and the prediction itself: ``NAME.json`` (boxes in
pixels, masks as COCO run lengths, labels or loss), or ``NAME_labels.png`` (class of each pixel as
the number in the label maps of the training). Images of the same name keep their folders. For all
images there is ``predictions.json`` in COCO's format for results, ``predictions.csv`` with the
probability of each class, or ``legend.csv`` with the numbers of the label maps.
"""

import argparse
from pathlib import Path

from convnextv2_mm.apis.inference import load_model
from convnextv2_mm.apis.predictions import choose_images, save_predictions
from convnextv2_mm.cli import add_cfg_options, add_device
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.errors import BadData, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', nargs='+', help='image files, and folders of them')
    parser.add_argument(
        '--out', required=True, metavar='DIR', type=Path, help='folder for the results'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        help='leave out detections below; by default those below 0.3 are not drawn',
    )
    parser.add_argument(
        '--show', action='store_true', help='show each picture in a window; the space bar goes on'
    )
    add_device(parser)
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        config = read_config(args.config, args.cfg_options)
        images = choose_images(args.images, args.out)
        model = load_model(config, args.checkpoint, args.device)
    with exit_on_user_error((BadData,)):
        save_predictions(model, images, args.out, args.score_thr, args.show)
    print(f'\n{len(images)} images written to {args.out}')


if __name__ == '__main__':
    main()
