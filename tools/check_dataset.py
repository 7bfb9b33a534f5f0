"""Read all images and annotations that a config trains and evaluates on, and say what is wrong.

Prints a line for each problem: which file, what is wrong with it, and what the run will do. What is
unusual but used is told in numbers at the end, and in full in ``--out``. Then comes a table of the
classes: objects or pixels, and images, of each in each split. The exit code is 0 where
nothing is left out or stops a run, 1 where something does, and 2 where there is no such config or
data set. docs/bad_data.md has all cases.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import NamedTuple, TextIO

from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.datasets import CocoDataset, LoadAnnotations, LoadImageFromFile
from convnextv2_mm.datasets.checked_datasets import coco_options, entry_problem
from convnextv2_mm.datasets.class_counts import (
    SURE,
    ClassCounts,
    count_classes,
    count_sample,
    likely_cause,
    listed,
)
from convnextv2_mm.datasets.coco_problems import (
    EFFECTS,
    STOPS,
    USED,
    find_coco_problems,
)
from convnextv2_mm.datasets.coco_values import normalize_values
from convnextv2_mm.datasets.transforms.loading import MAX_PIXELS, tiff_tags, without_pillow_limit
from convnextv2_mm.engine.config.coco import scores_masks
from convnextv2_mm.engine.config.datasets import find_datasets
from convnextv2_mm.engine.config.reading import check_data, read_config
from convnextv2_mm.engine.hooks.class_count_hook import SELF_SUPERVISED
from convnextv2_mm.errors import USER_ERRORS, BadData, exit_on_user_error
from convnextv2_mm.utils.atomic import atomic_write

import mmdet.datasets
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from PIL import ExifTags, Image
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

SPLITS = ('train', 'val', 'test')
REPLACED = 'another sample takes its place'
NEVER_LEARNED = 'the run goes on without them'
UNNOTICED = 'the run stops, or goes on with wrong data: its pipeline does not check this'
SMALL = 32  # pixels; below, MMDetection's configs leave an image out of training
DARK = 32  # grey levels of 256 that a 16-bit image reaches at least, if it uses its bits
LONG = 40  # rows of a table; of more classes only the rarest are shown


class Finding(NamedTuple):
    """One thing that is wrong or unusual.

    Attributes:
        kind: A word or two to count by.
        sentence: What it is, with the file's name.
        effect: What the run does with it; it is a problem unless that begins with ``USED``.
    """

    kind: str
    sentence: str
    effect: str


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS, help='default: all')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), metavar='N', help='processes that read'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write all findings there')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f'--workers {args.workers} is not allowed: it must be at least 1')
    return args


class Samples(Dataset):
    """What there is to say of each sample of a data set, found by loading it.

    Args:
        dataset: The data set, not loaded yet.
        info: Gives the entry of its data list at an index.
        length: How many there are.
    """

    def __init__(self, dataset: BaseDataset, info: Callable[[int], dict], length: int) -> None:
        self.dataset, self.info, self.length = dataset, info, length
        self.classes = dataset.metainfo.get('classes') or ()
        self.steps = []
        for step in dataset.pipeline.transforms:
            given = dict(
                backend_args=getattr(step, 'backend_args', None),
                max_pixels=getattr(step, 'max_pixels', MAX_PIXELS),
            )
            if isinstance(step, MMCVLoadImageFromFile):
                # Instead of LoadEncodedJPEG too: that leaves the decoding to the model's device.
                given.update(color_type=step.color_type, imdecode_backend=step.imdecode_backend)
                own = isinstance(step, LoadImageFromFile)
                self.steps.append(('image', LoadImageFromFile(**given), own))
            elif isinstance(step, MMSegLoadAnnotations):
                given.update(
                    imdecode_backend=step.imdecode_backend, mapping=getattr(step, 'mapping', None)
                )
                own = isinstance(step, LoadAnnotations)
                self.steps.append(('label map', LoadAnnotations(**given), own))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[list[tuple[str, str, str]], ClassCounts | None]:
        info = self.info(index)
        findings = self.look_at(info)
        usable = all(finding.effect.startswith(USED) for finding in findings)
        counts = count_sample(info, self.label_maps) if usable else None
        # Plain tuples: where the class cannot be imported by name, pickling it fails unseen.
        return [tuple(finding) for finding in findings], counts

    @property
    def label_maps(self) -> LoadAnnotations | None:
        """What reads the label maps."""
        return next((step for kind, step, _ in self.steps if kind == 'label map'), None)

    def look_at(self, info: dict) -> list[Finding]:
        """Load one sample."""
        if reason := entry_problem(self.dataset, info, len(self.classes)):
            return [Finding('entry', reason, STOPS)]
        if names := self.dataset.METAINFO.get('classes') or self.classes:
            info.setdefault('num_labels', len(names))
        path = info['img_path']
        list(_complaints())  # those of the sample before, if that could not be read
        for kind, step, own in self.steps:
            try:
                info = step(info)
            except BadData as error:
                effect = REPLACED if getattr(self.dataset, 'skip_bad_data', False) else STOPS
                return [Finding(kind, str(error), effect if own else UNNOTICED)]
        content = fileio.get(path, backend_args=self.steps[0][1].backend_args)
        notes = [*_complaints(), *_unusual(path, content, info['img'])]
        return [Finding(kind, f'{path} {what}', f'{USED}, {how}') for kind, what, how in notes]


def _unusual(path: str, content: bytes, loaded: np.ndarray) -> Iterator[tuple[str, str, str]]:
    """What is unusual in an image that can be read: kind, description, and how it is used."""
    tags, shape = tiff_tags(content), loaded.shape[:2]
    if (channels := tags.get('SamplesPerPixel', 1)) > 1:
        if tags.get('PhotometricInterpretation') in (0, 1):  # grey, to OpenCV
            what = f'has {channels} channels and is not marked as RGB'
            yield 'channels', what, 'the first of them, for all three channels'
        elif channels > 3 and tags.get('ExtraSamples') == (0,):
            yield 'channels', f'has {channels} channels', 'the first three of them'
    if 16 in tags.get('BitsPerSample', ()):
        yield from _sixteen_bits(loaded)
    try:
        with without_pillow_limit():
            image = Image.open(io.BytesIO(content))
    except Exception:  # OpenCV reads more formats
        return
    with image:
        stored = image.tile[0][3] if image.tile else ''  # such as RGB;16B, where the mode is RGB
        if not tags and (';16' in image.mode or (isinstance(stored, str) and ';16' in stored)):
            yield from _sixteen_bits(loaded)
        if image.mode == 'CMYK':
            yield 'CMYK', 'has the colours of print', 'converted to those of screens'
        elif image.mode == 'P':
            yield 'palette', 'has a palette', 'its colours are looked up'
        elif image.mode[0] in '1LI':
            yield 'grey', 'has one channel', 'for all three channels'
        if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
            darker = 2 in tags.get('ExtraSamples', ())  # colours not multiplied by it already
            how = 'darker where it is transparent' if darker else 'without the transparency'
            yield 'alpha', 'has transparent parts', how
        if getattr(image, 'is_animated', False):
            yield 'animated', f'has {image.n_frames} frames or pages', 'the first'
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation != 1:
            turned = shape != (image.height, image.width) or orientation < 5
            turned = turned or image.height == image.width
            how = 'turned' if turned else 'as it is stored, since the annotations have that size'
            yield 'orientation', f'has EXIF orientation {orientation}', how
        if min(image.size) < SMALL:
            yield 'small', f'is {image.width}x{image.height} pixels', 'where no filter drops it'
        named = Image.registered_extensions().get(Path(path).suffix.lower())
        if named != image.format and image.format != 'MPO':  # a JPEG with previews
            yield 'ending', f'is a {image.format} file', 'whatever its name ends in'


def _sixteen_bits(loaded: np.ndarray) -> Iterator[tuple[str, str, str]]:
    yield '16 bits', 'has 16 bits a value', 'the upper 8 of them'
    if loaded.max() < DARK:
        what = f'is nearly black, {loaded.max()} of 255 at most: it uses few of its 16 bits'
        yield 'dark', what, 'as it is'


def _capture_complaints(worker: int) -> None:
    """Let what libraries print to the standard error of this process go to a file."""
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)


def _complaints() -> Iterator[tuple[str, str, str]]:
    """What libjpeg printed since the last call: it decodes as much as it can, and returns that."""
    printed = os.pread(2, 1 << 16, 0).decode(errors='replace')
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    for line in printed.splitlines():
        if line.startswith('Corrupt JPEG data: '):
            yield 'damaged', f'is damaged ({line.partition(": ")[2]})', 'as far as it decodes'
            return


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
    """Files in the folder of images that the data set does not take for images."""
    endings = getattr(dataset, 'extensions', None) or getattr(dataset, 'img_suffix', None)
    if endings is None or dataset.ann_file:
        return
    for folder, _, names in os.walk(dataset.data_prefix['img_path']):
        for name in names:
            if not name.endswith(endings) and not name.lower().endswith(endings):
                sentence = f'{Path(folder, name)} does not end in {" or ".join([*endings])}'
                yield Finding('not taken', sentence, f'{USED} by nothing')


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


def find_in_files(
    dataset: BaseDataset,
    part: ConfigDict,
    scored: bool,
    workers: int,
    progress: Progress,
    title: str,
    counts: ClassCounts,
) -> Iterator[Finding]:
    """What reading each file and annotation shows."""
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
        worker_init_fn=_capture_complaints,
        multiprocessing_context='fork',  # the list of samples is shared, not copied
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


def class_entries(counts: ClassCounts) -> Iterator[dict]:
    """The counts of each class, for ``--out``."""
    for label, name in enumerate(counts.classes):
        amounts = {counts.unit: counts.amounts[label], 'images': counts.images[label]}
        yield dict(kind='class', name=name, **amounts)


def class_table(splits: dict[str, ClassCounts]) -> Iterator[str]:
    """Lines of a table of all classes, or the rarest, with their counts in each split."""
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


def report(
    parts: list[tuple[str, ConfigDict, bool]],
    workers: int,
    progress: Progress,
    file: TextIO | None,
    labelled: bool,
) -> int:
    """Print problems as they come, the rest in numbers, then the classes; write all to a file.

    Args:
        parts: Splits and their data sets.
        workers: Processes that read.
        progress: Where to show how far it is.
        file: Where to write findings and counts as JSON.
        labelled: Whether the model learns the labels.

    Returns:
        The number of problems.
    """
    problems, counts, first, separator = 0, Counter(), {}, '['
    classes: dict[str, ClassCounts] = {}
    for split, part, scored in parts:
        part_classes = ClassCounts()
        for finding in find_all(part, scored, workers, progress, split, part_classes):
            if finding.kind == 'absent classes' and not labelled:
                continue
            if file:
                entry = json.dumps(dict(split=split, **finding._asdict()))
                file.write(f'{separator}\n{entry}')
                separator = ','
            if not finding.effect.startswith(USED):
                problems += 1
                print(f'{split}: {finding.sentence} -> {finding.effect}', flush=True)
            key = split, finding.kind, finding.effect
            counts[key] += 1
            first.setdefault(key, finding.sentence)
        if part_classes.samples and part_classes.classes and labelled:
            classes.setdefault(split, ClassCounts(part_classes.classes)).add(part_classes)
    if file:
        for split, class_counts in classes.items():
            for entry in class_entries(class_counts):
                file.write(f'{separator}\n{json.dumps(dict(split=split, **entry))}')
                separator = ','
        file.write('\n]\n' if separator == ',' else '[]\n')
    for key, count in counts.items():
        split, kind, effect = key
        print(f'{split}: {count} x {kind}, {effect}; the first: {first[key]}')
    for line in class_table(classes):
        print(line)
    read = ', '.join(f'{task.completed:,} of {task.description}' for task in progress.tasks)
    print(f'images read: {read or "none"}; problems: {problems:,}')
    return problems


def main() -> None:
    args = parse_args()
    parts: list[tuple[str, ConfigDict, bool]] = []
    with exit_on_user_error():
        config = read_config(args.config, args.cfg_options)
        for split in args.splits:
            loader = config.get(f'{split}_dataloader')
            if not loader:
                continue
            check_data(loader)
            for part in find_datasets(loader):
                scored = split != 'train' and scores_masks(config, split)
                if same := next((name for name, *other in parts if other == [part, scored]), None):
                    print(f'{split}: the same data as {same}')
                else:
                    parts.append((split, part, scored))
        with MODELS.switch_scope_and_registry(config.default_scope) as registry:
            model = registry.get(config.model.type)
        labelled = not (isinstance(model, type) and issubclass(model, SELF_SUPERVISED))
        if not parts:
            raise ValueError(f'config {args.config} has no data for {", ".join(args.splits)}')
        if args.out and not args.out.parent.is_dir():
            raise FileNotFoundError(f'--out {args.out}: folder {args.out.parent} does not exist')
    # Lines go above the bar where both are on a terminal; a file or pipe gets the lines alone.
    progress = Progress(
        console=Console(stderr=True),
        auto_refresh=False,  # by a thread, whose locks the reading processes would inherit
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    )
    with ExitStack() as stack:
        file = None
        if args.out:
            file = stack.enter_context(stack.enter_context(atomic_write(args.out)).open('w'))
        stack.enter_context(progress)
        problems = report(parts, args.workers, progress, file, labelled)
    sys.exit(1 if problems else 0)


if __name__ == '__main__':
    main()
