"""mmcv's compiled operators, for an mmcv that was installed without them.

The wheels of `onedl-mmcv` on the package index are pure Python: they lack the extension module
`mmcv._ext`, and `import mmdet` and `import mmseg` end in an ImportError. `provide_mmcv_ops` puts a
module in its place. It computes what detectors and segmentors use (NMS, Soft-NMS, RoIAlign,
deformable convolution) with torchvision's operators and plain PyTorch; every other operator is
there to be imported and says, when called, how to get the compiled one.

Signatures are those of mmcv/ops/csrc/pytorch/pybind.cpp, results go into the tensors that the
caller passes, and behaviour follows the C++ sources down to the order of equal scores. Two things
differ on purpose: fp16 and bf16 are computed in fp32 and rounded once, where the compiled operators
round every step (and do not know bf16); and a RoI of negative size is empty on the CPU as it is on
CUDA, where the compiled CPU operator stops.
"""

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec

import numpy as np
import torch
import torchvision  # importing it registers torch.ops.torchvision
from torch import Tensor

__all__ = ['provide_mmcv_ops']

_EXT = 'mmcv._ext'
_MAX_POOL, _LINEAR, _GAUSSIAN = 0, 1, 2  # mmcv's numbers for pool modes, Soft-NMS methods
# Elements in one temporary array: larger problems are cut into parts.
_TABLE_ELEMENTS, _CACHED_ELEMENTS = 2**21, 2**15  # Soft-NMS
_POINT_ELEMENTS = 2**24  # RoIAlign


def provide_mmcv_ops() -> bool:
    """Stand in for `mmcv._ext` where mmcv was installed without compiled operators.

    Call it before anything imports `mmcv.ops`, as mmdet and mmseg do. Further calls change nothing.

    Returns:
        True if the operators of this file are in place, False if mmcv has compiled ones.

    Raises:
        ImportError: mmcv is not installed.
    """
    import mmcv

    try:
        ext = importlib.import_module(_EXT)
    except ModuleNotFoundError:
        pass
    except ImportError as error:  # built for another PyTorch: slower operators beat none
        warnings.warn(
            f"mmcv's compiled operators do not load ({error}); "
            'PyTorch and torchvision operators take their place.',
            stacklevel=2,
        )
    else:
        return getattr(ext, '__file__', None) == __file__

    ext = types.ModuleType(_EXT, __doc__)
    ext.__file__ = __file__
    # mmcv and mmengine ask for a spec and a loader to learn whether the operators are there.
    ext.__spec__ = ModuleSpec(_EXT, loader=__loader__, origin=__file__)
    ext.__getattr__ = _missing_op
    for op in (
        get_compiler_version,
        get_compiling_cuda_version,
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    ):
        setattr(ext, op.__name__, op)
    sys.modules[_EXT] = mmcv._ext = ext
    return True


def _missing_op(name: str) -> Callable:
    """Answer for operators that this file lacks (`__getattr__` of the module, PEP 562)."""
    if name.startswith('_'):  # Python looks for these itself, and no operator is named so
        raise AttributeError(f'module {_EXT!r} has no attribute {name!r}')

    def op(*args, **kwargs):
        raise RuntimeError(
            f"mmcv's operator {name!r} needs mmcv's compiled extension, which this installation "
            'lacks: build it where PyTorch, setuptools>=80 and a compiler are installed (and set '
            'FORCE_CUDA=1 if no GPU is visible there) with `pip install --force-reinstall '
            '--no-deps --no-build-isolation --no-binary onedl-mmcv onedl-mmcv`'
        )

    op.__name__ = op.__qualname__ = name
    return op


def get_compiler_version() -> str:
    """What the environment log of a run shows as "MMCV Compiler"."""
    return f'none (operators of torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """What the environment log of a run shows as "MMCV CUDA Compiler"."""
    return 'not available'


def _widen(*tensors: Tensor) -> list[Tensor]:
    """fp32 for fp16 and bf16, which torchvision's CPU kernels know in part only."""
    return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]


