"""Evaluate a checkpoint: reconstruction loss, accuracy, mAP or mIoU, as the config says."""

import argparse

from convnextv2_mm.apis.test import build_runner
from convnextv2_mm.cli import add_run_arguments
from convnextv2_mm.errors import BadData, exit_on_user_error
from convnextv2_mm.utils.distributed import destroying_process_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to a pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of the predictions')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation of the config')
    add_run_arguments(parser, 'folder for the log')
    options = vars(parser.parse_args())
    with exit_on_user_error():
        runner = build_runner(**options)
    with exit_on_user_error((BadData,)), destroying_process_group():
        runner.test()


if __name__ == '__main__':
    main()
