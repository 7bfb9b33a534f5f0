"""Files with any number of channels: the pixels that were written, and what is refused."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from convnextv2_mm.datasets.transforms.channels import decode_channels, find_channels
from convnextv2_mm.datasets.transforms.loading import LoadImageFromFile
from convnextv2_mm.errors import BadData
from convnextv2_mm.visualization.channels import to_rgb


def image_of(channels: int, dtype: str) -> np.ndarray:
    pixels = np.random.default_rng(channels).random((40, 50, channels))
    return pixels.astype(dtype) if dtype == 'float32' else (pixels * 255).astype(dtype)


def npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def tiff(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
def test_pixels_are_those_that_were_written(channels, dtype):
    image = image_of(channels, dtype)
    planes = np.moveaxis(image, -1, 0)
    files = [
        npy(image),
        tiff(planes, photometric='minisblack'),  # pages
    ]
    if channels > 1:
        files.append(tiff(planes, planarconfig='separate', photometric='minisblack'))
        files.append(tiff(image, planarconfig='contig', photometric='minisblack'))
    expected = image[..., ::-1] if channels == 3 else image
    for content in files:
        found = decode_channels('file', content, channels)
        assert found.dtype == ('uint8' if dtype == 'uint8' else 'float32')
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
        assert find_channels('file', content) == channels


def test_colours_keep_their_order():
    rgba = image_of(4, 'uint8')
    bgra = np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])
    content = cv2.imencode('.png', bgra)[1].tobytes()
    np.testing.assert_array_equal(decode_channels('a.png', content, 4), rgba)
    grey = cv2.cvtColor(bgra[..., :3], cv2.COLOR_BGR2GRAY)
    content = cv2.imencode('.png', bgra[..., :3])[1].tobytes()
    found = decode_channels('a.png', content, 1)[..., 0]  # libpng rounds by itself
    np.testing.assert_allclose(found.astype(int), grey.astype(int), atol=1)
    deep = image_of(1, 'uint16') * 200
    content = cv2.imencode('.png', deep)[1].tobytes()
    np.testing.assert_array_equal(decode_channels('a.png', content, 1), deep)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (npy(image_of(3, 'uint8')), 'has shape .40, 50, 3., but channels=4'),
        (npy(np.full((4, 4, 4), np.nan, np.float32)), 'values that are not finite'),
        (npy(np.array([{}], dtype=object)), 'is not an image that can be decoded'),  # a pickle
        (tiff(image_of(4, 'uint16'))[:200], 'is not an image that can be decoded'),
        (b'text', 'is not an image that can be decoded'),
    ],
)
def test_what_cannot_be_used_is_named(content, message, tmp_path):
    with pytest.raises(BadData, match=message):
        decode_channels('file', content, 4)
    path = tmp_path / 'some.npy'
    path.write_bytes(content)
    with pytest.raises(BadData, match=message):
        LoadImageFromFile(channels=4)(dict(img_path=str(path)))


def test_pictures_have_three_channels():
    image = image_of(13, 'float32') * 3000
    picture = to_rgb(image, (7, 3, 20))
    assert picture.shape == (40, 50, 3) and picture.dtype == np.uint8
    assert picture.min() == 0 and picture.max() == 255
    order = np.argsort(image[..., 7], axis=None)
    assert (np.diff(picture[..., 0].ravel()[order].astype(int)) >= 0).all()
    np.testing.assert_array_equal(picture[..., 2], to_rgb(image, (12, 12, 12))[..., 0])
    colours = image_of(3, 'uint8')
    assert to_rgb(colours) is colours


@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'jpeg'])
@pytest.mark.parametrize(('mode', 'channels'), [('L', 1), ('RGB', 3), ('P', 3), ('RGBA', 4)])
def test_tiffs_of_any_compression_are_read(compression, mode, channels):
    if compression == 'jpeg' and mode in ('P', 'RGBA'):
        pytest.skip('TIFF has no such thing')
    smooth = np.linspace(0, 255, 40 * 50).astype(np.uint8).reshape(40, 50)
    image = Image.fromarray(np.stack([smooth, smooth.T.reshape(40, 50), 255 - smooth], -1))
    file = io.BytesIO()
    image.convert(mode).save(file, 'TIFF', compression=compression)
    content = file.getvalue()
    assert find_channels('a.tif', content) == channels
    if channels != 3:  # the others are MMCV's to load
        found = decode_channels('a.tif', content, channels)
        expected = np.asarray(Image.open(file)).reshape(40, 50, channels)
        np.testing.assert_allclose(found.astype(int), expected, atol=compression == 'jpeg')


def test_files_that_hold_no_channels_have_three():
    content = cv2.imencode('.png', np.zeros((4, 4), np.uint8))[1].tobytes()
    assert find_channels('a.png', content) == 3
