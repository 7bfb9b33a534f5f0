"""A run that was stopped and taken up again equals one that was not, bit for bit."""

import os
import pickle
import signal

import pytest
import torch
from mmengine.hooks import Hook
from stopped_runs import Kill, Killed, Run, last_checkpoint
from torch.utils.data import DataLoader

from convnextv2_mm.engine.runner.loops import _WorkerStart, workers_ignore_signals
from convnextv2_mm.engine.runner.resume import same

PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
MIDDLE = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 5}
ITERATIONS = {'train_cfg': dict(type='IterBasedTrainLoop', max_iters=16)}
# 4 batches an epoch, 3 a step of the optimizer, checkpoints every 4 or 5: all are out of step.
RUNS = {
    'epochs': {},
    'epochs, saved in the middle': MIDDLE,
    'iterations, endless sampler': {
        **MIDDLE,
        **ITERATIONS,
        'train_dataloader.sampler.type': 'InfiniteSampler',
    },
    'iterations, sampler of an epoch': MIDDLE | ITERATIONS,
    'no seed': {'randomness': dict(seed=None)},
    'float16': {
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.loss_scale': dict(init_scale=8.0, growth_interval=2),
    },
}


@pytest.mark.long
@pytest.mark.parametrize('kind', RUNS)
def test_resume_is_exact(kind, shapes, tmp_path, scaler_on_cpu):
    whole = Run(shapes, tmp_path / 'whole', RUNS[kind])
    first = whole()
    expected = last_checkpoint(whole)
    if kind == 'float16':
        assert expected['optimizer']['loss_scaler']['scale'] > 8
    for kills in ([6, 12], [16]):
        run = Run(shapes, tmp_path / f'killed at {kills}', RUNS[kind])
        if kind == 'no seed':  # of the two runs; the resumed one has it from its checkpoint
            run.config.randomness.seed = first.seed
        for number, at in enumerate(kills):
            with pytest.raises(Killed):
                run(Kill(at, before=number == 1), resume=number > 0)
        if kind == 'no seed':
            run.config.randomness.seed = None
        run(resume=True)
        found = last_checkpoint(run)
        assert found['meta']['iter'] == 16
        for part in PARTS:
            assert same(found[part], expected[part]), (kills, part)


@pytest.mark.long
def test_loader_processes_change_nothing(shapes, tmp_path):
    whole = Run(shapes, tmp_path / 'whole')
    whole()
    run = Run(shapes, tmp_path / 'run', {'train_dataloader.num_workers': 2})
    run()
    assert same(last_checkpoint(run)['state_dict'], last_checkpoint(whole)['state_dict'])


class Batches(Hook):
    """What the model gets."""

    def __init__(self):
        self.images, self.seeds, self.paths = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.images.append(data_batch['inputs'])
        self.seeds.append([sample.seed for sample in data_batch['data_samples']])
        self.paths.append([sample.img_path for sample in data_batch['data_samples']])


def test_every_draw_is_another(shapes, tmp_path):
    """An image looks different each time, and no two draws share a seed."""
    batches = Batches()
    Run(shapes, tmp_path)(batches)
    seeds = sum(batches.seeds, [])
    assert len(set(seeds)) == len(seeds) == 4 * 7
    paths = sum(batches.paths, [])
    assert all(sorted(paths[i : i + 7]) == sorted(paths[:7]) for i in (7, 14, 21))
    assert paths[:7] != paths[7:14]
    images = torch.cat(batches.images)
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_other_number_of_batches_begins_the_epoch_again(shapes, tmp_path):
    run = Run(shapes, tmp_path, MIDDLE)
    with pytest.raises(Killed):
        run(Kill(6))
    run.config.train_dataloader.batch_size = 7
    batches = Batches()
    run(batches, resume=True)
    assert [len(paths) for paths in batches.paths] == [7, 7, 7]  # epochs 2, 3 and 4


@pytest.mark.parametrize('persistent', [False, True])
def test_loader_processes_outlive_sigterm_from_their_first_moment_on(persistent, monkeypatch):
    """A cluster sends it to all processes, also to those that have only just been forked."""
    start = _WorkerStart.__call__

    def late_start(self, worker):
        os.kill(os.getpid(), signal.SIGTERM)
        start(self, worker)

    monkeypatch.setattr(_WorkerStart, '__call__', late_start)
    loader = DataLoader(range(8), num_workers=2, persistent_workers=persistent)
    workers_ignore_signals(loader)
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == list(range(8))
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_loader_processes_start_where_signals_cannot_be_waited_for(monkeypatch):
    """On macOS and Windows, where they are not forked either."""
    monkeypatch.delattr(signal, 'sigwaitinfo')
    loader = DataLoader(range(8), num_workers=1)
    workers_ignore_signals(loader)
    assert torch.cat(list(loader)).tolist() == list(range(8))
    assert isinstance(pickle.loads(pickle.dumps(loader.worker_init_fn)), _WorkerStart)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    _WorkerStart(None)(0)
