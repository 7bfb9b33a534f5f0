"""The table of classes of tools/check_dataset.py, and what it says of rare kinds of files."""

import json
import os
import re

import numpy as np
import pytest
from bad_files import HEIGHT, WIDTH, annotation, coco, encode, picture, tiff, write_json
from PIL import Image
from real_formats import write_real_formats
from test_check_dataset import DETECTION, PRETRAIN, check, folder_options, place
from test_tools import ROOT

from convnextv2_mm.datasets.coco_problems import USED

SEGMENTATION = ROOT / 'configs/segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py'
CLASSIFICATION = ROOT / 'configs/classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py'


def test_table_of_a_segmentor(tmp_path, capsys):
    """Labels of the files: 0 none, 1 wall, 2 building (ADE20K's)."""
    (tmp_path / 'images').mkdir()
    for split, rows in (('train', (0, 1, 1, 2)), ('val', (1, 1, 1, 255))):
        (tmp_path / 'masks' / split).mkdir(parents=True)
        for index in range(2):
            picture().save(tmp_path / f'images/{index}.jpg')
            values = np.repeat(np.array(rows, np.uint8), HEIGHT // 4)[:, None].repeat(WIDTH, 1)
            Image.fromarray(values).save(tmp_path / f'masks/{split}/{index}.png')
    options = []
    for split in ('train', 'val'):
        options += place(split, data_root=tmp_path)
        options += [f'{split}_dataloader.dataset.data_prefix.img_path=images']
        options += [f'{split}_dataloader.dataset.data_prefix.seg_map_path=masks/{split}']
    out = tmp_path / 'out.json'
    arguments = ['--splits', 'train', 'val', '--out', out, '--cfg-options', *options]
    assert check(SEGMENTATION, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = ['class', 'train pixels', 'train images', 'val pixels', 'val images']
    (start,) = [i for i, line in enumerate(lines) if re.split('  +', line) == heads]
    # 150 classes: the rarest in training are shown, of which 148 have no pixel.
    assert lines[start + 1].split() == ['sky', '0', '0', '0', '0']
    assert len({len(line) for line in lines[start : start + 41]}) == 1
    assert lines[start + 41 :] == [
        'and 110 more classes, with more train pixels: --out FILE.json has all',
        'train: 25.0% of the pixels are ignored',
        'val: 25.0% of the pixels are ignored',
        'images read: 2 of train, 2 of val; problems: 0',
    ]
    entries = [e for e in json.loads(out.read_text()) if e['kind'] == 'class']
    assert len(entries) == 300
    quarter = 2 * HEIGHT * WIDTH // 4
    named = {(e['split'], e['name']): (e['pixels'], e['images']) for e in entries}
    assert named['train', 'wall'] == (2 * quarter, 2)
    assert named['train', 'building'] == (quarter, 2)
    assert named['val', 'wall'] == (3 * quarter, 2)
    assert named['val', 'building'] == (0, 0)
    absent = [line for line in lines if 'x absent classes' in line]
    assert absent[0].startswith(
        'train: 1 x absent classes, used, and these classes are never learned; the first: 148 of '
        '150 classes have no pixel: sky, floor, tree, '
    )
    assert 'reduce_zero_label=True turns 0 into ignored' in absent[0]
    assert absent[1].startswith('val: 1 x absent classes, used, and they have no score; ')


def test_masks_of_0_and_255_stop_or_are_told(tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    picture().save(tmp_path / 'images/0.jpg')
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:24] = 255
    Image.fromarray(values).save(tmp_path / 'masks/0.png')
    options = place('train', data_root=tmp_path)
    options += ['train_dataloader.dataset.data_prefix.img_path=images']
    options += ['train_dataloader.dataset.data_prefix.seg_map_path=masks']
    arguments = ['--splits', 'train', '--cfg-options', *options]
    assert check(SEGMENTATION, *arguments) == 1  # reduce_zero_label=True
    (line,) = [x for x in capsys.readouterr().out.splitlines() if ' -> ' in x]
    assert line.startswith('train: every pixel is ignored; 150 of 150 classes have no pixel: wall,')
    assert line.endswith(
        'the label maps hold 0 and 255, and 255 means ignored: store 0 and 1, or give '
        'LoadAnnotations mapping={255: 1}, and set reduce_zero_label=False -> the run stops'
    )
    step = 'train_dataloader.dataset.pipeline.1.mapping.255=1'
    assert check(SEGMENTATION, *arguments, step) == 0
    assert '1 x absent classes, used, and these' in capsys.readouterr().out


@pytest.mark.parametrize('high', [1, 255])
def test_binary_masks_of_0_and_255_are_a_problem(high, tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    picture().save(tmp_path / 'images/0.jpg')
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:24] = high
    Image.fromarray(values).save(tmp_path / 'masks/0.png')
    options = place('train', data_root=tmp_path, type='convnextv2_mm.BaseSegDataset')
    options += place('train', **{'metainfo.classes': "('ground','thing')"})
    options += place('train', **{'data_prefix.img_path': 'images'})
    options += place('train', **{'data_prefix.seg_map_path': 'masks'})
    code = check(SEGMENTATION, '--splits', 'train', '--cfg-options', *options)
    printed = capsys.readouterr().out
    assert code == (high == 255)
    assert ('the label maps hold 0 and 255' in printed) == (high == 255)
    assert f'problems: {code}' in printed


def test_table_of_a_detector(tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    for name in 'ab':
        picture().save(tmp_path / f'images/{name}.jpg')
    boxes = [annotation(1, 0), annotation(2, 0), annotation(3, 1, category_id=2)]
    boxes += [annotation(4, 1, iscrowd=1, category_id=3)]
    boxes += [annotation(5, 1, bbox=[20, 10, 0, 40], category_id=4)]  # training leaves it out
    sizes = [(f'{name}.jpg', HEIGHT, WIDTH) for name in 'ab']
    write_json(tmp_path / 'x.json', coco(sizes, boxes))
    options = place('train', data_root=tmp_path, ann_file='x.json')
    options += ['train_dataloader.dataset.data_prefix.img=images']
    out = tmp_path / 'out.json'
    arguments = ['--splits', 'train', '--out', out, '--cfg-options', *options]
    assert check(DETECTION, *arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert 'train: 25.0% of the objects are crowds' in lines
    assert 'and 40 more classes, with more train objects: --out FILE.json has all' in lines
    assert not any('loading annotations' in line for line in lines)
    entries = [e for e in json.loads(out.read_text()) if e['kind'] == 'class']
    found = {e['name']: (e['objects'], e['images']) for e in entries if e['objects']}
    assert found == dict(person=(2, 1), bicycle=(1, 1))
    assert len(entries) == 80


def test_table_of_a_classifier(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_real_formats(tmp_path)
    check(CLASSIFICATION, '--splits', 'train')
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if line.startswith('class ')]
    assert head.split() == ['class', 'train', 'images']
    assert any(line.startswith('train: 1 x absent classes') for line in lines)


def test_pretraining_has_no_use_for_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_real_formats(tmp_path)
    assert check(PRETRAIN, '--splits', 'train') == 0
    assert 'class' not in capsys.readouterr().out


def test_kinds_of_tif_and_what_is_no_file(tmp_path, capsys):
    image = np.asarray(picture())
    four = np.concatenate([image, image[..., :1]], -1)
    pages = dict(save_all=True, append_images=[picture()])
    files = {
        'grey-2': tiff(four[..., :2], 1, (0,)),
        'grey-3': tiff(image, 1, (0, 0)),
        'grey-4': tiff(four, 1, (0, 0, 0)),
        'rgb-4': tiff(four, 2, (0,)),
        'rgba': tiff(four, 2, (2,)),
        'rgb-16': tiff(image.astype(np.uint16) * 257, 2),
        'rgb-12': tiff(image.astype(np.uint16) * 16, 2),
        'cmyk': encode(picture().convert('CMYK'), 'TIFF'),
        'pages': encode(picture(), 'TIFF', **pages),
        'float': tiff(image.astype(np.float32), 2),
        'plain': tiff(image, 2),
    }
    (tmp_path / 'images').mkdir()
    for name, content in files.items():
        (tmp_path / f'images/{name}.tif').write_bytes(content)
    os.mkfifo(tmp_path / 'images/pipe.tif')
    (tmp_path / 'list.txt').write_text(''.join(f'{name}.tif 0\n' for name in [*files, 'pipe']))
    out = tmp_path / 'out.json'
    arguments = ['--splits', 'train', '--out', out, '--cfg-options']
    assert check(PRETRAIN, *arguments, *folder_options(tmp_path, 'train')) == 1
    assert 'pipe.tif is not allowed: it is no regular file -> ' in capsys.readouterr().out
    notes = {
        (e['sentence'].split('.tif')[0].split('/')[-1], e['kind']): e['effect'].split(', ', 1)[-1]
        for e in json.loads(out.read_text())
        if e['effect'].startswith(USED)
    }
    first = 'the first of them, for all three channels'
    assert notes == {
        ('grey-2', 'channels'): first,
        ('grey-2', 'grey'): 'for all three channels',
        ('grey-3', 'channels'): first,
        ('grey-4', 'channels'): first,
        ('rgb-4', 'channels'): 'the first three of them',
        ('rgba', 'alpha'): 'darker where it is transparent',
        ('rgb-16', '16 bits'): 'the upper 8 of them',
        ('rgb-12', '16 bits'): 'the upper 8 of them',
        ('rgb-12', 'dark'): 'as it is',
        ('cmyk', 'CMYK'): 'converted to those of screens',
        ('pages', 'animated'): 'the first',
    }
