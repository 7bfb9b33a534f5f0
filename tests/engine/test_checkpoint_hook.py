"""Checkpoints are whole or absent, and a run goes on from the newest whole one."""

import errno
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from stopped_runs import Kill, Killed, Run, last_checkpoint

from convnextv2_mm.checkpoints.reading import read_file
from convnextv2_mm.engine.checkpoint_hook import WholeFileBackend
from convnextv2_mm.engine.resume import find_checkpoint, same

VALIDATION = {
    'val_dataloader': dict(
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    ),
    'val_cfg': dict(),
    'val_evaluator': dict(type='convnextv2_mm.ReconstructionLoss'),
    'default_hooks.checkpoint.save_best': 'fcmae/loss',
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}


def with_validation(shapes: Path, work_dir: Path) -> Run:
    run = Run(shapes, work_dir, VALIDATION)
    run.config.val_dataloader.dataset = dict(run.config.train_dataloader.dataset, split='val')
    run.config.val_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='PackInputs'),
    ]
    return run


@pytest.fixture(scope='module')
def expected(shapes, tmp_path_factory) -> dict:
    """What a run that nothing disturbs ends with."""
    run = Run(shapes, tmp_path_factory.mktemp('whole'))
    run()
    return last_checkpoint(run)


def names(run: Run) -> list[str]:
    return sorted(path.name for path in Path(run.config.work_dir).glob('*.pth'))


