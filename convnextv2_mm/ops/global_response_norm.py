"""Global response normalisation (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .patch_layout import PatchLayout


def global_response_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    layout: PatchLayout | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Let the channels of each sample compete: ``gamma · (x · N) + beta + x``.

    N is the L2 norm of a channel over the sites of its sample, divided by the mean of these norms
    over the channels. Only visible sites count.

    Args:
        x: ``(N, H, W, C)`` dense, or ``(N, K, s, s, C)`` packed.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        layout: The visible patches. Packed features hold no others, so it matters only to a dense
            ``x`` of which a part is masked.
        eps: Added to the mean.

    Returns:
        Same shape and dtype as ``x``.
    """
    visible = None
    if layout is not None and x.ndim == 4:
        visible = layout.visible_map(x.shape[1] // layout.grid[0])
    return _GlobalResponseNorm.apply(x, gamma, beta, visible, eps)


class _GlobalResponseNorm(torch.autograd.Function):
    """Keeps only ``x`` and figures per sample and channel for the backward pass."""

    @staticmethod
    def forward(
        ctx, x: Tensor, gamma: Tensor, beta: Tensor, visible: Tensor | None, eps: float
    ) -> Tensor:
        sites = tuple(range(1, x.ndim - 1))
        # Half precision would overflow in the sum of squares, and lose gamma · N beside the 1.
        dtype = torch.promote_types(x.dtype, torch.float32)
        seen = x if visible is None else x * visible
        norm = torch.linalg.vector_norm(seen, dim=sites, keepdim=True, dtype=dtype)
        mean = norm.mean(-1, keepdim=True) + eps
        ctx.save_for_backward(x, gamma, norm, mean, visible)
        y = x * (gamma * norm / mean + 1) + beta
        # torch.compile loses the gradient of an output that `to` returns as it is (torch 2.11).
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gamma, norm, mean, visible = ctx.saved_tensors
        sites = tuple(range(1, x.ndim - 1))
        response = norm / mean
        # d y / d response, summed over sites: [N, 1, 1, C]
        dot = (grad * x).sum(sites, keepdim=True, dtype=norm.dtype)
        grad_gamma = (response * dot).sum((0, *sites))
        grad_beta = grad.sum((0, *sites), dtype=norm.dtype)
        grad_response = gamma * dot
        # The mean over channels passes the gradient of one response to every norm.
        grad_norm = (grad_response - (grad_response * response).mean(-1, keepdim=True)) / mean
        per_norm = torch.where(norm > 0, grad_norm / norm, 0)  # a dead channel has no direction
        seen = x if visible is None else x * visible
        grad_x = (grad * (gamma * response + 1) + seen * per_norm).to(x.dtype)
        return grad_x, grad_gamma.to(gamma.dtype), grad_beta.to(gamma.dtype), None, None
