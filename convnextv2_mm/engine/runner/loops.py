"""Training loops in which every random number depends only on the seed and the position in the run.

MMEngine seeds once, at the start: what is drawn later depends on all that was drawn before, on the
number of loader processes and on the place where a run was taken up again. Here nothing does:

* the n-th image of epoch e, counted over all processes, is loaded and augmented with the seed
  (seed, e, n), which it also carries in its metainfo as ``seed``: FCMAE draws its mask from it;
* step t draws what it needs, such as dropped paths, from the seed (seed, t, rank).

So a run taken up at step t, in the middle of an epoch too, takes the same steps as one that never
stopped, and there are no random states to save.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.runner import Runner, loops
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader, Dataset, Sampler

from ...registry import LOOPS

# The steps' and the images' numbers come from different streams.
_IMAGES, _STEPS = 0, 1
SeededIndex = tuple[int, int, int]  # index of the image, epoch, number of the draw in the epoch


def seed_generators(*numbers: int) -> int:
    """Seed Python, NumPy and PyTorch's CPU generator with a hash of ``numbers``, and return it."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    seed = int(words[0]) << 31 | int(words[1]) >> 1  # 63 bits: an int64
    random.seed(seed)
    np.random.seed(words)
    torch.default_generator.manual_seed(seed)
    return seed