@pytest.mark.parametrize('call', ['write', 'fsync', 'replace'])
def test_full_disk_leaves_the_checkpoints_before(call, shapes, tmp_path, monkeypatch):
    run = Run(shapes, tmp_path)
    with pytest.raises(Killed):
        run(Kill(9))
    assert names(run) == ['epoch_1.pth', 'epoch_2.pth']

    def fail(path, *_):
        if call == 'write':
            Path(path).open('wb').write(b'half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = (Path, 'write_bytes') if call == 'write' else (os, call)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(owner, name, fail)
        with pytest.raises(OSError, match='No space left on device'):
            run(resume=True)
    assert names(run) == ['epoch_1.pth', 'epoch_2.pth']
    assert not list(tmp_path.glob('.*.partial'))
    assert find_checkpoint(tmp_path).endswith('epoch_2.pth')


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'absent', 'all'])
def test_damaged_checkpoint_is_passed_over(damage, shapes, tmp_path, expected, capsys):
    run = Run(shapes, tmp_path)
    with pytest.raises(Killed):
        run(Kill(15))
    path = tmp_path / 'epoch_3.pth'
    content = path.read_bytes()
    if damage == 'absent':
        path.unlink()
    else:
        path.write_bytes(content[: 0 if damage == 'empty' else len(content) // 2])
    if damage == 'all':
        (tmp_path / 'epoch_2.pth').write_bytes(content[:99])
        with pytest.raises(ValueError, match='epoch_3.pth is not a checkpoint'):
            run(resume=True)
        return
    run(resume=True)
    assert 'epoch_3.pth' in capsys.readouterr().out
    assert same(last_checkpoint(run)['state_dict'], expected['state_dict'])


def test_a_kill_leaves_nothing_that_stays(shapes, tmp_path):
    run = Run(shapes, tmp_path)
    with pytest.raises(Killed):
        run(Kill(9))
    (tmp_path / '.epoch_3.pth.0.partial').write_bytes(b'half of it')
    # A kill after the file was written, before the outdated one was deleted.
    (tmp_path / 'epoch_1.pth').write_bytes((tmp_path / 'epoch_2.pth').read_bytes())
    run(resume=True)
    assert names(run) == ['epoch_3.pth', 'epoch_4.pth']
    assert not list(tmp_path.glob('.*.partial'))


@pytest.mark.parametrize('best_by', ['fcmae/loss', 'auto', ['fcmae/loss', 'again/loss']])
def test_nothing_is_deleted_before_its_successor_is_whole(best_by, shapes, tmp_path, monkeypatch):
    run = with_validation(shapes, tmp_path)
    run.config.default_hooks.checkpoint.save_best = best_by
    run.config.val_evaluator = [
        dict(type='convnextv2_mm.ReconstructionLoss', prefix=prefix)
        for prefix in ('fcmae', 'again')
    ]
    deleted = []

    def remove(backend, path):
        kind = re.sub(r'epoch_\d+', '', Path(path).name)
        others = [p for p in tmp_path.glob('*.pth') if re.sub(r'epoch_\d+', '', p.name) == kind]
        others = [p for p in others if p.stat().st_mtime_ns > Path(path).stat().st_mtime_ns]
        assert others
        assert all('state_dict' in read_file(p) for p in others)
        deleted.append(Path(path).name)
        os.remove(path)

    monkeypatch.setattr(WholeFileBackend, 'remove', remove)
    run()
    assert {'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'} <= set(deleted)
    assert any(name.startswith('best') for name in deleted)
    assert len(names(run)) == (3 if isinstance(best_by, list) else 2)


@METRICS.register_module()
class NumPyMetric(BaseMetric):
    """Gives what mmseg's and others do: numbers of NumPy and PyTorch."""

    default_prefix = 'numpy'

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'mIoU': np.float32(0.1), 'mean': torch.tensor(0.1), 'known': {'all': np.bool_(1)}}


class NumPyMetainfo(Hook):
    def before_run(self, runner):
        runner.train_dataloader.dataset.dataset._metainfo = dict(
            classes=np.array(['cat', 'dog']), options=ConfigDict(ids={np.int64(3): np.uint8(4)})
        )


def test_metrics_and_metainfo_of_any_type_are_read_again(shapes, tmp_path, capsys):
    run = with_validation(shapes, tmp_path)
    run.config.default_hooks.checkpoint.save_best = 'numpy/mIoU'
    run.config.val_evaluator = dict(type='NumPyMetric')
    with pytest.raises(Killed):
        run(NumPyMetainfo(), Kill(9))
    content = read_file(tmp_path / 'epoch_2.pth')
    info = content['message_hub']['runtime_info']
    assert (type(info['best_score']), info['best_score']) == (float, float(np.float32(0.1)))
    assert info['val/numpy/known'] == {'all': True}
    assert content['message_hub']['log_scalars']['val/numpy/mIoU'].current() == info['best_score']
    assert content['meta']['dataset_meta'] == dict(classes=['cat', 'dog'], options=dict(ids={3: 4}))
    assert read_file(tmp_path / 'best_numpy_mIoU_epoch_1.pth')['meta']['epoch'] == 1
    capsys.readouterr()
    resumed = run(NumPyMetainfo(), resume=True)
    assert 'dataset metainfo' not in capsys.readouterr().out  # a false alarm
    assert resumed.message_hub.get_info('best_score') == np.float32(0.1)
    assert 'best_numpy_mIoU_epoch_1.pth' in names(run)  # no later one is better


class KillInValidation(Hook):
    def before_val_epoch(self, runner):
        if runner.epoch == 4:
            raise Killed


def test_validation_that_was_cut_short_is_made_up_for(shapes, tmp_path):
    whole = with_validation(shapes, tmp_path / 'whole')
    expected = whole().message_hub.get_scalar('val/fcmae/loss').data[0]
    run = with_validation(shapes, tmp_path / 'run')
    with pytest.raises(Killed):
        run(KillInValidation())
    losses = run(resume=True).message_hub.get_scalar('val/fcmae/loss').data[0]
    assert losses.tolist() == expected.tolist()
    assert names(run) == names(whole)


class Signal(Hook):
    """Send a signal to this process in the middle of a step."""

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ('number', 'at', 'saved'), [(signal.SIGTERM, 4, 6), (signal.SIGINT, 12, 12)]
)
def test_signal_saves_at_the_next_step_and_ends(number, at, saved, shapes, tmp_path, expected):
    handler = signal.getsignal(number)
    run = Run(shapes, tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(Signal(number, at))
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) == handler
    assert last_checkpoint(run)['meta']['iter'] == saved  # three batches are a step
    run(resume=True)
    assert same(last_checkpoint(run)['state_dict'], expected['state_dict'])
    assert names(run) == ['epoch_3.pth', 'epoch_4.pth']
