"""Iterate over the data sets of a config, including wrapped ones."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import ConfigDict


def find_datasets(dataloader: ConfigDict) -> list[ConfigDict]:
    """The data sets of a dataloader that read files, unwrapped."""
    return [part for part in nested(dataloader.dataset) if _wrapped(part) is None]


def nested(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """A data set and those that it wraps, the inner ones first."""
    for part in _wrapped(dataset) or ():
        yield from nested(part)
    yield dataset


def _wrapped(dataset: ConfigDict) -> list[ConfigDict] | None:
    """What a data set wraps; None if it reads files itself."""
    if 'dataset' in dataset:  # RepeatDataset, ClassBalancedDataset and the like
        return [dataset['dataset']]
    return dataset.get('datasets')  # ConcatDataset
