"""Which patches FCMAE masks first: by a map of each image, from a file or from a function."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import FUNCTIONS

from ...errors import BadData
from ...ops import patchify
from ...registry import TRANSFORMS
from .loading import LoadAnnotations


@TRANSFORMS.register_module()
class LoadMaskMap(BaseTransform):
    """Load the map that :class:`MaskPatches` takes, from an image of one channel.

    Its size is that of the image file. It is resized to the image as it is at this step, and put
    where MMCV's transforms find it, in ``gt_seg_map``: crops and flips that follow move it too.

    Args:
        images: Folder of the images.
        masks: Folder of the maps, with the same subfolders.
        suffix: What a map has in place of its image's ending: ``a.jpg`` has ``a_mask.png`` with
            ``_mask.png``.
    """

    def __init__(self, images: str, masks: str, suffix: str = '.png') -> None:
        self.images, self.masks, self.suffix = images, masks, suffix
        self._loader = LoadAnnotations()

    def transform(self, results: dict) -> dict:
        """Read one map.

        Raises:
            BadData: If it cannot be read, or has another size than its image.
            ValueError: If the image is still encoded.
        """
        if results['img'].ndim == 1:
            raise ValueError('LoadMaskMap needs LoadImageFromFile, not LoadEncodedJPEG, before it')
        name = os.path.relpath(results['img_path'], self.images)
        path = str(Path(self.masks, name).with_suffix('')) + self.suffix
        values = self._loader.read(path)
        height, width = results['ori_shape']
        if values.shape != (height, width):
            raise BadData(
                f'{path} is {values.shape[1]}x{values.shape[0]} pixels, but its image is '
                f'{width}x{height}'
            )
        size = results['img'].shape[1::-1]
        values = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        results['gt_seg_map'] = values
        return results


@TRANSFORMS.register_module()
class MaskPatches(BaseTransform):
    """Say which patches of an image FCMAE masks first: those with the highest mean of a map.

    How many it masks stays ``mask_ratio`` of the model, since all images of a batch keep the same
    number; among patches of the same mean it chooses at random.

    Adds ``mask``, float32 of shape (rows, columns) of patches, for MMPreTrain's ``PackInputs``.

    Args:
        function: Name of a function, ``MODULE.NAME`` or as registered in MMEngine's ``FUNCTIONS``,
            which takes the image, (H, W, C), and gives its map, (H, W). Without, the map is that
            of :class:`LoadMaskMap`.
        patch_size: Side of a patch in pixels.

    Raises:
        ValueError: If there is no such function.
    """

    def __init__(self, function: str | None = None, patch_size: int = 32) -> None:
        self.function = FUNCTIONS.get(function) if function else None
        if function and self.function is None:
            raise ValueError(f'function {function} is not found: it must be MODULE.NAME')
        self.patch_size = patch_size

    def transform(self, results: dict) -> dict:
        """Average the map over the patches.

        Raises:
            ValueError: If the map is not finite or of another size than the image, or that has no
                whole patches.
        """
        image = results['img']
        values = self.function(image) if self.function else results['gt_seg_map']
        values = np.ascontiguousarray(values, np.float32)  # a flip leaves negative strides
        if values.shape != image.shape[:2] or not np.isfinite(values).all():
            raise ValueError(
                f'mask map of shape {values.shape} is not allowed for an image of shape '
                f'{image.shape}: it must have a finite number for each pixel'
            )
        patches = patchify(torch.from_numpy(values)[None, None], self.patch_size)
        rows, columns = (side // self.patch_size for side in values.shape)
        results['mask'] = patches.mean((2, 3, 4)).view(rows, columns).numpy()
        return results
