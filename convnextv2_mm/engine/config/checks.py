"""Find values of a config that do not fit together, before the run starts.

Each check raises a ``ValueError`` of one sentence, or yields warnings with the numbers and the
cure. Keys that nothing reads are found by :mod:`.config_keys`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import nn

from ...models import FCMAE, ConvNeXtV2
from ...ops import PatchLayout
from ...ops.patch_layout import patch_grid
from .datasets import find_datasets
from .keys import Part, find_type, prefix_errors
from .reading import check_data

# What their num_classes counts is not the classes of the data: the objects of a region proposal
# network are one class, semantic heads beside a detector have those of "stuff", and STDC's detail
# head tells edges from the rest.
_PARTS_WITH_OTHERS = {'rpn_head', 'backbone'}
_CLASSES_WITH_OTHERS = {'FusedSemanticHead', 'BaseSemanticHead', 'STDCHead'}
# Data sets that look for folders of classes where their arguments say. By their names: to import
# all of mmdet, mmseg and mmpretrain takes seconds.
_FOLDER_DATASETS = {'mmpretrain.CustomDataset', 'mmpretrain.ImageNet', 'mmpretrain.ImageNet21k'}
_DECODERS = {
    'convnextv2_mm.FCMAEDecoder',
    'convnextv2_mm.UNetDecoder',
    'convnextv2_mm.TransformerDecoder',
}
# Steps that need an image's file, or its content.
_OF_THE_IMAGE = ('LoadImageFromFile', 'LoadEncodedJPEG', 'LoadMaskMap', 'MaskPatches')
# Schedules that are on their way until their end, and those of them that a run is to end with.
_UNTIL_THEIR_END = ('Linear', 'Constant', 'CosineAnnealing', 'Poly')
_TO_THE_END_OF_THE_RUN = ('CosineAnnealing', 'Poly')


# --- Data sets and their classes ------------------------------------------------------------------


def check_loaders(config: Config, splits: Sequence[str]) -> None:
    """Check that the data of some dataloaders is there, and has classes that can be told.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        ValueError: If annotations are not allowed, or classes or their folders are not as they
            must be.
    """
    for split in splits:
        loader = config.get(f'{split}_dataloader')
        if not loader:
            continue
        with prefix_errors(f'{split}_dataloader'):
            check_data(loader)
            for dataset in find_datasets(loader):
                check_metainfo(dataset)
                check_class_folders(dataset)


def check_metainfo(dataset: ConfigDict) -> None:
    """Check that the classes of a data set are written as OpenMMLab reads them.

    Raises:
        ValueError: If they are under another key, or one string; or a segmentor's are missing.
    """
    metainfo = dataset.get('metainfo') or {}
    for key in metainfo:
        if key != 'classes' and key.lower() in ('classes', 'class', 'class_names', 'classnames'):
            raise ValueError(f'metainfo.{key} is not a key that is read: did you mean classes?')
    names = metainfo.get('classes')
    if isinstance(names, str) and not Path(names).is_file():
        raise ValueError(
            f'metainfo.classes {names!r} is neither a file nor a tuple of names: one class is '
            f'written ({names!r},)'
        )
    # One with a constructor of its own may find its classes there.
    is_plain = _owner_of_constructor(dataset) == 'mmseg.BaseSegDataset'
    if is_plain and class_names(dataset) is None:
        raise ValueError(
            f'{dataset.type} has no classes: give them in their order in the label maps, as '
            "metainfo=dict(classes=('background', ...))"
        )


def check_class_folders(dataset: ConfigDict) -> None:
    """Check that images without a list of labels lie in folders of their classes.

    Raises:
        ValueError: If there are no such folders, or not as many as classes.
    """
    folder = _class_folder(dataset)
    if folder is None:
        return
    found = len(_folders(folder))
    if not found:
        raise ValueError(
            f'{folder} has no folders of classes: with_label=False takes images without labels, '
            'for pre-training'
        )
    names = written_class_names(dataset)
    if names is not None and len(names) != found:
        raise ValueError(
            f'{folder} has {found} folders of classes, but {dataset.type} has {len(names)} '
            'classes: convnextv2_mm.CustomDataset takes the names of the folders, and '
            'with_label=False images without labels'
        )


def class_names(dataset: ConfigDict) -> tuple[str, ...] | None:
    """The names of the classes of a data set, in the order of their labels; None if unknown."""
    names = written_class_names(dataset)
    if names is None and (folder := _class_folder(dataset)) is not None:
        names = tuple(_folders(folder)) or None
    return names


def written_class_names(dataset: ConfigDict) -> tuple[str, ...] | None:
    """Class names given by the config or the data set class, without reading files."""
    kind = _kind_of(dataset)
    metainfo = getattr(kind, 'METAINFO', {}) | (dataset.get('metainfo') or {})
    names = (dataset.get('metainfo') or {}).get('classes')
    names = names or dataset.get('classes') or metainfo.get('classes')
    if isinstance(names, str):  # a file with a name in each line
        names = Path(names).read_text().splitlines() if Path(names).is_file() else [names]
    return tuple(names) if names else None


def _kind_of(dataset: ConfigDict) -> type:
    return find_type(Part('dataset', dataset, DATASETS))


def _owner_of_constructor(dataset: ConfigDict) -> str:
    """Library and name of the class that takes the arguments of a data set."""
    return next(
        f'{base.__module__.split(".")[0]}.{base.__name__}'
        for base in _kind_of(dataset).__mro__
        if '__init__' in vars(base) and base.__name__ != 'SkipBadData'
    )


def _has_base(kind: type, name: str) -> bool:
    return any(base.__name__ == name for base in kind.__mro__)


def _class_folder(dataset: ConfigDict) -> Path | None:
    """Where a classification data set looks for folders of classes; None if it does not."""
    if _owner_of_constructor(dataset) not in _FOLDER_DATASETS:
        return None
    if not dataset.get('with_label', True):
        return None
    root = Path(dataset.get('data_root') or '').expanduser()
    prefix = dataset.get('data_prefix') or ''
    prefix = prefix.get('img_path', '') if isinstance(prefix, Mapping) else prefix
    split = dataset.get('split') or ''
    listed = split and (root / 'meta' / f'{split}.txt').is_file()
    if dataset.get('ann_file') or split == 'test' or listed:
        return None
    folder = root / (prefix or split)
    return folder if folder.is_dir() else None


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def check_same_classes(config: Config) -> None:
    """Check that what is validated has the classes that are trained, in their order.

    Raises:
        ValueError: If it has others, or in another order: labels would mean something else.
    """
    named = {}
    for split, dataset, names in _known_classes(config, ('train', 'val')):
        # A tracker trains its detector on other data than the videos that it is tested on.
        if not _has_base(_kind_of(dataset), 'BaseVideoDataset'):
            named.setdefault(names, split)
    if len(named) > 1:
        (ours, split), (others, other) = list(named.items())[:2]
        raise ValueError(
            f'{other}_dataloader has other classes than {split}_dataloader: '
            f'{_first_difference(ours, others)}; give both the same metainfo.classes'
        )


def _first_difference(ours: Sequence[str], others: Sequence[str]) -> str:
    for i, (own, other) in enumerate(zip(ours, others, strict=False)):
        if own != other:
            return f'class {i} is {other!r} instead of {own!r}'
    return f'{len(others)} instead of {len(ours)}'


# --- Classes of the model -------------------------------------------------------------------------


def check_num_classes(model: nn.Module, config: Config, splits: Sequence[str]) -> None:
    """Check that every head has as many classes as the data.

    Args:
        model: As built of the config, so that defaults count too.
        config: The config.
        splits: Those of the dataloaders that are used.

    Raises:
        ValueError: If one has not, with the key of its number.
    """
    for split, dataset, names in _known_classes(config, splits):
        _check_heads(model, config, dataset, len(names), split)


def _check_heads(
    model: nn.Module, config: Config, dataset: ConfigDict, count: int, split: str
) -> None:
    metainfo = getattr(_kind_of(dataset), 'METAINFO', {}) | (dataset.get('metainfo') or {})
    # A panoptic data set has things, for heads of objects, among its classes.
    allowed = {count, len(metainfo.get('thing_classes') or ()) or count}
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        # The model as a whole has the number of its head.
        if not name or not isinstance(number, int) or number < 1 or number in allowed:
            continue
        if not _counts_others(name, module):
            raise ValueError(
                f'{_key_of(name, config)}.num_classes is {number}, but {dataset.type} of '
                f'{split}_dataloader has {count} classes'
            )


def _key_of(name: str, config: Config) -> str:
    """The key in the config of a module: one part may stand for a list of modules."""
    key, node = ['model'], config.model
    for part in name.split('.'):
        if part.isdigit() and isinstance(node, Mapping):
            continue
        key.append(part)
        if isinstance(node, Mapping):
            node = node.get(part, {})
        elif isinstance(node, Sequence):
            node = node[int(part)]
    return '.'.join(key)


def _counts_others(name: str, module: nn.Module) -> bool:
    names = {base.__name__ for base in type(module).__mro__}
    return bool(
        _PARTS_WITH_OTHERS & set(name.split('.'))
        or _CLASSES_WITH_OTHERS & names
        or getattr(module, 'class_agnostic', False)
    )


def check_topk(config: Config, splits: Sequence[str]) -> None:
    """Check that no accuracy counts more guesses than there are classes.

    Raises:
        ValueError: If one does: it would stop at the end of the first evaluation.
    """
    for split, _, names in _known_classes(config, splits):
        metrics = config.get(f'{split}_evaluator') or []
        for metric in [metrics] if isinstance(metrics, Mapping) else metrics:
            if not isinstance(metric, Mapping) or _last_name(metric['type']) != 'Accuracy':
                continue
            topk = metric.get('topk', 1)
            if (max(topk) if isinstance(topk, Sequence) else topk) > len(names):
                raise ValueError(
                    f'{split}_evaluator.topk {topk} is not allowed: {split}_dataloader has '
                    f'{len(names)} classes'
                )


def _known_classes(
    config: Config, splits: Sequence[str]
) -> Iterator[tuple[str, ConfigDict, tuple[str, ...]]]:
    """The data sets whose classes can be told, with their split and the names of their classes."""
    for split in splits:
        loader = config.get(f'{split}_dataloader')
        for dataset in find_datasets(loader) if loader else []:
            if (names := class_names(dataset)) is not None:
                yield split, dataset, names


# --- FCMAE ----------------------------------------------------------------------------------------


def check_fcmae(model: nn.Module, config: Config, splits: Sequence[str]) -> None:
    """Check that encoder, decoder, loss and sizes of images of a pre-training go together.

    Args:
        model: As built of the config; other models than FCMAE pass.
        config: The config.
        splits: Those of the dataloaders that are used.

    Raises:
        ValueError: If they do not.
    """
    if not isinstance(model, FCMAE) or not hasattr(model.backbone, 'patch_size'):
        return
    side = model.backbone.patch_size
    for part in ('neck', 'head'):
        own = config.model[part].get('patch_size', side)
        if own != side:
            raise ValueError(
                f'model.{part}.patch_size {own} is not allowed: the stride of the encoder is {side}'
            )
    if config.model.neck.type in _DECODERS:
        _check_decoder(config.model.neck.in_channels, model.backbone.channels)
    for split in splits:
        size = _fixed_size(config, split)
        if size is not None:
            with prefix_errors(f'{split}_dataloader'):
                check_masked_size(size, side, model.mask_ratio)


def check_channels(model: nn.Module, config: Config) -> None:
    """Check that first layer, means and decoder are for the same number of channels.

    Args:
        model: As built of the config; those with other backbones than ours pass.
        config: The config.

    Raises:
        ValueError: If they are not.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, ConvNeXtV2):
        return
    channels = backbone.state_dict()['downsample_layers.0.0.weight'].shape[1]
    mean = getattr(model.data_preprocessor, 'mean', None)
    if mean is not None and mean.numel() not in (1, channels):
        raise ValueError(
            f'model.data_preprocessor.mean has {mean.numel()} values, but '
            f'model.backbone.in_channels is {channels}'
        )
    neck = config.model.get('neck') or {}
    if neck.get('type') in _DECODERS and neck.get('out_channels', 3) != channels:
        raise ValueError(
            f'model.neck.out_channels {neck.get("out_channels", 3)} is not allowed: '
            f'model.backbone.in_channels is {channels}'
        )


