"""Train a segmentor on images with label maps.

docs/own_data.md tells how. What is not given follows from the data: the run says what it chose and
why, and writes its config into the work dir. --cfg-options changes anything else.
"""

import argparse

from convnextv2_mm.cli import OWN_CLASSES, add_own_arguments, run_own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', help='folder of images, or of train and val with those')
    parser.add_argument('masks', help='folder of their label maps, under the same names')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help=OWN_CLASSES)
    add_own_arguments(parser)
    run_own('segment', vars(parser.parse_args()))


if __name__ == '__main__':
    main()
