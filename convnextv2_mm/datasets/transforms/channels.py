"""Decode images with any number of channels: satellite, microscopy, depth, infrared."""

from __future__ import annotations

import io

import cv2
import numpy as np
import tifffile

from ...errors import BadData

NPY = b'\x93NUMPY'
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


def decode_channels(path: str, content: bytes, channels: int) -> np.ndarray:
    """Decode a .npy file, a TIFF, or any other image.

    Args:
        path: For the error.
        content: Bytes of the file.
        channels: How many it must have. One is also made of a colour image, as its luminance.

    Returns:
        ``(H, W, channels)``, uint8 or float32, in the order of the file; three channels are BGR, as
        everywhere in OpenMMLab.

    Raises:
        BadData: If it cannot be decoded, has another number of channels, or values that are not
            finite.
    """
    try:
        image = _decode(content, channels)
    except Exception as error:  # decoders raise whatever damage leads them to
        raise BadData(f'{path} is not an image that can be decoded: {error}') from error
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] != channels:
        raise BadData(
            f'{path} has shape {image.shape}, but channels={channels} of what loads it asks for '
            f'(height, width, {channels})'
        )
    if image.dtype != np.uint8:
        image = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise BadData(f'{path} has values that are not finite')
    return np.ascontiguousarray(image[..., ::-1]) if channels == 3 else image


def _decode(content: bytes, channels: int) -> np.ndarray:
    """In the order of the file, colours as RGB or RGBA."""
    if content.startswith(NPY):
        return np.load(io.BytesIO(content), allow_pickle=False)
    if content[:4] in TIFF:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            try:
                image = series.asarray()
            except ValueError as error:  # a compression that tifffile needs imagecodecs for
                if (image := _decode_by_opencv(content, channels)) is None:
                    raise error
                return image
            return image if image.ndim != 3 else np.moveaxis(image, _channel_axis(series), -1)
    image = _decode_by_opencv(content, channels)
    if image is None:
        raise ValueError('OpenCV does not know it')
    return image


def _decode_by_opencv(content: bytes, channels: int) -> np.ndarray | None:
    flag = cv2.IMREAD_UNCHANGED
    if channels == 1:
        flag = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    if image is None or image.ndim == 2:
        return image
    return image[..., [2, 1, 0, 3][: image.shape[2]]]


def _channel_axis(series: tifffile.TiffPageSeries) -> int:
    """Samples of a pixel, planes, or pages; where a file does not say, there are few of them."""
    named = [axis for axis in (series.axes.find('S'), series.axes.find('C')) if axis >= 0]
    return named[0] if named else int(np.argmin(series.shape))


def find_channels(path: str, content: bytes) -> int:
    """How many channels a file has: .npy and TIFF as they are, any other three.

    A palette stands for colours. Nothing of a TIFF is decoded.

    Raises:
        BadData: If the file is damaged.
    """
    try:
        if content.startswith(NPY):
            shape = np.load(io.BytesIO(content), allow_pickle=False).shape
            return 1 if len(shape) == 2 else shape[-1]
        if content[:4] not in TIFF:
            return 3
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            if series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
                return 3
            return series.shape[_channel_axis(series)] if len(series.shape) == 3 else 1
    except Exception as error:
        raise BadData(f'{path} is not an image that can be decoded: {error}') from error
