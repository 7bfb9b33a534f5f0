"""How much the channels of each block tell the classes apart: the paper's Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress
from torch import Tensor

from ...analysis import ClassMeans, choose_blocks, class_selectivity, watch_features
from ...visualization.figures import styles
from .loading import NamedBackbone

BINS = 25
PER_ROW = 6


def classes_of_folders(images: Sequence[str]) -> tuple[list[str], list[int]]:
    """The names of the folders that images lie in, and the number of each image's folder.

    Raises:
        ValueError: If they all lie in one.
    """
    folders = [Path(image).absolute().parent.name for image in images]
    classes = sorted(set(folders))
    if len(classes) < 2:
        raise ValueError(f'images of 2 classes are needed: all are in a folder {classes[0]}')
    return classes, [classes.index(folder) for folder in folders]


@torch.no_grad()
def selectivity(
    model: NamedBackbone,
    images: Sequence[str],
    labels: Sequence[int],
    layers: Sequence[str] | None = None,
    features: str = 'output',
) -> list[dict]:
    """Class selectivity index of the channels of each layer.

    See :func:`~convnextv2_mm.analysis.class_selectivity`.

    Args:
        model: From :func:`~convnextv2_mm.apis.analysis.loading.load_backbones`.
        images: Image files.
        labels: The class of each.
        layers: Blocks, such as ``stages.2.5``; by default all.
        features: ``expansion``, the 4C channels after GELU and GRN, or ``output`` of the block.

    Returns:
        For each layer its name, the ``mean`` and the ``density`` (25 bins from 0 to 1) of the index
        over the channels that something excites, and the number of the others, ``inactive``.

    Raises:
        BadData: If an image cannot be read or does not fit the model.
    """
    blocks = choose_blocks(model.backbone, layers)
    means = {name: ClassMeans(max(labels) + 1) for name in blocks}

    def add(name: str, features: Tensor) -> None:
        means[name].update(features, of_image)

    with watch_features(blocks, add, features):
        pairs = zip(images, labels, strict=True)
        for image, label in track_iter_progress((pairs, len(images))):
            of_image = torch.tensor([label])
            model.backbone(model.read(image))
    return [summarise(name, class_selectivity(m.compute())) for name, m in means.items()]


def summarise(name: str, index: Tensor) -> dict:
    """A row of :func:`selectivity` from the index of each channel."""
    active = index[~index.isnan()]
    density, _ = torch.histogram(active, BINS, range=(0, 1), density=True)
    return dict(
        layer=name,
        mean=active.mean().item() if len(active) else None,
        inactive=len(index) - len(active),
        density=density.nan_to_num(0).tolist(),
    )


def draw(results: dict[str, list[dict]]) -> Figure:
    """Densities, a panel for each layer and a curve for each model by its name."""
    found = {row['layer'] for rows in results.values() for row in rows}
    layers = sorted(found, key=lambda name: [int(part) for part in name.split('.')[1:]])
    columns, rows_of_axes = min(PER_ROW, len(layers)), -(-len(layers) // PER_ROW)
    figure = Figure(figsize=(1 + 1.8 * columns, 1 + 1.6 * rows_of_axes), layout='constrained')
    axes = figure.subplots(rows_of_axes, columns, squeeze=False, sharex=True, sharey='row').flat
    edges = [i / BINS for i in range(BINS + 1)]
    for style, rows in zip(styles(list(results)), results.values(), strict=True):
        for row in rows:
            axis = axes[layers.index(row['layer'])]
            look = dict(color=style['color'], label=style['label'])
            axis.stairs(row['density'], edges, linewidth=1.2, **look)
            axis.stairs(row['density'], edges, fill=True, color=style['color'], alpha=0.15)
    for axis, layer in zip(axes, layers, strict=False):
        axis.set_title(layer, fontsize=9)
        axis.set_xlim(0, 1)
        axis.spines[['top', 'right']].set_visible(False)
    for axis in axes[len(layers) :]:
        axis.axis('off')
    figure.supxlabel('class selectivity index of a channel')
    figure.supylabel('density')
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside upper center', ncols=3, frameon=False)
    return figure
