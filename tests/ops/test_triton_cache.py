"""Compiled kernels where Triton's own folder for them cannot be written."""

import os
import warnings

import pytest

from convnextv2_mm.ops.triton import provide_cache


@pytest.mark.parametrize('named', [True, False])
def test_a_folder_that_cannot_be_written_is_replaced(named, tmp_path, monkeypatch):
    (tmp_path / '.triton').write_text('a file, which cannot have what is below it')
    monkeypatch.setenv('TRITON_HOME', str(tmp_path))
    monkeypatch.delenv('TRITON_CACHE_DIR', raising=False)
    if named:
        monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / '.triton/cache'))
    with pytest.warns(
        UserWarning, match='cannot be written .*: the Triton kernels are compiled in'
    ):
        provide_cache()
    assert os.access(os.environ['TRITON_CACHE_DIR'], os.W_OK)


def test_a_folder_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / 'new'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        provide_cache()
    assert os.environ['TRITON_CACHE_DIR'] == str(tmp_path / 'new')
