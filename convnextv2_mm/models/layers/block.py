"""The block of ConvNeXt V2 (arXiv 2301.00808, section 3) and the layers that it is made of.

Features are channels last, in one of two forms: dense ``(N, H, W, C)``, or packed
``(N, K, s, s, C)`` with K visible patches of s×s sites. Every layer but the depthwise convolution
works on the last axis or on the axes between N and C, so both forms run through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...ops import (
    PatchLayout,
    depthwise_conv,
    gelu_grn_linear,
)
from .feature_norms import PAPER_GRN, build_feature_norm, is_paper_grn


class PatchConv(nn.Conv2d):
    """Convolution whose stride equals its kernel, on channels-last ``(..., H, W, C)``.

    Each k×k window is seen once, so it is a reshape and a matrix product, and works alike on a
    whole image and inside a patch. Rows and columns that do not fill a window are dropped, as a
    strided convolution does. Weights are stored as those of ``nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size[0]
        *lead, height, width, channels = x.shape
        rows, columns = height // k, width // k
        x = x[..., : rows * k, : columns * k, :].reshape(*lead, rows, k, columns, k, channels)
        x = x.transpose(-4, -3).reshape(*lead, rows, columns, k * k * channels)
        return F.linear(x, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of the last axis that stays in half precision under autocast.

    Autocast would convert to float32 and back, five times the bytes. The kernel computes in float32
    in any case.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class GRN(nn.Module):
    """The parameters of global response normalisation (paper, section 3.2).

    A block computes it together with the layers around it, see
    :func:`~convnextv2_mm.ops.gelu_grn_linear`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


class ConvNeXtV2Block(nn.Module):
    """``x + DropPath(Linear(GRN(GELU(Linear(LayerNorm(DWConv7×7(x)))))))``, hidden width 4C.

    Args:
        channels: C.
        drop_path_rate: Probability of dropping the branch of a sample.
        feature_norm: What follows GELU: the GRN of V2, another layer of
            :mod:`~convnextv2_mm.models.layers.feature_norms`, or None as in V1.
        layer_scale_init_value: Initial scale of the branch, learned per channel; 0 for none.
        backend: Of its operators, see :func:`~convnextv2_mm.ops.depthwise_conv`.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        feature_norm: Mapping | None = PAPER_GRN,
        layer_scale_init_value: float = 0.0,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.backend = backend
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = LayerNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.grn = self.feature_norm = None
        if is_paper_grn(feature_norm):  # has an operator of its own
            self.grn = GRN(4 * channels)
        elif feature_norm is not None:
            self.feature_norm = build_feature_norm(feature_norm, 4 * channels)
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)
        self.gamma = (
            nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        shortcut = x
        conv = self.depthwise_conv
        x = depthwise_conv(x, conv.weight, conv.bias, layout, self.backend)
        x = self.norm(x)
        x = self.pointwise_conv1(x)  # [..., 4C]
        grn, linear = self.grn, self.pointwise_conv2
        if grn is not None:
            x = gelu_grn_linear(
                x, grn.gamma, grn.beta, linear.weight, linear.bias, layout, self.backend
            )
        elif self.feature_norm is not None:
            x = linear(self.feature_norm(F.gelu(x), layout))
        else:
            x = linear(F.gelu(x))
        if self.gamma is not None:
            x = x * self.gamma
        return shortcut + self.drop_path(x)


def init_weights_(module: nn.Module) -> None:
    """Normal of std 0.02 for convolutions and linear layers, biases 0 (paper, A.1).

    The paper truncates at 2, which is 100 deviations. There PyTorch's ``trunc_normal_`` would draw
    exactly -2 about once in 2e7 values: some thirty weights of Huge.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
