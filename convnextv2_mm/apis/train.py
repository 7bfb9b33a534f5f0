"""Training as a config describes it: FCMAE, a classifier, a detector or a segmentor."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner
from torch import nn

from ..checkpoints import read_state_dict
from ..engine.config.checks import (
    batch_warnings,
    check_channels,
    check_fcmae,
    check_first_sample,
    check_loaders,
    check_num_classes,
    check_same_classes,
    check_topk,
    check_unused_outputs,
    preserve_random_state,
    schedule_warnings,
)
from ..engine.config.ignore_index import check_ignore_index
from ..engine.config.keys import check_keys, prefix_errors
from ..engine.config.reading import check_learning_rates, check_model, read_config
from ..engine.runner.compilation import compile_network
from ..engine.runner.resume import (
    agree_on_checkpoint,
    checkpoint_folder,
    find_checkpoint,
    make_resumable,
)
from ..engine.runner.short_log import long_messages_to_file
from ..engine.runner.work_dir import lock_work_dir
from ..models.layers.block import ConvNeXtV2Block
from ..ops.choices import backend_choices
from ..patches import safe_loading
from ..utils.distributed import init_cpu_process_group

BFLOAT16 = {
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.dtype': 'bfloat16',
    'optim_wrapper.loss_scale': 1.0,
}


def train(config: str | Path | Config, **options) -> Runner | FlexibleRunner:
    """Train what a config describes.

    Args:
        config: As for :func:`build_runner`.
        **options: Those of :func:`build_runner`.

    Returns:
        The runner at the end of the run, with the trained ``model``.

    Raises:
        Exception: As :func:`build_runner` does, before the first step.
        BadData: If an image or label cannot be used, and the config does not skip such data.
        RunStopped: If the run cannot go on, such as after many steps whose loss is not finite.
        SystemExit: If a signal ended the run, after a checkpoint.
    """
    runner = build_runner(config, **options)
    runner.train()
    return runner


def build_runner(
    config: str | Path | Config,
    *,
    work_dir: str | None = None,
    resume: bool | str = False,
    amp: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    auto_scale_lr: bool = False,
    cfg_options: dict | None = None,
    launcher: str = 'none',
) -> Runner | FlexibleRunner:
    """Build a runner, and find mistakes before the first step.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config, which stays as it is.
        work_dir: Folder for logs and checkpoints; by default that of the config.
        resume: Go on from this checkpoint; with True from the newest whole one in the work dir, if
            there is one.
        amp: Train in bfloat16 mixed precision.
        compile: Compile the network with ``torch.compile``, as does ``compile=True`` in the config.
        tensorboard: Log to TensorBoard too.
        auto_scale_lr: Scale the learning rate to the batch size of this run.
        cfg_options: Changes of the config.
        launcher: ``pytorch``, ``slurm`` or ``mpi`` in one of several processes.

    Raises:
        FileNotFoundError: If the config, data or a checkpoint does not exist.
        ValueError: If something in the config cannot be used.
        BadData: If the first sample cannot be used.
    """
    safe_loading()
    name = config.filename if isinstance(config, Config) else config
    config = read_config(config, {**(cfg_options or {}), **(BFLOAT16 if amp else {})}, work_dir)
    config.launcher = launcher
    check_keys(config)
    if not config.get('train_dataloader'):
        raise ValueError(f'config {name} describes no training: it has no train_dataloader')
    if 'strategy' in config and launcher == 'none':
        raise ValueError(
            f'config {name} shards the model over processes: start it with '
            'tools/dist_train.sh or tools/slurm_train.sh'
        )
    if resume:
        config.resume = True
        config.load_from = None if resume is True else resume
    make_resumable(config)
    if compile and not config.get('compile'):
        config.compile = True
    if auto_scale_lr:
        if not (config.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ValueError(f'config {name} has no auto_scale_lr.base_batch_size')
        config.auto_scale_lr.enable = True
        # MMEngine counts the images of a batch, a step of the optimizer those of several.
        accumulation = config.optim_wrapper.get('accumulative_counts', 1)
        config.auto_scale_lr.base_batch_size /= accumulation
    if tensorboard:
        config.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))

    model = check_config(config)
    if launcher != 'none' and 'strategy' not in config:
        check_unused_outputs(config)
    choose_checkpoint(config)
    if launcher == 'pytorch' and not torch.cuda.is_available():
        init_cpu_process_group(config)
    with long_messages_to_file():
        runner = RUNNERS.build(config)
    agree_on_checkpoint(runner)
    runner.register_hook(dict(type='convnextv2_mm.ClassCountHook'))
    if launcher == 'none' and isinstance(runner, Runner):
        runner.model = revert_sync_batchnorm(runner.model)  # SyncBN needs a process group
    look_at_data(runner, model)
    choose_backends(runner, model)
    if isinstance(runner, Runner) and (names := compile_network(runner.model, runner.cfg)):
        runner.logger.info(f'compiling {", ".join(names)}: the first steps take long')
    return runner


def check_config(config: Config) -> nn.Module:
    """Find the mistakes in a config that show before a run; return the model on the meta device."""
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
    check_channels(model, config)
    check_num_classes(model, config, splits)
    check_topk(config, splits)
    check_fcmae(model, config, splits)
    check_ignore_index(config, model, splits)
    return model


def choose_checkpoint(config: Config) -> None:
    """Check the file to start from, or lock the work dir and find the newest checkpoint there."""
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


def choose_backends(runner: Runner | FlexibleRunner, model: nn.Module) -> None:
    """Try Triton before the first step instead of within it, and log what is taken."""
    blocks = [part for part in model.modules() if isinstance(part, ConvNeXtV2Block)]
    if not torch.cuda.is_available() or all(block.backend != 'auto' for block in blocks):
        return
    runner.logger.info('trying the Triton kernels: half a minute on a new GPU')
    choices = backend_choices(torch.device('cuda', torch.cuda.current_device()))
    lines = [f'{operator}: {choice}' for operator, choice in choices.items()]
    runner.logger.info(f"backend 'auto' is {'; '.join(lines)}")


def look_at_data(runner: Runner | FlexibleRunner, model: nn.Module) -> None:
    """Build the loops and load a sample for each.

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
