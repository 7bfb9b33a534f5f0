"""Small runs that are stopped and taken up again."""

import itertools
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from convnextv2_mm.engine.runner.resume import find_checkpoint, make_resumable

_NUMBERS = itertools.count()


class Killed(BaseException):
    """In place of a SIGKILL: nothing of ours catches it."""


class Kill(Hook):
    """End a run in the middle of iteration ``at``, or after it."""

    priority = 'VERY_HIGH'

    def __init__(self, at: int, before: bool = False) -> None:
        self.at = at
        self.before = before

    def before_train_iter(self, runner, *args, **kwargs):
        if self.before and runner.iter + 1 == self.at:
            raise Killed

    def after_train_iter(self, runner, *args, **kwargs):
        if not self.before and runner.iter + 1 == self.at:
            raise Killed


class Run:
    """A config of a few steps of pre-training, and its work dir."""

    def __init__(self, shapes: Path, work_dir: Path, options: dict | None = None) -> None:
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.5, 1.0)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='ColorJitter', brightness=0.4, contrast=0.4),
            dict(type='PackInputs'),
        ]
        loader = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='convnextv2_mm.ShapesClsDataset',
                data_root=str(shapes),
                split='train',
                pipeline=pipeline,
            ),
        )
        self.config = Config(
            dict(
                default_scope='mmpretrain',
                work_dir=str(work_dir),
                model=dict(
                    type='convnextv2_mm.FCMAE',
                    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[99], std=[50]),
                    backbone=dict(
                        type='convnextv2_mm.SparseConvNeXtV2',
                        arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 8, 8]),
                        drop_path_rate=0.5,
                    ),
                    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=8, embed_dims=16),
                    head=dict(type='convnextv2_mm.FCMAEHead'),
                ),
                train_dataloader=loader,
                optim_wrapper=dict(
                    optimizer=dict(type='AdamW', lr=1e-2, fused=True), accumulative_counts=3
                ),
                param_scheduler=[
                    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6),
                    dict(type='CosineAnnealingLR', end=4, convert_to_iter_based=True),
                    dict(type='MultiStepLR', milestones=[3], by_epoch=True),
                ],
                default_hooks=dict(
                    logger=dict(type='LoggerHook', interval=1),
                    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
                ),
                custom_hooks=[dict(type='EMAHook', momentum=0.1)],
                randomness=dict(seed=3, diff_rank_seed=True),
                log_level='WARNING',
            )
        )
        epochs = {'train_cfg': dict(by_epoch=True, max_epochs=4)}
        self.config.merge_from_dict(deepcopy(epochs | (options or {})))

    def __call__(self, *hooks: Hook, resume: bool = False) -> Runner:
        """Train, until a hook stops it."""
        config = self.config.copy()
        config.experiment_name = f'run{next(_NUMBERS)}'  # or what it logs goes on from another run
        make_resumable(config)
        init_default_scope(config.default_scope)
        if resume:
            config.resume, config.load_from = True, find_checkpoint(config.work_dir)
        torch.manual_seed(next(_NUMBERS))  # nothing may come from the process
        runner = Runner.from_cfg(config)
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
        return runner


def last_checkpoint(run: Run) -> dict:
    work_dir = Path(run.config.work_dir)
    path = work_dir / (work_dir / 'last_checkpoint').read_text()
    return torch.load(path, 'cpu', weights_only=False)
