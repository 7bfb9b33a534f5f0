"""Where tools/infer.py writes to, and --show."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from convnextv2_mm.datasets.shapes import draw
from convnextv2_mm.engine.run_setup import read_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'


@pytest.fixture
def infer(monkeypatch):
    """The tool as a module, and what runs it."""
    spec = importlib.util.spec_from_file_location('tool_infer', ROOT / 'tools/infer.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['infer.py', *map(str, arguments)])
        module.main()

    run.module = module
    return run


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'fcmae.pth'
    torch.save(dict(state_dict=MODELS.build(read_config(CONFIG).model).state_dict()), path)
    return path


@pytest.fixture
def images(tmp_path):
    """Two drawings of the same name in two folders."""
    paths = [tmp_path / folder / '1.png' for folder in ('a', 'b')]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(draw(0, 'val', i, 64).image).save(path)
    return paths


def test_images_of_the_same_name_have_results_of_their_own(infer, checkpoint, images, tmp_path):
    infer(CONFIG, checkpoint, *images, '--out', tmp_path / 'out')
    written = sorted(path for path in (tmp_path / 'out').rglob('*') if path.is_file())
    assert [str(p.relative_to(tmp_path / 'out')) for p in written] == [
        'a/1.json',
        'a/1.png',
        'b/1.json',
        'b/1.png',
    ]
    assert written[1].read_bytes() != written[3].read_bytes()


def test_images_are_not_replaced(infer, checkpoint, images, capsys):
    before = images[0].read_bytes()
    with pytest.raises(SystemExit) as stop:
        infer(CONFIG, checkpoint, images[0], '--out', images[0].parent)
    assert stop.value.code == 2
    assert f'a picture would replace {images[0]}' in capsys.readouterr().err
    assert images[0].read_bytes() == before


def test_show_without_a_display_says_so(infer, checkpoint, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(infer.module, 'open_window', lambda: None)
    infer(CONFIG, checkpoint, images[0], '--out', tmp_path / 'out', '--show')
    assert 'no display: --show opens no window' in capsys.readouterr().err
    assert (tmp_path / 'out' / '1.png').is_file()


def test_show_opens_a_window(infer, checkpoint, images, tmp_path, monkeypatch):
    shown = []

    class Window:
        def show(self, picture, win_name):
            shown.append((picture.shape, win_name))

    monkeypatch.setattr(infer.module, 'open_window', Window)
    infer(CONFIG, checkpoint, *images, '--out', tmp_path / 'out', '--show')
    assert shown == [((64, 192, 3), str(image)) for image in images]
