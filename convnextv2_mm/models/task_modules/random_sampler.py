"""Sampler of (Cascade) Mask R-CNN without waits for the device."""

from __future__ import annotations

import torch
from mmdet.models.task_modules import samplers
from torch import Tensor

from ...registry import TASK_UTILS


@TASK_UTILS.register_module()
class RandomSampler(samplers.RandomSampler):
    """Sampler that draws on the device: mmdet shuffles all anchors on the CPU, 260,000 at 1024²."""

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """``num`` different elements of ``gallery``, which is ``(P,)``."""
        return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]
