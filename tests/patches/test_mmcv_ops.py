"""The stand-in for mmcv._ext against loops in double precision, through mmcv's own Python API."""

import importlib
import importlib.util
import math
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from convnextv2_mm.patches import mmcv_ops
from convnextv2_mm.patches.mmcv_ops import nms, provide_mmcv_ops, roi_align

provide_mmcv_ops()

import mmcv.ops  # noqa: E402
from mmcv.utils.ext_loader import check_ops_exist  # noqa: E402

EXT = sys.modules['mmcv._ext']
needs_stand_in = pytest.mark.skipif(
    EXT.__file__ != mmcv_ops.__file__, reason='mmcv has compiled operators'
)
# Half types: the result of fp32 on the same inputs, rounded once, so half a unit in the last place.
HALF_TOLERANCE = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _boxes(kind: str, count: int = 60) -> torch.Tensor:
    generator = _generator(count)
    if kind == 'whole pixels':  # IoUs that hit thresholds, boxes without area, equal boxes
        first = torch.randint(0, 10, (count, 2), generator=generator).double()
        size = torch.randint(0, 7, (count, 2), generator=generator).double()
    else:
        first = torch.rand(count, 2, generator=generator).double() * 50
        size = torch.rand(count, 2, generator=generator).double() * 40 + 1
    return torch.cat([first, first + size], 1)


def _scores(kind: str, count: int = 60) -> torch.Tensor:
    scores = torch.rand(count, generator=_generator(count + 1)).double()
    return scores if kind == 'distinct' else (scores * 5).round() / 5


# --------------------------------------------------------------------------------------- NMS


def _iou(a: list[float], b: list[float], offset: int) -> float:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return (x2 - x1 + offset) * (y2 - y1 + offset)

    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    union = area(*a) + area(*b) - width * height
    return width * height / union if union else math.nan


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('scores', ['distinct', 'equal'])
@pytest.mark.parametrize('boxes', ['anywhere', 'whole pixels'])
def test_nms(boxes, scores, offset):
    boxes, scores = _boxes(boxes).float(), _scores(scores).float()
    kept = []
    for i in scores.sort(descending=True, stable=True).indices.tolist():
        if not any(_iou(boxes[i].tolist(), boxes[j].tolist(), offset) > 0.45 for j in kept):
            kept.append(i)
    dets, index = mmcv.ops.nms(boxes, scores, 0.45, offset=offset)
    assert index.tolist() == kept
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('iou_threshold', [0.1, 0.6])
def test_nms_keeps_a_box_whose_iou_is_the_threshold(iou_threshold):
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, 10 * iou_threshold, 1]]).round()
    assert len(mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold)[1]) == 2


