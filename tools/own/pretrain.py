"""Pre-train on a folder of images with FCMAE.

docs/own_data.md tells how. What is not given follows from the data: the run says what it chose and
why, and writes its config into the work dir. --cfg-options changes anything else.
"""

import argparse

from convnextv2_mm.cli import add_own_arguments, run_own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', help='folder of images, also in subfolders')
    parser.add_argument(
        '--val', help='folder of images to validate on; by default a part of the others'
    )
    parser.add_argument(
        '--masks',
        help='folder with a map of each image, or MODULE.FUNCTION: where patches are masked first',
    )
    add_own_arguments(parser)
    run_own('pretrain', vars(parser.parse_args()))


if __name__ == '__main__':
    main()
