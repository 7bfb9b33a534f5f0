"""The GPU report is whole whatever becomes of a task."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import gpu_report  # noqa: E402

TASKS = (
    gpu_report.Task('works', '-c "print(6 * 7)"', 1),
    gpu_report.Task('raises', '-c "raise MemoryError(3)"', 1),
    gpu_report.Task('aborts', '-c "import os; os.abort()"', 1),
    gpu_report.Task('hangs', '-c "import time; time.sleep(600)"', 1 / 60),
    gpu_report.Task('last', '-c "print(1)"', 1),
)


@pytest.fixture
def report(monkeypatch, tmp_path):
    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['gpu_report.py', '--out', str(tmp_path), *arguments])
        gpu_report.main()
        return [json.loads(line) for line in (tmp_path / 'tasks.jsonl').open()]

    monkeypatch.setattr(gpu_report, 'TASKS', TASKS)
    return call


def test_a_task_that_fails_ends_only_itself(report, tmp_path):
    ended = {row['name']: row['ended'] for row in report()}
    assert list(ended) == [task.name for task in TASKS]
    assert ended['works'] == ended['last'] == 'succeeded'
    assert ended['raises'] == 'failed with exit code 1'
    assert ended['aborts'] == 'failed with exit code -6'
    assert ended['hangs'] == 'stopped after 1 s'
    text = (tmp_path / 'report.md').read_text()
    assert '42' in text and 'MemoryError: 3' in text and '## last' in text


def test_goes_on_where_it_stopped(report, tmp_path):
    report('--tasks', 'works', 'raises')
    with (tmp_path / 'tasks.jsonl').open('a') as file:
        file.write('{"name": "wor')  # cut short
    assert gpu_report.read_results(tmp_path)[0]['ended'] == 'succeeded'
    names = [row['name'] for row in report('--tasks', 'works', 'raises', 'last')]
    assert names == ['works', 'raises', 'raises', 'last']


def test_no_time_is_refused(report):
    with pytest.raises(SystemExit) as stop:
        report('--minutes', '0')
    assert stop.value.code == 2
