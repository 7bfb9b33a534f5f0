"""RoIAlign in place of mmcv's compiled operator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision  # noqa: F401  (importing it registers torch.ops.torchvision)
from torch import Tensor

from .precision import widen

_MAX_POOL = 0  # mmcv's number for the pool mode
_POINT_ELEMENTS = 2**24  # in one temporary array: larger problems are cut into parts


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al. 2017, arXiv:1703.06870) as in csrc/pytorch/cpu/roi_align.cpp.

    Args:
        input: `(N, C, H, W)`.
        rois: `(R, 5)`: number of the image, x1, y1, x2, y2 in image pixels.
        output: `(R, C, aligned_height, aligned_width)`, written.
        argmax_y, argmax_x: As output for max pooling, written: the point, in pixels of `input`,
            that had the largest value; -1 where no point was sampled. Empty for average pooling.
        spatial_scale: Pixels of `input` per image pixel.
        sampling_ratio: Points per bin along each axis, or 0 for one per pixel of `input`.
        pool_mode: 0 for the maximum, 1 for the average over the points of a bin.
        aligned: Whether pixel centres are at half-integers (and no RoI is widened to 1 pixel).
    """
    size = (aligned_height, aligned_width)
    x, boxes = widen(input, rois)
    if pool_mode == _MAX_POOL:
        pooled = _roi_max(x, boxes, size, spatial_scale, sampling_ratio, aligned)
        for target, values in zip((output, argmax_y, argmax_x), pooled, strict=True):
            target.copy_(values)
    else:
        output.copy_(
            torch.ops.torchvision.roi_align(x, boxes, spatial_scale, *size, sampling_ratio, aligned)
        )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of `roi_align_forward` to `grad_input`; arguments as there."""
    grad, boxes = widen(grad_output, rois)
    if pool_mode == _MAX_POOL:
        points = widen(argmax_y, argmax_x)
        grad_input.add_(_roi_max_grad(grad, boxes, *points, grad_input.shape))
    else:
        grad_input.add_(
            torch.ops.torchvision._roi_align_backward(
                grad,
                boxes,
                spatial_scale,
                aligned_height,
                aligned_width,
                *grad_input.shape,
                sampling_ratio,
                aligned,
            )
        )


def _roi_max(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest sampled value of each bin, and y and x of its point: three of `(R, C, *size)`."""
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    first = corners[:, [1, 0]]  # (R, 2), y and x
    extent = corners[:, [3, 2]] - first
    if not aligned:
        extent = extent.clamp(min=1)
    bins = extent / extent.new_tensor(size)
    if sampling_ratio > 0:
        grids = torch.full_like(bins, sampling_ratio, dtype=torch.long)
    else:
        grids = bins.ceil().clamp(min=0).long()

    # A bin starts from what the compiled kernels start from, and keeps it if nothing is larger.
    lowest = -10000.0 if input.device.type == 'cpu' else torch.finfo(torch.float32).min
    output = input.new_full((len(rois), input.size(1), *size), lowest)
    argmax = [torch.full_like(output, -1) for _ in 'yx']
    features = input.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C): a point reads C neighbours

    # RoIs with the same grid of points go together, in parts that memory has room for.
    for grid in grids.unique(dim=0).tolist():
        if 0 in grid:
            continue
        members = (grids == grids.new_tensor(grid)).all(1).nonzero()[:, 0]
        elements = size[0] * size[1] * grid[0] * grid[1] * input.size(1)
        for part in members.split(max(1, _POINT_ELEMENTS // elements)):
            y = _points(first[part, 0], bins[part, 0], size[0], grid[0])  # (r, height, gy)
            x = _points(first[part, 1], bins[part, 1], size[1], grid[1])  # (r, width, gx)
            image = rois[part, 0].long()[:, None, None]
            values = 0
            for row, col, weight in _corners(
                y.flatten(1)[:, :, None], x.flatten(1)[:, None], features.shape[1:3]
            ):
                values = values + features[image, row, col] * weight[..., None]
            values = values.view(len(part), size[0], grid[0], size[1], grid[1], -1)
            values = values.permute(0, 5, 1, 3, 2, 4).flatten(4)  # (r, C, height, width, gy * gx)
            value, point = values.max(-1)  # the first one of equals, in both kernels too
            found = value > lowest
            output[part] = torch.where(found, value, lowest)
            for target, points, index in (
                (argmax[0], y[:, None, :, None], point // grid[1]),
                (argmax[1], x[:, None, None], point % grid[1]),
            ):
                points = points.expand(*point.shape, -1).gather(-1, index[..., None])[..., 0]
                target[part] = torch.where(found, points, -1)
    return output, *argmax


def _points(first: Tensor, step: Tensor, count: int, grid: int) -> Tensor:
    """Coordinates `(r, count, grid)` of the points of bins that are `step` long, along one axis."""
    start = first[:, None] + torch.arange(count).to(step) * step[:, None]
    return start[..., None] + (torch.arange(grid).to(step) + 0.5) * step[:, None, None] / grid


def _roi_max_grad(grad: Tensor, rois: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """Gradient `shape` of the input: each bin's gradient goes to the pixels around its point."""
    _, channels, height, width = shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    grad = grad * (y != -1)  # as compiled, though a sampled point can have y = -1 as well
    total = grad.new_zeros(shape.numel())
    for row, col, weight in _corners(y, x, (height, width)):
        pixel = (plane[:, :, None, None] * height + row) * width + col
        total.index_add_(0, pixel.flatten(), (grad * weight).flatten())
    return total.view(shape)


def _corners(
    y: Tensor, x: Tensor, size: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and bilinear weight of the four pixels around each point (y, x).

    A point counts as on the edge up to one pixel outside the map; beyond that it weighs nothing.
    """
    height, width = size
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.long(), x.long()
    down, right = y - top, x - left
    for row, row_weight in ((top, 1 - down), ((top + 1).clamp(max=height - 1), down)):
        for col, col_weight in ((left, 1 - right), ((left + 1).clamp(max=width - 1), right)):
            yield row, col, row_weight * col_weight * inside
