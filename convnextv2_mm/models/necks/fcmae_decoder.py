"""The decoder of FCMAE (arXiv 2301.00808, section 3)."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..layers.block import ConvNeXtV2Block, init_weights_


@MODELS.register_module()
class FCMAEDecoder(BaseModule):
    """Predict the pixels of every patch from the latents of the visible ones.

    Args:
        in_channels: Channels of the latent.
        embed_dims: Width of the decoder.
        depth: Number of ConvNeXt V2 blocks.
        patch_size: Side of a patch in pixels.
        out_channels: Channels of the image.
    """

    needs_stages = False
    """Whether it is given the features of all stages, instead of the latent."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: int = 512,
        depth: int = 1,
        patch_size: int = 32,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, embed_dims)
        self.mask_token = nn.Parameter(torch.empty(embed_dims).normal_(std=0.02))
        self.blocks = nn.Sequential(*(ConvNeXtV2Block(embed_dims) for _ in range(depth)))
        self.pred = nn.Linear(embed_dims, patch_size**2 * out_channels)
        init_weights_(self)

    def forward(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Decode.

        Args:
            latent: ``(N, C, Gh, Gw)``; its values at masked sites do not matter.
            mask: ``(N, L)``, 1 is masked.

        Returns:
            ``(N, L, patch_size · patch_size · out_channels)``, values in (row, column, channel)
            order.
        """
        x = self.proj(latent.permute(0, 2, 3, 1))  # [N, Gh, Gw, D]
        is_masked = mask.view(*x.shape[:3], 1).bool()
        x = torch.where(is_masked, self.mask_token.to(x.dtype), x)
        return self.pred(self.blocks(x)).flatten(1, 2)
