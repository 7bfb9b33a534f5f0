"""The two forms of features, and the table of a tile's neighbours."""

import pytest
import torch

from convnextv2_mm.ops import PatchLayout


def test_pack_and_unpack_are_inverse():
    layout = PatchLayout.random(3, (4, 5), 0.5)
    x = torch.randn(3, 8, 10, 6)
    packed = layout.pack(x)
    assert packed.shape == (3, 10, 2, 2, 6)
    assert torch.equal(layout.unpack(packed), x * layout.visible_map(2))
    # the first site of the second visible patch of the third image
    row, column = divmod(layout.visible[2, 1].item(), 5)
    assert torch.equal(packed[2, 1, 0, 1], x[2, 2 * row, 2 * column + 1])


def test_seed_alone_decides_what_is_drawn():
    seeds = [5, 2**62 + 1, 0, 7]
    together = PatchLayout.random(4, (3, 5), 0.6, seeds=seeds).visible
    torch.manual_seed(1)
    apart = [PatchLayout.random(2, (3, 5), 0.6, seeds=seeds[i : i + 2]).visible for i in (0, 2)]
    assert torch.equal(together, torch.cat(apart))
    assert len({tuple(row) for row in together.tolist()}) == 4
    drawn = PatchLayout.random(4000, (2, 3), 0.5, seeds=range(4000)).mask.mean(0)
    assert drawn.sub(0.5).abs().max() < 0.04  # five standard deviations


@pytest.mark.parametrize(('side', 'tile'), [(8, 4), (4, 4), (2, 2), (1, 1)])
def test_neighbours_are_where_they_are_seen(side, tile):
    """Number every packed site, lay them out, and look around each tile."""
    torch.manual_seed(0)
    layout = PatchLayout.random(2, (3, 4), 0.5)
    n, k = layout.visible.shape
    number = torch.arange(n * k * side * side).view(n, k, side, side, 1)
    numbers = layout.unpack(number + 1)[..., 0] - 1  # [N, H, W], -1 where masked
    table = layout.neighbours(side, tile, reach=3)
    radius = -(-3 // tile)
    assert table.shape == (n * k * (side // tile) ** 2, (2 * radius + 1) ** 2)
    rows, columns = 3 * side, 4 * side
    for entry in table.tolist():
        own = entry[len(entry) // 2]
        image, row, column = (numbers == own).nonzero()[0].tolist()
        expected = []
        for down in range(-radius, radius + 1):
            for right in range(-radius, radius + 1):
                r, c = row + down * tile, column + right * tile
                is_inside = 0 <= r < rows and 0 <= c < columns
                expected.append(numbers[image, r, c].item() if is_inside else -1)
        assert entry == expected


@pytest.mark.parametrize('unpack', [True, False])
def test_gradients_survive_compilation(unpack):
    layout = PatchLayout.random(2, (2, 2), 0.5)
    x = torch.randn(2, 2, 2, 2, 3) if unpack else torch.randn(2, 4, 4, 3)
    x.requires_grad_()
    move = layout.unpack if unpack else layout.pack
    layout.sites(2)
    compiled = torch.compile(lambda x: move(x).square().sum(), backend='aot_eager')
    (expected,) = torch.autograd.grad(move(x).square().sum(), x)
    (grad,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(grad, expected)
