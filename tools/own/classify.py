"""Train a classifier on images in the folders of their classes.

docs/own_data.md tells how. What is not given follows from the data: the run says what it chose and
why, and writes its config into the work dir. --cfg-options changes anything else.
"""

import argparse

from convnextv2_mm.cli import OWN_CLASSES, add_own_arguments, run_own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'images', help="folder of the classes' folders, or of train and val with those"
    )
    parser.add_argument(
        '--val',
        help="folder of the classes' folders to validate on; by default a part of the others",
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help=OWN_CLASSES)
    add_own_arguments(parser)
    run_own('classify', vars(parser.parse_args()))


if __name__ == '__main__':
    main()
