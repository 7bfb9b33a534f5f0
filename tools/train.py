"""Train what a config describes: FCMAE, a classifier, a detector or a segmentor."""

import argparse
import os
import sys
from pathlib import Path

from convnextv2_mm.checkpoints import read_state_dict
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.engine.config.checks import (
    batch_warnings,
    check_fcmae,
    check_first_sample,
    check_loaders,
    check_num_classes,
    check_same_classes,
    check_topk,
    preserve_random_state,
    schedule_warnings,
)
from convnextv2_mm.engine.config.ignore_index import check_ignore_index
from convnextv2_mm.engine.config.keys import check_keys, prefix_errors
from convnextv2_mm.engine.config.reading import check_learning_rates, check_model, read_config
from convnextv2_mm.engine.runner.resume import (
    agree_on_checkpoint,
    checkpoint_folder,
    exit_on_stopped_run,
    find_checkpoint,
    make_resumable,
)
from convnextv2_mm.engine.runner.work_dir import ignore_broken_pipe, lock_work_dir
from convnextv2_mm.errors import BadData, exit_on_user_error
from convnextv2_mm.utils.distributed import destroying_process_group, init_cpu_process_group

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner
from torch import nn


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
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def check_config(config: Config) -> nn.Module:
    """Find the mistakes in a config that show before a run; the model without its weights."""
    hooks = [hook.type for hook in config.get('custom_hooks') or []]
    splits = ['train', 'val']
    check_loaders(config, splits)
    if 'convnextv2_mm.FCMAEMonitorHook' in hooks:
        splits.append('test')
        with prefix_errors('FCMAEMonitorHook'):
            check_loaders(config, ['test'])
    check_same_classes(config)
    check_learning_rates(config.get('optim_wrapper', {}))
    model = check_model(config.model)
    check_num_classes(model, config, splits)
    check_topk(config, splits)
    check_fcmae(model, config, splits)
    check_ignore_index(config, model, splits)
    return model


def choose_checkpoint(config: Config) -> None:
    """Look at the file to start from, or lock the work dir and find the newest one there."""
    if config.get('load_from'):
        with prefix_errors('--resume' if config.get('resume') else 'load_from'):
            read_state_dict(config.load_from, 'meta')
    saved_by = config.default_hooks.checkpoint or {}
    folder = checkpoint_folder(config.work_dir, saved_by.get('out_dir'))
    local = [path for path in (config.work_dir, folder) if '://' not in path]
    lock_work_dir(*local, launcher=config.launcher)
    if config.get('resume') and not config.get('load_from'):
        config.load_from = find_checkpoint(config.work_dir, folder)
    elif not config.get('resume') and Path(config.work_dir, 'last_checkpoint').is_file():
        print(
            f'work dir {config.work_dir} has checkpoints of an earlier run: this one begins anew '
            'and overwrites those of the same names; --resume goes on from them',
            file=sys.stderr,
        )


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
    check_keys(config)
    if not config.get('train_dataloader'):
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
        if not (config.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ValueError(f'config {args.config} has no auto_scale_lr.base_batch_size')
        config.auto_scale_lr.enable = True
        # MMEngine counts the images of a batch, a step of the optimizer those of several.
        accumulation = config.optim_wrapper.get('accumulative_counts', 1)
        config.auto_scale_lr.base_batch_size /= accumulation
    if args.tensorboard:
        config.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))

    model = check_config(config)
    choose_checkpoint(config)
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        init_cpu_process_group(config)
    runner = RUNNERS.build(config)
    agree_on_checkpoint(runner)
    runner.register_hook(dict(type='convnextv2_mm.ClassCountHook'))
    if args.launcher == 'none' and isinstance(runner, Runner):
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    look_at_data(runner, model)
    return runner


def look_at_data(runner: Runner | FlexibleRunner, model: nn.Module) -> None:
    """Build the loops, with which the run begins, and load a sample for each.

    The log tells what of the schedule and the batch does not fit into the run.
    """
    with preserve_random_state():
        for split, loop in (('train', runner.train_loop), ('val', runner.val_loop)):
            if loop is not None:
                check_first_sample(f'{split}_dataloader', loop.dataloader.dataset, model)
    loop, config = runner.train_loop, runner.cfg
    epoch_length = len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else None
    schedules = schedule_warnings(config.get('param_scheduler'), loop.max_iters, epoch_length)
    for warning in (*schedules, *batch_warnings(config, runner.world_size)):
        runner.logger.warning(warning)


def main() -> None:
    args = parse_args()
    with ignore_broken_pipe():
        with exit_on_user_error():
            runner = build_runner(args)
        stops = exit_on_stopped_run(runner.work_dir)
        with exit_on_user_error((BadData,)), stops, destroying_process_group():
            runner.train()


if __name__ == '__main__':
    main()
