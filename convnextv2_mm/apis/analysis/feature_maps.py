"""Channels of chosen layers as small squares: the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...analysis import choose_blocks, cosine_distance, watch_features
from .loading import NamedBackbone

PER_ROW = 8


def last_blocks(model: NamedBackbone) -> list[str]:
    """The last block of each stage."""
    return list({name.split('.')[1]: name for name in choose_blocks(model.backbone)}.values())


@torch.no_grad()
def feature_maps(
    model: NamedBackbone,
    image: str,
    layers: Sequence[str],
    channels: int = 64,
    features: str = 'expansion',
) -> tuple[list[dict], list[Tensor]]:
    """The first channels of layers, and how many of all channels are flat.

    A channel is flat if its standard deviation over space is below 1% of that of the whole layer
    (our measure, not the paper's).

    Args:
        model: From :func:`~convnextv2_mm.apis.analysis.loading.load_backbones`.
        image: Image file.
        layers: Blocks, such as ``stages.2.5``.
        channels: Take the first so many.
        features: ``expansion``, the 4C channels after GELU and GRN, or ``output`` of the block.

    Returns:
        For each layer its figures, and its maps ``(channels, H, W)``.

    Raises:
        BadData: If the image cannot be read or does not fit the model.
        ValueError: If ``channels`` is not positive.
    """
    if channels < 1:
        raise ValueError(f'--channels {channels} is not allowed: 1 is least')
    rows, maps = [], []

    def add(name: str, features: Tensor) -> None:
        x = features[0].float().flatten(0, -2)  # [L, C]
        shown = features[0, ..., :channels].float().permute(2, 0, 1).cpu()
        spread = x.std(0, correction=0)
        rows.append(
            dict(
                layer=name,
                shape=list(features.shape[1:]),
                cosine_distance=cosine_distance(features).item(),
                flat=(spread < 0.01 * x.std(correction=0)).float().mean().item(),
                shown=dict(mean=shown.mean((1, 2)).tolist(), std=spread[: len(shown)].tolist()),
            )
        )
        maps.append(shown)

    with watch_features(choose_blocks(model.backbone, layers), add, features):
        model.backbone(model.read(image))
    return rows, maps


def mosaic(maps: Tensor) -> Tensor:
    """``(channels, H, W)`` as one picture of squares, NaN between them."""
    channels, height, width = maps.shape
    columns, rows = min(PER_ROW, channels), -(-channels // PER_ROW)
    gap = max(1, width // 14)
    out = maps.new_full((rows * (height + gap) - gap, columns * (width + gap) - gap), torch.nan)
    for index, square in enumerate(maps):
        top, left = index // PER_ROW * (height + gap), index % PER_ROW * (width + gap)
        out[top : top + height, left : left + width] = square
    return out


def draw(results: dict[str, tuple[list[dict], list[Tensor]]]) -> Figure:
    """Models side by side, a mosaic for each layer.

    The squares of a layer share one scale, from the least value to the 99.5th percentile, so dead
    and saturated channels look flat.
    """
    layers = max(len(rows) for rows, _ in results.values())
    figure = Figure(figsize=(3.4 * len(results), 0.4 + 3.5 * layers), layout='constrained')
    parts = figure.subfigures(1, len(results), squeeze=False)[0]
    for part, (name, (rows, maps)) in zip(parts, results.items(), strict=True):
        part.suptitle(name, fontweight='bold')
        axes = part.subplots(layers, 1, squeeze=False)[:, 0]
        for axis, row, squares in zip(axes, rows, maps, strict=True):
            high = torch.quantile(squares.flatten()[:: -(-squares.numel() // 10**6)], 0.995)
            axis.imshow(mosaic(squares), vmin=squares.min(), vmax=high, interpolation='nearest')
            height, width, channels = row['shape']
            axis.set_title(
                f'{row["layer"]}, {len(squares)} of {channels} channels, {height}x{width}\n'
                f'distance {row["cosine_distance"]:.3f}, {row["flat"]:.0%} flat',
                fontsize=8,
            )
            axis.axis('off')
    return figure
