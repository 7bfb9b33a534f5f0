"""The second half of a block: GELU, GRN and the projection back to C channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .backends import autocast_dtype, is_for_triton, is_triton_right
from .global_response_norm import global_response_norm
from .patch_layout import PatchLayout

# Of the arguments with which Triton is tried: a small map.
TRIED_SHAPES = ((1, 9, 8, 64), (64,), (64,), (16, 64), (16,))


def gelu_grn_linear(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor,
    layout: PatchLayout | None = None,
    backend: str = 'auto',
) -> Tensor:
    """``Linear(GRN(GELU(x)))``.

    ``x`` is four times as wide as anything else in a block, so what it costs is the number of
    passes over it and the copies of it that wait for the backward pass: one with Triton, three with
    PyTorch.

    Args:
        x: ``(N, H, W, 4C)`` dense, or ``(N, K, s, s, 4C)`` packed.
        gamma: ``(4C,)``, of GRN.
        beta: ``(4C,)``, of GRN.
        weight: ``(C, 4C)``.
        bias: ``(C,)``.
        layout: The visible patches; masked sites of a dense ``x`` do not count in GRN.
        backend: As of :func:`~convnextv2_mm.ops.depthwise_conv`: ``triton`` is Triton, except for
            a dense ``x`` with masked sites; ``torch`` and ``spconv`` are PyTorch.

    Returns:
        ``(..., C)``.
    """
    if backend == 'auto':
        backend = 'triton' if _choose_triton(x) else 'torch'
    if backend != 'triton' or (layout is not None and x.ndim == 4):
        x = global_response_norm(F.gelu(x), gamma, beta, layout)
        return F.linear(x, weight, bias)

    from .triton.gelu_grn_linear import triton_gelu_grn_linear  # not on every platform

    dtype = autocast_dtype(x)
    return triton_gelu_grn_linear(x.to(dtype), gamma, beta, weight.to(dtype), bias.to(dtype))


def _choose_triton(x: Tensor) -> bool:
    return is_for_triton(x) and is_triton_right(gelu_grn_linear, TRIED_SHAPES, x.device)
