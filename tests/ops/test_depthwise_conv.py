"""The depthwise convolution, dense and packed, against a float64 brute force."""

import sys

import pytest
import torch

from convnextv2_mm.ops import PatchLayout, depthwise_conv

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # on a CPU Triton is interpreted


def brute_force(x, weight, bias, visible):
    """Sum over taps in float64; masked sites are read as zeros and get no output."""
    n, h, w, c = x.shape
    x = x.double() * visible
    padded = x.new_zeros(n, h + 6, w + 6, c)
    padded[:, 3 : h + 3, 3 : w + 3] = x
    y = torch.zeros_like(x) + bias.double()
    for i in range(7):
        for j in range(7):
            y += padded[:, i : i + h, j : j + w] * weight[:, 0, i, j].double()
    return y * visible


# batch, patches, sites a side: the four stages of the encoder
CASES = [(1, (7, 7), 8), (3, (8, 6), 4), (7, (3, 5), 2), (5, (2, 3), 1)]
# On a GPU what the encoder meets: 224×224 and 256×192 pixels, one image and several; Triton's
# interpreter takes a second for a few patches.
FULL = [(b, grid, side) for b in (1, 7) for grid in ((7, 7), (8, 6)) for side in (8, 4, 2, 1)]
FEW = [(1, (1, 3), 8), (2, (2, 2), 4), (1, (3, 2), 2), (1, (3, 4), 1)]
IS_FULL = torch.cuda.is_available()
TOLERANCES = [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]


def check(x, layout, side, backend, tolerance):
    """Values and all gradients of a dense ``x``, packed if there is a layout."""
    dtype, channels = x.dtype, x.shape[-1]
    weight = torch.randn(channels, 1, 7, 7).to(x).requires_grad_()
    bias = torch.randn(channels).to(x).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    visible = x.new_ones(1, 1, 1, 1) if layout is None else layout.visible_map(side)
    expected = brute_force(*wide, visible)
    direction = torch.randn_like(x)
    (expected * direction).sum().backward()

    def close(a, b):
        return (a.double() - b).norm() <= tolerance * b.norm()

    dense = [lambda t: t] if layout is None or backend == 'torch' else []
    for pack in dense if layout is None else [layout.pack, *dense]:
        weight.grad = bias.grad = None
        form = pack(x).detach().requires_grad_()
        y = depthwise_conv(form, weight, bias, layout, backend)
        (y * pack(direction)).sum().backward()
        assert y.dtype == dtype
        assert close(y, pack(expected.detach()))
        assert close(form.grad, pack(wide[0].grad))
        assert close(weight.grad, wide[1].grad)
        assert close(bias.grad, wide[2].grad)


@pytest.mark.parametrize(('batch', 'grid', 'side'), CASES)
@pytest.mark.parametrize('channels', [3, 40, 352])
@pytest.mark.parametrize(('dtype', 'tolerance'), TOLERANCES)
def test_torch_equals_brute_force(batch, grid, side, channels, dtype, tolerance):
    torch.manual_seed(0)
    layout = PatchLayout.random(batch, grid, 0.6)
    x = torch.randn(batch, grid[0] * side, grid[1] * side, channels, dtype=dtype)
    check(x, layout, side, 'torch', tolerance)


@pytest.mark.long
@pytest.mark.parametrize(('batch', 'grid', 'side'), FULL if IS_FULL else FEW)
@pytest.mark.parametrize('channels', [40, 80, 160, 352] if IS_FULL else [40, 72])
@pytest.mark.parametrize(('dtype', 'tolerance'), TOLERANCES[:2])
def test_triton_equals_brute_force(batch, grid, side, channels, dtype, tolerance):
    torch.manual_seed(0)
    layout = PatchLayout.random(batch, grid, 0.6 if IS_FULL else 0.4, DEVICE)
    x = torch.randn(batch, grid[0] * side, grid[1] * side, channels).to(DEVICE, dtype)
    check(x, layout, side, 'triton', tolerance)


@pytest.mark.parametrize(('batch', 'grid', 'side'), FULL if IS_FULL else CASES)
@pytest.mark.parametrize('channels', [40, 352])
@pytest.mark.parametrize(('dtype', 'tolerance'), TOLERANCES[:2])
def test_spconv_equals_brute_force(batch, grid, side, channels, dtype, tolerance):
    pytest.importorskip('spconv')
    torch.manual_seed(0)
    layout = PatchLayout.random(batch, grid, 0.6, DEVICE)
    x = torch.randn(batch, grid[0] * side, grid[1] * side, channels).to(DEVICE, dtype)
    check(x, layout, side, 'spconv', tolerance)


@pytest.mark.long
@pytest.mark.parametrize('size', [(1, 1), (5, 9), (8, 4)])
@pytest.mark.parametrize('channels', [6, 40])
@pytest.mark.parametrize('backend', ['torch', 'triton', 'spconv'])
def test_dense_image_of_any_size(size, channels, backend):
    torch.manual_seed(0)
    check(torch.randn(2, *size, channels).to(DEVICE), None, 0, backend, 1e-4)


def test_no_bias():
    x, weight = torch.randn(1, 4, 4, 6), torch.randn(6, 1, 7, 7)
    expected = brute_force(x, weight, torch.zeros(6), torch.ones(1, 1, 1, 1))
    for backend in ('torch', 'triton'):
        y = depthwise_conv(x.to(DEVICE), weight.to(DEVICE), None, backend=backend).cpu()
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_weight_gradient_is_deterministic():
    x = torch.randn(1, 8, 8, 8, device=DEVICE)
    grads = []
    for _ in range(2):
        weight = torch.ones(8, 1, 7, 7, device=DEVICE, requires_grad=True)
        depthwise_conv(x, weight, None, backend='triton').square().sum().backward()
        grads.append(weight.grad)
    assert torch.equal(*grads)


def test_only_7x7_in_triton():
    with pytest.raises(ValueError, match="backend 'triton' does not take a kernel of 3x3"):
        depthwise_conv(torch.randn(1, 4, 4, 2), torch.randn(2, 1, 3, 3), None, backend='triton')
    x, weight = torch.randn(1, 4, 4, 2), torch.randn(2, 1, 3, 3)
    assert depthwise_conv(x, weight, None).shape == x.shape


def test_spconv_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'spconv.core', None)
    layout = PatchLayout.random(1, (2, 2), 0.5)
    with pytest.raises(ImportError, match="backend 'spconv' needs spconv: pip install"):
        depthwise_conv(
            torch.randn(1, 2, 2, 2, 4), torch.randn(4, 1, 7, 7), None, layout, backend='spconv'
        )


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'cudnn' is unknown: choose one of auto, torch"):
        depthwise_conv(torch.randn(1, 4, 4, 2), torch.randn(2, 1, 7, 7), None, backend='cudnn')
