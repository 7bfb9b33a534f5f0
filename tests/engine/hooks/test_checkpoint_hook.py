"""Checkpoints are whole or absent, and a run goes on from the newest whole one."""

import errno
import multiprocessing
import os
import re
import shutil
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
from torch import distributed

from convnextv2_mm.checkpoints.reading import read_file
from convnextv2_mm.engine.hooks.checkpoint_hook import AtomicLocalBackend
from convnextv2_mm.engine.runner.resume import RunStopped, find_checkpoint, same
from convnextv2_mm.utils.distributed import destroying_process_group

pytestmark = pytest.mark.long

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


@pytest.fixture(scope='module')
def validated(shapes, tmp_path_factory) -> tuple[list[str], list[float], dict]:
    """The same with validation: names of its checkpoints, losses in validation, the last one."""
    run = with_validation(shapes, tmp_path_factory.mktemp('validated'))
    losses = run().message_hub.get_scalar('val/fcmae/loss').data[0].tolist()
    return names(run), losses, last_checkpoint(run)


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


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'absent', 'one bit', 'all'])
def test_damaged_checkpoint_is_passed_over(damage, shapes, tmp_path, expected, capsys):
    run = Run(shapes, tmp_path)
    with pytest.raises(Killed):
        run(Kill(15))
    path = tmp_path / 'epoch_3.pth'
    content = path.read_bytes()
    if damage == 'absent':
        path.unlink()
    elif damage == 'one bit':
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
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

    monkeypatch.setattr(AtomicLocalBackend, 'remove', remove)
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
        dataset = runner.train_dataloader.dataset
        getattr(dataset, 'dataset', dataset)._metainfo = dict(
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


def test_validation_that_was_cut_short_is_made_up_for(shapes, tmp_path, validated):
    run = with_validation(shapes, tmp_path / 'run')
    with pytest.raises(Killed):
        run(KillInValidation())
    losses = run(resume=True).message_hub.get_scalar('val/fcmae/loss').data[0]
    assert (names(run), losses.tolist()) == validated[:2]


class Signal(Hook):
    """Send a signal to this process in the middle of a step."""

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ('number', 'at', 'saved'),
    [
        (signal.SIGTERM, 4, 6),
        (signal.SIGINT, 12, 12),
        (signal.SIGHUP, 4, 6),
        (signal.SIGUSR1, 4, 6),
    ],
)
def test_signal_saves_at_the_next_step_and_ends(number, at, saved, shapes, tmp_path, expected):
    before = signal.signal(number, signal.SIG_DFL)  # tests in the background ignore some
    run = Run(shapes, tmp_path)
    try:
        with pytest.raises(SystemExit) as stop:
            run(Signal(number, at))
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number
    assert last_checkpoint(run)['meta']['iter'] == saved  # three batches are a step
    run(resume=True)
    assert same(last_checkpoint(run)['state_dict'], expected['state_dict'])
    assert names(run) == ['epoch_3.pth', 'epoch_4.pth']


