import gc
import os
import signal
from pathlib import Path

import pytest
import torch

# Asked without CUDA itself, which no fork of this process could use then: journeys/command_line.py.
os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # read when the kernels are defined

from mmengine.registry import DefaultScope  # noqa: E402
from PIL import Image  # noqa: E402
from run_tool import forget_visualizers  # noqa: E402

import convnextv2_mm  # noqa: E402, F401  # before a test imports mmdet or mmseg: patches/mmcv_ops/__init__.py
from convnextv2_mm.datasets.shapes.drawing import draw  # noqa: E402


def pytest_collection_finish() -> None:
    """MMEngine collects garbage with each data set: what is imported by then is no garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_runs_before():
    """Forget the scope and the visualizers of the tests before, as a new process would."""
    DefaultScope._instance_dict.clear()
    forget_visualizers()


@pytest.fixture
def without_gpus(monkeypatch):
    """New processes see no GPU: MMEngine expects one for each, and there may be one for all."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')


@pytest.fixture(scope='session')
def image_files(tmp_path_factory) -> dict[str, Path]:
    """One square drawing as the kinds of files that ImageNet has, and some that it has not."""
    folder = tmp_path_factory.mktemp('images')
    image = Image.fromarray(draw(0, 'train', 0, 320).image)
    upside_down, rotated = image.getexif(), image.getexif()
    upside_down[0x0112], rotated[0x0112] = 3, 6
    jpeg = dict(format='JPEG', quality=95)
    kinds = {
        'plain.JPEG': (image, jpeg),
        'progressive.JPEG': (image, jpeg | dict(progressive=True)),
        'full-colour.jpg': (image, jpeg | dict(subsampling=0)),
        'grey.jpg': (image.convert('L'), jpeg),
        'cmyk.jpg': (image.convert('CMYK'), jpeg),
        'upside-down.jpg': (image, jpeg | dict(exif=upside_down)),
        'rotated.jpg': (image, jpeg | dict(exif=rotated)),
        'png-in-truth.JPEG': (image, dict(format='PNG')),
        'palette.png': (image.convert('P', palette=Image.Palette.ADAPTIVE), {}),
        'transparent.png': (image.convert('RGBA'), {}),
        'lossy.webp': (image, {}),
    }
    for name, (picture, options) in kinds.items():
        picture.save(folder / name, **options)
    (folder / 'padded.jpg').write_bytes((folder / 'plain.JPEG').read_bytes() + bytes(8))
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def signals_stay():
    """A run that a test ends as a kill does leaves its handlers, and pytest would not stop."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
