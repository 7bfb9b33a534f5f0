"""Find what is wrong or unusual in the samples of a data set by loading each of them."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from PIL import ExifTags, Image
from torch.utils.data import Dataset

from ..errors import BadData
from .checked_datasets import entry_problem
from .class_counts import ClassCounts, count_sample
from .coco_problems import STOPS, USED
from .transforms.loading import (
    MAX_PIXELS,
    LoadAnnotations,
    LoadImageFromFile,
    tiff_tags,
    without_pillow_limit,
)

REPLACED = 'another sample takes its place'
UNNOTICED = 'the run stops, or goes on with wrong data: its pipeline does not check this'
SMALL = 32  # pixels; below, MMDetection's configs leave an image out of training
DARK = 32  # grey levels of 256 that a 16-bit image reaches at least, if it uses its bits


class Finding(NamedTuple):
    """Something that is wrong or unusual.

    Attributes:
        kind: A word or two to count by.
        sentence: What it is, with the file's name.
        effect: What the run does with it; it is a problem unless that begins with ``USED``.
    """

    kind: str
    sentence: str
    effect: str


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


def capture_complaints(worker: int) -> None:
    """Redirect what libraries print to this process's standard error to a file."""
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
