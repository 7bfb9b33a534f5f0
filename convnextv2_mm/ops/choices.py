"""What ``backend='auto'`` takes on a device, and why."""

from __future__ import annotations

import warnings

import torch

from .backends import why_not_triton
from .depthwise_conv import TRIED_SHAPES as CONV_SHAPES
from .depthwise_conv import depthwise_conv
from .gelu_grn_linear import TRIED_SHAPES as LINEAR_SHAPES
from .gelu_grn_linear import gelu_grn_linear


def backend_choices(device: torch.device) -> dict[str, str]:
    """The backend of each operator, after Triton has been tried there.

    On a GPU that has not compiled the kernels before, that takes half a minute.

    Returns:
        By operator ``triton``, or ``torch`` and why.
    """
    found = {}
    for operator, shapes in ((depthwise_conv, CONV_SHAPES), (gelu_grn_linear, LINEAR_SHAPES)):
        if device.type != 'cuda':
            reason: str | None = 'is for GPUs'
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # the caller says it
                reason = why_not_triton(operator, shapes, device)
        found[operator.__name__] = f'torch, since Triton {reason}' if reason else 'triton'
    return found
