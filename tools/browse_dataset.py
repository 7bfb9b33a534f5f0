"""Show the training images as the network gets them: augmented, padded, with their annotations.

The images go through the training pipeline of a config and the model's data preprocessor, so that
crops, padding, mixup and decoding on the device are seen; the normalisation is undone. Boxes,
instance masks, label maps and class names are drawn on them, and for FCMAE, patches that a random
mask hides are darkened.
"""

import argparse
from itertools import islice
from pathlib import Path

from convnextv2_mm.apis.browse import Browser, contact_sheet
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.drawing import write_image

from mmengine.runner import set_random_seed
from mmengine.utils import ProgressBar


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', metavar='DIR', help='folder for the pictures, one for each image')
    parser.add_argument('--sheet', metavar='FILE.png', help='write them all on one contact sheet')
    parser.add_argument('--number', type=int, default=16, help='how many images (16)')
    parser.add_argument(
        '--mode',
        choices=['transformed', 'original', 'concat'],
        default='transformed',
        help='what the network gets, the file with its annotations, or both side by side',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the choice and the augmentation')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        if args.number < 1:
            raise ValueError(f'--number {args.number} is not allowed: it must be at least 1')
        if args.sheet and not args.sheet.lower().endswith(('.png', '.jpg')):
            raise ValueError(f'--sheet {args.sheet} is not allowed: the name must end in .png')
        config = read_config(args.config, args.cfg_options)
        set_random_seed(args.seed)
        browser = Browser(config, args.mode)
    out = args.out or (None if args.sheet else f'{config.work_dir}/browse')
    tiles = []
    progress = ProgressBar(min(args.number, len(browser.dataset)))
    for path, picture in islice(browser.pictures(), args.number):
        if out:
            name = f'{progress.completed:04}_{Path(path).stem}.png'
            write_image(picture, Path(out, name))
        if args.sheet:
            tiles.append(picture)
        progress.update()
    if args.sheet:
        write_image(contact_sheet(tiles), Path(args.sheet))
    print(
        f'\n{progress.completed} images written to {" and ".join(filter(None, (out, args.sheet)))}'
    )


if __name__ == '__main__':
    main()
