"""Depthwise convolution: the one layer of ConvNeXt V2 that looks across patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .backends import autocast_dtype, check_backend, is_for_triton, is_triton_right
from .patch_layout import PatchLayout

# Of the arguments with which Triton is tried: a small map.
TRIED_SHAPES = ((1, 9, 8, 64), (64, 1, 7, 7), (64,))


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
            ``triton`` reads neighbours through a table; 7×7 only, on CUDA or under Triton's
            interpreter. ``spconv`` adds up the pairs of sites that spconv finds, and is ``torch``
            for dense features. ``auto`` is ``triton`` where it applies, else ``torch``.

    Returns:
        Same shape as ``x``.

    Raises:
        ValueError: If the backend is unknown, or is ``triton`` and the kernel is not 7×7.
    """
    check_backend(backend)
    x = x.to(autocast_dtype(x))
    if backend == 'auto':
        is_7x7 = weight.shape[-2:] == (7, 7)
        backend = 'triton' if is_7x7 and _choose_triton(x) else 'torch'
    elif backend == 'triton' and weight.shape[-2:] != (7, 7):
        raise ValueError(
            f"backend 'triton' does not take a kernel of {weight.shape[-2]}x{weight.shape[-1]}: "
            f'it must be 7x7'
        )
    if layout is not None and x.ndim == 4:
        visible = layout.visible_map(x.shape[1] // layout.grid[0])
        return depthwise_conv(x * visible, weight, bias, None, backend) * visible
    if backend == 'triton':
        from .triton.depthwise_conv import triton_depthwise_conv  # not on every platform

        return triton_depthwise_conv(x, weight, bias, layout)
    if layout is None:
        return _torch_conv(x, weight, bias)
    if backend == 'spconv':
        from .spconv_depthwise_conv import spconv_depthwise_conv  # an extra

        return spconv_depthwise_conv(x, weight, bias, layout)
    return layout.pack(_torch_conv(layout.unpack(x), weight, bias))


def _torch_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = x.permute(0, 3, 1, 2)  # [N, C, H, W], channels-last in memory
    # The same, but the gradient comes back with its strides: DDP warns of others.
    weight = weight.squeeze(1).unsqueeze(1)
    x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


def _choose_triton(x: Tensor) -> bool:
    return is_for_triton(x) and is_triton_right(depthwise_conv, TRIED_SHAPES, x.device)
