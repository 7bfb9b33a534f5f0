"""Pictures of images with any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import ConfigDict

SHOWN = (0, 1, 2)
"""Channels that are red, green and blue, unless ``picture_channels`` of a config names others."""


def to_rgb(image: np.ndarray, shown: Sequence[int] = SHOWN) -> np.ndarray:
    """Three channels of an image as a picture.

    Args:
        image: ``(H, W, C)``: RGB, or another number of channels, of any range.
        shown: Channels that are red, green and blue; those that there are not are the last.

    Returns:
        ``(H, W, 3)`` uint8. Values other than uint8 are stretched, from the first to the 99th
        percentile of each channel.
    """
    channels = image.shape[2]
    if channels != 3 or tuple(shown) != SHOWN:
        image = image[..., [min(channel, channels - 1) for channel in shown]]
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (1, 99), axis=(0, 1))
    return (255 * ((image - low) / np.maximum(high - low, 1e-6)).clip(0, 1)).astype(np.uint8)


def read_picture(path: str, dataset: ConfigDict, shown: Sequence[int] = SHOWN) -> np.ndarray:
    """An image file as ``(H, W, 3)`` uint8 RGB.

    Args:
        path: The file.
        dataset: Config of the data set, whose loader says how many channels the file has.
        shown: As for :func:`to_rgb`.
    """
    from ..datasets.transforms.channels import NPY, decode_channels  # brings mmdet with it

    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    channels = next((s['channels'] for s in dataset.get('pipeline') or [] if 'channels' in s), 3)
    content = Path(path).read_bytes() if Path(path).is_file() else b''
    if channels == 3 and not content.startswith(NPY):
        return mmcv.imread(path, channel_order='rgb')
    image = decode_channels(path, content, channels)
    return to_rgb(image[..., ::-1] if channels == 3 else image, shown)
