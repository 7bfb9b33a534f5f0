"""Choose the implementation of an operator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

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
    """Whether Triton can run on features: on CUDA, and with sums in float32."""
    return x.is_cuda and x.dtype != torch.float64


def is_triton_right(
    operator: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> bool:
    """Whether Triton runs an operator on a device and agrees with PyTorch.

    Triton is absent on some platforms, and needs a compiler and a driver that fit on the others.

    Args:
        operator: Takes tensors and ``backend``.
        shapes: Of these tensors; small, since both backends run forward and backward.
        device: Where they are.
    """
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            is_right = _agree(operator, shapes, device)
        reason = 'gives other results'
    except Exception as error:  # whatever it is, PyTorch's operators work
        is_right, reason = False, f'failed: {error}'
    if not is_right:
        name = operator.__name__
        warnings.warn(f"{name} uses backend 'torch' on {device}: Triton {reason}", stacklevel=2)
    return is_right


def _agree(
    operator: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> bool:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes]
    results = []
    for backend in ('torch', 'triton'):
        y = operator(*tensors, backend=backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
    # PyTorch may round to TF32.
    return all((a - b).norm() <= 1e-2 * a.norm() for a, b in zip(*results, strict=True))
