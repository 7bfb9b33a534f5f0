"""The decoders that the paper compares with its own (table 1): UNet and transformer.

The paper says little of them. What is chosen here is said with each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import patchify, unpatchify
from ..registry import MODELS
from .convnextv2 import ConvNeXtV2Block, LayerNorm, SparseConvNeXtV2, init_weights_


def put_mask_token(x: Tensor, mask_token: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
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


class PatchUnconv(nn.Linear):
    """Transposed 2×2 convolution of stride 2 on channels-last ``(N, H, W, C)``: each site becomes
    2×2 sites, the mirror of the encoder's downsampling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, 4 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, _ = x.shape
        windows = super().forward(x).view(n, height * width, 2, 2, -1)
        return unpatchify(windows, (height, width)).permute(0, 2, 3, 1)


@MODELS.register_module()
class UNetDecoder(BaseModule):
    """Upsample the latent to a quarter of the image's side, and predict the pixels there.

    The mirror of the encoder: ConvNeXt V2 blocks at 1/32, 1/16, 1/8 and 1/4 of the side, each time
    of half the width. A skip is a linear layer on the features of a stage, with a mask token of its
    own at masked sites; adding it to what comes from below is a linear layer on both side by side.

    Args:
        in_channels: Channels of the latent, of which the stages before have 1/2, 1/4 and 1/8; or
            those of the four stages, first to last.
        embed_dims: Width at the latent, a multiple of 8.
        depth: Number of ConvNeXt V2 blocks at each of the four sizes.
        skips: Take in the features of all stages, not only the latent.
        out_channels: Channels of the image.

    Raises:
        ValueError: If ``embed_dims`` is not as above.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        embed_dims: int = 512,
        depth: int = 1,
        skips: bool = True,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        if embed_dims < 8 or embed_dims % 8:
            raise ValueError(f'embed_dims {embed_dims} is not allowed: it must be a multiple of 8')
        if isinstance(in_channels, int):
            in_channels = [in_channels // 8, in_channels // 4, in_channels // 2, in_channels]
        self.needs_stages = skips
        self.out_channels = out_channels
        widths = [embed_dims, embed_dims // 2, embed_dims // 4, embed_dims // 8]
        used = in_channels[::-1] if skips else in_channels[-1:]  # stages, the last first
        self.projs = nn.ModuleList(map(nn.Linear, used, widths))
        self.mask_tokens = nn.ParameterList(
            torch.empty(width).normal_(std=0.02) for width in widths[: len(used)]
        )
        self.upsample_layers = nn.ModuleList(
            nn.Sequential(LayerNorm(width, eps=1e-6), PatchUnconv(width, width // 2))
            for width in widths[:-1]
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ConvNeXtV2Block(width) for _ in range(depth))) for width in widths
        )
        self.pred = nn.Linear(widths[-1], 4 * 4 * out_channels)
        init_weights_(self)

    def forward(self, latent: Tensor | list[Tensor], mask: Tensor) -> Tensor:
        """Decode.

        Args:
            latent: ``(N, C, Gh, Gw)``, or with skips those of the four stages, the first
                ``(N, C/8, 8·Gh, 8·Gw)``; their values at masked sites do not matter.
            mask: ``(N, L)``, 1 is masked.

        Returns:
            ``(N, L, 32 · 32 · out_channels)``, values in (row, column, channel) order.
        """
        stages = latent[::-1] if self.needs_stages else [latent]
        grid = stages[0].shape[2:]
        x = None
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                x = self.upsample_layers[i - 1](x)  # [N, 2H, 2W, D/2]
            if i < len(stages):
                skip = self.projs[i](stages[i].permute(0, 2, 3, 1))
                skip = put_mask_token(skip, self.mask_tokens[i], mask, grid)
                x = skip if x is None else x + skip
            x = blocks(x)
        n, height, width, _ = x.shape
        windows = self.pred(x).view(n, height * width, 4, 4, self.out_channels)
        image = unpatchify(windows, (height, width))  # [N, 3, H, W]
        return patchify(image, SparseConvNeXtV2.patch_size).flatten(2)


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


def sincos_positions(
    grid: tuple[int, int], dims: int, device: torch.device | str = 'cpu'
) -> Tensor:
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
