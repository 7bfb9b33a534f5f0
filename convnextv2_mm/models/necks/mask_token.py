"""Mask tokens: learned features that stand in for masked sites."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def put_mask_token(x: Tensor, mask_token: Tensor, mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Replace masked sites of a dense map.

    Args:
        x: ``(N, Gh·s, Gw·s, D)``.
        mask_token: ``(D,)``.
        mask: ``(N, L)``, 1 is masked.
        grid: Gh and Gw, ``L = Gh · Gw``.
    """
    side = x.shape[1] // grid[0]
    is_masked = mask.view(-1, *grid, 1).bool()
    is_masked = is_masked.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return torch.where(is_masked, mask_token.to(x.dtype), x)
