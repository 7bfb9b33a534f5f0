"""The transformer decoder that the paper compares with its own (table 1).

The paper says little of it. What is chosen here is said in the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..layers.block import LayerNorm, init_weights_
from .mask_token import put_mask_token


@MODELS.register_module()
class TransformerDecoder(BaseModule):
    """The decoder of MAE (arXiv 2111.06377): transformer layers on all patches.

    Depth and heads are MAE's. Positions are given by fixed sines and cosines, for a grid of any
    size.

    Args:
        in_channels: Channels of the latent.
        embed_dims: Width, a multiple of 4 and of ``num_heads``.
        depth: Number of layers.
        num_heads: Heads of the attention.
        patch_size: Side of a patch in pixels.
        out_channels: Channels of the image.

    Raises:
        ValueError: If ``embed_dims`` is not as above.
    """

    needs_stages = False

    def __init__(
        self,
        in_channels: int,
        embed_dims: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        patch_size: int = 32,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        if embed_dims % 4 or embed_dims % num_heads:
            raise ValueError(
                f'embed_dims {embed_dims} is not allowed: it must be a multiple of 4 and of the '
                f'{num_heads} heads'
            )
        self.proj = nn.Linear(in_channels, embed_dims)
        self.mask_token = nn.Parameter(torch.empty(embed_dims).normal_(std=0.02))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    embed_dims,
                    num_heads,
                    4 * embed_dims,
                    dropout=0.0,
                    activation='gelu',
                    layer_norm_eps=1e-6,
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(depth)
            )
        )
        self.norm = LayerNorm(embed_dims, eps=1e-6)
        self.pred = nn.Linear(embed_dims, patch_size**2 * out_channels)
        init_weights_(self)

    def forward(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Decode; arguments and result as of :class:`~convnextv2_mm.models.FCMAEDecoder`."""
        grid = latent.shape[2:]
        x = self.proj(latent.permute(0, 2, 3, 1))  # [N, Gh, Gw, D]
        x = put_mask_token(x, self.mask_token, mask, grid)
        x = x + sincos_positions(grid, x.shape[-1], x.device)
        return self.pred(self.norm(self.layers(x.flatten(1, 2))))


def sincos_positions(grid: Sequence[int], dims: int, device: torch.device | str = 'cpu') -> Tensor:
    """Fixed embedding of the places in a grid, as of MAE.

    A quarter of the values each: sine and cosine of the column, sine and cosine of the row, at
    frequencies from 1 down to nearly 1/10000 per patch.

    Args:
        grid: Rows and columns.
        dims: D, a multiple of 4.
        device: Where to compute it.

    Returns:
        ``(rows, columns, D)`` float32.
    """
    frequencies = 10000 ** (-torch.arange(dims // 4, device=device) / (dims // 4))
    row, column = (torch.arange(side, device=device)[:, None] * frequencies for side in grid)
    row, column = (torch.cat([a.sin(), a.cos()], -1) for a in (row, column))  # [side, D/2]
    row, column = row[:, None].expand(-1, grid[1], -1), column.expand(grid[0], -1, -1)
    return torch.cat([column, row], -1)
