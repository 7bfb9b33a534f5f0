"""Load images and label maps, with errors that name the file.

All raise :class:`~convnextv2_mm.errors.BadData`. What then happens is the data set's choice:
:mod:`convnextv2_mm.datasets.checked_datasets`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmengine.fileio.backends import LocalBackend
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from mmseg.datasets.transforms.loading import InferencerLoader as MMSegInferencerLoader
from mmseg.datasets.transforms.loading import LoadImageFromNDArray
from PIL import Image, TiffImagePlugin

from ...errors import BadData
from ...registry import TRANSFORMS
from .channels import NPY, TIFF, decode_channels

IGNORED = 255  # label of pixels without a class, where the data set names no other
NO_LABEL = -1  # marks values that stand for no class
# 16384 x 16384, the largest WebP: 0.8 GB decoded. A phone's 200 megapixels pass.
MAX_PIXELS = 2**28


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's ``LoadImageFromFile``, with errors that name the file.

    Where the annotations give the size of the image (``height``, ``width``), they also say whether
    they were made on the image as it is stored or as its EXIF orientation turns it: the one of that
    size is loaded. Without, or where both have it, the orientation is applied.

    Args:
        max_pixels: An image with more pixels is refused before it is decoded.
        channels: Of the images. Others than 3, and .npy files and TIFFs with any number, are
            decoded by :func:`~convnextv2_mm.datasets.transforms.channels.decode_channels`.
        kwargs: Arguments of MMCV's; ``file_client_args``, its old name for ``backend_args``, is not
            taken.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS, channels: int = 3, **kwargs) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        if self.file_client_args is not None:
            raise ValueError('file_client_args is not allowed: give backend_args instead')
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Read one image.

        Raises:
            BadData: If it cannot be read, is too large, or has another size than its annotations
                are for.
        """
        if 'img' in results and 'img_path' not in results:
            return results  # MMPreTrain's inferencers load it themselves
        path = results['img_path']
        content = read_file(path, self.backend_args)
        check_size(path, image_size(content), self.max_pixels)
        results = self._decode(results, content, self.color_type)
        expected = (results.get('height'), results.get('width'))
        found = results['ori_shape']
        if None in expected or found == expected:
            return results
        if found == expected[::-1]:
            results = self._decode(results, content, f'{self.color_type}_ignore_orientation')
            if results['ori_shape'] == expected:
                return results
        raise BadData(
            f'{path} is {found[1]}x{found[0]} pixels, but its annotations are for '
            f'{expected[1]}x{expected[0]}'
        )

    def _decode(self, results: dict, content: bytes, color_type: str) -> dict:
        if self.channels != 3 or content.startswith(NPY):
            image = decode_channels(results['img_path'], content, self.channels)
        else:
            image = _decode(results['img_path'], content, color_type, self.imdecode_backend)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class InferencerLoader(MMSegInferencerLoader):
    """MMSegmentation's loader of files and arrays, under our scope.

    Its inferencer puts this name in the place of ``LoadImageFromFile``, and leaves the scope.

    Args:
        kwargs: Arguments of both loaders.
    """

    def __init__(self, **kwargs) -> None:
        self.from_file = LoadImageFromFile(**kwargs)
        self.from_ndarray = LoadImageFromNDArray(**kwargs)


