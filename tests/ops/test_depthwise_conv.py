"""The depthwise convolution, dense and packed, against a float64 brute force."""

import pytest
import torch

from convnextv2_mm.ops import PatchLayout, depthwise_conv


def brute_force(x, weight, bias, visible):
    """Sum over taps in float64; masked sites are read as zeros and get no output."""
    n, h, w, c = x.shape
    x = x.double() * visible
    padded = torch.zeros(n, h + 6, w + 6, c, dtype=torch.float64)
    padded[:, 3 : h + 3, 3 : w + 3] = x
    y = torch.zeros_like(x) + bias.double()
    for i in range(7):
        for j in range(7):
            y += padded[:, i : i + h, j : j + w] * weight[:, 0, i, j].double()
    return y * visible


CASES = [(1, (7, 7), 8), (3, (8, 6), 4), (2, (3, 5), 2), (5, (2, 3), 1)]


@pytest.mark.parametrize(('batch', 'grid', 'side'), CASES)
@pytest.mark.parametrize('channels', [3, 40])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
def test_equals_brute_force(batch, grid, side, channels, dtype, tolerance):
    torch.manual_seed(0)
    layout = PatchLayout.random(batch, grid, 0.6)
    x = torch.randn(batch, grid[0] * side, grid[1] * side, channels, dtype=dtype)
    weight = torch.randn(channels, 1, 7, 7, dtype=dtype, requires_grad=True)
    bias = torch.randn(channels, dtype=dtype, requires_grad=True)
    packed = layout.pack(x).detach().requires_grad_()
    dense = x.detach().requires_grad_()
    wide_x, wide_w, wide_b = (t.detach().double().requires_grad_() for t in (x, weight, bias))
    expected = brute_force(wide_x, wide_w, wide_b, layout.visible_map(side))
    direction = torch.randn_like(x)
    (expected * direction).sum().backward()

    def close(a, b):
        return (a.double() - b).norm() <= tolerance * b.norm()

    for form, pack in ((packed, layout.pack), (dense, lambda t: t)):
        weight.grad = bias.grad = None
        y = depthwise_conv(form, weight, bias, layout)
        (y * pack(direction)).sum().backward()
        assert y.dtype == dtype
        assert close(y, pack(expected.detach()))
        assert close(form.grad, pack(wide_x.grad))
        assert close(weight.grad, wide_w.grad)
        assert close(bias.grad, wide_b.grad)


@pytest.mark.parametrize('size', [(5, 9), (1, 1), (32, 17)])
def test_dense_image_of_any_size(size):
    x = torch.randn(2, *size, 6)
    weight, bias = torch.randn(6, 1, 7, 7), torch.randn(6)
    expected = brute_force(x, weight, bias, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(
        depthwise_conv(x, weight, bias).double(), expected, rtol=1e-4, atol=1e-4
    )
    without = brute_force(x, weight, torch.zeros(6), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(
        depthwise_conv(x, weight, None).double(), without, rtol=1e-4, atol=1e-4
    )


def test_pack_and_unpack_are_inverse():
    layout = PatchLayout.random(3, (4, 5), 0.5)
    x = torch.randn(3, 8, 10, 6)
    packed = layout.pack(x)
    assert packed.shape == (3, 10, 2, 2, 6)
    assert torch.equal(layout.unpack(packed), x * layout.visible_map(2))
    # the first site of the second visible patch of the third image
    row, column = divmod(layout.visible[2, 1].item(), 5)
    assert torch.equal(packed[2, 1, 0, 1], x[2, 2 * row, 2 * column + 1])
