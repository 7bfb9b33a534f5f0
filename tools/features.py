"""Write the features of images: averages over space, and maps of each stage if asked for.

OUT/features.npz has the arrays "images" (names of the files) and "stage0" to "stage3" (N, C), for
retrieval, anomaly detection or a classifier elsewhere. The config is of any task, and its test
prepares the images; the checkpoint is of that task, or of the backbone in any layout.
"""

import argparse
from pathlib import Path

from convnextv2_mm.apis.features import extract_features, save_features
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.cli import add_cfg_options, add_device
from convnextv2_mm.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='file, folder, URL or convnextv2://NAME')
    parser.add_argument('images', nargs='+', help='image files, and folders of them')
    parser.add_argument('--out', required=True, metavar='DIR', type=Path, help='folder')
    parser.add_argument(
        '--maps', nargs='+', type=int, default=(), metavar='STAGE', help='0 to 3: also its maps'
    )
    add_device(parser)
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        images = find_images(args.images)
        found = extract_features(
            args.config, args.checkpoint, images, args.device, args.cfg_options
        )
        save_features(found, images, args.out, args.maps)
    print(f'\n{len(images)} images written to {args.out}')


if __name__ == '__main__':
    main()