def check_unused_outputs(config: Config) -> None:
    """Check that a run of several processes uses each output of the backbone.

    A neck with ``start_level`` ignores the first ones; the norms of these get no gradient, for
    which ``DistributedDataParallel`` would wait until it stops in the second step.

    Raises:
        ValueError: If it does not.
    """
    model = config.model
    neck = model.get('neck') or {}
    ignored = (neck[0] if isinstance(neck, Sequence) else neck).get('start_level', 0)
    given = model.get('backbone', {}).get('out_indices')
    if not ignored or not isinstance(given, Sequence) or config.get('find_unused_parameters'):
        return
    raise ValueError(
        f'model.neck.start_level {ignored} is not allowed in several processes: outputs '
        f'{list(given[:ignored])} of the backbone have no use; take out_indices='
        f'{list(given[ignored:])} with in_channels to match and start_level=0, or set '
        'find_unused_parameters=True'
    )


def _check_decoder(in_channels: int | Sequence[int], channels: Sequence[int]) -> None:
    whole = isinstance(in_channels, Sequence)
    expected = list(channels) if whole else channels[-1]
    if (list(in_channels) if whole else in_channels) != expected:
        raise ValueError(
            f'model.neck.in_channels {in_channels} is not allowed: the backbone has {expected}'
        )


