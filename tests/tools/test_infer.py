"""Where tools/infer.py writes to, and --show."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from run_tool import run_tool

from convnextv2_mm.apis import predictions
from convnextv2_mm.datasets.shapes.drawing import draw
from convnextv2_mm.engine.config.reading import read_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'


@pytest.fixture
def infer():
    return partial(run_tool, 'infer')


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
    monkeypatch.setattr(predictions, 'open_window', lambda: None)
    infer(CONFIG, checkpoint, images[0], '--out', tmp_path / 'out', '--show')
    assert 'no display: --show opens no window' in capsys.readouterr().err
    assert (tmp_path / 'out' / '1.png').is_file()


def test_show_opens_a_window(infer, checkpoint, images, tmp_path, monkeypatch):
    shown = []

    class Window:
        def show(self, picture, win_name):
            shown.append((picture.shape, win_name))

    monkeypatch.setattr(predictions, 'open_window', Window)
    infer(CONFIG, checkpoint, *images, '--out', tmp_path / 'out', '--show')
    assert shown == [((384, 1152, 3), str(image)) for image in images]


def test_folder_gives_its_images_and_not_what_was_written(infer, checkpoint, images, tmp_path):
    for _ in range(2):  # the second time, the pictures of the first lie in the folder
        infer(CONFIG, checkpoint, tmp_path, images[0], '--out', tmp_path / 'out')
    written = (path for path in (tmp_path / 'out').rglob('*') if path.is_file())
    assert sorted(str(p.relative_to(tmp_path / 'out')) for p in written) == [
        'a/1.json',
        'a/1.png',
        'b/1.json',
        'b/1.png',
    ]


def test_folder_that_would_be_overwritten(infer, checkpoint, images, capsys):
    with pytest.raises(SystemExit):
        infer(CONFIG, checkpoint, images[0].parent, '--out', images[0].parent)
    assert f'a picture would replace {images[0]}' in capsys.readouterr().err


def test_folder_without_images(infer, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        infer(CONFIG, checkpoint, tmp_path, '--out', tmp_path / 'out')
    assert f'folder {tmp_path} holds no image' in capsys.readouterr().err


CLASSIFIER = """
custom_imports = dict(imports=['convnextv2_mm'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=3),
    backbone=dict(type='convnextv2_mm.ConvNeXtV2', arch='atto'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=320),
)
test_dataloader = dict(
    dataset=dict(
        type='convnextv2_mm.CustomDataset',
        data_root='nowhere',
        pipeline=[dict(type='convnextv2_mm.LoadImageFromFile'), dict(type='PackInputs')],
    ),
    collate_fn=dict(type='default_collate'),
)
"""
NAMES = ('ant', 'bee', 'cat')


@pytest.mark.parametrize(
    ('saved', 'written', 'expected', 'warning'),
    [
        (NAMES, None, 'cat', None),
        (None, NAMES, 'cat', None),
        (NAMES, NAMES, 'cat', None),
        (None, None, '2', None),
        (NAMES, ('cat', 'bee', 'ant'), 'ant', 'the names come from the config'),
        (NAMES, ('ant', 'bee'), 'cat', 'num_classes is 3, but .* 2 classes; the names come from'),
    ],
)
def test_names_of_classes(infer, images, tmp_path, capsys, saved, written, expected, warning):
    path, config = tmp_path / 'classifier.pth', tmp_path / 'classifier.py'
    metainfo = dict(classes=written) if written else None
    config.write_text(CLASSIFIER + f'test_dataloader["dataset"]["metainfo"] = {metainfo}')
    model = MODELS.build(read_config(str(config)).model)
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data[:] = torch.arange(3.0)  # the last class wins
    meta = dict(dataset_meta=dict(classes=saved) if saved else {})
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    infer(config, path, images[0], '--out', tmp_path / 'out')
    assert json.loads((tmp_path / 'out' / '1.json').read_text())['label'] == expected
    said = capsys.readouterr().err
    assert bool(re.search(warning, said)) if warning else 'warning' not in said


def test_wrong_number_of_names(infer, images, tmp_path, capsys):
    path, config = tmp_path / 'classifier.pth', tmp_path / 'classifier.py'
    metainfo = dict(classes=('ant', 'bee'))
    config.write_text(CLASSIFIER + f'test_dataloader["dataset"]["metainfo"] = {metainfo}')
    torch.save(MODELS.build(read_config(str(config)).model).state_dict(), path)
    with pytest.raises(SystemExit) as stop:
        infer(config, path, images[0], '--out', tmp_path / 'out')
    assert stop.value.code == 2
    assert 'model.data_preprocessor.num_classes is 3, but' in capsys.readouterr().err
