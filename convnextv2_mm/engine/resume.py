"""Runs that end before their end, and are taken up again."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..checkpoints.reading import read_file

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunStopped(Exception):
    """A run that cannot go on, through no fault of the code. The message is for the user."""


@contextmanager
def one_sentence_stops() -> Iterator[None]:
    """End the program with exit code 3 and one line when a run cannot go on: see RunStopped."""
    try:
        yield
    except RunStopped as error:
        sentence = str(error)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        sentence = f'{error.strerror}: {error.filename or "a log"} could not be written; the '
        sentence += 'checkpoints before are whole: go on with --resume when there is room'
    else:
        return
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(3)


def make_resumable(config: Config) -> None:
    """Train with the loops and hooks of this package where the config leaves it to MMEngine's.

    They are those of :mod:`.loops`, :mod:`.checkpoint_hook` and :mod:`.non_finite`, and take the
    same options. ``default_hooks.non_finite=None`` leaves that hook out, and a type with its scope,
    such as ``mmengine.CheckpointHook``, stays.
    """
    loop = config.train_cfg
    if 'type' not in loop:
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    if loop.type in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
        loop.type = f'convnextv2_mm.{loop.type}'
    hooks = config.setdefault('default_hooks', ConfigDict())
    checkpoint = hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))
    if checkpoint is not None and checkpoint.type == 'CheckpointHook':
        checkpoint.type = 'convnextv2_mm.CheckpointHook'
    if hooks.setdefault('non_finite', ConfigDict()) is None:
        del hooks['non_finite']
    else:
        hooks.non_finite.setdefault('type', 'convnextv2_mm.NonFiniteHook')


def find_checkpoint(work_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that it can go on from.

    That is the one that ``last_checkpoint`` names. If it is not whole, a warning says so, and the
    newest whole one beside it is taken.

    Returns:
        Its path; None if the run has none yet.

    Raises:
        ValueError: If there are some, and none is whole.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if not pointer.is_file():
        return None
    last = pointer.read_text().strip()
    if '://' in last:
        return last
    others = [path for path in Path(last).parent.glob('*.pth') if 'best' not in path.name]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in dict.fromkeys([Path(last), *others]):
        try:
            content = read_file(path)
        except (FileNotFoundError, ValueError) as error:
            print_log(f'{error}: looking for the checkpoint before it', 'current', logging.WARNING)
            continue
        if isinstance(content, dict) and {'optimizer', 'message_hub'} <= set(content):
            return str(path)
    raise ValueError(f'{last} is not a checkpoint, or not a whole one; nor is another beside it')


def same(a: Any, b: Any) -> bool:
    """Whether two parts of checkpoints are equal, bit for bit."""
    if type(a) is not type(b):
        return False
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