def check_masked_size(size: tuple[int, int], side: int, mask_ratio: float) -> None:
    """Check that images of a size (height, width) have whole patches, masked and visible.

    Raises:
        ValueError: If they have not.
    """
    PatchLayout.random(1, patch_grid(size, side), mask_ratio, seeds=[0])


def _fixed_size(config: Config, split: str) -> tuple[int, int] | None:
    """Height and width that images have for the model, if they do not depend on the file."""
    loader = config.get(f'{split}_dataloader')
    if not loader:
        return None
    if split == 'train' and 'crop_size' in (config.model.get('data_preprocessor') or {}):
        return (config.model.data_preprocessor.crop_size,) * 2
    sizes = set()
    for dataset in find_datasets(loader):
        for shape in ((337, 521, 3), (653, 409, 3)):
            sizes.add(_size_after(dataset.get('pipeline') or [], shape))
    return sizes.pop() if len(sizes) == 1 else None


def _size_after(pipeline: Sequence[Any], shape: tuple[int, int, int]) -> tuple[int, int] | None:
    """Height and width of an image of a shape after a pipeline; None if that cannot be told."""
    steps = [step for step in pipeline if _last_name(step['type']) not in _OF_THE_IMAGE]
    data = dict(
        img=np.zeros(shape, np.uint8), img_path='', img_shape=shape[:2], ori_shape=shape[:2]
    )
    try:
        with preserve_random_state():
            data = Compose(steps)(data)
        return tuple(data['inputs'].shape[-2:])
    except (KeyError, TypeError, AttributeError):  # it needs more of a sample than its image
        return None


