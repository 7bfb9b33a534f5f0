"""Stop and resume runs."""

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
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner

from ...checkpoints.reading import inspect_file

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunStopped(Exception):
    """A run that cannot go on, through no fault of the code. The message is for the user."""


@contextmanager
def exit_on_stopped_run(work_dir: str) -> Iterator[None]:
    """End the program with exit code 3 and one line when a run cannot go on: see RunStopped.

    So it cannot if nothing can be written to its work dir any more.
    """
    try:
        yield
    except RunStopped as error:
        sentence = str(error)
    except OSError as error:
        is_full = error.errno in DISK_FULL
        if not is_full and not Path(str(error.filename)).is_relative_to(work_dir):
            raise
        sentence = f'{error.strerror}: {error.filename or "a log"} could not be written; the '
        sentence += 'checkpoints before are whole: go on with --resume when '
        sentence += 'there is room' if is_full else 'it can be'
        if not Path(work_dir).is_dir():
            sentence = lost(work_dir)
    else:
        return
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(3)


def lost(work_dir: str) -> str:
    """The error for a work dir that has vanished."""
    return f'work dir {work_dir} is gone: it was deleted, emptied or unmounted during the run'


def make_resumable(config: Config) -> None:
    """Use this package's loops and hooks where the config asks for MMEngine's.

    They are those of :mod:`.loops`, :mod:`.checkpoint_hook`, :mod:`.non_finite` and
    :mod:`.no_targets`, and take the same options. ``default_hooks.non_finite=None`` leaves that
    hook out, ``default_hooks.no_targets=None`` that one, and a type with its scope, such as
    ``mmengine.CheckpointHook``, stays.
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
    for name, kind in (('non_finite', 'NonFiniteHook'), ('no_targets', 'NoTargetsHook')):
        if hooks.setdefault(name, ConfigDict()) is None:
            del hooks[name]
        else:
            hooks[name].setdefault('type', f'convnextv2_mm.{kind}')


def checkpoint_folder(work_dir: str, out_dir: str | None) -> str:
    """Where MMEngine's ``CheckpointHook`` saves: ``out_dir`` has a folder for each work dir."""
    if not out_dir or out_dir == work_dir:
        return work_dir
    return f'{out_dir}/{Path(work_dir).name}'


def find_checkpoint(work_dir: str | Path, folder: str | Path | None = None) -> str | None:
    """The newest checkpoint that a run can resume from.

    That is the one that ``last_checkpoint`` names, in the folder of the run wherever it was before.
    If it is not whole, a warning says so, and the newest whole one there is taken: the one with the
    most iterations, whatever the clock says. So it is if there is no ``last_checkpoint``.

    Args:
        work_dir: Where ``last_checkpoint`` is.
        folder: Where the checkpoints are, if not there too.

    Returns:
        Its path; None if the run has none yet.

    Raises:
        ValueError: If there are some, and none is whole.
    """
    folder = Path(folder or work_dir)
    pointer = Path(work_dir) / 'last_checkpoint'
    last = pointer.read_text().strip() if pointer.is_file() else ''
    if '://' in last:
        return last
    named = [folder / Path(last).name] if last else []
    others = {path for path in folder.glob('*.pth') if not path.name.startswith('best_')}
    broken = []
    for paths in (named, others.difference(named)):
        whole = {}
        for path in paths:
            try:
                done = _iterations(path)
            except (FileNotFoundError, ValueError) as error:
                broken.append(path)
                message = f'{error}: looking for another checkpoint'
                print_log(message, 'current', logging.WARNING)
                continue
            if done is not None:
                whole[path] = done
        if whole:
            return str(max(whole, key=whole.__getitem__))
    if broken or named:
        path = (*named, *broken)[0]
        raise ValueError(
            f'{path} is not a checkpoint, or not a whole one; nor is another beside it'
        )
    return None


def _iterations(path: Path) -> int | None:
    """Iterations that a checkpoint was saved after; None if it holds weights alone.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not whole.
    """
    content = inspect_file(path)
    if not isinstance(content, dict) or not {'optimizer', 'message_hub', 'meta'} <= set(content):
        return None
    return content['meta']['iter']


def agree_on_checkpoint(runner: Runner | FlexibleRunner) -> None:
    """Make all processes resume from the checkpoint that the first one found.

    Each has looked for itself, and may have seen another state of the folder. Weights that differ
    would not be noticed: nothing compares them later.
    """
    found = [runner._load_from]
    broadcast_object_list(found)
    runner._load_from = found[0]
    runner._resume = runner._resume and found[0] is not None  # or MMEngine would look once more


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
