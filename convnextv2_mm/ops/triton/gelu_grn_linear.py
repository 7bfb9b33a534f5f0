"""GELU, GRN and a linear layer with few passes over the wide input, in Triton.

Matrix products are PyTorch's. Around them the forward pass reads the input twice (norms, then
values) and the backward pass reads it and the gradient twice (sums, then values). Only the input is
kept: GELU and GRN are computed again, which is cheaper than to store and load their results.

All sums have a fixed order: over the sites of a part of a sample, then over parts, then samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import operator_when_compiling, power_of_2, provide_cache

provide_cache()

EPS = 1e-6  # added to the mean norm, as in global_response_norm
PART = 256  # sites of a sample that one program walks over
ROWS, BLOCK = 16, 128  # of the tile that it holds: 16 values a thread


@triton.jit
def _normal(x):
    """Distribution function of the normal distribution at x, and its density.

    Within 1e-7 by an exponential and a reciprocal (Abramowitz & Stegun, formula 7.1.26): the
    library's erf, and a division in place of the root, take longer than to read x.
    """
    u = 1 + 0.2316418882 * tl.abs(x)
    t = tl.rsqrt(u * u)
    bell = tl.exp2(-0.7213475204 * x * x)
    series = 1.061405429 * t - 1.453152027
    series = ((series * t + 1.421413741) * t - 0.284496736) * t + 0.254829592
    tail = 0.5 * series * t * bell
    return tl.where(x < 0, tail, 1 - tail), 0.3989422804 * bell


@triton.jit
def _gelu(x):
    return x * _normal(x)[0]


@triton.jit
def _part(sites, C, PART: tl.constexpr, BLOCK: tl.constexpr):
    """Where a part begins in memory, its number of sites, and the channels of the program."""
    parts = tl.cdiv(sites, PART)
    sample = tl.program_id(0) // parts
    begin = tl.program_id(0) % parts * PART
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = (sample.to(tl.int64) * sites + begin) * C
    return first, tl.minimum(sites - begin, PART), channel


@triton.jit
def _tile(begin, size, channel, C, ROWS: tl.constexpr):
    row = begin + tl.arange(0, ROWS)
    return row[:, None] * C + channel[None, :], (row < size)[:, None] & (channel < C)[None, :]


@triton.jit(do_not_specialize=['sites'])
def _squares_kernel(
    x, partial, sites, C: tl.constexpr,
    PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of GELU(x)² over the sites of a part: ``partial`` is ``(N · parts, C)``."""
    first, size, channel = _part(sites, C, PART, BLOCK)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, size, ROWS):
        offset, there = _tile(begin, size, channel, C, ROWS)
        value = tl.load(x + first + offset, mask=there, other=0).to(tl.float32)
        activation = _gelu(value)
        total += activation * activation
    out = partial + tl.program_id(0) * C + channel
    tl.store(out, tl.sum(total, 0), mask=channel < C)


@triton.jit(do_not_specialize=['parts'])
def _norm_kernel(partial, gamma, norm, scale, parts, C: tl.constexpr, EPS, BLOCK: tl.constexpr):
    """Norm of each channel of a sample, and what GRN multiplies it with; one program a sample."""
    channel = tl.arange(0, BLOCK)
    there = channel < C
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        address = partial + (tl.program_id(0) * parts + part) * C + channel
        total += tl.load(address, mask=there, other=0)
    value = tl.sqrt(total)
    response = value / (tl.sum(value, 0) / C + EPS)
    weight = tl.load(gamma + channel, mask=there, other=0).to(tl.float32)
    out = tl.program_id(0) * C + channel
    tl.store(norm + out, value, mask=there)
    tl.store(scale + out, weight * response + 1, mask=there)