# --- Schedule and batch ---------------------------------------------------------------------------


def schedule_warnings(
    schedulers: Any, max_iters: int, epoch_length: int | None = None
) -> Iterator[str]:
    """Warnings about schedules that do not fit the length of the run.

    Args:
        schedulers: ``param_scheduler`` of the config.
        max_iters: Iterations of the run.
        epoch_length: Iterations of an epoch; None if the run counts iterations.
    """
    if isinstance(schedulers, Mapping):
        schedulers = [schedulers] if 'type' in schedulers else []
    ends = [_span(s, max_iters, epoch_length)[1] for s in schedulers or []]
    for i, scheduler in enumerate(schedulers or []):
        kind = _last_name(scheduler['type'])
        path = f'param_scheduler.{i} ({kind})'
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch and epoch_length is None:
            yield (
                f'{path} counts epochs, but the run counts iterations, {max_iters} of them: set '
                'by_epoch=False and give begin, end and milestones in iterations'
            )
            continue
        unit = epoch_length if by_epoch else 1
        length, name = max_iters / unit, 'epochs' if by_epoch else 'iterations'
        run = f'the run has {length:g} {name}'
        begin, end = (x / unit for x in _span(scheduler, max_iters, epoch_length))
        others = [other for j, other in enumerate(ends) if j != i]
        late = [m for m in scheduler.get('milestones') or [] if m >= length]
        if begin >= length:
            yield f'{path} never acts: it begins at {begin:g}, and {run}'
        elif late:
            yield f'{path} has milestones {late} that never come: {run}'
        elif end > length and kind.startswith(_UNTIL_THEIR_END):
            yield (
                f'{path} does not come to its end, {end:g}: {run}; the rate stops on the way, so '
                f'set end={length:g} or less'
            )
        elif end < length and kind.startswith(_TO_THE_END_OF_THE_RUN):
            if max(others, default=0) <= end * unit:
                yield (
                    f'{path} ends at {end:g}, but {run}: the rest of it trains at the last rate, '
                    f'so set end={length:g}'
                )


