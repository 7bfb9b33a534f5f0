"""The benchmark of the input reports consistent figures; it is never timed."""

import json
import runpy
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'benchmarks' / 'loader.py'


@pytest.fixture
def run(monkeypatch, image_files):
    def run(*arguments):
        folder = image_files['plain.JPEG'].parent
        line = ['loader.py', '--data', folder, '--device', 'cpu', *arguments]
        monkeypatch.setattr(sys, 'argv', [str(a) for a in line])
        runpy.run_path(str(TOOL), run_name='__main__')

    return run


def test_figures_are_consistent(run, tmp_path, capsys):
    out = tmp_path / 'figures.json'
    run('--images', 5, '--batch', 2, '--rounds', 2, '--short-side', 64, '--json', out)
    assert '5 files, in the median 64x64' in capsys.readouterr().out
    rows = json.loads(out.read_text())['rows']
    assert [row['name'] for row in rows] == ['mmpretrain', 'ours', 'gpu-decode']
    for row in rows:
        assert row['images_per_second'] == pytest.approx(1000 / row['ms'])
        assert row['ratio'] == pytest.approx(rows[0]['ms'] / row['ms'])
        # Of two rounds, the median of a sum is the sum of the medians.
        stages = [ms for name, ms in row['stages_ms'].items() if name != 'data preprocessor']
        assert row['ms'] == pytest.approx(sum(stages))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images', 500], '--images 500, but --data'),
        (['--data', 'nowhere'], '--data nowhere is no folder'),
        (['--images', 2, '--rounds', 1], '--rounds 1 is not allowed: at least 2'),
        (['--images', 2, '--short-side', 0], '--short-side 0 is not allowed: at least 1'),
    ],
)
def test_mistakes_end_in_one_sentence(run, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