@triton.jit(do_not_specialize=['sites'])
def _apply_kernel(
    x, scale, beta, y, sites, C: tl.constexpr,
    PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """GRN(GELU(x)) with the scale of each sample and channel."""
    first, size, channel = _part(sites, C, PART, BLOCK)
    sample = tl.program_id(0) // tl.cdiv(sites, PART)
    s = tl.load(scale + sample * C + channel, mask=channel < C, other=0)[None, :]
    b = tl.load(beta + channel, mask=channel < C, other=0).to(tl.float32)[None, :]
    for begin in range(0, size, ROWS):
        offset, there = _tile(begin, size, channel, C, ROWS)
        value = tl.load(x + first + offset, mask=there, other=0).to(tl.float32)
        tl.store(y + first + offset, _gelu(value) * s + b, mask=there)


@triton.jit(do_not_specialize=['sites'])
def _grad_sums_kernel(
    x, grad, dots, totals, sites, C: tl.constexpr,
    PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of grad · GELU(x) and of grad over the sites of a part, each ``(N · parts, C)``."""
    first, size, channel = _part(sites, C, PART, BLOCK)
    dot = tl.zeros([ROWS, BLOCK], tl.float32)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, size, ROWS):
        offset, there = _tile(begin, size, channel, C, ROWS)
        value = tl.load(x + first + offset, mask=there, other=0).to(tl.float32)
        g = tl.load(grad + first + offset, mask=there, other=0).to(tl.float32)
        dot += g * _gelu(value)
        total += g
    out = tl.program_id(0) * C + channel
    tl.store(dots + out, tl.sum(dot, 0), mask=channel < C)
    tl.store(totals + out, tl.sum(total, 0), mask=channel < C)


@triton.jit(do_not_specialize=['parts', 'samples'])
def _grad_norm_kernel(
    dots, totals, norm, gamma, per_norm, grads, parts, samples, C: tl.constexpr, EPS,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """What the norms pass back, as a multiple of GELU(x); one program a sample.

    ``grads`` is ``(2, N, C)``: the share of each sample in the gradients of gamma and beta.
    """
    channel = tl.arange(0, BLOCK)
    there = channel < C
    dot = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        offset = (tl.program_id(0) * parts + part) * C + channel
        dot += tl.load(dots + offset, mask=there, other=0)
        total += tl.load(totals + offset, mask=there, other=0)
    out = tl.program_id(0) * C + channel
    value = tl.load(norm + out, mask=there, other=0)
    weight = tl.load(gamma + channel, mask=there, other=0).to(tl.float32)
    mean = tl.sum(value, 0) / C + EPS
    response = value / mean
    # The mean over channels passes the gradient of one response to every norm.
    grad_norm = (weight * dot - tl.sum(weight * dot * response, 0) / C) / mean
    is_alive = value > 0  # a dead channel has no direction
    grad_norm = tl.where(is_alive, grad_norm / tl.where(is_alive, value, 1), 0)
    tl.store(per_norm + out, grad_norm, mask=there)
    tl.store(grads + out, response * dot, mask=there)
    tl.store(grads + samples * C + out, total, mask=there)


@triton.jit(do_not_specialize=['sites'])
def _grads_kernel(
    x, grad, scale, beta, per_norm, y, grad_x, sites, C: tl.constexpr,
    PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and GRN(GELU(x)) again for the gradient of the linear layer."""
    first, size, channel = _part(sites, C, PART, BLOCK)
    sample = tl.program_id(0) // tl.cdiv(sites, PART)
    s = tl.load(scale + sample * C + channel, mask=channel < C, other=0)[None, :]
    p = tl.load(per_norm + sample * C + channel, mask=channel < C, other=0)[None, :]
    b = tl.load(beta + channel, mask=channel < C, other=0).to(tl.float32)[None, :]
    for begin in range(0, size, ROWS):
        offset, there = _tile(begin, size, channel, C, ROWS)
        value = tl.load(x + first + offset, mask=there, other=0).to(tl.float32)
        g = tl.load(grad + first + offset, mask=there, other=0).to(tl.float32)
        cdf, density = _normal(value)
        tl.store(y + first + offset, value * cdf * s + b, mask=there)
        slope = cdf + value * density
        tl.store(grad_x + first + offset, (g * s + value * cdf * p) * slope, mask=there)


def triton_gelu_grn_linear(
    x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """``Linear(GRN(GELU(x)))``; arguments as of ``ops.gelu_grn_linear``."""
    return _GeluGrnLinear.apply(x.contiguous(), gamma, beta, weight, bias)


class _GeluGrnLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        y, norm, scale = _respond(x, gamma, beta)
        ctx.save_for_backward(x, gamma, beta, weight, norm, scale)
        return F.linear(y, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, gamma, beta, weight, norm, scale = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        y, grad_x, affine = _differentiate(rows @ weight, x, gamma, beta, norm, scale)
        grad_gamma, grad_beta = affine.sum(1).to(gamma.dtype)
        grad_weight = rows.t() @ y.view(-1, y.shape[-1])
        return grad_x, grad_gamma, grad_beta, grad_weight, rows.sum(0)


def _fake_response(x, gamma, beta):
    norm = x.new_empty(len(x), x.shape[-1], dtype=torch.float32)
    return torch.empty_like(x), norm, torch.empty_like(norm)


@operator_when_compiling('gelu_grn', _fake_response)
def _respond(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``GRN(GELU(x))``, and norm and scale ``(N, 4C)`` float32 for the backward pass."""
    samples, channels, sites, parts, grid, meta = _launch(x)
    partial = x.new_empty(samples * parts, channels, dtype=torch.float32)
    norm = x.new_empty(samples, channels, dtype=torch.float32)
    scale, y = torch.empty_like(norm), torch.empty_like(x)
    with torch.cuda.device_of(x):  # Triton runs on the current device
        _squares_kernel[grid](x, partial, sites, **meta)
        _norm_kernel[samples,](
            partial, gamma, norm, scale, parts, C=channels, EPS=EPS,
            BLOCK=power_of_2(channels), num_warps=8,
        )  # fmt: skip
        _apply_kernel[grid](x, scale, beta, y, sites, **meta)
    return y, norm, scale


def _fake_gradients(grad, x, gamma, beta, norm, scale):
    affine = x.new_empty(2, len(x), x.shape[-1], dtype=torch.float32)
    return torch.empty_like(x), torch.empty_like(x), affine


@operator_when_compiling('gelu_grn_backward', _fake_gradients)
def _differentiate(
    grad: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, norm: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``GRN(GELU(x))`` again, and from its gradient that of x and of gamma and beta.

    The latter are ``(2, N, 4C)`` float32: the share of each sample.
    """
    samples, channels, sites, parts, grid, meta = _launch(x)
    dots, totals = x.new_empty(2, samples * parts, channels, dtype=torch.float32)
    per_norm = torch.empty_like(norm)
    affine = x.new_empty(2, samples, channels, dtype=torch.float32)
    y, grad_x = torch.empty_like(x), torch.empty_like(x)
    with torch.cuda.device_of(x):
        _grad_sums_kernel[grid](x, grad, dots, totals, sites, **meta)
        _grad_norm_kernel[samples,](
            dots, totals, norm, gamma, per_norm, affine, parts, samples, C=channels, EPS=EPS,
            BLOCK=power_of_2(channels), num_warps=8,
        )  # fmt: skip
        _grads_kernel[grid](x, grad, scale, beta, per_norm, y, grad_x, sites, **meta)
    return y, grad_x, affine


def _launch(x: Tensor) -> tuple[int, int, int, int, tuple[int, int], dict]:
    """Samples, channels, sites and parts of a sample, and how the kernels over sites run."""
    samples, *inner, channels = x.shape
    sites = math.prod(inner)
    parts = -(-sites // PART)
    grid = (samples * parts, -(-channels // BLOCK))
    meta = dict(C=channels, PART=PART, ROWS=ROWS, BLOCK=BLOCK)
    return samples, channels, sites, parts, grid, meta
