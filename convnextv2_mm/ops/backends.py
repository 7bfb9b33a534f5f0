"""Which implementation of an operator runs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

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
    """Whether ``auto`` leaves features to Triton; its sums are in float32."""
    return x.is_cuda and x.dtype != torch.float64 and _is_triton_right(x.device)


@torch.compiler.assume_constant_result
@functools.cache
def _is_triton_right(device: torch.device) -> bool:
    """Whether the kernels run on a device and agree with PyTorch: tried once, on a small map.

    Triton is absent on some platforms, and needs a compiler and a driver that fit on the others.
    """
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            is_right = all(_agree(*pair, device) for pair in _operators())
        reason = 'give other results'
    except Exception as error:  # whatever it is, PyTorch's operators work
        is_right, reason = False, f'failed: {error}'
    if not is_right:
        warnings.warn(
            f"backend 'torch' is used on {device}: Triton's kernels {reason}", stacklevel=2
        )
    return is_right


def _operators() -> list[tuple[Callable[..., Tensor], list[tuple[int, ...]]]]:
    """Each operator as a function of a backend and tensors, and the shapes of these."""
    from .depthwise_conv import depthwise_conv
    from .gelu_grn_linear import gelu_grn_linear

    return [
        (
            lambda backend, *tensors: depthwise_conv(*tensors, backend=backend),
            [(1, 9, 8, 64), (64, 1, 7, 7), (64,)],
        ),
        (
            lambda backend, *tensors: gelu_grn_linear(*tensors, backend=backend),
            [(1, 9, 8, 64), (64,), (64,), (16, 64), (16,)],
        ),
    ]


def _agree(
    operator: Callable[..., Tensor], shapes: list[tuple[int, ...]], device: torch.device
) -> bool:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes]
    results = []
    for backend in ('torch', 'triton'):
        y = operator(backend, *tensors)
        results.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
    # PyTorch may round to TF32.
    return all((a - b).norm() <= 1e-2 * a.norm() for a, b in zip(*results, strict=True))