def test_ignored_signal_stays_ignored(shapes, tmp_path):
    """As SIGHUP is after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Run(shapes, tmp_path)(Signal(signal.SIGHUP, 4))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class SignalInValidation(Hook):
    def __init__(self, at: int) -> None:
        self.at = at

    def before_val_iter(self, runner, batch_idx, **kwargs):
        if runner.iter == self.at and batch_idx == 0:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGTERM)  # as a cluster does, loaders and all


def stopped_in_validation(run: Run, at: int, resume: bool = False) -> list[str]:
    """Stop a run in its validation after iteration ``at``: the files that it leaves."""
    with pytest.raises(SystemExit) as stop:
        run(SignalInValidation(at), resume=resume)
    assert stop.value.code == 143
    return names(run)


@pytest.mark.parametrize('last', [False, True])
def test_signal_in_validation_leaves_what_was_saved_before_it(last, shapes, tmp_path, validated):
    """A checkpoint is saved before each validation; the signal comes twice at the same place."""
    run = with_validation(shapes, tmp_path / 'run')
    run.config.val_dataloader.update(num_workers=1, persistent_workers=True)
    at, saved = (16, 'epoch_4.pth') if last else (8, 'epoch_2.pth')
    assert saved in stopped_in_validation(run, at)
    content = (tmp_path / 'run' / saved).read_bytes()
    assert 'interrupted.pth' not in stopped_in_validation(run, at, resume=True)
    assert (tmp_path / 'run' / saved).read_bytes() == content
    losses = run(resume=True).message_hub.get_scalar('val/fcmae/loss').data[0]
    assert (names(run), losses.tolist()) == validated[:2]
    assert same(last_checkpoint(run)['state_dict'], validated[2]['state_dict'])


@pytest.mark.parametrize('last', [False, True])
def test_signal_in_validation_saves_what_it_started_with(last, shapes, tmp_path):
    """Validations are out of step with checkpoints and gradients; averaged weights are swapped."""

    def iterations(name: str, interval: int) -> Run:
        run = with_validation(shapes, tmp_path / name)
        run.config.train_cfg = dict(by_epoch=False, max_iters=10, val_interval=4)
        run.config.default_hooks.checkpoint = dict(
            type='CheckpointHook', by_epoch=False, interval=interval, save_last=False
        )
        return run

    whole, run = iterations('whole', 1), iterations('run', 100)
    at = 10 if last else 4
    hub = whole().message_hub
    assert stopped_in_validation(run, at) == ['interrupted.pth']
    saved = last_checkpoint(run)
    before = read_file(tmp_path / 'whole' / f'iter_{at}.pth')
    parts = ['state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers']
    for part in parts + ([] if last else ['gradients']):  # the last step is taken in any case
        assert same(saved[part], before[part]), part
    infos = [c['message_hub']['runtime_info'] for c in (saved, before)]
    others = {'experiment_name', 'cfg', 'eta', 'last_ckpt'}
    saved, before = ({k: i[k] for k in i if k not in others} for i in infos)
    assert saved == before
    resumed = run(resume=True).message_hub
    for name in ('val/fcmae/loss', 'train/loss'):
        losses = [h.get_scalar(name).data[0].tolist() for h in (resumed, hub)]
        assert losses[0] == losses[1]


def train_one_of_two(rank: int, shapes: Path, folder: Path) -> None:
    """Only the second process gets the signal, and the first has one batch more to validate."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    meeting = f'file://{folder}/meeting'
    distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    run = with_validation(shapes, folder / 'run')
    run.config.train_cfg.max_epochs = 1
    wrapper = dict(device_ids=None, broadcast_buffers=False)
    run.config.update(launcher='pytorch', model_wrapper_cfg=wrapper)
    run.config.val_dataloader.update(batch_size=1, sampler=dict(type='DefaultSampler'))
    run.config.val_dataloader.sampler.update(shuffle=False, round_up=False)
    run.config.val_dataloader.dataset.split = 'train'
    with pytest.raises(SystemExit) as stop, destroying_process_group():
        run(*([SignalInValidation(2)] if rank else []))
    (folder / f'code_{rank}').write_text(str(stop.value.code))
    assert not distributed.is_initialized()


def test_signal_to_one_of_two_processes_in_validation(without_gpus, shapes, tmp_path):
    torch.multiprocessing.spawn(train_one_of_two, (shapes, tmp_path), nprocs=2)
    assert [(tmp_path / f'code_{rank}').read_text() for rank in range(2)] == ['143', '143']
    saved = read_file(tmp_path / 'run' / 'epoch_1.pth')
    assert saved['message_hub']['runtime_info']['saved_before_validation']
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == 'epoch_1.pth'


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob('*') if path.is_file()}


