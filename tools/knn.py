"""Classify by nearest neighbours in the space of frozen features: a pre-training in one figure.

The weighted vote of Wu et al. (arXiv 1805.01978) with the settings of DINO (arXiv 2104.14294):
cosine similarity, weights exp(similarity / 0.07). CONFIG is one of a classifier, such as
configs/classification/*_linear-probe_*: its backbone, averaged over space and normalised, sees the
training images without augmentation, as it sees the test images. CHECKPOINT is of any layout that
docs/checkpoints.md names, FCMAE's as it is. One process; the training features are not kept.
"""

import argparse

from convnextv2_mm.apis.knn import evaluate_knn
from convnextv2_mm.cli import add_cfg_options, add_device
from convnextv2_mm.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='file, folder, URL or convnextv2://NAME')
    parser.add_argument(
        '-k', type=int, nargs='+', default=[10, 20, 100, 200], help='numbers of neighbours'
    )
    parser.add_argument('--temperature', type=float, default=0.07, help='of the weights')
    add_device(parser)
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        found = evaluate_knn(**vars(args))
    print(f'\n{found.queries} images, neighbours among {found.neighbours}')
    for k, accuracy in found.top1.items():
        print(f'k = {k:<4} top-1 accuracy {100 * accuracy:.2f}')


if __name__ == '__main__':
    main()
