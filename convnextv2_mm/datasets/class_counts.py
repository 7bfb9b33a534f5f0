"""Count how often each class occurs in a data set: objects, pixels and images.

A class without any is never learned, and nothing else would say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import mmpretrain.datasets
import numpy as np
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from torch.utils.data import Dataset

from ..errors import BadData
from .transforms.loading import IGNORED, LoadAnnotations

FEW = 10  # names that a sentence lists
SURE = 20  # classes up to which some label maps tell how all of them are numbered


@dataclass
class ClassCounts:
    """Counts by class; a class is named by its label.

    Attributes:
        classes: Names of the classes.
        unit: What ``amounts`` counts: ``'objects'``, ``'pixels'`` or ``'images'``.
        amounts: Objects, pixels or images of each class.
        images: Images of each class.
        ignored: Objects or pixels that train no class: crowds, or the ignore index.
        values: Pixels of each value of the label maps, as it is stored.
        samples: How many samples were counted.
    """

    classes: Sequence[str] = ()
    unit: str = ''
    amounts: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    ignored: int = 0
    values: Counter[int] = field(default_factory=Counter)
    samples: int = 0

    def add(self, other: ClassCounts) -> None:
        """Add the counts of other samples."""
        self.unit = other.unit
        self.amounts.update(other.amounts)
        self.images.update(other.images)
        self.ignored += other.ignored
        self.values.update(other.values)
        self.samples += other.samples

    @property
    def absent(self) -> list[str]:
        """Names of the classes that do not occur."""
        return [name for label, name in enumerate(self.classes) if not self.amounts[label]]

    @property
    def ignored_share(self) -> float:
        """Fraction of all objects or pixels that is ignored."""
        return self.ignored / max(1, self.ignored + self.amounts.total())


def count_sample(info: dict, loader: LoadAnnotations | None = None) -> ClassCounts | None:
    """Count the classes of one entry of a data set.

    Args:
        info: The entry, of a data set of MMDetection, MMSegmentation or MMPreTrain.
        loader: Reads its label map; without, label maps are not counted.

    Returns:
        None where the entry has no annotations.

    Raises:
        BadData: If its label map cannot be used.
    """
    counts = ClassCounts(samples=1)
    if info.get('seg_map_path') and loader is not None:
        counts.unit = 'pixels'
        values, pixels = np.unique(loader.read(info['seg_map_path']), return_counts=True)
        labels = loader.labels_of(values, info).tolist()
        for value, label, number in zip(values.tolist(), labels, pixels.tolist(), strict=True):
            counts.values[int(value)] += number
            counts.amounts[label] += number
        counts.ignored = counts.amounts.pop(info.get('ignore_index', IGNORED), 0)
    elif 'instances' in info:
        counts.unit = 'objects'
        for instance in info['instances']:
            if instance.get('ignore_flag'):
                counts.ignored += 1
            else:
                counts.amounts[instance['bbox_label']] += 1
    elif (label := info.get('gt_label')) is not None:
        counts.unit = 'images'
        counts.amounts.update(np.atleast_1d(label).tolist())
    else:
        return None
    counts.images.update(counts.amounts.keys())
    return counts


def label_map_loader(dataset: Dataset) -> LoadAnnotations | None:
    """The pipeline step that reads a data set's label maps; None if there is none."""
    for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if isinstance(step, LoadAnnotations):
            return step
        if isinstance(step, MMSegLoadAnnotations):
            return LoadAnnotations(step.imdecode_backend, step.backend_args)
    return None


def inner_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """The innermost data sets inside wrappers that repeat, join or mix others."""
    if isinstance(dataset, mmpretrain.datasets.KFoldDataset):  # has only a part of what it wraps
        yield dataset
    elif hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from inner_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from inner_datasets(dataset.dataset)
    elif hasattr(dataset, 'get_data_info'):
        yield dataset


def count_classes(parts: list[Dataset], max_maps: int = 200) -> ClassCounts:
    """Count the classes of data sets.

    Objects and labels of images are counted in full. Of label maps, which have to be read, at most
    ``max_maps`` are, evenly spread. Those that cannot be used are passed over.

    Args:
        parts: The data sets, as :func:`inner_datasets` gives them.
        max_maps: Label maps to read at most.
    """
    classes = next((c for part in parts if (c := part.metainfo.get('classes'))), ())
    counts = ClassCounts(classes)
    total = sum(map(len, parts))
    for part in parts:
        loader = label_map_loader(part)
        step = max(1, total / max_maps) if loader else 1
        for index in np.arange(0, len(part), step).astype(int).tolist():
            try:
                sample = count_sample(part.get_data_info(index), loader)
            except BadData:
                continue
            if sample is not None:
                counts.add(sample)
    return counts


def report_classes(parts: list[Dataset]) -> tuple[str, bool]:
    """One sentence about the classes of a training set, for the log of a run.

    Args:
        parts: The data sets, as :func:`inner_datasets` gives them.

    Returns:
        The sentence ('' where there is nothing to say), and whether it is a warning.

    Raises:
        BadData: If every pixel that was looked at is ignored.
    """
    counts = count_classes(parts)
    if not counts.samples or not counts.classes:
        return '', False
    classes, absent = counts.classes, counts.absent
    total = sum(map(len, parts))
    complete = counts.samples == total
    cause = ''
    maps = counts.unit == 'pixels'
    if maps and absent and (complete or len(classes) <= SURE):
        shifted = any(part.metainfo.get('reduce_zero_label') for part in parts)
        cause = likely_cause(counts, shifted)
    kind = 'label maps' if maps else 'images'
    where = f'all {total:,} {kind}' if complete else f'{counts.samples:,} of {total:,} {kind}'
    if maps and not counts.amounts:
        raise BadData(f'every pixel of {where} looked at is ignored{cause and f": {cause}"}')
    sentence = ''
    if absent:
        sentence = f'{len(absent)} of {len(classes)} classes have no {counts.unit[:-1]} in {where}'
        sentence += f' of the training set: {listed(absent)}'
    elif maps:
        sentence = f'all {len(classes)} classes are in {where} of the training set'
    if maps:
        sentence += f'; {counts.ignored_share:.1%} of the pixels are ignored'
    if cause:
        sentence += f'; {cause}'
    return sentence, bool(absent) and (complete or bool(cause))


def likely_cause(counts: ClassCounts, reduce_zero_label: bool) -> str:
    """The likely reason why classes are absent from label maps, or ''."""
    values = set(counts.values)
    if values == {0, IGNORED} and counts.ignored:
        return (
            'the label maps hold 0 and 255, and 255 means ignored: store 0 and 1, or give '
            'LoadAnnotations mapping={255: 1}'
            + (', and set reduce_zero_label=False' if reduce_zero_label else '')
        )
    if reduce_zero_label and 0 in values and len(counts.classes) not in values:
        return (
            'reduce_zero_label=True turns 0 into ignored and 1 into the first class: set it to '
            'False if 0 is a class'
        )
    return ''


def listed(names: Iterable[str]) -> str:
    """Names as part of a sentence, shortened if there are many."""
    names = list(names)
    more = f' and {len(names) - FEW:,} more' if len(names) > FEW else ''
    return ', '.join(map(str, names[:FEW])) + more
