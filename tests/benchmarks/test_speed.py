"""The benchmark runs on every peer and reports consistent figures; it is never timed."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from matplotlib import rc_context

TOOL = Path(__file__).parents[2] / 'benchmarks' / 'speed.py'


def run(monkeypatch, *arguments):
    monkeypatch.syspath_prepend(TOOL.parent)  # as when it is run
    monkeypatch.setattr(sys, 'argv', ['speed.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.parametrize(
    ('what', 'peers'),
    [('pretrain', ['masked', 'vit-mae', 'spark']), ('backbone', ['mmpretrain', 'timm'])],
)
def test_all_peers_run(what, peers, tmp_path, monkeypatch):
    out = tmp_path / 'figures.json'
    arguments = ['--arch', 'tiny', '--batch', 1, '--size', 64, 64, '--precision', 'fp32']
    arguments += ['--backends', 'torch', '--steps', 2, '--device', 'cpu', '--json', out]
    run(monkeypatch, what, *arguments, '--peers', 'all')
    rows = json.loads(out.read_text())['rows']
    assert [row['name'] for row in rows] == ['torch', *peers]
    assert rows[0]['ratio'] == 1
    for row in rows:
        assert row['images_per_second'] == pytest.approx(1000 / row['ms'])
        assert row['ratio'] == pytest.approx(rows[0]['ms'] / row['ms'])


@pytest.mark.parametrize(
    ('what', 'arguments'),
    [
        ('detector', ['--batch', 1, '--size', 32, 64, '--masks', 'bitmap']),
        ('detector', ['--batch', 1, '--size', 32, 64, '--masks', 'polygon']),
        ('segmentor', ['--batch', 2, '--size', 64, 32]),
    ],
)
def test_backbones_have_a_share_of_the_step(what, arguments, tmp_path, monkeypatch):
    out = tmp_path / 'figures.json'
    arguments = [what, '--arch', 'atto', '--precision', 'fp32', '--device', 'cpu', *arguments]
    run(monkeypatch, *arguments, '--peers', 'all', '--steps', 2, '--json', out)
    rows = json.loads(out.read_text())['rows']
    assert [row['name'] for row in rows] == ['auto', 'mmpretrain']
    for row in rows:
        assert row['backbone_share'] == pytest.approx(row['backbone_ms'] / row['ms'])
        assert 0 < row['backbone_share'] < 1


def test_operators_of_each_stage(tmp_path, monkeypatch):
    pytest.importorskip('spconv')
    out, picture = tmp_path / 'figures.json', tmp_path / 'figures.svg'
    arguments = ['--arch', 'atto', '--batch', 1, '--size', 64, 96, '--device', 'cpu']
    arguments += ['--steps', 2, '--peers', 'all', '--json', out, '--plot', picture]
    run(monkeypatch, 'ops', *arguments)
    rows = json.loads(out.read_text())['rows']
    # 4 stages: dense and packed convolution and a peer of each, 2 projections
    assert len(rows) == 4 * (2 + 2 + 2)
    assert {row['group'] for row in rows if row['name'] == 'nchw'} == {
        f'conv, atto, dense 1x{16 >> i}x{24 >> i}x{40 << i}' for i in range(4)
    }
    assert all(row['forward_ms'] > 0 for row in rows)
    assert 'conv, atto, packed 1x2x8x8x40' in picture.read_text()


def test_plot_shows_throughput_and_memory_by_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    plot = runpy.run_path(str(TOOL))['plot']
    rows = [
        dict(group=arch, name=name, images_per_second=speed, activation_gib=memory)
        for arch, name, speed, memory in (
            ('atto', 'auto', 301, 1.25),
            ('atto', 'masked', 103, 3.75),
            ('base', 'auto', 57, None),
        )
    ]
    path = tmp_path / 'sizes.svg'
    args = Namespace(what='pretrain', batch=8, size=[224, 192], precision='bf16', device='cpu')
    args.plot = str(path)
    with rc_context({'svg.fonttype': 'none'}):
        plot(rows, args)
        without_memory = path.read_text()
        rows[2]['activation_gib'] = 7.5
        plot(rows, args)
    labels = ['images / s', 'atto', 'base', 'sparse', 'dense masked', '301', '103', '57']
    assert all(f'>{label}<' in without_memory for label in labels)
    assert 'GiB' not in without_memory
    labels += ['peak memory beside weights, GiB', '1.25', '3.75', '7.5']
    assert all(f'>{label}<' in path.read_text() for label in labels)
    assert '8 images of 224x192, bf16' in path.read_text()


def test_loader_is_measured_on_files(tmp_path, monkeypatch, image_files):
    out = tmp_path / 'figures.json'
    arguments = ['--arch', 'atto', '--batch', 2, '--size', 64, 64, '--device', 'cpu', '--steps', 2]
    folder = image_files['plain.JPEG'].parent
    run(monkeypatch, 'pretrain', *arguments, '--data', folder, '--workers', 0, '--json', out)
    (row,) = json.loads(out.read_text())['rows']
    assert row['loader_share'] == pytest.approx(row['loader_ms'] / row['ms'])
    assert row['loader_ms'] > 0


MISTAKES = [
    (['backbone', '--peers', 'spark'], "invalid choice: 'spark' (choose from"),
    (['detector', '--size', 16, 1024], '--size [16, 1024] is not allowed: 32 is the least'),
    (['ops', '--plot', 'figures.doc'], '--plot figures.doc is not allowed: it must end in'),
    (
        ['ops', '--json', 'nowhere/figures.json'],
        'the folder of nowhere/figures.json does not exist',
    ),
    (['pretrain', '--data', 'nowhere'], '--data nowhere is no folder'),
    (['ops', '--size', 33, 64], '--size [33, 64] is not allowed: packed'),
    (['segmentor', '--batch', 1], '--batch 1 is not allowed: the norms of UPerNet need 2 images'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_are_named(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_one_of_several_gpus(monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    choose_device, chosen = runpy.run_path(str(TOOL))['choose_device'], []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    for given, expected in (('cuda:1', 'cuda'), ('cuda', 'cuda'), ('cpu', 'cpu')):
        args = Namespace(device=given)
        choose_device(args)
        assert args.device == expected
    assert chosen == ['cuda:1']
