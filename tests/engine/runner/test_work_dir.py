"""One run in a work dir, and output that outlives those who read it."""

import os
import signal
import subprocess
import sys

import pytest

from convnextv2_mm.engine.runner import work_dir as module
from convnextv2_mm.engine.runner.work_dir import ignore_broken_pipe, lock_work_dir

# A run with a loader process, which outlives it for a while when it is killed.
RUN = """
import os, sys, time
from convnextv2_mm.engine.runner.work_dir import lock_work_dir
lock_work_dir(sys.argv[1])
loader = os.fork()
if loader: print(loader, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another run in this folder, and its loader's number."""
    process = subprocess.Popen(
        [sys.executable, '-c', RUN, tmp_path], stdout=subprocess.PIPE, text=True
    )
    loader = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(loader, signal.SIGKILL)


@pytest.mark.long
def test_second_run_is_refused_until_the_first_ends(other, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'PATIENCE', 0.3)
    sentence = rf'{tmp_path} is in use by another run, process {other.pid} on \S+: give another'
    with pytest.raises(ValueError, match=sentence):
        lock_work_dir(str(tmp_path))
    lock_work_dir(str(tmp_path / 'another'))
    monkeypatch.setenv('RANK', '1')
    lock_work_dir(str(tmp_path), launcher='pytorch')  # the first process does it for all
    other.kill()
    lock_work_dir(str(tmp_path), str(tmp_path))
    assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on')


@pytest.mark.long
def test_run_waits_for_one_that_is_about_to_end(other, tmp_path):
    subprocess.Popen(['sh', '-c', f'sleep 0.5; kill -9 {other.pid}'])
    lock_work_dir(str(tmp_path))


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='work dir .*/file/run cannot be written: Not a directory'):
        lock_work_dir(str(tmp_path / 'file' / 'run'))


PRINTS = """
import sys
from convnextv2_mm.engine.runner.work_dir import ignore_broken_pipe
with ignore_broken_pipe():
    for i in range(10000):
        print('line', i)
    open(sys.argv[1], 'w').write('reached')
"""


@pytest.mark.long
def test_closed_pipe_does_not_end_a_run(tmp_path):
    command = f'"{sys.executable}" -c "$0" {tmp_path}/end | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ['bash', '-c', command, PRINTS], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, 'line 0\n')
    assert (tmp_path / 'end').read_text() == 'reached'
    assert done.stderr.count('\n') <= 1
    assert 'Traceback' not in done.stderr


def test_output_goes_where_it_went(capsys):
    before = sys.stdout, sys.stderr
    with ignore_broken_pipe():
        print('out')
        print('err', file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ('out\n', 'err\n')
