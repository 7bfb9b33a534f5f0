"""Find what is wrong or unusual in a data set: annotations, samples and classes."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from multiprocessing import get_all_start_methods
from pathlib import Path

import mmdet.datasets
from mmengine import fileio
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from rich.progress import Progress
from torch.utils.data import DataLoader

from ..errors import USER_ERRORS
from .checked_datasets import CocoDataset, coco_options
from .class_counts import SURE, ClassCounts, count_classes, likely_cause, listed
from .coco_problems import EFFECTS, STOPS, USED, find_coco_problems
from .coco_values import normalize_values
from .sample_findings import REPLACED, UNNOTICED, Finding, Samples, capture_complaints

NEVER_LEARNED = 'the run goes on without them'


def find_all(
    part: ConfigDict,
    scored: bool,
    workers: int,
    progress: Progress,
    title: str,
    counts: ClassCounts,
) -> Iterator[Finding]:
    """Everything that is wrong or unusual with a data set; fills ``counts``."""
    dataset = DATASETS.build({**part, 'lazy_init': True})
    counts.classes = dataset.metainfo.get('classes') or ()
    stops = False
    for finding in find_in_files(dataset, part, scored, workers, progress, title, counts):
        stops |= finding.effect == STOPS
        yield finding
    if isinstance(dataset, mmdet.datasets.CocoDataset):
        try:
            logging.disable(logging.WARNING)  # what it logs and prints has been told
            with redirect_stdout(io.StringIO()):
                dataset.full_init()
            counts.add(count_classes([dataset]))  # what training or evaluation gets
        except USER_ERRORS as error:
            if not stops:
                yield Finding('structure', str(error), STOPS)
        finally:
            logging.disable(logging.NOTSET)
    yield from class_findings(title, dataset, counts)


def find_in_files(
    dataset: BaseDataset,
    part: ConfigDict,
    scored: bool,
    workers: int,
    progress: Progress,
    title: str,
    counts: ClassCounts,
) -> Iterator[Finding]:
    """Findings from reading each file and annotation."""
    try:
        if isinstance(dataset, mmdet.datasets.CocoDataset):
            content = json.loads(fileio.get_text(dataset.ann_file))
            if not (yield from coco_findings(dataset, content, scored)):
                return
            infos, folder = content.pop('images'), dataset.data_prefix['img']
            del content
            for info in infos:
                info['img_path'] = os.path.join(folder, info['file_name'])
            samples = Samples(dataset, infos.__getitem__, len(infos))
        else:
            dataset.filter_data = lambda: dataset.data_list  # all, and without the checks there
            dataset.full_init()
            samples = Samples(dataset, dataset.get_data_info, len(dataset))
            yield from folder_findings(dataset)
    except USER_ERRORS + (RuntimeError,) as error:
        where = dataset.ann_file or part.get('data_root')
        yield Finding('structure', f'{where}: {" ".join(str(error).split())}', STOPS)
        return
    loader = DataLoader(
        samples,
        batch_size=16,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=capture_complaints,
        # Where processes can be forked, the list of samples is shared, not copied.
        multiprocessing_context='fork' if workers and 'fork' in get_all_start_methods() else None,
    )
    task = progress.add_task(title, total=len(samples))
    replaced, max_bad = 0, getattr(dataset, 'max_bad', 1)
    for batch in loader:
        for findings, sample_counts in batch:
            for finding in (Finding(*values) for values in findings):
                replaced += finding.effect == REPLACED
                yield finding
            if sample_counts:
                counts.add(sample_counts)
        progress.update(task, advance=len(batch), refresh=True)
    if replaced > max(1, max_bad * len(samples)):
        sentence = f'{replaced} of {len(samples)} samples are bad, more than {max_bad=}'
        yield Finding('too many', sentence, STOPS)


def coco_findings(
    dataset: BaseDataset, content: object, scored: bool
) -> Generator[Finding, None, bool]:
    """What is wrong in the annotations of a COCO file.

    Args:
        dataset: The data set, not loaded yet.
        content: What the file holds; its values are made plain.
        scored: Whether an evaluator scores the masks.

    Returns:
        Whether its images can be looked at.
    """
    skip = getattr(dataset, 'skip_bad_data', False)
    left_out, broken = set(), False
    options = coco_options(dataset.pipeline, dataset.metainfo.get('classes') or ())
    options['masks'] |= scored
    normalize_values(content)
    for problem in find_coco_problems(content, **options):
        effect = EFFECTS[problem.kind][0 if skip else 1]
        if effect not in (USED, STOPS):
            left_out.add(problem.annotation)
        yield Finding(problem.kind, f'{dataset.ann_file}: {problem.sentence}', effect)
        broken |= problem.kind in ('structure', 'duplicate id')
    if broken:
        return False
    if not isinstance(dataset, CocoDataset):
        yield from _order_findings(dataset, content['categories'])
    annotated = {a['image_id'] for a in content['annotations'] if a['id'] not in left_out}
    drops = not dataset.test_mode and (dataset.filter_cfg or {}).get('filter_empty_gt')
    how = 'but filter_empty_gt leaves it out' if drops else 'as background'
    for image in content['images']:
        if image['id'] not in annotated:
            name = image['file_name']
            what = f'{dataset.ann_file}: {name} has no annotation that can be used'
            yield Finding('no annotations', what, f'{USED}, {how}')
    return True


def _order_findings(dataset: BaseDataset, categories: list[dict]) -> Iterator[Finding]:
    """Whether MMDetection's data set numbers labels as the classes are numbered."""
    classes = list(dataset.metainfo.get('classes') or ())
    names = [category['name'] for category in categories if category['name'] in classes]
    if names != classes[: len(names)]:
        place = next(i for i, name in enumerate(names) if name != classes[i])
        sentence = (
            f'{dataset.ann_file}: category {names[place]!r} gets the label of {classes[place]!r}, '
            f'since MMDetection goes by the order of the file; convnextv2_mm.CocoDataset does not'
        )
        yield Finding('class order', sentence, UNNOTICED)