@TRANSFORMS.register_module()
class LoadAnnotations(MMSegLoadAnnotations):
    """MMSegmentation's ``LoadAnnotations`` for label maps, which checks what it reads.

    Takes also from the data set (:class:`~convnextv2_mm.datasets.BaseSegDataset`) ``num_labels``,
    how many classes the files know, and ``ignore_index``, the label of pixels without a class: in
    the files and in ``gt_seg_map``, which is uint8, or uint16 where ``ignore_index`` is above 255.

    Args:
        imdecode_backend: Decoder, as for ``mmcv.imfrombytes``.
        backend_args: Where to read from, as for ``mmengine.fileio.get``.
        mapping: Values of the files that stand for others, applied before anything else: with
            ``{255: 1}``, masks of 0 and 255 are read as if they were of 0 and 1.
        max_pixels: A label map with more pixels is refused before it is decoded.
    """

    def __init__(
        self,
        imdecode_backend: str = 'pillow',
        backend_args: dict | None = None,
        mapping: dict[int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:  # whether 0 is a class is the data set's to say
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)
        # A config that has been dumped and read again has text for the keys.
        self.mapping = {int(old): int(new) for old, new in (mapping or {}).items()}
        self.max_pixels = max_pixels

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        values = self.read(path)
        if values.shape != tuple(results['ori_shape']):
            height, width = results['ori_shape']
            raise BadData(
                f'{path} is {values.shape[1]}x{values.shape[0]} pixels, but its image is '
                f'{width}x{height}'
            )
        results['gt_seg_map'] = self.labels_of(values, results)
        results['seg_fields'].append('gt_seg_map')

    def read(self, path: str) -> np.ndarray:
        """The values of a label map, as they are stored.

        Returns:
            Integers or booleans, (H, W).

        Raises:
            BadData: If it cannot be read, or is no label map.
        """
        content = read_file(path, self.backend_args)
        check_size(path, image_size(content), self.max_pixels)
        if content.startswith(b'\xff\xd8'):
            raise BadData(
                f'{path} is a JPEG, whose compression changes labels: store label maps as PNG'
            )
        values = _decode(path, content, 'unchanged', self.imdecode_backend)
        if values.ndim != 2 or values.dtype.kind not in 'bui':
            raise BadData(
                f'{path} is no label map: it has values of shape {values.shape} and type '
                f'{values.dtype}, instead of one integer for each pixel'
            )
        return values

    def labels_of(self, values: np.ndarray, info: dict) -> np.ndarray:
        """Map stored values to labels: classes from 0, or the data set's ignore index.

        Args:
            values: Integers or booleans of any shape.
            info: Entry of the data set.

        Returns:
            uint8, or uint16 where the ignore index is above 255.

        Raises:
            BadData: If a value stands for no class.
        """
        ignored = info.get('ignore_index', IGNORED)
        shift = int(info['reduce_zero_label'])  # the classes count from 1, and 0 is none
        number = info.get('num_labels', ignored - shift)
        table = np.full(ignored + 1, NO_LABEL, np.int32)
        table[shift : shift + number] = np.arange(number)
        table[ignored] = ignored
        if shift:
            table[0] = ignored
        for old_label, new_label in (info.get('label_map') or {}).items():
            table[old_label + shift] = new_label
        values = np.asarray(values, order='C')
        if values.dtype == bool:
            values = values.view(np.uint8)
        if self.mapping:
            stored, values = values, values.astype(np.int64)
            for old, new in self.mapping.items():
                values[stored == old] = new
        inside = 0 <= values.min() and values.max() <= ignored
        labels = table[values if inside else values.clip(0, ignored)]
        if not inside or labels.min() == NO_LABEL:
            known = (values >= 0) & (values <= ignored) & (labels != NO_LABEL)
            wrong, last = int(values[~known][0]), number - 1 + shift
            reason = f'has the label {wrong}, but the classes are {shift} to {last}'
            if wrong == number and not shift:
                reason += '; where they count from 1, the data set needs reduce_zero_label=True'
            raise BadData(f'{info["seg_map_path"]} {reason}')
        return labels.astype(np.uint8 if ignored <= IGNORED else np.uint16)


def read_file(path: str, backend_args: dict | None = None) -> bytes:
    """Read the bytes of an image file through MMEngine's file backends.

    Raises:
        BadData: If it cannot be read, or is a pipe or device, which might never end.
    """
    try:
        backend = fileio.get_file_backend(path, backend_args=backend_args, enable_singleton=True)
        if isinstance(backend, LocalBackend):
            mode = os.stat(path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder: reading it says so
                raise BadData(f'{path} is not allowed: it is no regular file')
        return backend.get(path)
    except BadData:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def check_size(path: str, size: tuple[int, int] | None, max_pixels: int) -> None:
    """Check that an image is not too large to be decoded.

    Raises:
        BadData: If its width times its height is more than ``max_pixels``.
    """
    if size and size[0] * size[1] > max_pixels:
        raise BadData(
            f'{path} has {size[0]}x{size[1]} pixels, more than max_pixels={max_pixels} of what '
            'loads it'
        )


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of an image from its header.

    None where there is no header, or one of a kind that neither Pillow nor its reader of TIFF tags
    knows. OpenCV decodes some of those (Radiance HDR, PAM, PFM), up to 2**30 pixels; they compress
    little.
    """
    try:
        with without_pillow_limit(), Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception:  # a damaged header fails in many ways, and OpenCV reads more of them
        tags = tiff_tags(content)
        return (tags['ImageWidth'], tags['ImageLength']) if tags else None


def tiff_tags(content: bytes) -> dict:
    """Tags of the first page of a TIFF by name, also of kinds that Pillow does not decode.

    ``{}`` for any other file.
    """
    if content[:4] not in TIFF:
        return {}
    try:
        page = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b'+' in content[:4] else 8])
        file = io.BytesIO(content)
        file.seek(page.next)
        page.load(file)
        tags = page.named()
        return tags if {'ImageWidth', 'ImageLength'} <= set(tags) else {}
    except Exception:  # damaged; the decoder says so
        return {}


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Disable Pillow's own size limit; ``max_pixels`` decides what is too large."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _decode(path: str, content: bytes, flag: str, backend: str) -> np.ndarray:
    try:
        with without_pillow_limit():
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        if image is None:
            raise ValueError('OpenCV gives None for what it cannot decode')
        return image
    except Exception as error:  # decoders raise whatever damage leads them to
        if tags := tiff_tags(content):
            channels, bits = tags.get('SamplesPerPixel', 1), max(tags.get('BitsPerSample', (1,)))
            if channels > 4 or bits > 16:
                raise BadData(
                    f'{path} is a TIFF of {channels} channels of {bits} bits: at most 4 of at most '
                    '16 can be read'
                ) from error
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> BadData:
    if isinstance(error, FileNotFoundError):
        return BadData(f'{path} does not exist')
    if isinstance(error, OSError) and error.strerror:
        return BadData(f'{path} cannot be read: {error.strerror}')
    if Path(path).is_file() and not Path(path).stat().st_size:
        return BadData(f'{path} is empty')
    return BadData(f'{path} is not an image that can be decoded, or not a whole one')
