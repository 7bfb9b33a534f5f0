"""What tools/browse_dataset.py shows is what the network gets."""

from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from run_tool import run_tool

from convnextv2_mm.apis import browse
from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.visualization.drawing import LEAST_SIDE

ROOT = Path(__file__).parents[2]
DEMO = {
    'pretrain': 'configs/demo/fcmae_convnextv2-a_shapes.py',
    'detection': 'configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py',
    'segmentation': 'configs/demo/upernet_convnextv2-a_shapes.py',
}
CLASSIFICATION = """
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['convnextv2_mm'])
data_preprocessor = dict(num_classes=6, mean=[124, 116, 104], std=[58, 57, 57], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='convnextv2_mm.ConvNeXtV2', arch='atto'),
    head=dict(type='LinearClsHead', num_classes=6, in_channels=320),
    train_cfg=dict(augments=[dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ShapesClsDataset',
        split='train',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
"""
SIZE = 64


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=12, num_val=1, size=SIZE, seed=0)
    return root


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'classification.py'
    path.write_text(CLASSIFICATION)
    return {'classification': path} | {task: ROOT / config for task, config in DEMO.items()}


def read(path: Path, shapes: Path) -> Config:
    dataset = 'train_dataloader.dataset'
    return read_config(path, {f'{dataset}.data_root': str(shapes), f'{dataset}.make': None})


def run(*arguments) -> None:
    run_tool('browse_dataset', *arguments)


@pytest.mark.parametrize('mode', ['transformed', 'original', 'concat'])
@pytest.mark.parametrize('task', ['classification', *DEMO])
def test_pictures_and_sheet(task, mode, configs, shapes, tmp_path, monkeypatch, capsys):
    data = [f'train_dataloader.dataset.data_root={shapes}', 'train_dataloader.dataset.make=None']
    sheet = tmp_path / 'sheet.png'
    arguments = ['--out', tmp_path / 'out', '--sheet', sheet, '--number', 5, '--mode', mode]
    run(configs[task], *arguments, '--cfg-options', *data)
    assert '5 images written to' in capsys.readouterr().out
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / 'out').iterdir())]
    assert len(pictures) == 5
    for picture in pictures:
        assert picture.std() > 5  # not one colour
        if mode == 'concat':
            assert picture.shape[1] > 2 * picture.shape[0]
    columns = browse.CELL + 8
    sheet = cv2.imread(str(sheet))
    assert sheet.shape[1] == 3 * columns  # two rows of three and two
    assert (sheet[-20:, 2 * columns :] == 255).all()
    assert sheet[-40:, : 2 * columns].std() > 5


def assert_first_picture_is_the_file(browser):
    item = browser.dataset[0]
    batch = browser.preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), training=True
    )
    image = browse.to_picture(batch['inputs'][0], browser.preprocessor)
    expected = mmcv.imread(item['data_samples'].img_path, channel_order='rgb')
    np.testing.assert_array_equal(image, expected)


def test_pixels_are_those_of_the_pipeline(configs, shapes):
    """Without augmentation, colours and pixels must be those of the file."""
    config = read(configs['segmentation'], shapes)
    pipeline = config.train_dataloader.dataset.pipeline
    config.train_dataloader.dataset.pipeline = [p for p in pipeline if p.type != 'RandomFlip']
    config.model.data_preprocessor.size = (SIZE, SIZE)
    assert_first_picture_is_the_file(browse.Browser(config, 'transformed'))


@pytest.mark.parametrize('convert', [True, False])
def test_colours_are_those_of_the_file_whatever_the_model_wants(convert, configs, shapes):
    config = read(configs['classification'], shapes)
    config.data_preprocessor.to_rgb = convert
    config.model.train_cfg = None
    assert_first_picture_is_the_file(browse.Browser(config, 'transformed'))


