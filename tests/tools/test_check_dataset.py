"""tools/check_dataset.py finds every bad file of every task, and says what the run will do."""

import json
import sys
from pathlib import Path

import pytest
from bad_files import (
    BAD_ANNOTATIONS,
    BAD_IMAGES,
    HEIGHT,
    WIDTH,
    annotation,
    coco,
    picture,
    stored_size,
    write_images,
    write_json,
    write_label_maps,
)
from test_tools import ROOT, run

from convnextv2_mm.datasets.coco_problems import EFFECTS, USED

PRETRAIN = ROOT / 'configs/pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py'
GPU_DECODE = ROOT / 'configs/pretrain/fcmae_convnextv2-b_8xb64-accum8-800e-gpu-decode_in1k-224px.py'
DETECTION = ROOT / 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'
SEGMENTATION = ROOT / 'configs/segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py'


def check(config: Path, *arguments: object) -> int:
    """Run the tool with two processes; give its exit code."""
    with pytest.raises(SystemExit) as stop:
        run('check_dataset', config, '--workers', 2, *arguments)
    return stop.value.code


def place(split: str, /, **options: object) -> list[str]:
    return [f'{split}_dataloader.dataset.{key}={value}' for key, value in options.items()]


def folder_options(root: Path, split: str) -> list[str]:
    return place(split, data_root=root, ann_file='list.txt', data_prefix='images', split='')


@pytest.fixture
def images(tmp_path):
    kinds = write_images(tmp_path / 'images')
    (tmp_path / 'list.txt').write_text(''.join(f'{kind}.jpg 0\n' for kind in kinds))
    return tmp_path


@pytest.mark.parametrize('config', [PRETRAIN, GPU_DECODE], ids=['host', 'gpu'])
def test_images_of_pretraining(config, images, capsys):
    out = images / 'out.json'
    options = folder_options(images, 'train')
    assert check(config, '--splits', 'train', '--out', out, '--cfg-options', *options) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line for line in lines if ' -> ' in line]
    for kind, said in BAD_IMAGES.items():
        expected = f'train: {images}/images/{kind}.jpg {said} -> another sample takes its place'
        assert problems.count(expected) == 1
    total = len(list((images / 'images').iterdir())) + 1
    too_many = f'{len(BAD_IMAGES)} of {total} samples are bad, more than max_bad=0.01'
    assert problems[-1] == f'train: {too_many} -> the run stops'
    assert len(problems) == len(BAD_IMAGES) + 1
    assert lines[-1] == f'images read: {total} of train; problems: {len(problems)}'

    findings = json.loads(out.read_text())
    assert not list(images.glob('.out*'))
    kinds = {}
    for entry in findings:
        name = Path(entry['sentence'].split('.jpg')[0]).name
        kinds.setdefault(entry['kind'], set()).add(name)
    pngs = {'palette', 'grey-16', 'colour-16', 'alpha', 'apng'}
    assert kinds.pop('too many')
    assert kinds == {
        'image': set(BAD_IMAGES),
        'damaged': {'damaged'},
        'CMYK': {'cmyk'},
        'grey': {'grey', 'grey-16'},
        'palette': {'palette', 'gif'},
        '16 bits': {'grey-16', 'colour-16'},
        'alpha': {'alpha'},
        'animated': {'gif', 'apng', 'webp'},
        'orientation': {'orientation-3', 'orientation-6'},
        'small': {'one-wide', 'one-high'},
        'ending': pngs | {'gif', 'webp'},
    }


