"""Kernels in Triton, and what their launches share. Importing it needs no Triton."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch


def operator_when_compiling(name: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Make a function that launches kernels an operator, for ``torch.compile`` to take as it is.

    In eager mode it stays a function, since the host is the limit there and dispatching costs it.

    Args:
        name: Of the operator.
        fake: Takes the same arguments and returns empty tensors like the function's.
    """

    def decorate(function: Callable) -> Callable:
        operator = torch.library.custom_op(f'convnextv2_mm::{name}', function, mutates_args=())
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return operator(*args) if torch.compiler.is_compiling() else function(*args)

        return call

    return decorate


def power_of_2(n: int) -> int:
    """The least power of 2 that is not below n, in less host time than Triton's own function."""
    return 1 << (n - 1).bit_length()


def provide_cache() -> None:
    """Give Triton a temporary folder for compiled kernels where its own cannot be written.

    It would not compile them otherwise: in a container, for instance, whose home is read-only.
    """
    home = os.environ.get('TRITON_HOME') or os.path.expanduser('~')
    folder = os.environ.get('TRITON_CACHE_DIR') or os.path.join(home, '.triton', 'cache')
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror
        os.environ['TRITON_CACHE_DIR'] = tempfile.mkdtemp(prefix='triton-')
        atexit.register(shutil.rmtree, os.environ['TRITON_CACHE_DIR'], ignore_errors=True)
        warnings.warn(
            f'{folder} cannot be written ({reason}): the Triton kernels are compiled in each run; '
            'TRITON_CACHE_DIR names a folder that keeps them',
            stacklevel=2,
        )
