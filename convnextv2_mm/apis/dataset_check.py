"""Checking the data that a config trains and evaluates on."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from rich.console import Console
from rich.progress import Progress

from ..datasets.class_counts import ClassCounts
from ..datasets.coco_problems import USED
from ..datasets.dataset_findings import find_all
from ..datasets.sample_findings import Finding
from ..engine.config.coco import scores_masks
from ..engine.config.datasets import find_datasets
from ..engine.config.reading import check_data, read_config
from ..engine.hooks.class_count_hook import SELF_SUPERVISED
from ..utils.atomic import atomic_write

SPLITS = ('train', 'val', 'test')
LONG = 40  # rows of a table; of more classes only the rarest are shown


class Part(NamedTuple):
    """One data set to check.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        dataset: Its config.
        scored: Whether an evaluator scores its masks.
    """

    split: str
    dataset: ConfigDict
    scored: bool


class DatasetCheck(NamedTuple):
    """The data sets to check.

    Attributes:
        parts: The data sets, each once.
        labelled: Whether the model learns the labels.
        repeated: Splits whose data is that of a split before, with that split.
    """

    parts: list[Part]
    labelled: bool
    repeated: dict[str, str]


class DatasetReport(NamedTuple):
    """The result of a check.

    Attributes:
        problems: Split and finding of all that is left out, replaced or stops a run.
        counts: How often each split, kind and effect was found, the harmless too.
        classes: Objects or pixels, and images, of each class in each split.
    """

    problems: list[tuple[str, Finding]]
    counts: Counter[tuple[str, str, str]]
    classes: dict[str, ClassCounts]


def check_dataset(
    config: str | Path | Config,
    splits: Sequence[str] = SPLITS,
    workers: int | None = None,
    cfg_options: dict | None = None,
) -> DatasetReport:
    """Read all images and annotations that a config trains and evaluates on.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        splits: Of ``train``, ``val`` and ``test``.
        workers: Processes that read; by default one for each core.
        cfg_options: Changes of the config.

    Raises:
        FileNotFoundError: If the config or a data set does not exist.
        ValueError: If the config has no data for these splits.
    """
    return run_check(plan_check(config, splits, cfg_options), workers, tell=lambda line: None)


def plan_check(
    config: str | Path | Config,
    splits: Sequence[str] = SPLITS,
    cfg_options: dict | None = None,
) -> DatasetCheck:
    """Find the data sets to check; see :func:`check_dataset`."""
    name = config.filename if isinstance(config, Config) else config
    config = read_config(config, cfg_options)
    parts: list[Part] = []
    repeated = {}
    for split in splits:
        loader = config.get(f'{split}_dataloader')
        if not loader:
            continue
        check_data(loader)
        for dataset in find_datasets(loader):
            scored = split != 'train' and scores_masks(config, split)
            same = next((p.split for p in parts if p[1:] == (dataset, scored)), None)
            if same:
                repeated[split] = same
            else:
                parts.append(Part(split, dataset, scored))
    if not parts:
        raise ValueError(f'config {name} has no data for {", ".join(splits)}')
    with MODELS.switch_scope_and_registry(config.default_scope) as registry:
        model = registry.get(config.model.type)
    labelled = not (isinstance(model, type) and issubclass(model, SELF_SUPERVISED))
    return DatasetCheck(parts, labelled, repeated)


def run_check(
    check: DatasetCheck,
    workers: int | None = None,
    out: Path | None = None,
    tell: Callable[[str], None] = print,
) -> DatasetReport:
    """Check data sets: print problems as they are found, counts of the rest, then the classes.

    Args:
        check: From :func:`plan_check`.
        workers: Processes that read; by default one for each core.
        out: Where to write findings and counts as JSON.
        tell: Takes each line.
    """
    # Lines go above the bar where both are on a terminal; a file or pipe gets the lines alone.
    progress = Progress(
        console=Console(stderr=True),
        auto_refresh=False,  # by a thread, whose locks the reading processes would inherit
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    )
    report = DatasetReport([], Counter(), {})
    first: dict[tuple[str, str, str], str] = {}
    for split, same in check.repeated.items():
        tell(f'{split}: the same data as {same}')
    with ExitStack() as stack:
        write = stack.enter_context(_json_list(out))
        stack.enter_context(progress)
        for split, finding in _findings(check, workers or os.cpu_count() or 1, progress, report):
            write(dict(split=split, **finding._asdict()))
            if not finding.effect.startswith(USED):
                report.problems.append((split, finding))
                tell(f'{split}: {finding.sentence} -> {finding.effect}')
            key = split, finding.kind, finding.effect
            report.counts[key] += 1
            first.setdefault(key, finding.sentence)
        for split, counts in report.classes.items():
            for entry in class_entries(counts):
                write(dict(split=split, **entry))
    for key, count in report.counts.items():
        split, kind, effect = key
        tell(f'{split}: {count} x {kind}, {effect}; the first: {first[key]}')
    for line in class_table(report.classes):
        tell(line)
    read = ', '.join(f'{task.completed:,} of {task.description}' for task in progress.tasks)
    tell(f'images read: {read or "none"}; problems: {len(report.problems):,}')
    return report


def _findings(
    check: DatasetCheck, workers: int, progress: Progress, report: DatasetReport
) -> Iterator[tuple[str, Finding]]:
    """All that is found, with its split; fills the classes of the report."""
    for split, dataset, scored in check.parts:
        counts = ClassCounts()
        for finding in find_all(dataset, scored, workers, progress, split, counts):
            if check.labelled or finding.kind != 'absent classes':
                yield split, finding
        if counts.samples and counts.classes and check.labelled:
            report.classes.setdefault(split, ClassCounts(counts.classes)).add(counts)


@contextmanager
def _json_list(path: Path | None) -> Iterator[Callable[[dict], None]]:
    """A function that appends entries to a JSON list in a file; without a path, it does nothing."""
    if path is None:
        yield lambda entry: None
        return
    with atomic_write(path) as beside, beside.open('w') as file:
        separator = '['

        def write(entry: dict) -> None:
            nonlocal separator
            file.write(f'{separator}\n{json.dumps(entry)}')
            separator = ','

        yield write
        file.write('\n]\n' if separator == ',' else '[]\n')


def class_entries(counts: ClassCounts) -> Iterator[dict]:
    """The counts of each class, for ``--out``."""
    for label, name in enumerate(counts.classes):
        amounts = {counts.unit: counts.amounts[label], 'images': counts.images[label]}
        yield dict(kind='class', name=name, **amounts)


def class_table(splits: dict[str, ClassCounts]) -> Iterator[str]:
    """Table of all classes, or the rarest, with their counts in each split."""
    if not splits:
        return
    counts = list(splits.values())
    names = max((c.classes for c in counts), key=len)
    labels = list(range(len(names)))
    if len(names) > LONG:
        labels.sort(key=counts[0].amounts.__getitem__)
        labels = labels[:LONG]
    head, columns = ['class'], []
    for split, c in splits.items():
        head += dict.fromkeys([f'{split} {c.unit}', f'{split} images'])
        columns += [c.amounts] if c.unit == 'images' else [c.amounts, c.images]
    rows = [[str(names[x]), *(f'{column[x]:,}' for column in columns)] for x in labels]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *others in (head, *rows):
        cells = [f'{text:>{width}}' for text, width in zip(others, widths[1:], strict=True)]
        yield '  '.join([f'{first:<{widths[0]}}', *cells])
    if len(names) > LONG:
        rest = len(names) - LONG
        yield f'and {rest:,} more classes, with more {head[1]}: --out FILE.json has all'
    what = dict(pixels='of the pixels are ignored', objects='of the objects are crowds')
    for split, c in splits.items():
        if c.unit in what:
            yield f'{split}: {c.ignored_share:.1%} {what[c.unit]}'
