"""Depthwise convolution over packed patches by the pairs of sites that spconv finds.

spconv (https://github.com/traveller59/spconv) has no depthwise convolution, but its table of which
site meets which under each tap is what a sparse library makes one from: gather, multiply, add.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .patch_layout import PatchLayout

Pairs = list[tuple[Tensor, Tensor]]
_PAIRS: WeakKeyDictionary[PatchLayout, dict[tuple[int, int], Pairs]] = WeakKeyDictionary()


def spconv_depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: PatchLayout
) -> Tensor:
    """Depthwise convolution of packed ``(N, K, s, s, C)``; waits for the device to count pairs.

    Args:
        x: Packed features.
        weight: ``(C, 1, k, k)``.
        bias: ``(C,)`` or None.
        layout: The visible patches.

    Returns:
        Same shape as ``x``.

    Raises:
        ImportError: If spconv is not installed.
    """
    # Every block of a stage asks for the same: the first has it computed.
    found = _PAIRS.setdefault(layout, {})
    key = (x.shape[2], weight.shape[-1])
    if key not in found:
        found[key] = _find_pairs(layout, *key)
    y = _PairwiseConv.apply(x.reshape(-1, x.shape[-1]), weight, found[key])
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y.view_as(x)


def _find_pairs(layout: PatchLayout, side: int, kernel_size: int) -> Pairs:
    """For each tap, the packed sites that are read and those that are written."""
    try:
        from spconv.core import ConvAlgo
        from spconv.pytorch.ops import get_indice_pairs
    except ImportError as error:
        raise ImportError(
            "backend 'spconv' needs spconv: pip install convnextv2_mm[spconv], or on a GPU the "
            'build for its CUDA, such as spconv-cu120'
        ) from error

    height, width = layout.grid[0] * side, layout.grid[1] * side
    sites = layout.sites(side)
    rows = [sites // (height * width), sites // width % height, sites % width]
    batch, k = len(layout.visible), kernel_size
    _, pairs, counts = get_indice_pairs(
        torch.stack(rows, 1).int(), batch, [height, width], ConvAlgo.Native,
        [k, k], [1, 1], [k // 2, k // 2], [1, 1], [0, 0], subm=True,
    )  # fmt: skip
    # A submanifold table counts the pairs of half of the taps; the others mirror them.
    counts = counts.tolist()
    counts = [max(a, b) for a, b in zip(counts, reversed(counts), strict=True)]
    counts[len(counts) // 2] = len(sites)
    return [(pairs[0, i, :n].long(), pairs[1, i, :n].long()) for i, n in enumerate(counts)]


class _PairwiseConv(torch.autograd.Function):
    """Sums in float32 and keeps only its input for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        y = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for (read, written), tap in zip(pairs, weight.flatten(1).t(), strict=True):
            y.index_add_(0, written, (x[read] * tap).to(y.dtype))
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        grad_taps = []
        for (read, written), tap in zip(ctx.pairs, weight.flatten(1).t(), strict=True):
            at_output = grad[written].to(grad_x.dtype)
            grad_x.index_add_(0, read, at_output * tap)
            grad_taps.append((at_output * x[read]).sum(0))
        grad_weight = torch.stack(grad_taps, 1).view_as(weight)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None