# ---------------------------------------------------------------------------------------- NMS


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices `(K,)` of the boxes kept, by falling score (csrc/pytorch/cpu/nms.cpp).

    Args:
        boxes: `(N, 4)`, x1, y1, x2, y2.
        scores: `(N,)`.
        iou_threshold: A box goes when its IoU with a kept one is above this.
        offset: 0, or 1 where x2 and y2 belong to the box: a side is x2 - x1 + offset.

    Of equal scores the first one goes first; the compiled operator's sort leaves that open.
    """
    boxes, scores = _widen(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # The compiled operator has the threshold in single precision. It matters for boxes on whole
    # pixels, whose IoU can be exactly 0.6 as fp32 has it, which is above 0.6 as a double.
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017, arXiv:1704.04503) as in csrc/pytorch/cpu/nms.cpp.

    Again and again the best of the boxes left is kept and the scores of the others fall with their
    IoU with it; those that fall below `min_score` are dropped. The first box is kept in any case.

    Args:
        boxes: `(N, 4)`, x1, y1, x2, y2, on the CPU.
        scores: `(N,)`.
        dets: `(N, 5)`; the K kept boxes with their new scores go into its first K rows.
        iou_threshold: Where scores begin to fall, for methods 0 and 1.
        sigma: Width of the Gaussian of method 2.
        min_score: Boxes below are dropped.
        method: 0 naive (to zero), 1 linear (by 1 - IoU), 2 Gaussian (by exp(-IoU^2 / sigma)).
        offset: 0, or 1 where x2 and y2 belong to the box.

    Returns:
        `(K,)`: indices of the kept boxes in the order of `dets`.
    """
    boxes, scores = _widen(boxes.detach(), scores.detach())
    geometry = boxes.t().contiguous().numpy()  # (4, N); NumPy costs less per call than PyTorch

    # The compiled operator keeps the boxes in one array, [kept | left | dropped], and moves them
    # by swapping. Of equal scores the one further left wins, so these three move just as there.
    score = scores.numpy().copy()
    order = np.arange(len(score))  # which box is in this place
    column = np.empty_like(order)  # where the table has it

    # A row of the table holds the factors for all boxes left once a certain box is kept. Rows are
    # computed together, those of the best boxes, and again when a box is kept that has none: at
    # first as many as memory allows (1,000 boxes need one table), later twice those that the last
    # table had in use, since boxes that overlap much change places too often to look far ahead.
    row_of_box = np.full(len(score), -1)
    factor, below = np.empty_like(score), np.empty(len(score), bool)

    start, stop, table_start = 0, len(score), -len(score)
    while start < stop:
        best = start + _first_max(score[start:stop])
        if row_of_box[order[best]] < 0:
            left = order[start:stop]
            rows = _best_boxes(score[start:stop], best - start, 2 * (start - table_start))
            table_start = start
            with np.errstate(divide='ignore', invalid='ignore'):  # boxes without area
                table = _decay(geometry, left[rows], left, iou_threshold, sigma, method, offset)
            row_of_box.fill(-1)
            row_of_box[left[rows]] = np.arange(len(rows))
            column[start:stop] = np.arange(len(left))
        row = table[row_of_box[order[best]]]
        for array in (score, order, column):
            array[start], array[best] = array[best], array[start]
        start += 1

        left, size = score[start:stop], stop - start
        # 'clip' never clips here: with it, take() writes to `out` without a copy between.
        row.take(column[start:stop], out=factor[:size], mode='clip')
        np.multiply(left, factor[:size], out=left)
        np.less(left, min_score, out=below[:size])
        dropped = np.count_nonzero(below[:size])
        if dropped:
            # From the left, each dropped box is overwritten by the last box that stays.
            end = size - dropped
            holes = np.flatnonzero(below[:end])
            fillers = end + np.flatnonzero(~below[end:size])[::-1]
            for array in (score, order, column):
                array[start + holes] = array[start + fillers]
            stop -= dropped

    kept = torch.from_numpy(order[:stop])
    dets[:stop, :4] = boxes[kept]
    dets[:stop, 4] = torch.from_numpy(score[:stop])
    return kept


def _first_max(score: np.ndarray) -> int:
    """Place of the first largest score. NaN wins only in place 0, as in the compiled comparison.

    The Gaussian of 0/0 is NaN: two boxes without area.
    """
    best = int(score.argmax())
    if score[best] != score[best]:
        best = 0 if score[0] != score[0] else int(np.nanargmax(score))
    return best


def _best_boxes(score: np.ndarray, best: int, count: int) -> np.ndarray:
    """Places of `best` and of `count` high scores, or as many as a table has room for."""
    count = min(count, _TABLE_ELEMENTS // len(score))
    if count >= len(score):
        return np.arange(len(score))
    return np.append(best, np.argpartition(score, -count - 1)[-count - 1 :])


def _decay(
    geometry: np.ndarray,
    kept: np.ndarray,
    left: np.ndarray,
    iou_threshold: float,
    sigma: float,
    method: int,
    offset: int,
) -> np.ndarray:
    """`(len(kept), len(left))`: what the scores `left` are multiplied by for each box of `kept`."""

    def overlap(low: int, high: int) -> np.ndarray:
        side = np.minimum(a[high, :, None], b[high])
        side -= np.maximum(a[low, :, None], b[low])
        side += offset
        return np.maximum(side, 0, out=side)

    b = geometry[:, left]
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    table = np.empty((len(kept), len(left)), geometry.dtype)
    rows = max(1, _CACHED_ELEMENTS // len(left))
    for first in range(0, len(kept), rows):
        a = geometry[:, kept[first : first + rows]]
        area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
        iou = overlap(0, 2)
        iou *= overlap(1, 3)
        union = area_a[:, None] + area_b
        union -= iou
        iou /= union
        factor = table[first : first + rows]
        if method == _GAUSSIAN:
            iou *= iou
            iou /= -sigma
            np.exp(iou, out=factor)
        else:
            factor.fill(1)
            fall = 1 - iou if method == _LINEAR else 0
            np.copyto(factor, fall, where=iou >= iou_threshold)
    return table


# ----------------------------------------------------------------------------------- RoIAlign


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
    x, boxes = _widen(input, rois)
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
    grad, boxes = _widen(grad_output, rois)
    if pool_mode == _MAX_POOL:
        points = _widen(argmax_y, argmax_x)
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


# -------------------------------------------------------------------- deformable convolution
#
# Offsets are y, x for each tap of the kernel and each deformable group, in mmcv as in torchvision.
# mmcv's buffers `columns` and `ones` and its `im2col_step` have no use here.
# A "geometry" is what both torchvision operators take: stride, padding and dilation, each height
# before width, the groups of channels and the groups of offsets.


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
    return _widen(input, weight, offset, mask, bias)


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
        *_widen(grad_output), *inputs, *geometry, mask is not None
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
