"""Half precision in the operators of torchvision."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(*tensors: Tensor) -> list[Tensor]:
    """fp32 for fp16 and bf16, which torchvision's CPU kernels know in part only."""
    return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
