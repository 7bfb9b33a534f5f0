"""Train what a config describes: FCMAE, a classifier, a detector or a segmentor."""

import argparse

from convnextv2_mm.apis.train import build_runner
from convnextv2_mm.cli import add_run_arguments
from convnextv2_mm.engine.runner.resume import exit_on_stopped_run
from convnextv2_mm.engine.runner.work_dir import ignore_broken_pipe
from convnextv2_mm.errors import BadData, exit_on_user_error
from convnextv2_mm.utils.distributed import destroying_process_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        metavar='PATH',
        help='go on from a checkpoint, or from the newest whole one in the work dir, if any',
    )
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 mixed precision')
    parser.add_argument('--tensorboard', action='store_true', help='log to TensorBoard too')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale lr to the batch size of this run'
    )
    add_run_arguments(parser, 'folder for logs and checkpoints')
    options = vars(parser.parse_args())
    with ignore_broken_pipe():
        with exit_on_user_error():
            runner = build_runner(**options)
        stops = exit_on_stopped_run(runner.work_dir)
        with exit_on_user_error((BadData,)), stops, destroying_process_group():
            runner.train()


if __name__ == '__main__':
    main()