def folder_findings(dataset: BaseDataset) -> Iterator[Finding]:
    """Files in the image folder that the data set does not treat as images."""
    endings = getattr(dataset, 'extensions', None) or getattr(dataset, 'img_suffix', None)
    if endings is None or dataset.ann_file:
        return
    for folder, _, names in os.walk(dataset.data_prefix['img_path']):
        for name in names:
            if not name.endswith(endings) and not name.lower().endswith(endings):
                sentence = f'{Path(folder, name)} does not end in {" or ".join([*endings])}'
                yield Finding('not taken', sentence, f'{USED} by nothing')


def class_findings(split: str, dataset: BaseDataset, counts: ClassCounts) -> Iterator[Finding]:
    """Classes that do not occur in the data, or pixels that are all ignored."""
    if not (counts.samples and counts.classes and counts.absent):
        return
    if not counts.images and counts.unit == 'objects':
        return  # a test set whose annotations are secret
    what = f'{len(counts.absent)} of {len(counts.classes)} classes have no {counts.unit[:-1]}: '
    what += listed(counts.absent)
    if cause := likely_cause(counts, dataset.metainfo.get('reduce_zero_label', False)):
        what += f'; {cause}'
    if split == 'train' and counts.unit == 'pixels' and not counts.amounts:
        yield Finding('absent classes', f'every pixel is ignored; {what}', STOPS)
        return
    how = 'and these classes are never learned' if split == 'train' else 'and they have no score'
    # With a cause, and so few classes that none is merely rare, it is a mistake.
    is_mistake = cause and len(counts.classes) <= SURE
    yield Finding('absent classes', what, NEVER_LEARNED if is_mistake else f'{USED}, {how}')
