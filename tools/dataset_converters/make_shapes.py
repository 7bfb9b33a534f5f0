"""Draw the shapes set: images with COCO annotations, label maps and class folders."""

import argparse
import sys

from convnextv2_mm.datasets.shapes.drawing import write_shapes

from mmengine.utils import track_iter_progress


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', default='data/shapes', help='folder to make')
    parser.add_argument('--train', type=int, default=400, help='number of training images')
    parser.add_argument('--val', type=int, default=80, help='number of validation images')
    parser.add_argument('--size', type=int, default=160, help='side of the images in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the drawings')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        write_shapes(args.out, args.train, args.val, args.size, args.seed, track_iter_progress)
    except ValueError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        sys.exit(f'error: cannot write {args.out}: {error.strerror}.')
    print(f'{args.out} holds {args.train} training and {args.val} validation images.')


if __name__ == '__main__':
    main()
