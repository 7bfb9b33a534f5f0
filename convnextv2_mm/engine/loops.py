"""Training loops in which every random number follows from the seed and the place in the run.

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
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.runner import Runner, loops
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, DataLoader, Dataset

from ..registry import LOOPS

# The steps' and the images' numbers come from different streams.
_IMAGES, _STEPS = 0, 1
_LOADER_OPTIONS = (
    'num_workers',
    'collate_fn',
    'pin_memory',
    'timeout',
    'multiprocessing_context',
    'generator',
    'prefetch_factor',
    'persistent_workers',
    'pin_memory_device',
    'in_order',
)
Draw = tuple[int, int, int]  # index of the image, epoch, number of the draw in the epoch


def seed_generators(*numbers: int) -> int:
    """Seed Python, NumPy and PyTorch's CPU generator with a hash of ``numbers``, and return it."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    seed = int(words[0]) << 31 | int(words[1]) >> 1  # 63 bits: an int64
    random.seed(seed)
    np.random.seed(words)
    torch.default_generator.manual_seed(seed)
    return seed


class SeededDataset(Dataset):
    """A data set that is asked for draws instead of indices, and seeds the generators for each.

    Attributes:
        seed: The seed of the run, to be set before the first draw.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.seed = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'dataset':  # asked for while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict:
        index, epoch, number = draw
        seed = seed_generators(self.seed, _IMAGES, epoch, number)
        data = self.dataset[index]
        sample = data.get('data_samples')
        if isinstance(sample, BaseDataElement):
            sample.set_metainfo(dict(seed=seed))
        return data


class DrawSampler(BatchSampler):
    """Batches of draws, from the batches of indices of another sampler.

    Attributes:
        epoch: Number of the epoch.
        start: Batches of it that are left out, since they have been used: none is loaded.
    """

    def __init__(self, batches: BatchSampler, endless: bool) -> None:
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)
        self.batches = batches
        self.endless = endless
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, world_size = get_dist_info()
        epoch, left_out = self.epoch, self.start
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
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)


def _load_draws(loader: DataLoader, endless: bool) -> DataLoader:
    """The same loader, of draws."""
    options = {name: getattr(loader, name) for name in _LOADER_OPTIONS if hasattr(loader, name)}
    return DataLoader(
        SeededDataset(loader.dataset),
        batch_sampler=DrawSampler(loader.batch_sampler, endless),
        worker_init_fn=_WorkerStart(loader.worker_init_fn),
        **options,
    )


class _WorkerStart:
    """Let a loader process outlive the signals that a cluster, or Ctrl-C, sends to all processes.

    The training process needs it until its next step is saved. What that one sends, it obeys.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        for name in ('SIGINT', 'SIGHUP', 'SIGUSR1'):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_if_the_parent_asks, daemon=True).start()
        if self.then is not None:
            self.then(worker)


def _end_if_the_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _take_seed(runner: Runner, loader: DataLoader) -> int:
    """The seed of the run, which a resumed one has from its checkpoint, given to all who draw."""
    seed = runner.seed
    if runner._randomness_cfg.get('diff_rank_seed'):
        seed -= runner.rank  # MMEngine has added it
    loader.dataset.seed = seed
    if hasattr(loader.batch_sampler.sampler, 'seed'):
        loader.batch_sampler.sampler.seed = seed
    return seed


def _seed_step(seed: int, step: int) -> None:
    number = seed_generators(seed, _STEPS, step, get_dist_info()[0])
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


@LOOPS.register_module()
class EpochBasedTrainLoop(loops.EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``, which can also be taken up in the middle of an epoch.

    That needs the same number of batches in an epoch as before; with another, the epoch begins
    again.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader = _load_draws(self.dataloader, endless=False)

    def run(self) -> torch.nn.Module:
        """Train, from the current step on."""
        self.seed = _take_seed(self.runner, self.dataloader)
        return super().run()

    def run_epoch(self) -> None:
        """Train for what is left of an epoch."""
        draws = self.dataloader.batch_sampler
        draws.epoch, draws.start = self._epoch, self._batches_done()
        position = dict(epoch=self._epoch, begin=self._iter - draws.start, batches=len(draws))
        self.runner.message_hub.update_info('epoch_position', position)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, data_batch in enumerate(self.dataloader, draws.start):
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
    """Batches without end, of which some can be left out without loading them."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.iterator: Iterator | None = None

    def skip_iter(self, num_iters: int) -> None:
        self.loader.batch_sampler.start = num_iters

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = iter(self.loader)
        return next(self.iterator)


@LOOPS.register_module()
class IterBasedTrainLoop(loops.IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``, seeded as above, with any sampler and batch sampler."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader = _load_draws(self.dataloader, endless=True)
        self.dataloader_iterator = _Batches(self.dataloader)

    def run(self) -> torch.nn.Module:
        """Train, from the current step on."""
        self.seed = _take_seed(self.runner, self.dataloader)
        return super().run()

    def run_iter(self, data_batch: dict) -> None:
        """Train for a batch."""
        _seed_step(self.seed, self._iter)
        super().run_iter(data_batch)
