"""Which patches of each image are visible, and the two forms that their features can take.

An image of H×W pixels is a grid of Gh×Gw patches, L in all. Every image of a batch keeps the same
number K of them, so the features of the visible patches are one dense tensor:

* packed: ``(N, K, s, s, C)``, visible patches only, with s×s sites in a patch;
* dense: ``(N, Gh·s, Gw·s, C)``, the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches in row order.

    Args:
        images: ``(N, C, H, W)`` with H and W multiples of ``patch_size``.
        patch_size: Side of a patch in pixels.

    Returns:
        ``(N, L, patch_size, patch_size, C)``.

    Raises:
        ValueError: If H or W is not a multiple of ``patch_size``.
    """
    n, c, h, w = images.shape
    gh, gw = patch_grid((h, w), patch_size)
    x = images.reshape(n, c, gh, patch_size, gw, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, gh * gw, patch_size, patch_size, c)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put patches back together: the inverse of :func:`patchify`.

    Args:
        patches: ``(N, L, p, p, C)`` in row order.
        grid: Rows and columns of patches, ``L = rows · columns``.

    Returns:
        Images ``(N, C, rows·p, columns·p)``.
    """
    n, _, p, _, c = patches.shape
    x = patches.reshape(n, *grid, p, p, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, c, grid[0] * p, grid[1] * p)


def patch_grid(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of ``size`` (height, width) pixels.

    Raises:
        ValueError: If a side is not a positive multiple of ``patch_size``.
    """
    if any(side < patch_size or side % patch_size for side in size):
        raise ValueError(
            f'image size {size[0]}x{size[1]} is not allowed: height and width must be multiples '
            f'of {patch_size} pixels, the size of a mask patch'
        )
    return size[0] // patch_size, size[1] // patch_size


