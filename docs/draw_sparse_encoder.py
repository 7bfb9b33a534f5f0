"""Draw how the sparse encoder packs an image: ``docs/pictures/sparse_encoder.svg``."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from convnextv2_mm.datasets.shapes.drawing import draw
from convnextv2_mm.ops import PatchLayout, patchify

PATCH, GRID, SITES = 32, 5, 8  # SITES: of the first stage
VISIBLE, PALE, MASKED, WINDOW = '#2a7de1', '#dcebfb', '#d9d9d9', '#e4572e'


def panel(figure: Figure, place: tuple, size: tuple, title: str, note: str) -> Axes:
    """An area without axes, first row at the top, with a title above and a text below.

    Args:
        figure: Where to draw.
        place: Left and top of the area, in inches from the upper left corner of the figure.
        size: Its width and height in units of the drawing, and inches for one unit.
        title: Above.
        note: Below.
    """
    (left, top), (width, height, inch) = place, size
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (
            left / total_width,
            1 - (top + height * inch) / total_height,
            width * inch / total_width,
            height * inch / total_height,
        )
    )
    axes.axis('off')
    figure.text(left / total_width, 1 - (top - 0.12) / total_height, title, size=14, weight='bold')
    bottom = 1 - (top + height * inch + 0.1) / total_height
    figure.text(left / total_width, bottom, note, size=12.5, va='top', linespacing=1.35)
    return axes


def view(axes: Axes, width: float, height: float) -> None:
    """Set the limits, with room for outlines; images in the axes change them."""
    axes.set_xlim(-0.02, width + 0.02)
    axes.set_ylim(height + 0.02, -0.02)
    axes.set_aspect('equal')


def box(axes: Axes, x: float, y: float, side: float, **options) -> None:
    axes.add_patch(Rectangle((x, y), side, side, **options))


def sites(axes: Axes, x: float, y: float, side: float, number: int, colour: str) -> None:
    """Rule a square into ``number`` x ``number`` sites."""
    for i in range(1, number):
        at = side * i / number
        axes.plot([x, x + side], [y + at] * 2, color=colour, lw=0.5)
        axes.plot([x + at] * 2, [y, y + side], color=colour, lw=0.5)


def picture(axes: Axes, x: float, y: float, patch: np.ndarray, number: int) -> None:
    """A numbered visible patch, one unit wide."""
    axes.imshow(patch, extent=(x, x + 1, y + 1, y), interpolation='none')
    box(axes, x, y, 1, fill=False, ec=VISIBLE, lw=2, zorder=3)
    ground = dict(fc=VISIBLE, ec='none', pad=1.5)
    place = (x + 0.06, y + 0.09)
    axes.text(*place, number, color='white', va='top', size=10, bbox=ground, zorder=4)


def main() -> None:
    matplotlib.rcParams.update({'svg.hashsalt': 'sparse encoder', 'font.family': 'DejaVu Sans'})
    image = draw(0, 'train', 39, PATCH * GRID).image
    layout = PatchLayout.random(1, (GRID, GRID), 0.6, generator=torch.Generator().manual_seed(14))
    visible = layout.visible[0].tolist()
    patches = patchify(torch.from_numpy(image.copy()).permute(2, 0, 1)[None], PATCH)[0].numpy()
    figure = pyplot.figure(figsize=(11, 8.4), facecolor='white')

    note = (
        f'{GRID}×{GRID} = {GRID**2} patches of {PATCH}×{PATCH} pixels,\n60% of them masked (grey)'
    )
    axes = panel(figure, (0.1, 0.4), (GRID, GRID, 0.6), '1  Mask', note)
    for i in range(GRID**2):
        row, column = divmod(i, GRID)
        if i in visible:
            picture(axes, column, row, patches[i], visible.index(i))
        else:
            box(axes, column, row, 1, fc=MASKED, ec='white', lw=1)
    view(axes, GRID, GRID)

    note = (
        f'The K = {len(visible)} visible patches of each of the N images, in row order:\n'
        'one dense tensor (N, K, s, s, C), here with s×s = 8×8 sites.\n'
        'Masked sites are not stored.'
    )
    axes = panel(figure, (4.3, 0.4), (5.6, 2.2, 1.18), '2  Pack', note)
    for i, patch in enumerate(visible):
        x, y = 1.13 * (i % 5), 1.15 * (i // 5)
        picture(axes, x, y, patches[patch], i)
        sites(axes, x, y, 1, SITES, 'white')
    view(axes, 5.6, 2.2)

    note = (
        'One site of patch P reads 7×7 sites, some\n'
        'of its visible neighbour Q. Masked sites\n'
        'are read as zeros and have no output.'
    )
    axes = panel(figure, (0.1, 4.7), (3, 2.4, 1.1), '3  Depthwise 7×7: across patches', note)
    for row in range(3):
        for column in range(3):
            seen = (row, column) in ((1, 1), (1, 2))
            y = row - 0.3
            box(axes, column, y, 1, fc=PALE if seen else MASKED, ec='white', lw=2)
            if seen:
                sites(axes, column, y, 1, SITES, '#9cc4ef')
                box(axes, column, y, 1, fill=False, ec=VISIBLE, lw=2, zorder=3)
                name = 'P' if column == 1 else 'Q'
                axes.text(column + 0.5, y + 0.85, name, ha='center', va='center', weight='bold')
            else:
                place = (column + 0.5, min(max(y + 0.5, 0.3), 2.1))
                axes.text(*place, '0', ha='center', va='center', color='#777777', size=12)
    site = 1 / SITES
    x, y = 1 + 6 * site, 0.7 + 2 * site
    box(axes, x, y, site, fc=WINDOW, ec=WINDOW, zorder=4)
    box(axes, x - 3 * site, y - 3 * site, 7 * site, fill=False, ec=WINDOW, lw=2.2, zorder=5)
    view(axes, 3, 2.4)

    note = (
        'LayerNorm, Linear, GELU and the residual work on the last axis.\n'
        'GRN works over K, s and s: on each image, and its visible sites only.\n'
        'The 2×2 downsampling never crosses the edge of a patch.\n'
        'All these are the calls of the dense network.'
    )
    title = '4  All other layers: inside a patch, at each stage'
    axes = panel(figure, (4.3, 4.7), (5.6, 1.7, 1.18), title, note)
    for stage in range(4):
        x = 1.5 * stage
        box(axes, x, 0, 1, fc=PALE, ec=VISIBLE, lw=2)
        sites(axes, x, 0, 1, SITES >> stage, VISIBLE)
        side, width = SITES >> stage, 'C' if stage == 0 else f'{2**stage}C'
        label = f'stage {stage + 1}\ns = {side}, width {width}'
        axes.text(x + 0.5, 1.1, label, ha='center', va='top', size=12, linespacing=1.35)
        if stage < 3:
            arrow = dict(arrowstyle='-|>', color='black', lw=1.3)
            axes.annotate('', (x + 1.46, 0.5), (x + 1.04, 0.5), arrowprops=arrow)
            axes.text(x + 1.25, 0.42, '2×2', ha='center', size=11)
    view(axes, 5.6, 1.7)

    path = Path(__file__).with_name('pictures') / 'sparse_encoder.svg'
    figure.savefig(path, metadata=dict(Date=None))
    print(f'{path}: {path.stat().st_size // 1024} kB')


if __name__ == '__main__':
    main()
