"""Operators on channels-last features, dense ``(N, H, W, C)`` or packed ``(N, K, s, s, C)``."""

from .depthwise_conv import depthwise_conv
from .gelu_grn_linear import gelu_grn_linear
from .global_response_norm import global_response_norm
from .patch_layout import PatchLayout, patchify, unpatchify

__all__ = [
    'PatchLayout',
    'depthwise_conv',
    'gelu_grn_linear',
    'global_response_norm',
    'patchify',
    'unpatchify',
]
