"""Where a run goes on from, and what it says when it cannot."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from convnextv2_mm.engine.runner.resume import (
    agree_on_checkpoint,
    exit_on_stopped_run,
    find_checkpoint,
)
from convnextv2_mm.utils.distributed import leave_process_group


def write(path, iterations, clock=None, **content):
    content = content or dict(optimizer={}, message_hub={})
    torch.save(dict(content, state_dict={}, meta=dict(epoch=0, iter=iterations)), path)
    if clock is not None:
        os.utime(path, (clock, clock))


def test_newest_is_by_iteration_and_not_by_clock(tmp_path):
    assert find_checkpoint(tmp_path) is None
    write(tmp_path / 'iter_9.pth', 9, clock=300)
    write(tmp_path / 'iter_10.pth', 10, clock=200)
    write(tmp_path / 'best_x_iter_11.pth', 11)
    write(tmp_path / 'exported.pth', 12, author='me')  # cannot be gone on from
    (tmp_path / 'iter_13.pth').write_bytes(b'half of it')
    assert find_checkpoint(tmp_path) == str(tmp_path / 'iter_10.pth')
    write(tmp_path / 'interrupted.pth', 12, clock=100)
    assert find_checkpoint(tmp_path) == str(tmp_path / 'interrupted.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_9.pth')  # a run that began again
    assert find_checkpoint(tmp_path) == str(tmp_path / 'iter_9.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_13.pth')
    assert find_checkpoint(tmp_path) == str(tmp_path / 'interrupted.pth')


def test_candidates_are_in_the_folder_of_the_run(tmp_path):
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    ours.mkdir()
    theirs.mkdir()
    write(theirs / 'iter_9.pth', 9)
    (ours / 'last_checkpoint').write_text(str(theirs / 'iter_9.pth'))
    with pytest.raises(ValueError, match='ours/iter_9.pth is not a checkpoint, or not a whole one'):
        find_checkpoint(ours)
    write(ours / 'iter_5.pth', 5)
    assert find_checkpoint(ours) == str(ours / 'iter_5.pth')


def test_nothing_whole_is_not_a_start_from_the_beginning(tmp_path):
    (tmp_path / 'iter_13.pth').write_bytes(b'half of it')
    with pytest.raises(ValueError, match='iter_13.pth is not a checkpoint, or not a whole one'):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO])
def test_work_dir_that_cannot_be_written_ends_in_one_sentence(number, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, exit_on_stopped_run(str(tmp_path)):
        raise OSError(number, os.strerror(number), str(tmp_path / 'scalars.json'))
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert error.startswith(f'error: {os.strerror(number)}: {tmp_path}/scalars.json could not')
    with pytest.raises(OSError, match='elsewhere'), exit_on_stopped_run(str(tmp_path)):
        raise OSError(number, os.strerror(number), '/elsewhere')


def test_lost_work_dir_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit), exit_on_stopped_run(str(tmp_path / 'run')):
        raise OSError(errno.ENOENT, 'No such file', str(tmp_path / 'run' / 'scalars.json'))
    assert f'work dir {tmp_path}/run is gone' in capsys.readouterr().err


def look_and_agree(rank, folder):
    meeting = f'file://{folder}/meeting'
    distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    for number, found in enumerate([('iter_9.pth', 'iter_8.pth'), (None, 'iter_8.pth')]):
        runner = SimpleNamespace(_load_from=found[rank], _resume=True)
        agree_on_checkpoint(runner)
        (folder / f'{number}_{rank}').write_text(f'{runner._load_from} {runner._resume}')
    leave_process_group()


@pytest.mark.long
def test_processes_agree_on_what_the_first_has_found(tmp_path):
    torch.multiprocessing.spawn(look_and_agree, (tmp_path,), nprocs=2)
    for number, agreed in enumerate(['iter_9.pth True', 'None False']):
        assert [(tmp_path / f'{number}_{rank}').read_text() for rank in (0, 1)] == [agreed] * 2


def test_a_process_alone_agrees_with_itself():
    runner = SimpleNamespace(_load_from='iter_9.pth', _resume=True)
    agree_on_checkpoint(runner)
    assert (runner._load_from, runner._resume) == ('iter_9.pth', True)
