"""Atomic writes: a file is complete or absent, whatever interrupts the program or the machine.

They are written beside their place, brought to the disk, and renamed into it: POSIX renames a file
onto another in one step, so that a reader finds the old one or the new one.
"""

from __future__ import annotations

import csv
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = '.partial'  # ending of what is being written


@contextmanager
def atomic_write(destination: Path) -> Iterator[Path]:
    """Write to a temporary path that replaces ``destination`` on success and is removed on failure.

    The path is for a file or a folder that does not exist yet. What a kill leaves of it is hidden
    and ends in ``PARTIAL``.

    Raises:
        OSError: If it cannot be written, with the name of the destination.
    """
    path = destination.with_name(f'.{destination.name}.{uuid.uuid4().hex}{PARTIAL}')
    try:
        yield path
        for inside in (*path.rglob('*'), path):
            _sync(inside)
        os.replace(path, destination)
        _sync(destination.parent)
    except OSError as error:
        error.filename = str(destination)
        raise
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_csv(destination: Path, table: Iterable[Iterable[Any]]) -> None:
    """Write rows atomically, as UTF-8."""
    with atomic_write(destination) as path, path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(table)


def _sync(path: Path) -> None:
    """Wait until a file, or the list of files of a folder, is on the disk."""
    is_windows = os.name == 'nt'
    if is_windows and path.is_dir():
        return  # cannot be opened there
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
