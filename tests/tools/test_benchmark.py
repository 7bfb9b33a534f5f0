"""The benchmark runs on every contender and reports consistent figures; it is never timed."""

import json
import runpy
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmark.py'


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.parametrize(
    ('what', 'peers'),
    [('pretrain', ['masked', 'vit-mae', 'spark']), ('backbone', ['mmpretrain', 'timm'])],
)
def test_all_contenders_run(what, peers, tmp_path, monkeypatch):
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
        ('detector', ['--batch', 1, '--size', 32, 64, '--peers', 'all']),
        ('detector', ['--batch', 1, '--size', 64, 32, '--masks', 'polygon']),
        ('segmentor', ['--batch', 2, '--size', 64, 32, '--peers', 'all']),
    ],
)
def test_backbones_have_a_share_of_the_step(what, arguments, tmp_path, monkeypatch):
    out = tmp_path / 'figures.json'
    arguments = [what, '--arch', 'atto', '--precision', 'fp32', '--device', 'cpu', *arguments]
    run(monkeypatch, *arguments, '--steps', 2, '--json', out)
    rows = json.loads(out.read_text())['rows']
    peers = ['mmpretrain'] if '--peers' in arguments else []
    assert [row['name'] for row in rows] == ['auto', *peers]
    for row in rows:
        assert row['backbone_share'] == pytest.approx(row['backbone_ms'] / row['ms'])
        assert 0 < row['backbone_share'] < 1


MISTAKES = [
    (['backbone', '--peers', 'spark'], "invalid choice: 'spark' (choose from"),
    (['detector', '--size', 16, 1024], '--size [16, 1024] is not allowed: 32 is the least'),
    (['segmentor', '--batch', 1], '--batch 1 is not allowed: the norms of UPerNet need 2 images'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_are_named(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