def _last_name(kind: str | type) -> str:
    """The name of a type, without its scope."""
    return kind.split('.')[-1] if isinstance(kind, str) else kind.__name__


def _span(scheduler: Mapping, max_iters: int, epoch_length: int | None) -> tuple[float, float]:
    """Where a schedule begins and ends, in iterations; without an end, MMEngine takes the run's."""
    unit = (epoch_length or 1) if scheduler.get('by_epoch', True) else 1
    begin = scheduler.get('begin', 0) * unit
    if scheduler.get('T_max') is not None:
        return begin, begin + scheduler['T_max'] * unit
    end = scheduler.get('end')
    return begin, max_iters if end is None else end * unit


def batch_warnings(config: Config, world_size: int) -> Iterator[str]:
    """Warnings about a learning rate meant for another batch size."""
    scaling = config.get('auto_scale_lr') or {}
    meant = scaling.get('base_batch_size')
    per_process = config.train_dataloader.get('batch_size')
    if not meant or scaling.get('enable') or not per_process:
        return
    steps = config.optim_wrapper.get('accumulative_counts', 1)
    batch = per_process * world_size * steps
    if batch != meant:
        lr = config.optim_wrapper.get('optimizer', {}).get('lr')
        new = f' to {lr * batch / meant:.3g}' if isinstance(lr, int | float) else ''
        yield (
            f'lr {lr} is meant for {meant:g} images a step (auto_scale_lr.base_batch_size), but '
            f'this run has {batch}: batch_size {per_process} x {world_size} processes x {steps} '
            f'batches a step; --auto-scale-lr scales it{new}'
        )


# --- The built run --------------------------------------------------------------------------------


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the states of all random generators afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def check_first_sample(key: str, dataset: Any, model: nn.Module) -> None:
    """Load the first sample of a data set, and see that it is one for the model.

    Args:
        key: Of its dataloader in the config.
        dataset: As the dataloader has it.
        model: As built of the config.

    Raises:
        ValueError: If it cannot be loaded, its size is not allowed, or the model has a mask head
            to train and its objects have no masks.
    """
    with prefix_errors(key):
        data = dataset[0]
        images = data.get('inputs') if isinstance(data, Mapping) else None
        if isinstance(model, FCMAE) and isinstance(images, torch.Tensor) and images.ndim == 3:
            check_masked_size(tuple(images.shape[-2:]), model.head.patch_size, model.mask_ratio)
        sample = data.get('data_samples') if isinstance(data, Mapping) else None
        if key.startswith('train') and getattr(model, 'with_mask', False):
            objects = sample.get('gt_instances') if isinstance(sample, BaseDataElement) else None
            if objects is not None and 'masks' not in objects:
                raise ValueError(
                    'its objects have no masks, but the model has a mask head: set with_mask=True '
                    'in LoadAnnotations, or use a model without, such as with roi_head.mask_head='
                    'None'
                )