def test_padding_of_the_batch_is_shown(configs, shapes):
    config = read(configs['detection'], shapes)
    config.model.data_preprocessor.batch_augments = [
        dict(type='BatchFixedSizePad', size=(2 * SIZE, 3 * SIZE), pad_mask=True)
    ]
    for _, picture in browse.Browser(config, 'transformed').pictures():
        scale = -(-LEAST_SIDE // (2 * SIZE))
        assert picture.shape == (2 * SIZE * scale, 3 * SIZE * scale, 3)
        right = picture[:, int(2.5 * SIZE * scale) :]
        assert right.std(axis=(0, 1)).max() < 1  # padding: one colour
        assert picture[: SIZE * scale, : SIZE * scale].std() > 5


def test_mixed_images_have_both_names(configs, shapes, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        browse, 'draw_sample', lambda image, sample, *_: drawn.append(sample) or image
    )
    set_random_seed(0)
    list(browse.Browser(read(configs['classification'], shapes), 'transformed').pictures())
    assert len(drawn) == 12
    scores = torch.stack([sample.gt_score for sample in drawn])
    torch.testing.assert_close(scores.sum(1), torch.ones(12))
    assert ((scores > 0).sum(1) == 2).any()


def test_the_mask_of_the_model_is_shown(configs, shapes):
    config = read(configs['pretrain'], shapes)
    config.model.mask_ratio = 0.75
    browser = browse.Browser(config, 'transformed')
    image = np.full((128, 160, 3), 200, np.uint8)
    priority = torch.arange(20.0).view(4, 5)  # as a map gives it: the last 15 are masked
    picture = browse.darken_masked(image, browser.model, BaseDataElement(mask=priority))
    patches = picture.reshape(4, 32, 5, 32, 3)[:, 1:, :, 1:].swapaxes(1, 2)  # without the ruling
    hidden = (patches == 40).all(axis=(2, 3, 4))
    visible = (patches == 200).all(axis=(2, 3, 4))
    assert (hidden == (priority.numpy() >= 5)).all()
    assert (visible == (priority.numpy() < 5)).all()
    picture = browse.darken_masked(image, browser.model, BaseDataElement())
    assert (picture == 40).all(2).sum() == 15 * 31 * 31
    assert (image == 200).all()


def test_originals_are_of_the_same_image(configs, shapes):
    """Where a pipeline drops an image, the data set gives another: it is not shown beside it."""
    config = read(configs['detection'], shapes)
    browser = browse.Browser(config, 'concat')
    first = browser.dataset.get_data_info(0)['img_path']
    browser.originals = [browser.originals[0]] * len(browser.dataset)
    assert [path for path, _ in browser.pictures()] == [first]


def test_seed_decides(configs, shapes, tmp_path, monkeypatch):
    data = [f'train_dataloader.dataset.data_root={shapes}', 'train_dataloader.dataset.make=None']
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        sheet = tmp_path / f'{name}.png'
        arguments = ['--sheet', sheet, '--number', 4, '--seed', seed, '--cfg-options', *data]
        run(configs['pretrain'], *arguments)
    a, b, c = ((tmp_path / f'{name}.png').read_bytes() for name in 'abc')
    assert a == b != c


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nothing.py'], 'config nothing.py does not exist'),
        (['{demo}', '--number', '0'], '--number 0 is not allowed: it must be at least 1'),
        (['{demo}', '--sheet', 'x.gif'], '--sheet x.gif is not allowed'),
        (['{demo}', '--cfg-options', 'train_dataloader=None'], 'describes no training'),
        (['{demo}', '--cfg-options', 'model.mask_ratio=2'], 'mask_ratio 2 is not allowed'),
        (
            ['{demo}', '--cfg-options', 'train_dataloader.dataset.pipeline.1.type=RandomFlop'],
            'RandomFlop is not in the',
        ),
        (
            [str(ROOT / 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py')],
            'data/coco does not exist',
        ),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == '{demo}':
        arguments = [ROOT / DEMO['pretrain'], *arguments[1:]]
        data = [f'train_dataloader.dataset.data_root={shapes}']
        data += ['train_dataloader.dataset.make=None']
        if 'train_dataloader=None' not in arguments:
            arguments += data if '--cfg-options' in arguments else ['--cfg-options', *data]
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    assert message in line
    assert not list(tmp_path.iterdir())
