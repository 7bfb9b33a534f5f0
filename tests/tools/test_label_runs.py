"""Whole runs on label maps: what a run says at its start, and more than 255 classes to the end."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from test_tools import ROOT, run

from convnextv2_mm.engine.config.reading import read_config

CONFIG = str(ROOT / 'configs/demo/upernet_convnextv2-a_shapes.py')
STEPS = ['default_hooks.logger.interval=1', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1']


def write_config(path, classes: int, values: np.ndarray, ignored: int, **changes) -> str:
    """The demo's segmentor on two images with one label map."""
    for folder in ('images', 'masks'):
        (path / folder).mkdir()
    for index in range(2):
        image = Image.new('RGB', values.shape[::-1], (90, 60, 30 * index))
        image.save(path / f'images/{index}.jpg')
        Image.fromarray(values).save(path / f'masks/{index}.png')
    config = Config.fromfile(CONFIG)
    prefix = dict(img_path='images', seg_map_path='masks')
    # In a file: MMEngine formats the whole config into the log, and 300 names take it 15 seconds.
    (path / 'names.txt').write_text(''.join(f'c{i}\n' for i in range(classes)))
    place = dict(type='convnextv2_mm.BaseSegDataset', data_root=str(path), data_prefix=prefix)
    place |= dict(metainfo=dict(classes=str(path / 'names.txt')), ignore_index=ignored) | changes
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.dataset = place | dict(pipeline=loader.dataset.pipeline)
        loader.batch_size = 2
        if split != 'train':
            config[f'{split}_evaluator'].ignore_index = ignored
    config.model.data_preprocessor.update(size=values.shape, seg_pad_val=ignored)
    config.model.backbone.init_cfg = None
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.update(num_classes=classes, ignore_index=ignored)
    config.custom_imports = dict(imports=['convnextv2_mm'])
    config.dump(path / 'config.py')
    return str(path / 'config.py')


def log_of(folder) -> str:
    return next(folder.glob('*/*.log')).read_text()


def test_a_run_with_300_classes(tmp_path):
    values = np.array([0, 255, 299, 65535], np.uint16)[np.arange(4096).reshape(64, 64) // 1024]
    config = write_config(tmp_path, 300, values, 65535)
    work = tmp_path / 'run'
    run('train', config, '--work-dir', work, '--cfg-options', *STEPS)
    log = log_of(work)
    said = '297 of 300 classes have no pixel in all 2 label maps of the training set: c1, c2'
    assert said in log
    assert '; 25.0% of the pixels are ignored' in log
    arguments = [config, work / 'iter_1.pth', '--work-dir', tmp_path / 'test']
    run('test', *arguments)
    run('test', *arguments, '--tta')

    # One step learns nothing: a head that always answers 299.
    content = torch.load(work / 'iter_1.pth', weights_only=False)
    content['state_dict']['decode_head.conv_seg.bias'][299] += 1000
    torch.save(dict(state_dict=content['state_dict']), tmp_path / 'x.pth')
    (tmp_path / 'named.py').write_text(
        f"_base_ = '{config}'\n"
        "metainfo = dict(classes=['c' + str(i) for i in range(300)])\n"
        'test_dataloader = dict(dataset=dict(metainfo=metainfo))\n'
    )
    config = tmp_path / 'named.py'
    run('infer', config, tmp_path / 'x.pth', tmp_path / 'images/0.jpg', '--out', tmp_path / 'out')
    written = cv2.imread(str(tmp_path / 'out/0_labels.png'), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert (written == 299).all()
    found = np.asarray(Image.open(tmp_path / 'out/0_labels.png'))
    assert np.array_equal(found, written)


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_255_is_not_ignored_where_it_is_a_class(tool, tmp_path, capsys):
    config = write_config(tmp_path, 300, np.zeros((64, 64), np.uint16), 255)
    model = MODELS.build(read_config(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'x.pth')
    checkpoint = [tmp_path / 'x.pth'] if tool == 'test' else []
    with pytest.raises(SystemExit) as stop:
        run(tool, config, *checkpoint, '--work-dir', tmp_path / 'run')
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        f'error: {tool}_dataloader.dataset.ignore_index=255 is not allowed: its labels go up to '
        '299, and it must be above, and at most 65535'
    )


def test_a_run_on_ignored_pixels_alone_stops_at_its_start(tmp_path, capsys):
    config = write_config(tmp_path, 2, np.full((64, 64), 255, np.uint8), 255)
    with pytest.raises(SystemExit) as stop:
        run('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *STEPS)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == 'error: every pixel of all 2 label maps looked at is ignored'
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_a_run_on_masks_of_0_and_255_warns(tmp_path):
    values = np.zeros((64, 64), np.uint8)
    values[:32] = 255
    config = write_config(tmp_path, 2, values, 255)
    run('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *STEPS)
    (line,) = [line for line in log_of(tmp_path / 'run').splitlines() if 'no pixel in' in line]
    assert 'WARNING - 1 of 2 classes have no pixel in all 2 label maps' in line
    assert line.endswith('store 0 and 1, or give LoadAnnotations mapping={255: 1}')
