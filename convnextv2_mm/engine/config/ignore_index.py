"""Check that all parts of a run agree on the label of pixels without a class.

It is 255 everywhere in MMSegmentation. With more than 255 classes, 255 is a class, and each place
that is forgotten would leave it out without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, METRICS
from torch import nn

from .datasets import find_datasets

NAMES = ('ignore_index', 'ignore_label', 'seg_pad_val')
LAST = 65535  # label maps have 16 bits
IGNORED = 255  # by MMSegmentation


def check_ignore_index(config: Config, model: nn.Module, splits: Iterable[str]) -> None:
    """Check that all parts of a segmentor's run have the data set's ``ignore_index``.

    Only where that is not 255, or cannot be since it is a class.

    Args:
        config: Of the run.
        model: Its model; no weights are needed.
        splits: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ValueError: If they have not, naming all that have another one.
    """
    from mmseg.datasets import BaseSegDataset  # takes a second, which --help need not wait for

    for split in splits:
        if not config.get(f'{split}_dataloader'):
            continue
        evaluators = [] if split == 'train' else config.get(f'{split}_evaluator') or []
        evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
        wrapper = config[f'{split}_dataloader'].dataset
        mixing: list = []
        while 'dataset' in wrapper:  # MultiImageMixDataset has a pipeline too
            mixing += wrapper.get('pipeline') or []
            wrapper = wrapper.dataset
        for part in find_datasets(config[f'{split}_dataloader']):
            with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
                cls = registry.get(part.type)
            if isinstance(cls, type) and issubclass(cls, BaseSegDataset):
                dataset = DATASETS.build({**part, 'lazy_init': True})
                steps = [*dataset.pipeline.transforms, *Compose(mixing).transforms]
                _check_part(split, dataset, list(_steps(steps)), model, evaluators)


def _check_part(
    split: str,
    dataset: BaseDataset,
    steps: list,
    model: nn.Module,
    evaluators: list,
) -> None:
    from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations

    from ...datasets import BaseSegDataset, LoadAnnotations

    classes = dataset.METAINFO.get('classes') or dataset.metainfo.get('classes') or ()
    highest = len(classes) - 1 + dataset.reduce_zero_label
    ignored = dataset.ignore_index
    if highest < ignored == IGNORED:
        return
    name = f'{split}_dataloader.dataset'
    if highest >= LAST:
        raise ValueError(f'{name} has {len(classes)} classes, but label maps have 16 bits')
    if not highest < ignored <= LAST:
        raise ValueError(
            f'{name}.ignore_index={ignored} is not allowed: its labels go up to {highest}, and it '
            f'must be above, and at most {LAST}'
        )
    stock = [step for step in steps if isinstance(step, MMSegLoadAnnotations)]
    if not isinstance(dataset, BaseSegDataset) or any(
        not isinstance(step, LoadAnnotations) for step in stock
    ):
        raise ValueError(
            f'{name}.ignore_index={ignored} needs convnextv2_mm.BaseSegDataset or one that is '
            'derived from it, and convnextv2_mm.LoadAnnotations: those of MMSegmentation know 255 '
            'alone'
        )
    found = {}
    for step in steps:
        found.update({f'{name}.pipeline {type(step).__name__}.{k}': v for k, v in _own(step)})
    for path, module in model.named_modules():
        found.update({f'model.{path}.{key}': value for key, value in _own(module)})
    for evaluator in evaluators:
        with METRICS.switch_scope_and_registry('mmseg') as registry:
            parameters = inspect.signature(registry.get(evaluator['type'])).parameters
        if 'ignore_index' in parameters:
            value = evaluator.get('ignore_index', parameters['ignore_index'].default)
            found[f'{split}_evaluator.ignore_index'] = value
        if evaluator.get('output_dir') and highest > IGNORED:
            raise ValueError(
                f'{split}_evaluator.output_dir={evaluator["output_dir"]} is not allowed: '
                f'{evaluator["type"]} writes 8 bits, and the labels go up to {highest}'
            )
    others = [f'{path}={value}' for path, value in found.items() if value != ignored]
    if others:
        raise ValueError(
            f'{name}.ignore_index is {ignored}, and must be the same in {", ".join(others)}'
        )


def _steps(transforms: Iterable) -> Iterator[Any]:
    """The steps of a pipeline, and those within steps."""
    for step in transforms:
        if isinstance(step, list | tuple):
            yield from _steps(step)
            continue
        yield step
        for name in ('transforms', 'subroutines'):
            inner = getattr(step, name, ())
            yield from _steps(getattr(inner, 'transforms', inner))


def _own(part: Any) -> Iterator[tuple[str, int]]:
    """Name and value of what a part of the model or the pipeline takes for ignored."""
    for name in NAMES:
        if isinstance(value := getattr(part, name, None), int):
            yield name, value
    padding = getattr(part, 'pad_val', None)
    if isinstance(padding, dict):
        yield 'pad_val.seg', padding.get('seg', IGNORED)
