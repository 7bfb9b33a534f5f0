"""Train what a config describes: FCMAE, a classifier, a detector or a segmentor."""

import argparse

from convnextv2_mm.cli import add_run_arguments, add_training_arguments, run_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_training_arguments(parser)
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale lr to the batch size of this run'
    )
    add_run_arguments(parser, 'folder for logs and checkpoints')
    options = vars(parser.parse_args())
    run_training(options.pop('config'), options)


if __name__ == '__main__':
    main()
