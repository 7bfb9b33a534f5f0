"""What is left encoded, and what is decoded as MMCV's loader does."""

import io

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import BaseStorageBackend, register_backend
from PIL import Image

from convnextv2_mm.datasets import LoadEncodedJPEG
from convnextv2_mm.errors import BadData

ENCODED = {'plain.JPEG', 'progressive.JPEG', 'full-colour.jpg', 'grey.jpg'}


def test_plain_jpegs_stay_encoded_and_others_are_decoded(image_files):
    encoded = set()
    for name, path in image_files.items():
        result = LoadEncodedJPEG()(dict(img_path=str(path)))
        expected = LoadImageFromFile()(dict(img_path=str(path)))
        assert result['img_shape'] == result['ori_shape'] == expected['ori_shape']
        assert result['img'].dtype == np.uint8
        if result['img'].ndim == 1:
            encoded.add(name)
            assert result['img'].tobytes() == path.read_bytes()
        else:
            assert np.array_equal(result['img'], expected['img'])
    assert encoded == ENCODED
    assert len(image_files) > len(ENCODED)


def test_size_is_height_and_width(tmp_path):
    Image.new('RGB', (40, 24)).save(tmp_path / 'wide.jpg')
    assert LoadEncodedJPEG()(dict(img_path=str(tmp_path / 'wide.jpg')))['img_shape'] == (24, 40)


def test_damaged_file_is_named(image_files, tmp_path):
    content = image_files['plain.JPEG'].read_bytes()
    for name, damaged in {'cut': content[:-2000], 'hollow': content[:2] + content[-2:]}.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(BadData, match=f'{name} is not an image that can be decoded'):
            LoadEncodedJPEG()(dict(img_path=str(tmp_path / name)))


class Memory(BaseStorageBackend):
    """Files that are on no disk."""

    files: dict[str, bytes] = {}

    def get(self, filepath: str) -> bytes:
        return self.files[filepath]

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        return self.files[filepath].decode(encoding)


@pytest.mark.parametrize(('ending', 'axes'), [('JPEG', 1), ('PNG', 3)])
def test_reads_through_a_file_backend(ending, axes):
    register_backend('memory for tests', Memory, force=True)
    buffer = io.BytesIO()
    Image.new('RGB', (32, 32)).save(buffer, ending)
    Memory.files['image'] = buffer.getvalue()
    load = LoadEncodedJPEG(backend_args=dict(backend='memory for tests'))
    assert load(dict(img_path='image'))['img'].ndim == axes
