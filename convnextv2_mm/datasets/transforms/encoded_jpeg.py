"""Reading JPEG files without decoding them, for ``convnextv2_mm.JPEGDataPreprocessor``."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image

from ...registry import TRANSFORMS
from .loading import (
    MAX_PIXELS,
    LoadImageFromFile,
    check_size,
    read_file,
    without_pillow_limit,
)


@TRANSFORMS.register_module()
class LoadEncodedJPEG(LoadImageFromFile):
    """Read the bytes of a JPEG file; decode any other file as ``LoadImageFromFile`` does.

    Needs ``img_path``. ``img`` is the file, uint8 of shape (bytes,), or the decoded image, uint8
    BGR of shape (H, W, 3): so it is for what nvJPEG may refuse or show differently, which is other
    formats, CMYK, an EXIF orientation, and files without their end. ``img_shape`` and
    ``ori_shape`` are (H, W) in both cases.

    Raises ``BadData`` as that does; damage in the middle of a JPEG is found when it is decoded.

    Args:
        backend_args: Where to read from, as for ``mmengine.fileio.get``.
        max_pixels: An image with more pixels is refused before it is decoded.
    """

    def __init__(self, *, backend_args: dict | None = None, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(backend_args=backend_args, max_pixels=max_pixels)

    def transform(self, results: dict) -> dict:
        """Read one file."""
        content = read_file(results['img_path'], self.backend_args)
        size = _plain_jpeg_size(content)
        if size is None:
            return super().transform(results)
        check_size(results['img_path'], size[::-1], self.max_pixels)
        results['img'] = np.frombuffer(content, np.uint8).copy()  # PyTorch wants to own its memory
        results['img_shape'] = results['ori_shape'] = size
        return results


def _plain_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(H, W) of a whole, upright, grey or colour JPEG; None of anything else."""
    if not (content.startswith(b'\xff\xd8') and content.endswith(b'\xff\xd9')):
        return None
    try:
        with without_pillow_limit(), Image.open(io.BytesIO(content)) as header:
            upright = header.getexif().get(ExifTags.Base.Orientation, 1) == 1
            plain = header.format == 'JPEG' and header.mode in ('RGB', 'L') and upright
            return (header.height, header.width) if plain else None
    except Exception:  # a damaged header fails in many ways; OpenCV reads more of them
        return None
