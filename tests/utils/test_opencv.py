"""OpenCV on a machine without the libraries of a desktop."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.utils.opencv import HEADLESS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
DESKTOP = 'GL.so.1 GLX.so.0 EGL.so.1 X11.so.6 Xext.so.6 Xrender.so.1 xcb.so.1 SM.so.6 ICE.so.6'
DESKTOP += ' glib-2.0.so.0 gthread-2.0.so.0'
REASON = 'libGL.so.1: cannot open shared object file: No such file or directory'
SENTENCE = (
    f'OpenCV does not load ({REASON}): install its build without windows, '
    'pip install --force-reinstall --no-deps opencv-python-headless==4.12.0.88\n'
)
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / 'tools').rglob('*.py'))


def python(*arguments: object, **environment: object) -> subprocess.CompletedProcess:
    """Run Python from the root of the repository, with additions to the environment."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def no_desktop(tmp_path_factory):
    """An ``LD_LIBRARY_PATH`` with which none of those libraries loads.

    The loader takes the first file of a name, and these are empty.
    """
    folder = tmp_path_factory.mktemp('no_desktop')
    for name in DESKTOP.split():
        (folder / f'lib{name}').touch()
    return f'{folder}:{os.environ.get("LD_LIBRARY_PATH", "")}'.rstrip(':')


linux = pytest.mark.skipif(sys.platform != 'linux', reason='hides libraries as Linux finds them')


@linux
@pytest.mark.parametrize('name', DESKTOP.split())
def test_the_libraries_are_hidden(no_desktop, name):
    done = python('-c', f'import ctypes; ctypes.CDLL("lib{name}")', LD_LIBRARY_PATH=no_desktop)
    assert f'lib{name}: file too short' in done.stderr


@linux
def test_training_and_inference_without_a_desktop(no_desktop, tmp_path):
    """With the real OpenCV of this environment: it fails where that is the build with windows."""
    write_shapes(tmp_path / 'shapes', num_train=4, num_val=4, size=64, seed=0)
    config = 'configs/demo/fcmae_convnextv2-a_shapes.py'
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=1']
    options += ['train_dataloader.batch_size=4', 'train_dataloader.dataset.pipeline.1.scale=64']
    for split in ('train', 'val', 'test'):
        data = f'{split}_dataloader.dataset'
        options += [f'{data}.make=None', f'{data}.data_root={tmp_path}/shapes']
    run = [config, '--work-dir', tmp_path / 'run', *options]
    done = python('tools/train.py', *run, LD_LIBRARY_PATH=no_desktop)
    assert done.returncode == 0, done.stderr

    image = next((tmp_path / 'shapes/images/val').rglob('*.jpg'))
    run = [config, tmp_path / 'run/epoch_1.pth', image, '--out', tmp_path / 'out', *options]
    done = python('tools/infer.py', *run, LD_LIBRARY_PATH=no_desktop)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [f'{image.stem}.json', f'{image.stem}.png']


@pytest.fixture
def broken(tmp_path):
    """A folder for ``PYTHONPATH`` with an OpenCV that fails as the build with windows does."""
    (tmp_path / 'cv2').mkdir()
    (tmp_path / 'cv2/__init__.py').write_text(f'raise ImportError({REASON!r})')
    return tmp_path


def test_import_says_what_to_install(broken):
    done = python('-c', 'import convnextv2_mm', PYTHONPATH=f'{broken}:{ROOT}')
    assert done.returncode == 1
    assert done.stderr.endswith(f'\nImportError: {SENTENCE}')


def test_what_uninstalling_one_of_two_builds_leaves(broken):
    (broken / 'cv2/__init__.py').write_text('')
    done = python('-c', 'import convnextv2_mm', PYTHONPATH=f'{broken}:{ROOT}')
    assert "ImportError: OpenCV does not load (cannot import name 'imread'" in done.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=str)
def test_tools_say_what_to_install(broken, script):
    done = python(script, PYTHONPATH=f'{broken}:{ROOT}')
    assert (done.returncode, done.stderr) == (2, f'error: {SENTENCE}')


def test_installed_tools_say_what_to_install(broken):
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    shutil.copytree(ROOT / 'convnextv2_mm', broken / 'convnextv2_mm', ignore=ignore)
    tools = shutil.copytree(ROOT / 'tools', broken / 'convnextv2_mm/.mim/tools', ignore=ignore)
    done = python(tools / 'train.py', PYTHONPATH=broken)
    assert (done.returncode, done.stderr) == (2, f'error: {SENTENCE}')


def test_the_version_is_the_one_that_is_tested():
    assert HEADLESS in (ROOT / 'requirements/headless.txt').read_text().splitlines()
