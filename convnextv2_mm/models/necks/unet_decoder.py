"""The UNet decoder that the paper compares with its own (table 1).

The paper says little of it. What is chosen here is said in the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...ops import patchify, unpatchify
from ...registry import MODELS
from ..backbones.convnextv2 import SparseConvNeXtV2
from ..layers.block import ConvNeXtV2Block, LayerNorm, init_weights_
from .mask_token import put_mask_token


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
