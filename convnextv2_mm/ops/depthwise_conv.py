"""Depthwise convolution: the one layer of ConvNeXt V2 that looks across patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .patch_layout import PatchLayout

BACKENDS = ('auto', 'torch', 'triton')


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    layout: PatchLayout | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Depthwise convolution with zero padding, stride 1, same size.

    With a layout it is the submanifold sparse convolution of FCMAE (paper, section 3.1): masked
    sites are read as zeros and get no output.

    Args:
        x: ``(N, H, W, C)`` dense, or ``(N, K, s, s, C)`` packed by ``layout``.
        weight: ``(C, 1, k, k)`` with k odd.
        bias: ``(C,)`` or None.
        layout: The visible patches. With dense ``x`` masked sites are zeroed before and after.
        backend: ``torch`` is PyTorch's own convolution, for packed features on a canvas of zeros.
            ``triton`` reads neighbours through a table of patches; 7×7 only, on CUDA or under
            Triton's interpreter. ``auto`` is ``torch`` until the other has been measured on a GPU.

    Returns:
        Same shape as ``x``.

    Raises:
        ValueError: If the backend is unknown.
    """
    check_backend(backend)
    conv = _triton if backend == 'triton' else _dense
    if layout is None:
        return conv(x, weight, bias)
    if x.ndim == 4:
        visible = layout.visible_map(x.shape[1] // layout.grid[0])
        return conv(x * visible, weight, bias) * visible
    if backend == 'triton':
        return _triton(x, weight, bias, layout)
    return layout.pack(_dense(layout.unpack(x), weight, bias))


def check_backend(backend: str) -> None:
    """Raise ValueError if there is no such backend."""
    if backend not in BACKENDS:
        raise ValueError(f'backend {backend!r} is unknown: choose one of {", ".join(BACKENDS)}')


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = x.permute(0, 3, 1, 2)  # [N, C, H, W], channels-last in memory
    x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


def _triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: PatchLayout | None = None
) -> Tensor:
    from .triton_depthwise_conv import TritonDepthwiseConv  # Triton is not on every platform

    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return TritonDepthwiseConv.apply(x, weight, bias, layout)
