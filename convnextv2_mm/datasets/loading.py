"""Reading images and label maps, and saying which file it is where that fails.

Both raise :class:`~convnextv2_mm.errors.BadData`. What then happens is the data set's choice:
:mod:`convnextv2_mm.datasets.bad_data`.
"""

from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations

from ..errors import BadData
from ..registry import TRANSFORMS

IGNORED = 255  # pixels of a label map that no class is asked for


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's ``LoadImageFromFile``, which names a file that it cannot read.

    Where the annotations give the size of the image (``height``, ``width``), they also say whether
    they were made on the image as it is stored or as its EXIF orientation turns it: the one of that
    size is loaded. Without, or where both have it, the orientation is applied.
    """

    def transform(self, results: dict) -> dict:
        """Read one image.

        Raises:
            BadData: If it cannot be read, or has another size than its annotations are for.
        """
        path = results['img_path']
        results = self._read(results, self.color_type)
        expected = (results.get('height'), results.get('width'))
        found = results['ori_shape']
        if None in expected or found == expected:
            return results
        if found == expected[::-1]:
            results = self._read(results, f'{self.color_type}_ignore_orientation')
            if results['ori_shape'] == expected:
                return results
        raise BadData(
            f'{path} is {found[1]}x{found[0]} pixels, but its annotations are for '
            f'{expected[1]}x{expected[0]}'
        )

    def _read(self, results: dict, color_type: str) -> dict:
        before, self.color_type = self.color_type, color_type
        try:
            return super().transform(results)
        except Exception as error:  # decoders raise whatever damage leads them to
            raise _unreadable(results['img_path'], error) from error
        finally:
            self.color_type = before


@TRANSFORMS.register_module()
class LoadAnnotations(MMSegLoadAnnotations):
    """MMSegmentation's ``LoadAnnotations`` for label maps, which checks what it reads.

    Takes also ``num_labels`` from the data set (:class:`~convnextv2_mm.datasets.ADE20KDataset`):
    how many classes the files know.

    Args:
        imdecode_backend: Decoder, as for ``mmcv.imfrombytes``.
        backend_args: Where to read from, as for ``mmengine.fileio.get``.
    """

    def __init__(
        self, imdecode_backend: str = 'pillow', backend_args: dict | None = None
    ) -> None:  # whether 0 is a class is the data set's to say
        super().__init__(imdecode_backend=imdecode_backend, backend_args=backend_args)

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            labels = mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)
            labels = np.asarray(labels, order='C')
            if labels.dtype == object:
                raise ValueError('OpenCV gives None for what it cannot decode')
        except Exception as error:
            raise _unreadable(path, error) from error
        if labels.ndim != 2 or labels.dtype.kind not in 'bui':
            raise BadData(
                f'{path} is no label map: it has values of shape {labels.shape} and type '
                f'{labels.dtype}, instead of one integer for each pixel'
            )
        if labels.shape != tuple(results['ori_shape']):
            height, width = results['ori_shape']
            raise BadData(
                f'{path} is {labels.shape[1]}x{labels.shape[0]} pixels, but its image is '
                f'{width}x{height}'
            )
        shift = int(results['reduce_zero_label'])  # the classes count from 1, and 0 is none
        last = results.get('num_labels', IGNORED) - 1 + shift
        allowed = (labels >= 0) & (labels <= last) | (labels == IGNORED)
        if not allowed.all():
            raise BadData(
                f'{path} has the label {labels[~allowed][0]}, but the classes are {shift} to {last}'
            )
        new = np.arange(256)
        if shift:
            new = np.append(IGNORED, new[:-1])
            new[IGNORED] = IGNORED
        for old_label, new_label in (results.get('label_map') or {}).items():
            new[old_label + shift] = new_label
        results['gt_seg_map'] = new.astype(np.uint8)[labels.astype(np.uint8)]
        results['seg_fields'].append('gt_seg_map')


def _unreadable(path: str, error: Exception) -> BadData:
    if isinstance(error, FileNotFoundError):
        return BadData(f'{path} does not exist')
    if isinstance(error, OSError) and error.strerror:
        return BadData(f'{path} cannot be read: {error.strerror}')
    if Path(path).is_file() and not Path(path).stat().st_size:
        return BadData(f'{path} is empty')
    return BadData(f'{path} is not an image that can be decoded, or not a whole one')
