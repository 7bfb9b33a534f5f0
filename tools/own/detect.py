"""Train a detector on images with objects in COCO's format.

docs/own_data.md tells how. What is not given follows from the data: the run says what it chose and
why, and writes its config into the work dir. --cfg-options changes anything else.
"""

import argparse

from convnextv2_mm.cli import OWN_CLASSES, add_own_arguments, run_own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--train', required=True, help='annotations, a json file')
    parser.add_argument('--images', required=True, help='folder of the files that they name')
    parser.add_argument('--val', help='annotations to validate on; by default a part of the others')
    parser.add_argument(
        '--val-images', help='folder of the files that those name, if it is another one'
    )
    parser.add_argument('--boxes', action='store_true', help='boxes only, even if there are masks')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help=OWN_CLASSES)
    add_own_arguments(parser)
    run_own('detect', vars(parser.parse_args()))


if __name__ == '__main__':
    main()
