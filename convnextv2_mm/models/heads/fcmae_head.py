"""The loss of FCMAE: mean squared error of the masked patches (arXiv 2301.00808, section 3)."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...ops import patchify
from ...registry import MODELS


@MODELS.register_module()
class FCMAEHead(BaseModule):
    """Mean squared error on masked patches, each normalised by its own mean and variance.

    Args:
        norm_pix_loss: Normalise the target patches; else the target is the pixels themselves.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, norm_pix_loss: bool = True, patch_size: int = 32) -> None:
        super().__init__()
        self.norm_pix_loss = norm_pix_loss
        self.patch_size = patch_size

    def patch_statistics(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches ``(N, L, p·p·C)`` in float32, and the mean and std that normalise each."""
        patches = patchify(images, self.patch_size).flatten(2).float()
        if not self.norm_pix_loss:
            return patches, patches.new_zeros(()), patches.new_ones(())
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)  # unbiased
        return patches, mean, (variance + 1e-6).sqrt()

    def forward(self, prediction: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """Loss of each image: mean over a patch, then over its masked patches.

        Args:
            prediction: ``(N, L, p·p·C)``.
            images: ``(N, C, H, W)``.
            mask: ``(N, L)``, 1 is masked.

        Returns:
            ``(N,)`` float32.
        """
        patches, mean, std = self.patch_statistics(images)
        loss = (prediction.float() - (patches - mean) / std).square().mean(-1)  # [N, L]
        return (loss * mask).sum(1) / mask.sum(1)

    def to_pixels(self, prediction: Tensor, images: Tensor) -> Tensor:
        """Predicted patches ``(N, L, p·p·C)`` in the units of ``images``."""
        _, mean, std = self.patch_statistics(images)
        return prediction.float() * std + mean
