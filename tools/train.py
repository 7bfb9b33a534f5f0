"""Train what a config describes: FCMAE, a classifier, a detector or a segmentor."""

import argparse
import os

from convnextv2_mm.checkpoints import read_state_dict
from convnextv2_mm.engine.resume import find_checkpoint, make_resumable, one_sentence_stops
from convnextv2_mm.engine.run_setup import (
    check_data,
    check_model,
    join_cpu_processes,
    one_sentence_errors,
    read_config,
)
from convnextv2_mm.errors import BadData

import torch
from mmengine.config import DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from a checkpoint, or from the newest whole one in the work dir, if any',
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


def build_runner(args: argparse.Namespace) -> Runner | FlexibleRunner:
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
    if 'strategy' in config and args.launcher == 'none':
        raise ValueError(
            f'config {args.config} shards the model over processes: start it with '
            'tools/dist_train.sh or tools/slurm_train.sh'
        )
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    make_resumable(config)
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
    if config.get('resume') and not config.get('load_from'):
        config.load_from = find_checkpoint(config.work_dir)
    elif config.get('load_from'):
        read_state_dict(config.load_from)

    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        join_cpu_processes(config)
    runner = RUNNERS.build(config)
    if args.launcher == 'none' and isinstance(runner, Runner):
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    return runner


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        runner = build_runner(args)
    with one_sentence_errors((BadData,)), one_sentence_stops():
        runner.train()


if __name__ == '__main__':
    main()