def _soft_nms_loops(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """Lists in place of arrays; the last box takes the place of one that is dropped."""
    left = [[*row, s, i] for i, (row, s) in enumerate(zip(boxes, scores, strict=True))]
    kept = []
    while left:
        best = 0
        for place, box in enumerate(left):
            if left[best][4] < box[4]:
                best = place
        left[0], left[best] = left[best], left[0]
        kept.append(left.pop(0))
        place = 0
        while place < len(left):
            iou = _iou(kept[-1][:4], left[place][:4], offset)
            if method == 'gaussian':
                left[place][4] *= math.exp(-(iou**2) / sigma)
            elif iou >= iou_threshold:
                left[place][4] *= 0 if method == 'naive' else 1 - iou
            if left[place][4] < min_score:
                last = left.pop()
                if place < len(left):
                    left[place] = last
            else:
                place += 1
    dets = torch.tensor([row[:5] for row in kept], dtype=torch.float64)
    return dets, [row[5] for row in kept]


@pytest.mark.parametrize('table', [2**21, 150])  # one table of factors, and many small ones
@pytest.mark.parametrize('min_score', [0.0, 0.3])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize(
    'boxes, scores', [('anywhere', 'distinct'), ('anywhere', 'equal'), ('whole pixels', 'equal')]
)
def test_soft_nms(monkeypatch, boxes, scores, method, offset, min_score, table):
    monkeypatch.setattr(nms, '_TABLE_ELEMENTS', table)
    boxes, scores = _boxes(boxes), _scores(scores)
    options = dict(iou_threshold=0.3, sigma=0.5, min_score=min_score, method=method, offset=offset)
    expected, order = _soft_nms_loops(boxes.tolist(), scores.tolist(), **options)
    dets, index = mmcv.ops.soft_nms(boxes, scores, **options)
    assert index.tolist() == order
    torch.testing.assert_close(dets, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    # fp32, as detectors call it; equal scores may part ways there, so only the distinct ones.
    if len(scores.unique()) == len(scores):
        dets, index = mmcv.ops.soft_nms(boxes.float(), scores.float(), **options)
        assert index.tolist() == order
        torch.testing.assert_close(dets, expected.float(), rtol=1e-5, atol=1e-5)


def test_soft_nms_keeps_the_first_box_below_min_score():
    dets, index = mmcv.ops.soft_nms(
        _boxes('anywhere').float(), torch.full((60,), 0.01), min_score=0.05
    )
    assert index.tolist() == [0] and dets[0, 4] == 0.01


@pytest.mark.parametrize('dtype', HALF_TOLERANCE)
def test_nms_in_half_precision(dtype):
    boxes, scores = _boxes('anywhere').to(dtype), _scores('distinct').to(dtype)
    assert torch.equal(
        mmcv.ops.nms(boxes, scores, 0.5)[1], mmcv.ops.nms(boxes.float(), scores.float(), 0.5)[1]
    )
    dets, index = mmcv.ops.soft_nms(boxes, scores)
    wide_dets, wide_index = mmcv.ops.soft_nms(boxes.float(), scores.float())
    assert torch.equal(index, wide_index) and torch.equal(dets, wide_dets.to(dtype))


def test_nms_of_no_boxes():
    for function in (mmcv.ops.nms, mmcv.ops.soft_nms):
        dets, index = function(torch.zeros(0, 4), torch.zeros(0), 0.5)
        assert dets.shape == (0, 5) and index.shape == (0,)


@pytest.mark.parametrize('split_thr', [10000, 10])
def test_batched_nms_takes_each_class_by_itself(split_thr):
    boxes, scores = _boxes('anywhere').float(), _scores('distinct').float()
    labels = torch.arange(60) % 3
    config = dict(type='soft_nms', iou_threshold=0.4, min_score=0.2, split_thr=split_thr)
    dets, index = mmcv.ops.batched_nms(boxes, scores, labels, config)
    expected = torch.zeros(60)
    for label in range(3):
        members = (labels == label).nonzero()[:, 0]
        part, order = mmcv.ops.soft_nms(boxes[members], scores[members], 0.4, min_score=0.2)
        expected[members[order]] = part[:, 4]
    assert sorted(index.tolist()) == expected.nonzero()[:, 0].tolist()
    # 1e-4: batched_nms moves the classes apart by adding to the coordinates, in fp32.
    torch.testing.assert_close(dets[:, 4], expected[index], rtol=1e-4, atol=1e-4)
    assert torch.equal(dets[:, :4], boxes[index]) and (dets[:-1, 4] >= dets[1:, 4]).all()


# ---------------------------------------------------------------------------------- RoIAlign


def _interpolate(plane: torch.Tensor, y: float, x: float) -> float:
    """RoIAlign's bilinear value: the edge reaches one pixel further, then there is nothing."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = 0.0
    for row in {math.floor(y), math.ceil(y)}:
        for col in {math.floor(x), math.ceil(x)}:
            value += (1 - abs(y - row)) * (1 - abs(x - col)) * plane[row, col].item()
    return value


def _roi_align_loops(image, rois, size, scale, ratio, mode, aligned):
    output = torch.zeros(len(rois), image.shape[1], *size, dtype=torch.float64)
    for r, (index, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * scale - 0.5 * aligned for corner in corners)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        rows = ratio or math.ceil(height / size[0])
        cols = ratio or math.ceil(width / size[1])
        for i in range(size[0]):
            for j in range(size[1]):
                points = [
                    (
                        y1 + height / size[0] * (i + (p + 0.5) / rows),
                        x1 + width / size[1] * (j + (q + 0.5) / cols),
                    )
                    for p in range(rows)
                    for q in range(cols)
                ]
                for c, plane in enumerate(image[int(index)]):
                    values = [_interpolate(plane, y, x) for y, x in points]
                    if mode == 'max':  # of no points: what the compiled CPU operator starts from
                        output[r, c, i, j] = max(values, default=-10000.0)
                    else:
                        output[r, c, i, j] = sum(values) / max(len(values), 1)
    return output


# Inside, without area, of sub-pixel width, beyond the edges, and large: grids of several sizes.
ROIS = torch.tensor(
    [
        [1, 3.3, 2.1, 13.7, 11.2],
        [0, 5.0, 5.0, 5.0, 5.0],
        [1, 4.2, 1.0, 4.6, 9.0],
        [0, -7.7, -6.1, 25.3, 20.9],
        [0, 0.4, 0.3, 17.9, 14.1],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align(monkeypatch, pool_mode, sampling_ratio, aligned):
    monkeypatch.setattr(roi_align, '_POINT_ELEMENTS', 100)  # in parts of a few RoIs
    image = _randn(2, 3, 7, 9)
    layer = mmcv.ops.RoIAlign((3, 2), 0.5, sampling_ratio, pool_mode, aligned)
    arguments = ((3, 2), 0.5, sampling_ratio, pool_mode, aligned)
    expected = _roi_align_loops(image, ROIS, *arguments)
    torch.testing.assert_close(layer(image, ROIS), expected, rtol=1e-12, atol=1e-12)
    wide = layer(image.float(), ROIS.float())
    torch.testing.assert_close(wide, expected.float(), rtol=1e-5, atol=1e-5)
    assert gradcheck(lambda x: layer(x, ROIS), image.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_of_no_rois(pool_mode):
    image = torch.randn(2, 3, 7, 9, requires_grad=True)
    output = mmcv.ops.RoIAlign((3, 2), pool_mode=pool_mode)(image, torch.zeros(0, 5))
    assert output.shape == (0, 3, 3, 2)
    output.sum().backward()
    assert not image.grad.any()


@pytest.mark.parametrize('dtype', HALF_TOLERANCE)
@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_in_half_precision(dtype, pool_mode):
    layer = mmcv.ops.RoIAlign((3, 2), 0.5, 2, pool_mode, True)
    image, rois = _randn(2, 3, 7, 9).to(dtype), ROIS.round().to(dtype)
    gradient = _randn(5, 3, 3, 2, seed=1).to(dtype)
    outputs, grads = [], []
    for kind in (dtype, torch.float32):
        leaf = image.detach().to(kind).requires_grad_()
        outputs.append(layer(leaf, rois.to(kind)))
        outputs[-1].backward(gradient.to(kind))
        grads.append(leaf.grad)
    assert outputs[0].dtype == grads[0].dtype == dtype
    unit = HALF_TOLERANCE[dtype]
    torch.testing.assert_close(outputs[0].float(), outputs[1], rtol=unit, atol=unit)
    # The point of the maximum is handed to the backward pass in the half type, as in mmcv.
    slack = 1 if pool_mode == 'avg' else 20
    torch.testing.assert_close(grads[0].float(), grads[1], rtol=slack * unit, atol=slack * unit)


# -------------------------------------------------------------------- deformable convolution


def _sample(plane: torch.Tensor, y: float, x: float) -> float:
    """Bilinear value with zeros around the plane."""
    height, width = plane.shape
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for col in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= col < width:
                value += (1 - abs(y - row)) * (1 - abs(x - col)) * plane[row, col].item()
    return value


def _deform_conv_loops(
    x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
):
    count, channels = x.shape[:2]
    filters, per_group, kernel_h, kernel_w = weight.shape
    height, width = offset.shape[2:]
    taps = kernel_h * kernel_w
    output = torch.zeros(count, filters, height, width, dtype=x.dtype) + bias[:, None, None]
    for n in range(count):
        for h in range(height):
            for w in range(width):
                patch = torch.zeros(channels, taps, dtype=x.dtype)
                for c in range(channels):
                    first = c // (channels // deform_groups) * taps
                    for t in range(taps):
                        shift_y, shift_x = offset[n, 2 * (first + t) :, h, w][:2].tolist()
                        y = h * stride[0] - padding[0] + t // kernel_w * dilation[0] + shift_y
                        at = w * stride[1] - padding[1] + t % kernel_w * dilation[1] + shift_x
                        patch[c, t] = _sample(x[n, c], y, at) * mask[n, first + t, h, w]
                for d in range(filters):
                    group = d // (filters // groups) * per_group
                    part = patch[group : group + per_group]
                    output[n, d, h, w] += (part * weight[d].flatten(1)).sum()
    return output


# stride, padding, dilation, groups, deform_groups
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (0, 2), (1, 2), 2, 1),
    ((1, 2), (2, 1), (2, 1), 1, 2),
    ((2, 2), (1, 1), (1, 1), 2, 4),
]


def _deform_conv_inputs(geometry):
    """x, offset, mask, weight and bias for a kernel of 3x2 on 5x6 pixels."""
    stride, padding, dilation, groups, deform_groups = geometry
    height = (5 + 2 * padding[0] - 2 * dilation[0] - 1) // stride[0] + 1
    width = (6 + 2 * padding[1] - dilation[1] - 1) // stride[1] + 1
    return (
        _randn(2, 4, 5, 6),
        _randn(2, 12 * deform_groups, height, width, seed=1) * 1.5,
        _randn(2, 6 * deform_groups, height, width, seed=2),
        _randn(6, 4 // groups, 3, 2, seed=3),
        _randn(6, seed=4),
    )


def _layer(kind, geometry, weight, bias=None):
    stride, padding, dilation, groups, deform_groups = geometry
    options = {} if kind is mmcv.ops.DeformConv2d else {'bias': bias is not None}
    layer = kind(4, 6, (3, 2), stride, padding, dilation, groups, deform_groups, **options)
    layer.to(weight.dtype).weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv(geometry):
    x, offset, mask, weight, bias = _deform_conv_inputs(geometry)
    expected = _deform_conv_loops(
        x, offset, torch.ones_like(mask), weight, torch.zeros_like(bias), *geometry
    )
    layer = _layer(mmcv.ops.DeformConv2d, geometry, weight)
    torch.testing.assert_close(layer(x, offset), expected, rtol=1e-12, atol=1e-12)
    wide = layer.float()(x.float(), offset.float())
    torch.testing.assert_close(wide, expected.float(), rtol=1e-5, atol=1e-5)
    leaves = [t.requires_grad_() for t in (x, offset, weight)]
    assert gradcheck(
        lambda x, o, w: mmcv.ops.deform_conv2d(x, o, w, *geometry), leaves, fast_mode=True
    )


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_modulated_deform_conv(geometry, with_bias):
    x, offset, mask, weight, bias = _deform_conv_inputs(geometry)
    bias = bias * with_bias
    expected = _deform_conv_loops(x, offset, mask, weight, bias, *geometry)
    layer = _layer(mmcv.ops.ModulatedDeformConv2d, geometry, weight, bias if with_bias else None)
    torch.testing.assert_close(layer(x, offset, mask), expected, rtol=1e-12, atol=1e-12)
    wide = layer.float()(x.float(), offset.float(), mask.float())
    torch.testing.assert_close(wide, expected.float(), rtol=1e-5, atol=1e-5)
    leaves = [t.requires_grad_() for t in (x, offset, mask, weight)]
    leaves.append(bias.requires_grad_() if with_bias else None)
    assert gradcheck(
        lambda *leaves: mmcv.ops.modulated_deform_conv2d(*leaves, *geometry),
        leaves,
        fast_mode=True,
    )


@pytest.mark.parametrize('kind', ['DeformConv2d', 'ModulatedDeformConv2d'])
def test_deform_conv_that_has_not_learned_is_a_convolution(kind):
    geometry = GEOMETRIES[0]
    x, offset, mask, weight, _ = _deform_conv_inputs(geometry)
    offset = torch.zeros_like(offset).requires_grad_()
    inputs = (x, offset) if kind == 'DeformConv2d' else (x, offset, torch.ones_like(mask))
    output = _layer(getattr(mmcv.ops, kind), geometry, weight)(*inputs)
    torch.testing.assert_close(output, F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)
    output.backward(_randn(*output.shape, seed=5))
    # The first tap lies one pixel outside in the first row and column: no slope, says mmcv.
    first_tap = offset.grad[:, :2]
    assert not first_tap[:, :, 0].any() and not first_tap[:, :, :, 0].any()
    assert first_tap[:, :, 1:, 1:].all()


def test_deform_conv_backward_parameters_adds_scaled():
    x, offset, _, weight, _ = _deform_conv_inputs(GEOMETRIES[0])
    gradient = _randn(2, 6, *offset.shape[2:], seed=5)
    leaf = weight.clone().requires_grad_()
    mmcv.ops.deform_conv2d(x, offset, leaf, 1, 1, 1, 1, 1).backward(gradient)
    total, buffer = torch.ones_like(weight), torch.empty(0)
    EXT.deform_conv_backward_parameters(
        x, offset, gradient, total, buffer.to(x), buffer.to(x), kW=2, kH=3, dW=1, dH=1,
        padW=1, padH=1, dilationW=1, dilationH=1, group=1, deformable_group=1, scale=0.5,
        im2col_step=2,
    )  # fmt: skip
    torch.testing.assert_close(total, 1 + 0.5 * leaf.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', HALF_TOLERANCE)
def test_deform_conv_in_half_precision(dtype):
    geometry = GEOMETRIES[3]
    inputs = [t.to(dtype) for t in _deform_conv_inputs(geometry)]
    results = []
    for kind in (dtype, torch.float32):
        x, offset, mask, weight, bias = leaves = [
            t.detach().to(kind).requires_grad_() for t in inputs
        ]
        outputs = (
            mmcv.ops.deform_conv2d(x, offset, weight, *geometry),
            mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry),
        )
        # Exact in half precision, so that rounding sums of gradients is all that differs.
        sum(output.float().sum() for output in outputs).backward()
        results.append([*outputs, *(leaf.grad for leaf in leaves)])
    for half, wide in zip(*results, strict=True):
        assert half.dtype == dtype
        tolerance = 4 * HALF_TOLERANCE[dtype]  # two gradients, each rounded, and their sum
        scale = wide.abs().max()
        torch.testing.assert_close(
            half / scale, wide / scale, rtol=0, atol=tolerance, check_dtype=False
        )


# ------------------------------------------------------------------------------- the module


@needs_stand_in
def test_a_missing_operator_says_how_to_get_it():
    with pytest.raises(RuntimeError, match="'roi_pool_forward'.*--no-binary onedl-mmcv") as error:
        mmcv.ops.RoIPool((2, 2))(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))
    assert '\n' not in str(error.value)
    assert not hasattr(EXT, '__wrapped__') and not hasattr(EXT, '_repr_html_')


@needs_stand_in
def test_mmcv_and_mmengine_find_the_operators():
    from mmengine.utils.dl_utils import mmcv_full_available

    assert importlib.util.find_spec('mmcv._ext').origin == mmcv_ops.__file__
    assert check_ops_exist() and mmcv_full_available()
    assert mmcv._ext is importlib.import_module('mmcv._ext') is EXT


def test_a_second_call_changes_nothing():
    before = list(sys.meta_path)
    provide_mmcv_ops()
    assert sys.meta_path == before


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """What finds and loads ``mmcv._ext`` where a file of that name is beside mmcv."""
    monkeypatch.setattr(mmcv, '__path__', [str(tmp_path), *mmcv.__path__])
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.delattr(mmcv, '_ext')
    return tmp_path


def test_compiled_operators_are_left_alone(compiled):
    (compiled / '_ext.py').write_text('nms = 1')
    ext = importlib.import_module('mmcv._ext')
    assert (ext.nms, ext.__file__) == (1, str(compiled / '_ext.py'))
    assert importlib.util.find_spec('mmcv._ext').origin == str(compiled / '_ext.py')


def test_compiled_operators_that_do_not_load_are_replaced_aloud(compiled):
    (compiled / f'_ext{EXTENSION_SUFFIXES[0]}').write_bytes(b'no library')
    with pytest.warns(UserWarning, match='compiled operators do not load .*file too short'):
        ext = importlib.import_module('mmcv._ext')
    assert ext.__file__ == mmcv_ops.__file__
    assert ext.nms is nms.nms


@pytest.mark.long
def test_mmdet_may_have_failed_before():
    """Whoever forgot us meets mmdet's error, and can go on after importing us."""
    code = (
        'try:\n    import mmdet.models\n'
        "except ImportError as error:\n    assert 'mmcv._ext' in str(error)\n"
        'import convnextv2_mm, torch, mmdet.models, mmcv.ops\n'
        'box = torch.tensor([[0.0, 0, 4, 4]])\n'
        'print(len(mmcv.ops.nms(torch.cat([box, box]), torch.ones(2), 0.5)[1]))\n'
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == '1'


@pytest.mark.long
def test_a_fresh_process_imports_mmdet_and_mmseg_and_logs_its_environment():
    code = (
        'from convnextv2_mm.patches.mmcv_ops import provide_mmcv_ops\n'
        'provide_mmcv_ops()\n'
        'import mmdet.models, mmseg.models\n'
        'from mmcv.utils import collect_env\n'
        "print(collect_env()['MMCV Compiler'])\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
