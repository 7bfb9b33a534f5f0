"""Depthwise convolution: the one layer of ConvNeXt V2 that looks across patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .patch_layout import PatchLayout


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: PatchLayout | None = None
) -> Tensor:
    """Depthwise convolution with zero padding, stride 1, same size.

    With a layout it is the submanifold sparse convolution of FCMAE (paper, section 3.1): masked
    sites are read as zeros and get no output. Packed features go through a zero canvas.

    Args:
        x: ``(N, H, W, C)`` dense, or ``(N, K, s, s, C)`` packed by ``layout``.
        weight: ``(C, 1, k, k)`` with k odd.
        bias: ``(C,)`` or None.
        layout: The visible patches. With dense ``x`` masked sites are zeroed before and after.

    Returns:
        Same shape as ``x``.
    """
    if layout is None:
        return _dense(x, weight, bias)
    if x.ndim == 5:
        return layout.pack(_dense(layout.unpack(x), weight, bias))
    visible = layout.visible_map(x.shape[1] // layout.grid[0])
    return _dense(x * visible, weight, bias) * visible


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = x.permute(0, 3, 1, 2)  # [N, C, H, W], channels-last in memory
    x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)
