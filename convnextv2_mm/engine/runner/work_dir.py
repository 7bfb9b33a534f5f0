"""Allow one run at a time in a work dir, and survive closed output pipes."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mmengine.logging import print_log

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = '.lock'
# A process that is being ended, or started again by torchrun, may still be on its way out.
PATIENCE = 10
_RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
_locks: list[TextIO] = []  # of this process


def lock_work_dir(*folders: str, launcher: str = 'none') -> None:
    """Lock folders against other runs until this process starts another run or ends.

    The system unlocks when a process ends, be it killed: nothing is left behind. Of the processes
    of a launcher, the first locks for all.

    Args:
        folders: The work dir, and where checkpoints go if not there. They are made.
        launcher: As MMEngine has it.

    Raises:
        OSError: If nothing can be written there.
        ValueError: If there is another run.
    """
    if int(os.environ.get(_RANKS.get(launcher, ''), 0)):
        return
    while _locks:
        _locks.pop().close()
    for folder in dict.fromkeys(folders):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            file = (Path(folder) / LOCK).open('a+')
        except OSError as error:
            sentence = f'work dir {folder} cannot be written: {error.strerror}'
            raise type(error)(sentence) from error
        _locks.append(file)
        _wait_for(file, folder)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()


def _wait_for(file: TextIO, folder: str) -> None:
    end = time.monotonic() + PATIENCE
    while not _is_locked(file):
        if time.monotonic() > end:
            file.seek(0)
            raise ValueError(
                f'work dir {folder} is in use by another run, {file.read().strip()}: give another '
                '--work-dir, or end that run'
            )
        time.sleep(0.2)


def _is_locked(file: TextIO) -> bool:
    """Try to lock a file for this process: unlike ``flock``, for no process that it forks."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        print_log(f'{file.name}: this file system has no locks, so a second run is not noticed')
    return True


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Keep running when the output pipe or terminal is closed.

    One sentence says so in the log, if there is one; what is printed after that is dropped.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Outliving, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Outliving:
    """A text stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            sentence = f'nobody reads {self._stream.name} any more: the run goes on without it'
            print_log(sentence, 'current', logging.WARNING)
