"""Deformable convolution in place of mmcv's compiled operators.

Offsets are y, x for each tap of the kernel and each deformable group, in mmcv as in torchvision.
mmcv's buffers `columns` and `ones` and its `im2col_step` have no use here.
A "geometry" is what both torchvision operators take: stride, padding and dilation, each height
before width, the groups of channels and the groups of offsets.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (importing it registers torch.ops.torchvision)
from torch import Tensor

from .precision import widen


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (Dai et al. 2017, arXiv:1703.06211), csrc/pytorch/deform_conv.cpp.

    Args:
        input: `(N, C, H, W)`.
        weight: `(D, C / group, kH, kW)`.
        offset: `(N, 2 * deformable_group * kH * kW, h, w)`, in pixels.
        output: `(N, D, h, w)`, written.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_deform_conv(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the input's gradient to `gradInput` and write the offset's to `gradOffset`."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _deform_conv_grads(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.add_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add `scale` times the weight's gradient to `gradWeight`.

    torchvision has all gradients in one operator, so a backward pass of mmcv computes them twice.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The values of the weight do not enter its own gradient, only its shape.
    grads = _deform_conv_grads(
        gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, geometry
    )
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (Zhu et al. 2018, arXiv:1811.11168).

    As csrc/pytorch/modulated_deform_conv.cpp; tensors as in `deform_conv_forward`, and

    Args:
        bias: `(D,)`, or anything where `with_bias` is False.
        mask: `(N, deformable_group * kernel_h * kernel_w, h, w)`: a factor for each sample.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_deform_conv(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of input, weight and bias, and write those of offset and mask."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _deform_conv_grads(
        grad_output, input, weight, offset, mask, bias if with_bias else None, geometry
    )
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias.add_(grads[4])


def _deform_conv_inputs(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """The tensors as torchvision's operators take them, where none may be None."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return widen(input, weight, offset, mask, bias)


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    """Output `(N, D, h, w)`."""
    inputs = _deform_conv_inputs(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*inputs, *geometry, mask is not None)


def _deform_conv_grads(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of input, weight, offset, mask and bias."""
    inputs = _deform_conv_inputs(input, weight, offset, mask, bias)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        *widen(grad_output), *inputs, *geometry, mask is not None
    )
    # Where a sample lies at exactly -1, one pixel outside, torchvision's gradient of the offset is
    # the slope towards the image and mmcv's is 0. It is no rare place: offsets start at zero, and
    # with padding 1 the outer taps of the kernel are there.
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _, deform_groups = geometry
    kernel_h, kernel_w = weight.shape[2:]
    taps = inputs[2].unflatten(1, (deform_groups, kernel_h, kernel_w, 2))
    y, x = taps.unbind(4)  # (N, deform_groups, kernel_h, kernel_w, h, w)

    def start(taps: int, dilation: int, outputs: int, stride: int, pad: int) -> Tensor:
        tap = torch.arange(taps, device=offset.device) * dilation
        return tap[:, None] + torch.arange(outputs, device=offset.device) * stride - pad

    rows = start(kernel_h, dilation_h, y.size(-2), stride_h, pad_h)[:, None, :, None]
    cols = start(kernel_w, dilation_w, y.size(-1), stride_w, pad_w)[:, None, :]
    on_map = (y + rows > -1) & (x + cols > -1)
    grad_offset = grads[2].view_as(taps) * on_map.unsqueeze(4)
    return grads[0], grads[1], grad_offset.view_as(offset), *grads[3:]