class SeededDataset(Dataset):
    """A data set indexed by draws, which seeds the random generators for each of them."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, draw: SeededIndex) -> Any:
        index, epoch, number = draw
        seed = seed_generators(self.seed, _IMAGES, epoch, number)
        data = self.dataset[index]
        sample = data.get('data_samples') if isinstance(data, dict) else None
        if isinstance(sample, BaseDataElement):
            sample.set_metainfo(dict(seed=seed))
        return data


class SeededBatchSampler(Sampler):
    """Batches of draws, from the batches of indices of another sampler.

    Attributes:
        epoch: Number of the epoch.
        start: Batches that the next pass leaves out, since they have been used: none is loaded.
    """

    def __init__(self, batches: Sampler, endless: bool) -> None:
        self.batches = batches
        self.endless = endless
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        rank, world_size = get_dist_info()
        epoch, left_out = self.epoch, self.start
        self.start = 0  # a hook may go through the epoch again, and needs all of it
        while True:
            number = rank  # samplers deal the images out to the processes in turn
            for indices in self.batches:
                draws = [(i, epoch, number + k * world_size) for k, i in enumerate(indices)]
                number += len(indices) * world_size
                if left_out:
                    left_out -= 1
                else:
                    yield draws
            if not self.endless:
                return
            epoch += 1
            if hasattr(self.batches.sampler, 'set_epoch'):
                self.batches.sampler.set_epoch(epoch)


class SeededDataLoader(DataLoader):
    """A loader that is what it was, data set and samplers included, but loads draws.

    Only its iterators have others. So hooks find, and change, what MMEngine has built.

    Attributes:
        draws: The batches of the next iterator.
        seed: The seed of the run, to be set before the first draw.
        seeds_sampler: Whether the sampler takes it too; not if its config gives it one.

    Args:
        loader: As MMEngine has built it.
        config: From this.
        endless: Whether an iterator goes through the data again and again.
    """

    def __init__(self, loader: DataLoader, config: DataLoader | dict, endless: bool) -> None:
        vars(self).update(vars(loader))
        workers_ignore_signals(self)
        self.draws = SeededBatchSampler(loader.batch_sampler, endless)
        self.seed = 0
        sampler = config.get('sampler') if isinstance(config, dict) else None
        self.seeds_sampler = isinstance(sampler, dict) and 'seed' not in sampler

    def _get_iterator(self) -> Iterator:
        loader = copy(self)
        parts = dict(dataset=SeededDataset(self.dataset, self.seed), batch_sampler=self.draws)
        vars(loader).update(parts)
        return super(SeededDataLoader, loader)._get_iterator()


def workers_ignore_signals(loader: DataLoader) -> None:
    """Make loader processes ignore the signals that a cluster or Ctrl-C sends to all processes.

    The training process needs them until its next step is saved. What that one sends, they obey.
    To tell these apart takes ``sigwaitinfo``: without it, on macOS and Windows, SIGTERM ends them.
    """
    loader.worker_init_fn = _WorkerStart(loader.worker_init_fn)
    if hasattr(signal, 'sigwaitinfo'):
        # A process begins with the signals blocked that are blocked where it is forked.
        loader._get_iterator = _sigterm_blocked()(loader._get_iterator)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _WorkerStart:
    """Initialize a loader process."""

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        for name in ('SIGINT', 'SIGHUP', 'SIGUSR1'):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_if_the_parent_asks, daemon=True).start()
        if self.then is not None:
            self.then(worker)


def _end_if_the_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _take_seed(runner: Runner, loader: SeededDataLoader) -> int:
    """The seed of the run, which a resumed one has from its checkpoint, given to all who draw."""
    seed = runner.seed
    if runner._randomness_cfg.get('diff_rank_seed'):
        seed -= runner.rank  # MMEngine has added it
    loader.seed = seed
    sampler = loader.batch_sampler.sampler
    if hasattr(sampler, 'seed') and loader.seeds_sampler:
        sampler.seed = seed
    return seed


def _seed_step(seed: int, step: int) -> None:
    number = seed_generators(seed, _STEPS, step, get_dist_info()[0])
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


@LOOPS.register_module()
class EpochBasedTrainLoop(loops.EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` that can also resume in the middle of an epoch.

    That needs the same number of batches in an epoch as before; with another, the epoch begins
    again.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader = SeededDataLoader(self.dataloader, dataloader, endless=False)

    def run(self) -> torch.nn.Module:
        """Train, from the current step on."""
        self.seed = _take_seed(self.runner, self.dataloader)
        return super().run()

    def run_epoch(self) -> None:
        """Train for what is left of an epoch."""
        draws, done = self.dataloader.draws, self._batches_done()
        batches = len(self.dataloader)
        position = dict(epoch=self._epoch, begin=self._iter - done, batches=batches)
        self.runner.message_hub.update_info('epoch_position', position)
        draws.epoch = self._epoch
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        draws.start = done
        for index, data_batch in enumerate(self.dataloader, done):
            self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Train for a batch."""
        _seed_step(self.seed, self._iter)
        super().run_iter(idx, data_batch)

    def _batches_done(self) -> int:
        """Batches of this epoch that were used before a checkpoint that training goes on from."""
        position = self.runner.message_hub.get_info('epoch_position')
        if position is None or position['epoch'] != self._epoch:
            return 0
        done = self._iter - position['begin']
        if position['batches'] != len(self.dataloader):
            self.runner.logger.warning(
                f'epoch {self._epoch + 1} begins again: it had {position["batches"]} batches when '
                f'the run stopped after {done}, and has {len(self.dataloader)} now'
            )
            return 0
        return done


class _Batches:
    """Endless batches; some can be skipped without loading them."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.iterator: Iterator | None = None

    def skip_iter(self, num_iters: int) -> None:
        self.loader.draws.start = num_iters

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = iter(self.loader)
        return next(self.iterator)


@LOOPS.register_module()
class IterBasedTrainLoop(loops.IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``, seeded as above, with any sampler and batch sampler."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader = SeededDataLoader(self.dataloader, dataloader, endless=True)
        self.dataloader_iterator = _Batches(self.dataloader)

    def run(self) -> torch.nn.Module:
        """Train, from the current step on."""
        self.seed = _take_seed(self.runner, self.dataloader)
        return super().run()

    def run_iter(self, data_batch: dict) -> None:
        """Train for a batch."""
        _seed_step(self.seed, self._iter)
        super().run_iter(data_batch)
