"""Depthwise 7×7 convolution in Triton: forward, input gradient, weight and bias gradient.

A program owns a tile of T×T sites and a block of channels, one thread to a few channels. It reads
the window of (T + 6)² sites around its tile row by row, each site once, and adds it to every output
that it belongs to: 49 products a value make the work bound by instructions, so what counts is how
many products a value serves once it was read and converted to float32 (31 for T = 4). All that
concerns sites is the same for the whole program; no thread needs another's values.

Packed features and dense maps differ only in where a tile's neighbours begin: a table says so for
the former, arithmetic for the latter.

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

from ..patch_layout import PatchLayout
from . import operator_when_compiling, power_of_2, provide_cache

provide_cache()

MAX_TILE = 4  # sums of 4×4 sites, for 4 channels a thread, are half of a thread's registers
# Of the weight gradient, over tiles and channels: two waves of 8 on each multiprocessor of an H200.
# Each writes 50 sums a channel, so many of them would write more than they read.
PROGRAMS = 2048


@triton.jit
def _neighbours(
    table, tile, H, W, T: tl.constexpr, R: tl.constexpr,
    IS_DENSE: tl.constexpr, IS_EVEN: tl.constexpr,
):  # fmt: skip
    """The tiles around one, row by row, itself in the middle: where each begins, and its size.

    Returns three tuples: number of the first site, rows, columns. A tile that does not exist has no
    rows or no columns.
    """
    side: tl.constexpr = 2 * R + 1
    first, rows, columns = (), (), ()
    if IS_DENSE:
        across = tl.cdiv(W, T)
        image = tile // (tl.cdiv(H, T) * across)
        top = tile // across % tl.cdiv(H, T) * T
        left = tile % across * T
        for n in tl.static_range(side * side):
            row = top + (n // side - R) * T
            column = left + (n % side - R) * T
            first = first + ((image * H + row) * W + column,)
            if IS_EVEN:  # no tile is cut: one test for all of its sites
                inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
                rows = rows + (tl.where(inside, T, 0),)
                columns = columns + (T,)
            else:
                rows = rows + (tl.where(row >= 0, H - row, 0),)
                columns = columns + (tl.where(column >= 0, W - column, 0),)
    else:
        for n in tl.static_range(side * side):
            site = tl.load(table + tile * (side * side) + n)
            first = first + (site,)
            rows = rows + (tl.where(site >= 0, T, 0),)
            columns = columns + (T,)
    return first, rows, columns


@triton.jit
def _window_row(
    x, neighbours, r: tl.constexpr, begin: tl.constexpr, end: tl.constexpr, stride, channel,
    C: tl.constexpr, T: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Sites ``begin`` to ``end`` of row ``r``, counted from the first site of the program's tile.

    Returns a tuple of ``(BC,)`` float32, zero where there is no site.
    """
    first, rows, columns = neighbours
    side: tl.constexpr = 2 * R + 1
    down: tl.constexpr = (r + R * T) // T * side
    a: tl.constexpr = (r + R * T) % T
    values = ()
    for c in tl.static_range(begin, end):
        address = x + first[down + (c + R * T) // T].to(tl.int64) * C + channel
        there = a < rows[down + (c + R * T) // T]
        there &= (c + R * T) % T < columns[down + (c + R * T) // T]
        value = tl.load(
            address + (a * stride + (c + R * T) % T) * C, mask=there & (channel < C), other=0
        )
        values = values + (value.to(tl.float32),)
    return values


@triton.jit
def _add_products(sums, values, taps, o: tl.constexpr, T: tl.constexpr):
    """Add a row of the window to the outputs of row o of the tile."""
    out = ()
    for site in tl.static_range(T * T):
        total = sums[site]
        if site // T == o:
            for j in tl.static_range(7):
                total += values[site % T + j] * taps[j]
        out = out + (total,)
    return out


@triton.jit(do_not_specialize=['H', 'W', 'has_bias'])
def _conv_kernel(
    x, taps, bias, y, table, H, W, has_bias, C: tl.constexpr,
    T: tl.constexpr, R: tl.constexpr, STRIDE: tl.constexpr, BC: tl.constexpr,
    IS_DENSE: tl.constexpr, IS_EVEN: tl.constexpr,
):  # fmt: skip
    """``taps`` is ``(49, C)``: the channels of a tap lie together."""
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    stride = W if IS_DENSE else STRIDE
    neighbours = _neighbours(table, tl.program_id(0), H, W, T, R, IS_DENSE, IS_EVEN)

    start = tl.load(bias + channel, mask=(channel < C) & (has_bias != 0), other=0)
    sums = (start.to(tl.float32),) * (T * T)
    for r in tl.static_range(-3, T + 3):
        values = _window_row(x, neighbours, r, -3, T + 3, stride, channel, C, T, R)
        for o in tl.static_range(T):
            if r - o >= -3 and r - o <= 3:
                row = ()
                for j in tl.static_range(7):
                    tap = (r - o + 3) * 7 + j
                    value = tl.load(taps + tap * C + channel, mask=channel < C, other=0)
                    row = row + (value.to(tl.float32),)
                sums = _add_products(sums, values, row, o, T)

    first, rows, columns = neighbours
    middle: tl.constexpr = (2 * R + 1) ** 2 // 2
    for site in tl.static_range(T * T):
        there = (site // T < rows[middle]) & (site % T < columns[middle]) & (channel < C)
        address = y + first[middle].to(tl.int64) * C + channel
        tl.store(address + (site // T * stride + site % T) * C, sums[site], mask=there)


@triton.jit
def _add_weight_products(sums, values, grads, i: tl.constexpr, T: tl.constexpr):
    """Add the products of a row of the window and a row of gradients to the taps of row i."""
    out = ()
    for tap in tl.static_range(49):
        total = sums[tap]
        if tap // 7 == i:
            for c in tl.static_range(T):
                total += values[c + tap % 7] * grads[c]
        out = out + (total,)
    return out


@triton.jit(do_not_specialize=['tiles', 'H', 'W'])
def _weight_grad_kernel(
    x, grad, partial, table, tiles, H, W, C: tl.constexpr,
    T: tl.constexpr, R: tl.constexpr, STRIDE: tl.constexpr, BC: tl.constexpr,
    IS_DENSE: tl.constexpr, IS_EVEN: tl.constexpr,
):  # fmt: skip
    """Sums over every n-th tile; ``partial`` is ``(programs, 50, C)``: 49 taps and the bias."""
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    stride = W if IS_DENSE else STRIDE
    zero = tl.zeros([BC], tl.float32)
    sums = (zero,) * 49
    total = zero
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        neighbours = _neighbours(table, tile, H, W, T, R, IS_DENSE, IS_EVEN)
        grads = ()
        for o in tl.static_range(T):
            row = _window_row(grad, neighbours, o, 0, T, stride, channel, C, T, R)
            for c in tl.static_range(T):
                total += row[c]
            grads = grads + (row,)
        for r in tl.static_range(-3, T + 3):
            values = _window_row(x, neighbours, r, -3, T + 3, stride, channel, C, T, R)
            for o in tl.static_range(T):
                if r - o >= -3 and r - o <= 3:
                    sums = _add_weight_products(sums, values, grads[o], r - o + 3, T)
    address = partial + tl.program_id(0) * 50 * C + channel
    for tap in tl.static_range(49):
        tl.store(address + tap * C, sums[tap], mask=channel < C)
    tl.store(address + 49 * C, total, mask=channel < C)


def triton_depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: PatchLayout | None
) -> Tensor:
    """Depthwise 7×7 convolution; arguments as of ``ops.depthwise_conv``, sums in float32."""
    table = None
    if layout is not None:
        table = layout.neighbours(x.shape[2], min(x.shape[2], MAX_TILE), reach=3)
    return _DepthwiseConv.apply(x.contiguous(), weight, bias, table)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, table)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _convolve(x, weight.flatten(1).t().contiguous(), bias, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, table = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            turned = weight.flatten(1).flip(1).t().contiguous()
            grad_x = _convolve(grad, turned, None, table)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            sums = _sum_products(x, grad, table)
            grad_weight = sums[:49].t().reshape(weight.shape).to(weight.dtype)
            grad_bias = None if ctx.bias_dtype is None else sums[49].to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None


@operator_when_compiling('depthwise_conv', lambda x, taps, bias, table: torch.empty_like(x))
def _convolve(x: Tensor, taps: Tensor, bias: Tensor | None, table: Tensor | None) -> Tensor:
    """Convolution with taps ``(49, C)``, in which the channels of a tap lie together."""
    y = torch.empty_like(x)
    tile, tiles, meta = _launch(x, table)
    block = conv_block(x.shape[-1], tile)
    with torch.cuda.device_of(x):  # Triton runs on the current device
        _conv_kernel[tiles, -(-x.shape[-1] // block)](
            x, taps, taps if bias is None else bias, y, **meta, BC=block,
            has_bias=int(bias is not None), num_warps=1,
        )  # fmt: skip
    return y


@operator_when_compiling(
    'depthwise_conv_weight_grad',
    lambda x, grad, table: x.new_empty(50, x.shape[-1], dtype=torch.float32),
)
def _sum_products(x: Tensor, grad: Tensor, table: Tensor | None) -> Tensor:
    """``(50, C)`` float32: the gradient of each tap, and of the bias."""
    _, tiles, meta = _launch(x, table)
    block = weight_grad_block(x.shape[-1], meta['IS_DENSE'], meta['IS_EVEN'])
    blocks = -(-x.shape[-1] // block)
    programs = min(tiles, max(1, PROGRAMS // blocks))
    partial = x.new_empty(programs, 50, x.shape[-1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_grad_kernel[programs, blocks](
            x, grad, partial, tiles=tiles, **meta, BC=block, num_warps=1
        )
    return partial.sum(0)


def _launch(x: Tensor, table: Tensor | None) -> tuple[int, int, dict]:
    """Side of a tile, number of tiles, and what both kernels need to know of the features."""
    batch, *sites, channels = x.shape
    meta = dict(table=table, H=0, W=0, C=channels, STRIDE=0, IS_DENSE=False, IS_EVEN=False)
    if table is None:
        tile, (height, width) = MAX_TILE, sites
        tiles = batch * -(-height // tile) * -(-width // tile)
        is_even = height % tile == 0 and width % tile == 0
        meta.update(table=x, H=height, W=width, IS_DENSE=True, IS_EVEN=is_even)
    else:
        tile, tiles = min(sites[-1], MAX_TILE), len(table)
        meta.update(STRIDE=sites[-1])
    return tile, tiles, dict(meta, T=tile, R=-(-3 // tile))


def conv_block(channels: int, tile: int) -> int:
    """Channels of a program of the convolution."""
    # A thread keeps 7 taps of its channels and the sums of its tile in registers: 2 channels are
    # what fits for a large tile.
    return _channel_block(channels, 2 if tile == MAX_TILE else 4)


def weight_grad_block(channels: int, is_dense: bool, is_even: bool) -> int:
    """Channels of a program of the weight gradient."""
    # The masks of cut tiles leave no registers for a second channel.
    return _channel_block(channels, 1 if is_dense and not is_even else 2)


def _channel_block(channels: int, per_thread: int) -> int:
    """Channels of a program, which is one warp: its threads have nothing to say to others."""
    return min(power_of_2(channels), 32 * per_thread)
