"""GRN against mmpretrain's, in values and gradients."""

import pytest
import torch
from mmpretrain.models.utils import GRN

from convnextv2_mm.ops import PatchLayout, global_response_norm


def oracle(x, gamma, beta):
    """mmpretrain's layer on ``(N, S, 1, C)``: GRN does not see how sites are arranged."""
    layer = GRN(x.shape[-1]).to(x.dtype)
    layer.gamma.data, layer.beta.data = gamma.detach().clone(), beta.detach().clone()
    return layer(x.flatten(1, -2).unsqueeze(2), data_format='channel_last').view_as(x), layer


def leaves(channels, *shape, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(*shape, channels, dtype=dtype)
    return [t.requires_grad_() for t in (x, torch.randn(channels), torch.randn(channels))]


@pytest.mark.parametrize('shape', [(2, 7, 5), (1, 1, 1), (3, 4, 2, 2), (1, 19, 1, 1)])
@pytest.mark.parametrize('channels', [4, 40])
def test_equals_mmpretrain(shape, channels):
    x, gamma, beta = leaves(channels, *shape)
    y = global_response_norm(x, gamma, beta)
    z = x.detach().clone().requires_grad_()
    expected, layer = oracle(z, gamma, beta)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    for mine, other in ((x, z), (gamma, layer.gamma), (beta, layer.beta)):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('packed', [True, False])
def test_gradient_is_the_derivative(packed):
    shape = (2, 3, 2, 2) if packed else (2, 4, 6)
    x, gamma, beta = (t.detach().double().requires_grad_() for t in leaves(5, *shape))
    layout = None if packed else PatchLayout.random(2, (2, 3), 0.5)
    assert torch.autograd.gradcheck(
        lambda *args: global_response_norm(*args, layout=layout), (x, gamma, beta)
    )


def test_dead_channels_have_finite_gradients():
    x, gamma, beta = leaves(4, 2, 3, 3)
    x = (x.detach() * torch.tensor([0, 1, 1, 1])).requires_grad_()
    global_response_norm(x, gamma, beta).square().sum().backward()
    assert x.grad.isfinite().all()
    zeros = torch.zeros_like(x).requires_grad_()
    global_response_norm(zeros, gamma, beta).sum().backward()
    assert zeros.grad.isfinite().all()


def test_float16_does_not_overflow():
    x = torch.full((1, 56, 56, 8), 100.0)
    gamma, beta = torch.ones(8), torch.zeros(8)
    y = global_response_norm(x.half(), gamma, beta)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), global_response_norm(x, gamma, beta), rtol=1e-3, atol=0)


def test_masked_sites_do_not_count():
    x, gamma, beta = leaves(6, 2, 8, 12)
    layout = PatchLayout.random(2, (2, 3), 0.5)
    dense = global_response_norm(x, gamma, beta, layout)
    packed = global_response_norm(layout.pack(x), gamma, beta, layout)
    torch.testing.assert_close(layout.pack(dense), packed)
