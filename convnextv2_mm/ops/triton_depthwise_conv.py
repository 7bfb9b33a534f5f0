"""Depthwise 7×7 convolution in Triton: forward, input gradient, weight and bias gradient.

One addressing serves both forms of features. A site has coordinates on the grid of its image; where
its C values lie is a product in a dense map, and one look-up of the patch in a packed one. A
program owns a tile of sites and a block of channels. It reads each input value once for a column of
output sites and keeps the sums in float32, so a tile of 8 rows costs 12 reads for 49 products.

The gradient of the input is the same convolution with the taps turned round. The gradient of the
weight is summed in two stages, over the tiles of a program and then over programs, in a fixed
order: it is the same in every run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .patch_layout import PatchLayout

TAPS = 49  # 7×7, the only size that ConvNeXt uses
PARTIAL_SUMS = 512  # programs over the sites in the weight gradient, at the most


@triton.jit
def _tile_origin(pid, visible, K, H, W, S: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Image, first row and first column of the tile of a program. S is 0 for dense maps."""
    if S == 0:
        columns = tl.cdiv(W, TW)
        tiles = tl.cdiv(H, TH) * columns
        image = pid // tiles
        row = pid % tiles // columns * TH
        column = pid % columns * TW
    else:
        tiles: tl.constexpr = (S // TH) * (S // TW)
        image = pid // tiles // K
        patch = tl.load(visible + pid // tiles)
        row = patch // (W // S) * S + pid % tiles // (S // TW) * TH
        column = patch % (W // S) * S + pid % (S // TW) * TW
    return image, row, column


@triton.jit
def _site(image, row, column, slots, K, H, W, S: tl.constexpr):
    """Number of a site in memory, and whether there is one. ``column`` may be a vector."""
    inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    if S == 0:
        return (image * H + row) * W + column, inside
    patch = (image * (H // S) + row // S) * (W // S) + column // S
    slot = tl.load(slots + patch, mask=inside, other=-1)
    site = ((image * K + slot) * S + row % S) * S + column % S
    return site, inside & (slot >= 0)


@triton.jit
def _load(x, site, there, channel, C):
    """``[TW, BC]`` values in float32, zero where there is no site."""
    address = x + site.to(tl.int64)[:, None] * C + channel[None, :]
    return tl.load(address, mask=there[:, None] & (channel < C)[None, :], other=0).to(tl.float32)


@triton.jit
def _tap(weight, i, j, channel, C, FLIP: tl.constexpr):
    """The ``[1, BC]`` weights of tap (i, j)."""
    tap = 48 - (i * 7 + j) if FLIP else i * 7 + j
    return tl.load(weight + tap * C + channel, mask=channel < C, other=0).to(tl.float32)[None, :]


@triton.jit
def _conv_kernel(
    x, weight, bias, y, slots, visible, K, H, W, C,
    S: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr,
    FLIP: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    image, row, column = _tile_origin(tl.program_id(0), visible, K, H, W, S, TH, TW)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    columns = column + tl.arange(0, TW)

    start = tl.zeros([TW, BC], tl.float32)
    if HAS_BIAS:
        start += tl.load(bias + channel, mask=channel < C, other=0).to(tl.float32)[None, :]
    # One sum for each row of the tile: Triton has no arrays of tensors.
    a0, a1, a2, a3, a4, a5, a6, a7 = start, start, start, start, start, start, start, start
    for r in tl.static_range(TH + 6):
        for j in tl.static_range(7):
            site, there = _site(image, row + r - 3, columns + j - 3, slots, K, H, W, S)
            value = _load(x, site, there, channel, C)
            if r < 7:
                a0 += value * _tap(weight, r, j, channel, C, FLIP)
            if TH > 1 and r >= 1 and r < 8:
                a1 += value * _tap(weight, r - 1, j, channel, C, FLIP)
            if TH > 2 and r >= 2 and r < 9:
                a2 += value * _tap(weight, r - 2, j, channel, C, FLIP)
            if TH > 3 and r >= 3 and r < 10:
                a3 += value * _tap(weight, r - 3, j, channel, C, FLIP)
            if TH > 4 and r >= 4 and r < 11:
                a4 += value * _tap(weight, r - 4, j, channel, C, FLIP)
            if TH > 5 and r >= 5 and r < 12:
                a5 += value * _tap(weight, r - 5, j, channel, C, FLIP)
            if TH > 6 and r >= 6 and r < 13:
                a6 += value * _tap(weight, r - 6, j, channel, C, FLIP)
            if TH > 7 and r >= 7:
                a7 += value * _tap(weight, r - 7, j, channel, C, FLIP)

    _store(y, a0, image, row, 0, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a1, image, row, 1, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a2, image, row, 2, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a3, image, row, 3, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a4, image, row, 4, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a5, image, row, 5, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a6, image, row, 6, columns, channel, slots, K, H, W, C, S, TH)
    _store(y, a7, image, row, 7, columns, channel, slots, K, H, W, C, S, TH)


@triton.jit
def _store(
    y, value, image, row, o: tl.constexpr, columns, channel, slots, K, H, W, C,
    S: tl.constexpr, TH: tl.constexpr,
):  # fmt: skip
    if o < TH:
        site, there = _site(image, row + o, columns, slots, K, H, W, S)
        address = y + site.to(tl.int64)[:, None] * C + channel[None, :]
        tl.store(address, value, mask=there[:, None] & (channel < C)[None, :])


@triton.jit
def _weight_grad_kernel(
    x, grad, partial, slots, visible, tiles, K, H, W, C,
    S: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Row ``i`` of the weight gradient, and the bias gradient, over every n-th tile.

    ``partial`` is ``(programs, 50, C)`` float32: 49 taps and the bias.
    """
    first, programs, i = tl.program_id(0), tl.num_programs(0), tl.program_id(2)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    zero = tl.zeros([TW, BC], tl.float32)
    t0, t1, t2, t3, t4, t5, t6, total = zero, zero, zero, zero, zero, zero, zero, zero
    for tile in range(first, tiles, programs):
        image, row, column = _tile_origin(tile, visible, K, H, W, S, TH, TW)
        columns = column + tl.arange(0, TW)
        for r in tl.static_range(TH):
            site, there = _site(image, row + r, columns, slots, K, H, W, S)
            g = _load(grad, site, there, channel, C)
            total += g
            for j in tl.static_range(7):
                site, there = _site(image, row + r + i - 3, columns + j - 3, slots, K, H, W, S)
                product = g * _load(x, site, there, channel, C)
                if j == 0:
                    t0 += product
                elif j == 1:
                    t1 += product
                elif j == 2:
                    t2 += product
                elif j == 3:
                    t3 += product
                elif j == 4:
                    t4 += product
                elif j == 5:
                    t5 += product
                else:
                    t6 += product
    out = partial + (first * 50 + i * 7) * C + channel
    tl.store(out, tl.sum(t0, 0), mask=channel < C)
    tl.store(out + C, tl.sum(t1, 0), mask=channel < C)
    tl.store(out + 2 * C, tl.sum(t2, 0), mask=channel < C)
    tl.store(out + 3 * C, tl.sum(t3, 0), mask=channel < C)
    tl.store(out + 4 * C, tl.sum(t4, 0), mask=channel < C)
    tl.store(out + 5 * C, tl.sum(t5, 0), mask=channel < C)
    tl.store(out + 6 * C, tl.sum(t6, 0), mask=channel < C)
    if i == 6:
        tl.store(out + 7 * C, tl.sum(total, 0), mask=channel < C)


class _Geometry:
    """Launch parameters for dense ``(N, H, W, C)`` or packed ``(N, K, s, s, C)`` features."""

    def __init__(self, x: Tensor, layout: PatchLayout | None) -> None:
        self.channels = x.shape[-1]
        if layout is None:
            batch, self.height, self.width = x.shape[:3]
            self.side = self.num_visible = 0
            self.slots = self.visible = x  # not read
            self.tile = (8, 8) if self.width > 4 else (4, 4)
            self.tiles = batch * triton.cdiv(self.height, self.tile[0])
            self.tiles *= triton.cdiv(self.width, self.tile[1])
        else:
            batch, self.num_visible, self.side = x.shape[:3]
            self.height, self.width = layout.grid[0] * self.side, layout.grid[1] * self.side
            self.slots, self.visible = layout.slots, layout.visible
            self.tile = (self.side, self.side)
            self.tiles = batch * self.num_visible
        # About 512 values in a row of a tile: four warps read 8 bytes a thread.
        self.block = min(triton.next_power_of_2(self.channels), max(32, 512 // self.tile[1]))

    def constants(self) -> dict[str, int]:
        return dict(S=self.side, TH=self.tile[0], TW=self.tile[1], BC=self.block)

    def sizes(self) -> tuple[int, int, int, int]:
        return self.num_visible, self.height, self.width, self.channels


def _convolve(x: Tensor, taps: Tensor, bias: Tensor | None, g: _Geometry, flip: bool) -> Tensor:
    y = torch.empty_like(x)
    grid = (g.tiles, triton.cdiv(g.channels, g.block))
    _conv_kernel[grid](
        x, taps, taps if bias is None else bias, y, g.slots, g.visible, *g.sizes(),
        **g.constants(), FLIP=flip, HAS_BIAS=bias is not None, num_warps=4,
    )  # fmt: skip
    return y


def _weight_grad(x: Tensor, grad: Tensor, g: _Geometry) -> tuple[Tensor, Tensor]:
    programs = min(g.tiles, PARTIAL_SUMS)
    partial = x.new_empty(programs, TAPS + 1, g.channels, dtype=torch.float32)
    grid = (programs, triton.cdiv(g.channels, g.block), 7)
    _weight_grad_kernel[grid](
        x, grad, partial, g.slots, g.visible, g.tiles, *g.sizes(), **g.constants(), num_warps=4
    )
    total = partial.sum(0)
    return total[:TAPS].t().reshape(g.channels, 1, 7, 7), total[TAPS]


class TritonDepthwiseConv(torch.autograd.Function):
    """``apply(x, weight, bias, layout)``; arguments as of ``ops.depthwise_conv``."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layout: PatchLayout | None
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.geometry = _Geometry(x, layout)
        return _convolve(x, _by_tap(weight), bias, ctx.geometry, flip=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, _by_tap(weight), None, ctx.geometry, flip=True)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = _weight_grad(x, grad, ctx.geometry)
            grad_weight = grad_weight.to(weight.dtype)
            grad_bias = None if bias is None else grad_bias.to(bias.dtype)
        return grad_x, grad_weight, grad_bias, None


def _by_tap(weight: Tensor) -> Tensor:
    """``(C, 1, 7, 7)`` to ``(49, C)``: the channels of a tap lie together."""
    return weight.detach().flatten(1).t().contiguous()
