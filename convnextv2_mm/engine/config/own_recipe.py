"""Fill in a recipe of ``configs/own``: what is None in it follows from ``own`` and the data.

What a user's config or ``--cfg-options`` sets stays as it is. The filled config has no ``own``
section any more: it is like any other config of OpenMMLab.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings

from ...checkpoints import MODEL_ZOO, read_state_dict
from ...models import ConvNeXtV2
from .keys import unknown_key
from .own_data import (
    OwnData,
    count_channels,
    look_at_class_folders,
    look_at_coco,
    look_at_images,
    look_at_label_maps,
    measure_colours,
    median_side,
)


class Task(NamedTuple):
    """What the choices for a task start from.

    Attributes:
        look: Looks at the data.
        batch: Images in a step.
        steps: How many a run has if it needs no more and no fewer epochs than allowed.
        epochs: The fewest and the most.
        sides: The smallest and the largest image size in pixels.
        lr: Learning rate of ``batch`` images from pre-trained weights, and from random ones.
        keys: Those of ``own`` that not all tasks have.
    """

    look: Callable[[Mapping, Path], OwnData]
    batch: int
    steps: int
    epochs: tuple[int, int]
    sides: tuple[int, int]
    lr: tuple[float, float]
    keys: tuple[str, ...]


TASKS = {
    'pretrain': Task(
        look_at_images, 64, 20000, (20, 800), (64, 224), (1e-3, 1e-3), ('val', 'masks')
    ),
    'classify': Task(
        look_at_class_folders, 32, 4000, (10, 100), (64, 224), (3e-4, 1e-3), ('val', 'classes')
    ),
    'detect': Task(
        look_at_coco,
        4,
        4000,
        (12, 50),
        (320, 1024),
        (1e-4, 4e-4),
        ('train', 'val', 'val_images', 'classes'),
    ),
    'segment': Task(
        look_at_label_maps, 8, 4000, (12, 50), (128, 512), (2e-4, 1e-3), ('masks', 'classes')
    ),
}


_SHARED_KEYS = 'task images val_fraction channels size epochs batch arch init seed'.split()
FOR_COLOURS = ('ColorJitter', 'PhotoMetricDistortion')
"""Steps that take RGB alone."""
PREPROCESSORS = {
    'SelfSupDataPreprocessor': 'convnextv2_mm.ImgDataPreprocessor',
    'DetDataPreprocessor': 'convnextv2_mm.DetDataPreprocessor',
    'SegDataPreProcessor': 'convnextv2_mm.SegDataPreProcessor',
}
"""What takes any number of means, for what does not."""


def fill_in(config: Config) -> None:
    """Fill in the recipe, and say on the standard error what was chosen and why.

    Args:
        config: With ``own`` and ``work_dir``, in which lists of the data are written.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        ValueError: If a value of ``own`` or the data cannot be used.
    """
    own = config.pop('own')
    _check_own(own)
    task = TASKS[own.task]
    data = task.look(own, Path(config.work_dir) / 'data')
    if own.task == 'detect' and 'MaskRCNN' in config.model.type and not data.has_masks:
        raise ValueError(
            f'{own.train} has objects without masks: own/faster-rcnn.py is the recipe for boxes'
        )
    notes = data.notes
    if own.task == 'pretrain':
        _choose_mask_steps(config, own, data)
    _fill_channels(config, own, data, notes)
    _fill_sizes(config, own, task, data, notes)
    _fill_model(config, own, notes)
    _fill_schedule(config, own, task, data, notes)
    if int(os.environ.get('RANK', 0)) == 0:
        print('\n'.join(f'own data: {note}' for note in notes), file=sys.stderr)


def _check_own(own: ConfigDict) -> None:
    known = {*_SHARED_KEYS, *TASKS[own.task].keys}
    for key in own:
        if key not in known:
            raise unknown_key(f'own.{key}', known)
    for key in ('channels', 'size', 'epochs', 'batch'):
        value = own[key]
        if value is not None and not (isinstance(value, int) and value > 0):
            raise ValueError(
                f'own.{key} {value!r} is not allowed: it must be a whole number above 0'
            )


def _choose_mask_steps(config: Config, own: ConfigDict, data: OwnData) -> None:
    """Leave out the steps for maps that are not needed."""
    has_maps = 'masks' in data.train
    needed = dict(LoadMaskMap=has_maps, MaskPatches=bool(own.masks))
    for split in ('train', 'val', 'test'):
        pipeline = config[f'{split}_dataloader'].dataset.pipeline
        pipeline[:] = [s for s in pipeline if needed.get(s.type.split('.')[-1], True)]
        for step in pipeline:
            if step.type == 'convnextv2_mm.MaskPatches':
                if has_maps:
                    del step.function
                else:
                    step.function = own.masks


def _fill_channels(config: Config, own: ConfigDict, data: OwnData, notes: list[str]) -> None:
    """What loads, augments and normalises the images, and the first layer."""
    model, channels = config.model, own['channels']
    if channels is None:
        channels = count_channels(data.sample[0])
        if channels != 3:
            notes.append(f'channels {channels}: those of {data.sample[0]}')
    values = dict(channels=channels, in_channels=channels)
    for split in ('train', 'val', 'test'):
        fill(config[f'{split}_dataloader'], values)
    fill(dict(backbone=model.backbone), values)
    if own['task'] == 'pretrain':
        fill(model.neck, dict(out_channels=channels))
    if channels == 3:
        return
    mean, std = measure_colours(data.sample, channels)
    normalise = model.data_preprocessor
    normalise.update(mean=mean, std=std)
    for key in ('to_rgb', 'bgr_to_rgb'):
        normalise.pop(key, None)
    if normalise.get('type') in PREPROCESSORS:
        normalise.type = PREPROCESSORS[normalise.type]
    if own['task'] == 'segment':  # where its preprocessor is
        config.custom_imports.imports.append('convnextv2_mm.models.segmentors')
        import_modules_from_strings(**config.custom_imports)
    notes.append(f'normalised by the mean and deviation of {len(data.sample)} images')
    for split in ('train', 'val', 'test'):
        pipeline = config[f'{split}_dataloader'].dataset.pipeline
        pipeline[:] = [step for step in pipeline if step.type not in FOR_COLOURS]
        for step in pipeline:  # Pillow resizes one, three or four channels of 8 bits
            if step.get('backend') == 'pillow':
                step.backend = 'cv2'


def _fill_sizes(
    config: Config, own: ConfigDict, task: Task, data: OwnData, notes: list[str]
) -> None:
    """Image size, data sets and loaders."""
    size = own['size']
    if size is None:
        least, most = task.sides
        side = median_side(data.sample)
        size = min(most, max(least, math.ceil(side / 32) * 32))
        notes.append(f'size {size}: the longer side of the images is {side} in the median')
    elif own['task'] == 'pretrain' and size % 32:
        raise ValueError(f'own.size {size} is not allowed: it must be a multiple of 32')
    batch = own['batch'] or task.batch
    while own['batch'] is None and batch > 2 and data.num_train < 4 * batch:
        batch //= 2  # an epoch is to have four steps
    if batch > data.num_train:
        batch = data.num_train
        notes.append(f'batch {batch} instead of {own["batch"]}: there are no more images')
    if own['task'] == 'segment' and batch < 2:
        raise ValueError(
            f'{data.num_train} images to train on, {batch} in a step, are not enough: the batch '
            'norms of UPerNet need at least 2'
        )
    scale = size if own['task'] in ('pretrain', 'classify') else (size, size)
    values = dict(
        scale=scale,
        crop_size=scale,
        size=scale,
        classes=data.classes,
        num_classes=len(data.classes),
        topk=(1, 5) if len(data.classes) > 5 else (1,),
        batch_size=batch,
        num_workers=min(8, os.cpu_count() or 1),
    )
    fill(config.train_dataloader, values | data.train)
    for split in ('val', 'test'):
        fill(config[f'{split}_dataloader'], values | data.val)
        fill(config[f'{split}_evaluator'], values | dict(ann_file=data.val['ann_file']))
    fill(config.model, values)


def _fill_model(config: Config, own: ConfigDict, notes: list[str]) -> None:
    """The size of the network, and the weights that it starts from."""
    model = config.model
    if own['arch'] is None and model.backbone.arch is None:
        own['arch'] = 'tiny' if torch.cuda.is_available() else 'atto'
        why = 'the smallest, since there is no GPU' if own['arch'] == 'atto' else 'for one GPU'
        notes.append(f'arch {own["arch"]}: {why}')
    fill(model, dict(arch=own['arch']))
    channels = ConvNeXtV2.resolve_arch(model.backbone.arch)[1]
    pretrains = own['task'] == 'pretrain'
    fill(model.get('neck') or {}, dict(in_channels=channels[-1] if pretrains else channels))
    fill(model.get('decode_head') or {}, dict(in_channels=channels))
    fill(model.get('auxiliary_head') or {}, dict(in_channels=channels[2]))
    fill(model.get('head') or {}, dict(in_channels=channels[-1]))
    is_small = channels[-1] <= 512
    fill(model.get('decode_head') or {}, dict(channels=128 if is_small else 512))
    fill(model.get('auxiliary_head') or {}, dict(channels=64 if is_small else 256))
    width = 128 if is_small else 256
    widths = ('in_channels', 'feat_channels', 'out_channels', 'conv_out_channels')
    for part in ('neck', 'rpn_head', 'roi_head'):
        fill(model.get(part) or {}, dict.fromkeys(widths, width))
    init = own['init'] or published_weights(model.backbone.arch)
    if own['init'] is None:
        notes.append(f'starts from {init}; --init none starts from random weights')
    own['init'] = None if init == 'none' else init
    if own['init'] is None or model.backbone.get('init_cfg'):
        return
    if pretrains and _has_decoder(init):
        config.load_from = init
        notes.append(f'encoder and decoder of {init}')
    else:
        adapt = dict(adapt_channels=True) if model.backbone.in_channels != 3 else {}
        model.backbone.init_cfg = dict(type='Pretrained', checkpoint=init, **adapt)


def published_weights(arch: str | dict) -> str:
    """The published weights for a size that were trained on the most: IN-22K, or else IN-1K.

    Returns:
        Their name, or ``none`` if there are none.
    """
    for stage in ('fcmae_ft_in22k_in1k', 'fcmae_ft_in1k'):
        for name in (f'{arch}_{stage}', f'{arch}_{stage}_384'):
            if name in MODEL_ZOO:
                return f'convnextv2://{name}'
    return 'none'


def _has_decoder(checkpoint: str) -> bool:
    return any(name.startswith('neck.') for name in read_state_dict(checkpoint, 'meta'))


def _fill_schedule(
    config: Config, own: ConfigDict, task: Task, data: OwnData, notes: list[str]
) -> None:
    """Epochs, warm-up, learning rate, and how often there is a log line, validation, checkpoint."""
    batch = config.train_dataloader.batch_size * int(os.environ.get('WORLD_SIZE', 1))
    steps = max(1, data.num_train // batch)  # in an epoch
    epochs = own['epochs']
    if epochs is None:
        least, most = task.epochs
        epochs = min(most, max(least, round(task.steps / steps)))
    fill(config.train_cfg, dict(max_epochs=epochs))
    epochs = config.train_cfg.get('max_epochs', epochs)
    total = epochs * steps
    warmup = min(500, max(2, total // 20))  # MMEngine's warm-up of one step has no end
    interval = max(1, epochs // 20)
    falling = dict(begin=warmup, end=max(total, warmup + 1), T_max=max(1, total - warmup))
    for scheduler in config.param_scheduler:
        fill(scheduler, dict(end=warmup) if scheduler.type == 'LinearLR' else falling)
    fill(config.train_cfg, dict(val_interval=interval))
    fill(config.default_hooks.checkpoint, dict(interval=interval))
    fill(config.default_hooks.logger, dict(interval=min(50, steps)))
    fill(dict(hooks=config.get('custom_hooks') or []), dict(interval=interval))
    # By the root of the batch, as for Adam; the recipes' linear rule is for thousands of images.
    lr = task.lr[own['init'] is None] * math.sqrt(batch / task.batch)
    fill(config.optim_wrapper.optimizer, dict(lr=float(f'{lr:.2g}')))
    fill(config.optim_wrapper, dict(decay_rate=1.0 if own['init'] is None else 0.9))
    notes.append(
        f'{epochs} epochs of {steps} steps with {batch} images: {total} steps, of which '
        f'{warmup} warm up; lr {config.optim_wrapper.optimizer.lr}'
    )
    if interval > 1:
        notes.append(f'validates and saves each {interval} epochs')


def fill(node: Any, values: Mapping[str, Any]) -> None:
    """Replace each None below a node of a config whose key has a value."""
    if isinstance(node, dict):
        for key, value in node.items():
            if value is None and key in values:
                node[key] = values[key]
            else:
                fill(value, values)
    elif isinstance(node, list | tuple):
        for entry in node:
            fill(entry, values)
