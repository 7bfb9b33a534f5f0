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


def test_peer_of_the_other_benchmark_is_named(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, 'backbone', '--peers', 'spark')
    assert stop.value.code == 2
    assert '--peers spark is not one of backbone: mmpretrain, timm' in capsys.readouterr().err