def test_good_data_has_no_problems(tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    for index in range(40):
        picture().resize((160 + index, 116)).save(tmp_path / f'images/{index}.jpg')
    (tmp_path / 'list.txt').write_text(''.join(f'{index}.jpg 0\n' for index in range(40)))
    options = folder_options(tmp_path, 'train') + folder_options(tmp_path, 'test')
    options += place('train', skip_bad_data='False', _scope_='mmpretrain')
    out = tmp_path / 'out.json'
    assert check(PRETRAIN, '--out', out, '--cfg-options', *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ['images read: 40 of train, 40 of test; problems: 0']
    assert json.loads(out.read_text()) == []


def test_image_folders_are_read_as_training_does(tmp_path, capsys):
    for number in range(1000):
        (tmp_path / f'train/n{number:08}').mkdir(parents=True)
    first = tmp_path / 'train/n00000000'
    picture().save(first / 'a.JPEG')
    (first / 'b.JPEG').write_bytes(b'')
    (first / 'c.webp').write_bytes(b'')
    options = place('train', data_root=tmp_path)
    arguments = ['--splits', 'train', '--cfg-options', *options]
    assert check(PRETRAIN, *arguments) == 1
    output = capsys.readouterr().out
    assert f'train: {first}/b.JPEG is empty -> another sample takes its place' in output
    assert f'1 x not taken, used by nothing; the first: {first}/c.webp does not end in' in output
    (tmp_path / 'train/n00000999').rmdir()
    assert check(PRETRAIN, *arguments) == 1
    assert "The number of subfolders (999) doesn't match" in capsys.readouterr().out


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco(split, tmp_path, capsys):
    kinds = write_images(tmp_path / 'images')
    entries = [(f'{kind}.jpg', *stored_size(tmp_path / f'images/{kind}.jpg')) for kind in kinds]
    entries[kinds.index('plain')] = ('plain.jpg', HEIGHT, WIDTH - 1)
    entries.append(('../x.jpg', HEIGHT, WIDTH))
    changes = [changes for changes, _ in BAD_ANNOTATIONS.values()]
    bad = [annotation(100 + i, kinds.index('cmyk'), **c) for i, c in enumerate(changes)]
    content = coco(entries, [annotation(1, kinds.index('grey')), *bad])
    write_json(tmp_path / 'x.json', content)
    (tmp_path / 'prefix').mkdir()
    prefix = f'{split}_dataloader.dataset.data_prefix.img=images'
    options = [*place(split, data_root=tmp_path, ann_file='x.json'), prefix]
    out = tmp_path / 'out.json'
    assert check(DETECTION, '--splits', split, '--out', out, '--cfg-options', *options) == 1
    findings = json.loads(out.read_text())
    found = {}
    for entry in findings:
        if entry['kind'] in EFFECTS:
            number = int(entry['sentence'].split(': annotation ')[1].split()[0].rstrip(':'))
            found[number] = (entry['kind'], entry['effect'])
    polygons_only = split == 'train'  # poly2mask=False
    column = 0 if split == 'train' else 1
    for number, (_, kind) in enumerate(BAD_ANNOTATIONS.values(), 100):
        if kind == 'not a polygon' and not polygons_only:
            kind = ''
        assert found.get(number) == ((kind, EFFECTS[kind][column]) if kind else None)
    output = capsys.readouterr().out
    effect = 'another sample takes its place' if split == 'train' else 'the run stops'
    for kind, said in BAD_IMAGES.items():
        assert f'{split}: {tmp_path}/images/{kind}.jpg {said} -> {effect}\n' in output
    resized = f'{tmp_path}/images/plain.jpg is 128x96 pixels, but its annotations are for 127x96'
    assert f'{split}: {resized} -> {effect}\n' in output
    assert f'names {tmp_path}/images/../x.jpg, which is not allowed' in output
    unannotated = [entry for entry in findings if entry['kind'] == 'no annotations']
    assert len(unannotated) == len(entries) - 2
    how = 'but filter_empty_gt leaves it out' if split == 'train' else 'as background'
    assert unannotated[0]['effect'] == f'{USED}, {how}'
    turned = [entry['effect'] for entry in findings if entry['kind'] == 'orientation']
    assert sorted(turned) == [
        f'{USED}, as it is stored, since the annotations have that size',
        f'{USED}, turned',
    ]


def test_coco_of_the_wrong_structure_is_told_in_full(tmp_path, capsys):
    content = coco([('x.jpg', HEIGHT, WIDTH)] * 2, [annotation(1, 0), annotation(1, 1)])
    content['images'].append(dict(id=1))
    write_json(tmp_path / 'x.json', content)
    options = [*place('train', data_root=tmp_path, ann_file='x.json')]
    options += ['train_dataloader.dataset.data_prefix.img=']
    assert check(DETECTION, '--splits', 'train', '--cfg-options', *options) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line for line in lines if ' -> the run stops' in line]
    assert [line.split('x.json: ')[1] for line in problems] == [
        'image 1 has no file_name -> the run stops',
        'annotation 1 is there twice -> the run stops',
    ]
    assert lines[-1] == 'images read: none; problems: 2'


def test_label_maps(tmp_path, capsys):
    said = write_label_maps(tmp_path / 'images', tmp_path / 'masks')
    for split in ('train', 'val'):
        options = place(split, data_root=tmp_path)
        options += [f'{split}_dataloader.dataset.data_prefix.img_path=images']
        options += [f'{split}_dataloader.dataset.data_prefix.seg_map_path=masks']
        assert check(SEGMENTATION, '--splits', split, '--cfg-options', *options) == 1
        output = capsys.readouterr().out
        effect = 'another sample takes its place' if split == 'train' else 'the run stops'
        for name, message in said.items():
            lines = [x for x in output.splitlines() if f'masks/{name}.png' in x and ' -> ' in x]
            assert len(lines) == bool(message)
            for line in lines:
                assert message in line
                assert line.endswith(f' -> {effect}')


def test_stock_loaders_are_said_not_to_check(images, capsys):
    options = folder_options(images, 'train')
    options += ['train_dataloader.dataset.pipeline.0.type=LoadImageFromFile']
    options += ['train_dataloader.dataset.type=ImageNet']
    (images / 'config.py').write_text(
        f"_base_ = '{PRETRAIN}'\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ImageNet', split='', pipeline=["
        "dict(type='LoadImageFromFile'), dict(type='PackInputs')]))\n"
    )
    arguments = ['--splits', 'train', '--cfg-options', *options]
    assert check(images / 'config.py', *arguments) == 1
    assert 'empty.jpg is empty -> the run stops, or goes on with wrong' in capsys.readouterr().out


def test_the_same_data_is_read_once(tmp_path, capsys):
    said = write_label_maps(tmp_path / 'images', tmp_path / 'masks')
    options = []
    for split in ('val', 'test'):
        options += place(split, data_root=tmp_path)
        options += [f'{split}_dataloader.dataset.data_prefix.img_path=images']
        options += [f'{split}_dataloader.dataset.data_prefix.seg_map_path=masks']
    assert check(SEGMENTATION, '--splits', 'val', 'test', '--cfg-options', *options) == 1
    output = capsys.readouterr().out
    assert 'test: the same data as val\n' in output
    assert f'images read: {len(said)} of val; problems: ' in output


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['no.py'], 'config no.py does not exist'),
        ([PRETRAIN], 'data set not found: data/imagenet does not exist'),
        ([PRETRAIN, '--splits', 'val'], 'has no data for val'),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert check(*arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    assert message in line


@pytest.mark.parametrize('workers', ['0', '-1', 'x'])
def test_workers(workers, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['check_dataset.py', str(PRETRAIN)])
    with pytest.raises(SystemExit) as stop:
        run('check_dataset', PRETRAIN, '--workers', workers)
    assert stop.value.code == 2
    assert '--workers' in capsys.readouterr().err
