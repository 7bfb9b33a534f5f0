"""Kernels in Triton, and what their launches share. Importing it needs no Triton."""

from __future__ import annotations

import functools
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
