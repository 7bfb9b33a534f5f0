"""GELU, GRN and the projection in one, against PyTorch's and mmpretrain's layers in float64."""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.utils import GRN

from convnextv2_mm.ops import PatchLayout, gelu_grn_linear

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # on a CPU Triton is interpreted
# packed patches, a dense image, a sample of more sites than a program takes, single sites
SHAPES = [(2, 5, 4, 4), (1, 7, 3), (2, 20, 17), (7, 3, 1, 1)]


def inputs(shape, channels, dtype=torch.float32):
    torch.manual_seed(0)
    tensors = [
        torch.randn(*shape, channels).to(dtype),
        torch.randn(channels),
        torch.randn(channels),
        torch.randn(channels // 4, channels).to(dtype),
        torch.randn(channels // 4).to(dtype),
    ]
    return [t.to(DEVICE).requires_grad_() for t in tensors]


def oracle(x, gamma, beta, weight, bias):
    """mmpretrain's GRN on ``(N, S, 1, C)``: it does not see how sites are arranged."""
    layer = GRN(x.shape[-1])
    del layer.gamma, layer.beta
    layer.gamma, layer.beta = gamma, beta
    y = F.gelu(x)
    y = layer(y.flatten(1, -2).unsqueeze(2), data_format='channel_last').view_as(x)
    return F.linear(y, weight, bias)


def results(function, tensors, direction):
    y = function(*tensors)
    return y, *torch.autograd.grad((y * direction.to(y.dtype)).sum(), tensors)


@pytest.mark.long
@pytest.mark.parametrize('backend', ['torch', 'triton'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('channels', [40, 160])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_equals_layers_of_others(backend, shape, channels, dtype, tolerance):
    tensors = inputs(shape, channels, dtype)
    direction = torch.randn(*shape, channels // 4).to(DEVICE, dtype)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    expected = results(oracle, wide, direction)
    mine = results(lambda *t: gelu_grn_linear(*t, backend=backend), tensors, direction)
    assert mine[0].dtype == dtype
    for a, b, like in zip(mine, expected, [mine[0], *tensors], strict=True):
        assert a.dtype == like.dtype
        assert (a.double() - b).norm() <= tolerance * b.norm()


def test_dead_channels_have_finite_gradients():
    tensors = inputs((2, 3, 3), 16)
    with torch.no_grad():
        tensors[0][..., ::2] = 0
    for value in results(lambda *t: gelu_grn_linear(*t, backend='triton'), tensors, torch.ones(())):
        assert value.isfinite().all()


def test_extreme_values():
    """The series for erf and its limits, against PyTorch's."""
    x = torch.tensor([-40.0, -6, -3, -0.5, -1e-6, 0, 1e-6, 0.5, 3, 6, 40]).view(1, 11, 1, 1)
    x = x.to(DEVICE).requires_grad_()
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    y = gelu_grn_linear(x, zero, zero, one[None], zero, backend='triton')
    expected = F.gelu(x)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=5e-7)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=5e-7)


def test_masked_sites_do_not_count():
    """A dense map of which a part is masked is left to PyTorch, whatever the backend."""
    x, *weights = inputs((2, 8, 12), 8)
    layout = PatchLayout.random(2, (2, 3), 0.5, DEVICE)
    dense = gelu_grn_linear(x, *weights, layout, backend='triton')
    packed = gelu_grn_linear(layout.pack(x), *weights, layout, backend='triton')
    torch.testing.assert_close(layout.pack(dense), packed)


def test_keeps_one_wide_tensor():
    """Of the tensors that wait for the backward pass, only the input is 4C wide and per site."""
    tensors = inputs((2, 5, 4, 4), 160)
    saved = []

    def note(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        gelu_grn_linear(*tensors, backend='triton')
    wide = {t.data_ptr() for t in saved if t.numel() == tensors[0].numel()}
    assert wide == {tensors[0].data_ptr()}
