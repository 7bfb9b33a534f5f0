"""How different the channels of each layer are: the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress

from ...analysis import choose_blocks, cosine_distance, watch_features
from ...visualization.figures import styles
from .loading import NamedBackbone


@torch.no_grad()
def feature_diversity(
    model: NamedBackbone,
    images: Sequence[str],
    layers: Sequence[str] | None = None,
    features: str = 'expansion',
) -> list[dict[str, float | str]]:
    """Feature cosine distance: the mean of (1 - cos)/2 over all pairs of channels of an image.

    Args:
        model: From :func:`~convnextv2_mm.apis.analysis.loading.load_backbones`.
        images: Image files.
        layers: Blocks, such as ``stages.2.5``; by default all.
        features: ``expansion``, the 4C channels after GELU and GRN, or ``output`` of the block.

    Returns:
        For each layer its name, ``depth`` (first block 0, last block 1), and the mean
        ``cosine_distance`` over the images with its standard deviation ``std``.

    Raises:
        BadData: If an image cannot be read or does not fit the model.
    """
    blocks = choose_blocks(model.backbone, layers)
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in blocks}

    def add(name: str, features: torch.Tensor) -> None:
        distance = cosine_distance(features).double().cpu()
        sums[name] += torch.stack([distance.sum(), distance.square().sum()])

    with watch_features(blocks, add, features):
        for image in track_iter_progress(images):
            model.backbone(model.read(image))
    order = list(choose_blocks(model.backbone))
    rows = []
    for name, total in sums.items():
        mean, of_squares = (total / len(images)).tolist()
        std = max(of_squares - mean**2, 0) ** 0.5
        depth = order.index(name) / (len(order) - 1)
        rows.append(dict(layer=name, depth=depth, cosine_distance=mean, std=std))
    return rows


def draw(results: dict[str, list[dict]]) -> Figure:
    """The distance over the depth, a line for each model by its name."""
    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.subplots()
    for style, rows in zip(styles(list(results)), results.values(), strict=True):
        depth, mean, std = ([r[k] for r in rows] for k in ('depth', 'cosine_distance', 'std'))
        axes.plot(depth, mean, **style)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(depth, low, high, color=style['color'], alpha=0.15, linewidth=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 0.52))
    axes.set_xlabel('normalised depth (first block 0, last block 1)')
    axes.set_ylabel('feature cosine distance')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', alpha=0.3)
    figure.legend(loc='outside upper center', ncols=3, frameon=False)
    return figure
