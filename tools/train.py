"""Train what a config describes: FCMAE, a classifier, a detector or a segmentor."""

import argparse
import os

from mmengine.config import DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner, find_latest_checkpoint

from convnextv2_mm.checkpoints import read_state_dict
from convnextv2_mm.engine.run_setup import (
    check_data,
    check_model,
    one_sentence_errors,
    read_config,
)
from convnextv2_mm.errors import BadData


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from a checkpoint, or from the newest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 mixed precision')
    parser.add_argument('--tensorboard', action='store_true', help='log to TensorBoard too')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale lr to the batch size of this run'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def build_runner(args: argparse.Namespace) -> Runner:
    options = dict(args.cfg_options or {})
    if args.amp:
        options.update(
            {
                'optim_wrapper.type': 'AmpOptimWrapper',
                'optim_wrapper.dtype': 'bfloat16',
                'optim_wrapper.loss_scale': 1.0,
            }
        )
    config = read_config(args.config, options, args.work_dir)
    config.launcher = args.launcher
    if 'train_dataloader' not in config:
        raise ValueError(f'config {args.config} describes no training: it has no train_dataloader')
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in config:
            raise ValueError(f'config {args.config} has no auto_scale_lr.base_batch_size')
        config.auto_scale_lr.enable = True
        # MMEngine counts the images of a batch, a step of the optimizer those of several.
        accumulation = config.optim_wrapper.get('accumulative_counts', 1)
        config.auto_scale_lr.base_batch_size /= accumulation
    if args.tensorboard:
        config.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))

    check_data(config.train_dataloader)
    if config.get('val_dataloader'):
        check_data(config.val_dataloader)
    hooks = [hook.type for hook in config.get('custom_hooks') or []]
    if 'convnextv2_mm.FCMAEMonitorHook' in hooks and config.get('test_dataloader'):
        check_data(config.test_dataloader)
    check_model(config.model)
    start = config.get('load_from')
    if config.get('resume') and not start:
        start = find_latest_checkpoint(config.work_dir)
    if start:
        read_state_dict(start)

    runner = Runner.from_cfg(config)
    if args.launcher == 'none':
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    return runner


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        runner = build_runner(args)
    with one_sentence_errors((BadData,)):
        runner.train()


if __name__ == '__main__':
    main()
