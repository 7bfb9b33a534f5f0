"""Choose the implementation of an operator."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import torch
from torch import Tensor

Operator: TypeAlias = Callable[..., Tensor]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]

BACKENDS = ('auto', 'torch', 'triton', 'spconv')


def check_backend(backend: str) -> None:
    """Raise ValueError if there is no such backend."""
    if backend not in BACKENDS:
        raise ValueError(f'backend {backend!r} is unknown: choose one of {", ".join(BACKENDS)}')


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast gives to a convolution or a linear layer of ``x``."""
    device = x.device.type
    if device != 'meta' and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def is_for_triton(x: Tensor) -> bool:
    """Whether Triton can run on features: on CUDA, and with sums in float32."""
    return x.is_cuda and x.dtype != torch.float64


@torch.compiler.assume_constant_result
def is_triton_right(operator: Operator, shapes: Shapes, device: torch.device) -> bool:
    """Whether Triton runs an operator on a device and agrees with PyTorch. Tried once.

    Triton is absent on some platforms, and needs a compiler and a driver that fit on the others.

    Args:
        operator: Takes tensors and ``backend``.
        shapes: Of these tensors; small, since both backends run forward and backward.
        device: Where they are.

    Raises:
        torch.OutOfMemoryError: If there is no room to try it: that says nothing about Triton.
    """
    return why_not_triton(operator, shapes, device) is None


@functools.cache  # below: Dynamo looks through a cache and past what is written on it
def why_not_triton(operator: Operator, shapes: Shapes, device: torch.device) -> str | None:
    """Why Triton cannot be used, None if it can: see :func:`is_triton_right`."""
    # The first call may come under inference_mode, autocast, another default device, the hooks of
    # activation checkpointing, or while torch.compile traces. All of these belong to a thread.
    with ThreadPoolExecutor(1) as pool:
        reason = pool.submit(_why_not, operator, shapes, device).result()
    if reason:
        name = operator.__name__
        warnings.warn(f"{name} uses backend 'torch' on {device}: Triton {reason}", stacklevel=2)
    return reason


def _why_not(operator: Operator, shapes: Shapes, device: torch.device) -> str | None:
    try:
        return None if _agree(operator, shapes, device) else 'gives other results'
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever it is, PyTorch's operators work
        return _too_old() or f'failed: {error}'


def _too_old() -> str | None:
    """What is needed where Triton is older than the kernels' language, None where it is not."""
    triton = sys.modules.get('triton')  # it may be what failed to be imported
    if triton is None or tuple(map(int, triton.__version__.split('.')[:2])) >= (3, 3):
        return None
    return f'{triton.__version__} cannot compile it: 3.3 or newer is needed, as in torch 2.7'


def _agree(operator: Operator, shapes: Shapes, device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes]
    results = []
    for backend in ('torch', 'triton'):
        y = operator(*tensors, backend=backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
    # PyTorch may round to TF32.
    return all((a - b).norm() <= 1e-2 * a.norm() for a, b in zip(*results, strict=True))