def test_checkpoint_of_another_work_dir_costs_it_nothing(shapes, tmp_path):
    other = with_validation(shapes, tmp_path / 'a' / 'run')
    with pytest.raises(Killed):
        other(Kill(9))
    before = contents(tmp_path / 'a' / 'run')
    saved = torch.load(tmp_path / 'a/run/epoch_2.pth', weights_only=False)
    assert Path(saved['message_hub']['runtime_info']['best_ckpt']).name in before

    run = with_validation(shapes, tmp_path / 'run')
    run.config.update(resume=True, load_from=str(tmp_path / 'a/run/epoch_2.pth'))
    (tmp_path / 'run').mkdir()
    own = tmp_path / 'run' / 'epoch_2.pth'  # of an earlier run here, with a number that was kept
    own.write_bytes(before['epoch_2.pth'])
    run()
    assert contents(tmp_path / 'a' / 'run') == before
    assert own.exists()
    assert {'best_fcmae_loss_epoch_4.pth', 'epoch_4.pth'} <= set(names(run))


@pytest.mark.parametrize('place', ['elsewhere', 'inside'])
def test_named_best_checkpoint_is_not_deleted_unless_it_is_one(place, shapes, tmp_path):
    run = with_validation(shapes, tmp_path / 'run')
    with pytest.raises(Killed):
        run(Kill(9))
    precious = tmp_path / 'precious.txt' if place == 'elsewhere' else tmp_path / 'run/best.txt'
    precious.write_text('years of work')
    content = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    content['message_hub']['runtime_info']['best_ckpt'] = str(precious)
    content['message_hub']['runtime_info']['keep_ckpt_ids'] = ['../../precious', 1, 2]
    torch.save(content, tmp_path / 'run/epoch_2.pth')
    run.config.default_hooks.checkpoint.filename_tmpl = '{}.pth'
    run(resume=True)
    assert precious.read_text() == 'years of work'


@pytest.mark.parametrize(
    ('pointer', 'moved'), [('name', False), ('path, as before', True), ('none', False)]
)
def test_moved_or_copied_work_dir_goes_on_from_its_own_files(
    pointer, moved, shapes, tmp_path, monkeypatch, validated
):
    old, new = tmp_path / 'old' / 'run', tmp_path / 'new' / 'run'
    run = with_validation(shapes, old)
    with pytest.raises(Killed):
        run(Kill(9))
    assert (old / 'last_checkpoint').read_text() == 'epoch_2.pth'
    if pointer == 'none':
        (old / 'last_checkpoint').unlink()
    elif pointer != 'name':
        (old / 'last_checkpoint').write_text(str(old / 'epoch_2.pth'))
    new.parent.mkdir()
    shutil.move(old, new) if moved else shutil.copytree(old, new)
    before = None if moved else contents(old)
    run = with_validation(shapes, new)
    monkeypatch.chdir(tmp_path)
    run(resume=True)
    assert same(last_checkpoint(run)['state_dict'], validated[2]['state_dict'])
    assert names(run) == validated[0]  # the best of before was deleted for a better one
    assert moved or contents(old) == before


def test_auto_resume_of_a_runner_without_our_tools(shapes, tmp_path, monkeypatch):
    run = Run(shapes, tmp_path)
    with pytest.raises(Killed):
        run(Kill(9))
    run.config.resume = True
    monkeypatch.chdir('/')
    assert run().message_hub.get_scalar('train/loss').data[0].size == 16


def test_checkpoints_elsewhere_are_found_again(shapes, tmp_path, expected):
    """With CheckpointHook's out_dir, which has a folder for each work dir."""
    run = Run(shapes, tmp_path / 'run', {'default_hooks.checkpoint.out_dir': str(tmp_path / 'out')})
    with pytest.raises(Killed):
        run(Kill(9))
    assert sorted(p.name for p in tmp_path.glob('out/run/*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    run.config.resume = True
    run()
    assert sorted(p.name for p in tmp_path.glob('out/run/*.pth')) == ['epoch_3.pth', 'epoch_4.pth']
    assert same(last_checkpoint(run)['state_dict'], expected['state_dict'])


def test_lost_work_dir_is_not_made_anew(shapes, tmp_path):
    class Lose(Hook):
        priority = 'LOWEST'

        def after_train_epoch(self, runner):
            if runner.epoch == 1:
                shutil.rmtree(tmp_path / 'run')

    run = Run(shapes, tmp_path / 'run', {'default_hooks.logger': None})
    with pytest.raises(RunStopped, match='run is gone: it was deleted'):
        run(Lose())
    assert not (tmp_path / 'run').exists()
