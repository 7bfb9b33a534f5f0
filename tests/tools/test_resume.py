"""tools/train.py that is stopped, killed and taken up again, for every task."""

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_tools import DEMO, ROOT, configs, newest_checkpoint, options, run, shapes  # noqa: F401

from convnextv2_mm.engine import CheckpointHook
from convnextv2_mm.engine.runner import work_dir


class Killed(BaseException):
    """In place of a SIGKILL: nothing of ours catches it."""


def train(config, work_dir, changes, *arguments):
    run('train', config, '--work-dir', work_dir, *arguments, '--cfg-options', *changes)


def assert_same_ends(a: Path, b: Path) -> None:
    """Weights and the state of the optimizer are equal, bit for bit."""
    found, expected = (torch.load(newest_checkpoint(f), weights_only=False) for f in (a, b))
    assert found['optimizer']['param_groups'] == expected['optimizer']['param_groups']
    found, expected = ((c['state_dict'], c['optimizer']['state']) for c in (found, expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize('task', ['pretrain', 'classification', 'detection', 'segmentation'])
def test_resume_is_exact_for_every_task(task, configs, options, tmp_path, monkeypatch, request):  # noqa: F811
    """Killed in the third of four iterations; detection groups its batches by aspect ratio."""
    changes = [*options[task], 'model.backbone.drop_path_rate=0.5', 'randomness.seed=0']
    changes += ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1']
    changes += ['default_hooks.checkpoint.max_keep_ckpts=2', 'optim_wrapper.optimizer.lr=0.001']
    if task != 'pretrain':
        changes.append('model.backbone.init_cfg=None')
    if torch.cuda.is_available() and task in ('detection', 'segmentation'):
        # Sums in operators of these two have another order each time on a GPU.
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
        monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        changes.append('randomness.deterministic=True')
    train(configs[task], tmp_path / 'whole', changes)

    save = CheckpointHook.after_train_iter

    def save_or_die(hook, runner, *args, **kwargs):
        if runner.iter == 2:
            raise Killed
        save(hook, runner, *args, **kwargs)

    with monkeypatch.context() as dangerous, pytest.raises(Killed):
        dangerous.setattr(CheckpointHook, 'after_train_iter', save_or_die)
        train(configs[task], tmp_path / 'run', changes)
    assert newest_checkpoint(tmp_path / 'run').endswith('iter_2.pth')
    train(configs[task], tmp_path / 'run', changes, '--resume')
    assert_same_ends(tmp_path / 'run', tmp_path / 'whole')


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_signals_to_a_real_run(number, configs, options, tmp_path):  # noqa: F811
    """The training process is killed at some moment; or all processes are told to end."""
    changes = [*options['pretrain'], 'train_cfg.max_epochs=12', 'train_cfg.val_interval=12']
    changes += ['param_scheduler.1.end=12', 'train_dataloader.num_workers=1']
    changes += ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=5']
    work_dir = tmp_path / 'run'
    command = [sys.executable, ROOT / 'tools/train.py', configs['pretrain'], '--work-dir', work_dir]
    process = subprocess.Popen(
        [*command, '--cfg-options', *changes],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | dict(OMP_NUM_THREADS=str(torch.get_num_threads())),  # sums depend on it
    )
    while not (work_dir / 'last_checkpoint').exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    if number == signal.SIGKILL:
        process.kill()
        assert process.wait() == -number
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # the loader process, if there was one
    else:
        os.killpg(process.pid, number)
        assert process.wait() == 128 + number
        assert newest_checkpoint(work_dir).endswith('interrupted.pth')
    changes[changes.index('train_dataloader.num_workers=1')] = 'train_dataloader.num_workers=0'
    train(configs['pretrain'], work_dir, changes, '--resume')
    train(configs['pretrain'], tmp_path / 'whole', changes)
    assert_same_ends(work_dir, tmp_path / 'whole')


def test_full_disk_ends_in_one_sentence(configs, options, tmp_path, monkeypatch, capsys):  # noqa: F811
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(SystemExit) as stop:
        train(configs['pretrain'], tmp_path, options['pretrain'])
    assert stop.value.code == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f'error: No space left on device: {tmp_path}/epoch_1.pth could not')
    assert not list(tmp_path.glob('*.pth'))


def test_numbers_that_stay_wrong_end_in_one_sentence(configs, options, tmp_path, capsys):  # noqa: F811
    changes = [*options['pretrain'], 'model.data_preprocessor.std=[0,0,0]']
    changes += ['default_hooks.non_finite.stop_after=3']
    with pytest.raises(SystemExit) as stop:
        train(configs['pretrain'], tmp_path, changes)
    assert stop.value.code == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: 3 steps in a row up to iteration 3 had a loss or gradients')
    assert newest_checkpoint(tmp_path).endswith('epoch_1.pth')


def test_second_run_in_a_work_dir_changes_nothing(configs, options, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(work_dir, 'PATIENCE', 0)
    program = 'import sys; from convnextv2_mm.engine.runner.work_dir import lock_work_dir as lock; '
    program += 'lock(sys.argv[1]); print(flush=True); input()'
    command = [sys.executable, '-c', program, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        with pytest.raises(SystemExit) as stop:
            train(configs['pretrain'], tmp_path, options['pretrain'])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f'{tmp_path} is in use by another run, process {first.pid} on' in error
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_lost_work_dir_ends_in_one_sentence(configs, options, tmp_path, monkeypatch, capsys):  # noqa: F811
    save = CheckpointHook.after_train_iter

    def lose(hook, runner, *args, **kwargs):
        shutil.rmtree(tmp_path / 'run', ignore_errors=True)
        save(hook, runner, *args, **kwargs)

    monkeypatch.setattr(CheckpointHook, 'after_train_iter', lose)
    with pytest.raises(SystemExit) as stop:
        train(configs['pretrain'], tmp_path / 'run', options['pretrain'])
    assert stop.value.code == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f'error: work dir {tmp_path}/run is gone')


def test_run_outlives_the_reader_of_its_output(configs, options, tmp_path):  # noqa: F811
    command = [sys.executable, ROOT / 'tools/train.py', configs['pretrain'], '--work-dir', tmp_path]
    process = subprocess.Popen(
        [*command, '--cfg-options', *options['pretrain']],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while 'Epoch(train)' not in process.stdout.readline():  # until there is a log too
        assert process.poll() is None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0
    assert not re.search('Traceback|BrokenPipe|Logging error', errors)
    assert newest_checkpoint(tmp_path).endswith('epoch_2.pth')
    (log,) = tmp_path.glob('*/*.log')
    assert 'nobody reads <stdout> any more' in log.read_text()


def test_beginning_anew_in_a_used_work_dir_is_told(configs, options, tmp_path, capsys):  # noqa: F811
    changes = [*options['pretrain'], 'train_cfg.max_epochs=1']
    for arguments, is_told in ([], False), (['--resume'], False), ([], True):
        train(configs['pretrain'], tmp_path, changes, *arguments)
        told = f'work dir {tmp_path} has checkpoints of an earlier run: this one begins anew'
        assert (told in capsys.readouterr().err) == is_told