@torch.compiler.disable  # it would compile anew for every seed
def _noise(seeds: Sequence[int], length: int, device: torch.device) -> Tensor:
    """Uniform ``(N, length)``, each row from its seed: the same numbers on every device."""
    rows = [torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    noise = torch.stack(rows)
    if device.type == 'cuda':
        noise = noise.pin_memory()  # or the copy would wait for the device
    return noise.to(device, non_blocking=True)


class PatchLayout:
    """The visible patches of a batch of images.

    Args:
        visible: ``(N, K)`` int64, the visible patches of each image in row order, ascending.
        grid: Rows and columns of patches.
    """

    def __init__(self, visible: Tensor, grid: tuple[int, int]) -> None:
        self.visible = visible
        self.grid = grid
        # Every block of a stage asks for the same: the first has it computed.
        self._sites: dict[int, Tensor] = {}
        self._neighbours: dict[tuple[int, int, int], Tensor] = {}

    @classmethod
    def from_mask(cls, mask: Tensor, batch_size: int, grid: tuple[int, int]) -> PatchLayout:
        """Read the layout off a mask.

        Args:
            mask: ``(N, L)`` floats or bools in row order, 1 is masked.
            batch_size: N.
            grid: Rows and columns of patches, ``L = rows · columns``.

        Raises:
            ValueError: If the shape does not fit the grid, if a value is neither 0 nor 1, if the
                images do not all keep the same number of patches, or if none is visible.
        """
        length = grid[0] * grid[1]
        if mask.shape != (batch_size, length):
            raise ValueError(
                f'mask of shape {tuple(mask.shape)} does not fit: it must be '
                f'{(batch_size, length)} for {batch_size} images of {grid[0]}x{grid[1]} patches'
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError('mask values must be 0 (visible) or 1 (masked)')
        is_visible = mask == 0
        counts = is_visible.sum(1)
        if counts.min() != counts.max():
            raise ValueError(
                f'every image of a batch must keep the same number of patches, got '
                f'{counts.tolist()} visible'
            )
        if counts[0] == 0:
            raise ValueError(f'mask leaves none of the {length} patches visible')
        return cls(is_visible.nonzero()[:, 1].view(len(mask), -1), grid)

    @classmethod
    def random(
        cls,
        batch_size: int,
        grid: tuple[int, int],
        mask_ratio: float,
        device: torch.device | str = 'cpu',
        seeds: Sequence[int] | None = None,
        priority: Tensor | None = None,
    ) -> PatchLayout:
        """Draw ``int(L · (1 − mask_ratio))`` visible patches for each image, uniformly.

        Runs without waiting for ``device``.

        Args:
            batch_size: N.
            grid: Rows and columns of patches.
            mask_ratio: Share of the patches that is masked, between 0 and 1.
            device: Where the layout is to be.
            seeds: A number for each image, which alone decides what is drawn for it. Without, the
                global generator of ``device`` decides.
            priority: ``(N, L)``, patches of a higher one are masked first; those of the same are
                drawn.

        Raises:
            ValueError: If that number is 0 or L, or ``priority`` has another shape.
        """
        length = grid[0] * grid[1]
        num_visible = int(length * (1 - mask_ratio))
        if not 0 < num_visible < length:
            left = 'nothing visible' if num_visible <= 0 else 'nothing masked'
            raise ValueError(
                f'mask_ratio {mask_ratio} leaves {left} of {grid[0]}x{grid[1]} patches; allowed '
                f'here is between 0 and {1 - 1 / length:.4g}'
            )
        if seeds is None:
            noise = torch.rand(batch_size, length, device=device)
        else:
            noise = _noise(seeds, length, torch.device(device))
        order = noise.argsort(1)
        if priority is not None:
            if priority.shape != noise.shape:
                raise ValueError(
                    f'priority of shape {tuple(priority.shape)} does not fit: it must be '
                    f'{tuple(noise.shape)} for {batch_size} images of {grid[0]}x{grid[1]} patches'
                )
            ranks = priority.to(device).gather(1, order).argsort(stable=True, dim=1)
            order = order.gather(1, ranks)
        return cls(order[:, :num_visible].sort(1).values, grid)

    @property
    def num_patches(self) -> int:
        """L, the patches of an image, visible or not."""
        return self.grid[0] * self.grid[1]

    @property
    def mask(self) -> Tensor:
        """``(N, L)`` float32, 1 is masked."""
        ones = torch.ones(len(self.visible), self.num_patches, device=self.visible.device)
        return ones.scatter(1, self.visible, 0)

    def visible_map(self, side: int) -> Tensor:
        """``(N, Gh·side, Gw·side, 1)`` bool, true at the visible sites of a dense map."""
        visible = (self.mask == 0).view(-1, *self.grid, 1)
        return visible.repeat_interleave(side, 1).repeat_interleave(side, 2)

    def sites(self, side: int) -> Tensor:
        """``(N·K·side·side,)`` int64: where packed sites lie among the N·H·W of a dense map."""
        if side not in self._sites:
            self._sites[side] = self._find_sites(side)
        return self._sites[side]

    def neighbours(self, side: int, tile: int, reach: int) -> Tensor:
        """For each tile of visible patches, where the tiles around it begin.

        Args:
            side: Sites a side of a patch.
            tile: Sites a side of a tile, a divisor of ``side``: a patch is (side/tile)² tiles.
            reach: Sites that must be covered to each side of a tile.

        Returns:
            ``(N·K·(side/tile)², (2R + 1)²)`` int32 with ``R = ceil(reach / tile)``: the number of
            the first of its sites among the N·K·side·side packed ones, -1 where masked or outside.
        """
        key = (side, tile, reach)
        if key not in self._neighbours:
            self._neighbours[key] = self._find_neighbours(side, tile, -(-reach // tile))
        return self._neighbours[key]

    def _find_sites(self, side: int) -> Tensor:
        device = self.visible.device
        width = self.grid[1] * side
        offset = torch.arange(side, device=device)
        row = (self.visible // self.grid[1] * side)[..., None] + offset  # [N, K, side]
        column = (self.visible % self.grid[1] * side)[..., None] + offset  # [N, K, side]
        image = torch.arange(len(self.visible), device=device).view(-1, 1, 1, 1)
        image_start = image * (self.num_patches * side * side)
        index = image_start + row[..., :, None] * width + column[..., None, :]
        return index.flatten()

    def _find_neighbours(self, side: int, tile: int, radius: int) -> Tensor:
        n, k = self.visible.shape
        per_side = side // tile
        tile_start = torch.arange(n * k * side * side, device=self.visible.device)
        tile_start = tile_start.view(n, k, side, side, 1)[:, :, ::tile, ::tile]
        starts = self.unpack(tile_start + 1)[..., 0] - 1
        starts = F.pad(starts, [radius] * 4, value=-1)  # [N, Gh·per_side + 2R, Gw·per_side + 2R]
        window = 2 * radius + 1
        around = starts.unfold(1, window, 1).unfold(2, window, 1).flatten(-2)
        return self.pack(around).view(n * k * per_side**2, window**2).int()

    def unpack(self, x: Tensor) -> Tensor:
        """Packed ``(N, K, s, s, C)`` to dense ``(N, Gh·s, Gw·s, C)``, zero where masked."""
        n, _, s, _, c = x.shape
        h, w = self.grid[0] * s, self.grid[1] * s
        return _Scatter.apply(x.reshape(-1, c), self.sites(s), (n, h, w, c))

    def pack(self, x: Tensor) -> Tensor:
        """Dense ``(N, Gh·s, Gw·s, C)`` to packed ``(N, K, s, s, C)``."""
        n, h, _, c = x.shape
        s = h // self.grid[0]
        return _Gather.apply(x.reshape(-1, c), self.sites(s)).view(n, -1, s, s, c)

    def pack_patches(self, patches: Tensor) -> Tensor:
        """Keep the visible ones of ``(N, L, p, p, C)`` patches: ``(N, K, p, p, C)``."""
        image = torch.arange(len(patches), device=patches.device).unsqueeze(1)
        return patches[image, self.visible]


class _Gather(torch.autograd.Function):
    """Rows of a matrix, each taken once: the gradient is a copy, where PyTorch's own adds."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.length = len(x)
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.length, grad.shape[1]).index_copy_(0, rows, grad), None


class _Scatter(torch.autograd.Function):
    """Rows put among zeros, in a tensor of the given shape."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(rows)
        y = x.new_zeros(math.prod(shape[:-1]), shape[-1])
        y.index_copy_(0, rows, x)
        return y.view(shape)  # torch.compile (2.11) loses the gradient of ``y`` itself

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.reshape(-1, grad.shape[-1]).index_select(0, rows), None, None
