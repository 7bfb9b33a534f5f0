"""How much the channels of each block tell the classes apart: the paper's Figure 7.

The class of an image is the name of its folder, as in ImageNet. Class selectivity index of a
channel: (m_max - m_rest) / (m_max + m_rest), of its mean activity for the class that excites it
most and for the others. 0: all classes excite it alike; 1: one alone does. Negative activations
count as no activity. The network is the dense one and sees the whole image, also with a checkpoint
of FCMAE. Take many images a class: with one, the index is of images.
"""

import argparse
import math
from pathlib import Path

from convnextv2_mm.analysis import (
    ClassMeans,
    choose_blocks,
    class_selectivity,
    watch_features,
)
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import styles, write_figure, write_numbers

import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress
from model_arguments import Model, add_model_arguments, add_several_models, load_models
from torch import Tensor

BINS = 25
PER_ROW = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    add_several_models(parser, features='output')
    return parser.parse_args()


@torch.no_grad()
def measure(
    model: Model, images: list[str], labels: list[int], args: argparse.Namespace
) -> dict[str, Tensor]:
    """Index of each channel, for each layer."""
    blocks = choose_blocks(model.backbone, args.layers)
    means = {name: ClassMeans(max(labels) + 1) for name in blocks}

    def add(name: str, features: Tensor) -> None:
        means[name].update(features, of_image)

    with watch_features(blocks, add, args.features):
        pairs = zip(images, labels, strict=True)
        for image, label in track_iter_progress((pairs, len(images))):
            of_image = torch.tensor([label])
            model.backbone(model.read(image))
    return {name: class_selectivity(of_block.compute()) for name, of_block in means.items()}


def summarise(index: dict[str, Tensor]) -> list[dict]:
    """Mean and density of the index in each layer, over the channels that something excites."""
    rows = []
    for name, values in index.items():
        active = values[~values.isnan()]
        density, _ = torch.histogram(active, BINS, range=(0, 1), density=True)
        mean = active.mean().item() if len(active) else None
        inactive = len(values) - len(active)
        density = density.nan_to_num(0).tolist()
        rows.append(dict(layer=name, mean=mean, inactive=inactive, density=density))
    return rows


def draw(results: dict[str, list[dict]]) -> Figure:
    layers = {row['layer'] for rows in results.values() for row in rows}
    layers = sorted(layers, key=lambda name: [int(part) for part in name.split('.')[1:]])
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


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        images = find_images(args.images, args.num_images)
        folders = [Path(image).absolute().parent.name for image in images]
        classes = sorted(set(folders))
        if len(classes) < 2:
            raise ValueError(f'images of 2 classes are needed: all are in a folder {classes[0]}')
        models = load_models(args)
        for model in models:
            choose_blocks(model.backbone, args.layers)
    labels = [classes.index(folder) for folder in folders]
    results = {}
    for model in models:
        results[model.name] = summarise(measure(model, images, labels, args))
    for name, rows in results.items():
        print(f'\n{name}, {len(images)} images of {len(classes)} classes')
        print(f'  {"layer":12}{"mean index":>12}{"inactive channels":>20}')
        for row in rows:
            mean = math.nan if row['mean'] is None else row['mean']
            print(f'  {row["layer"]:12}{mean:12.4f}{row["inactive"]:20d}')
    write_figure(draw(results), args.out)
    described = [dict(m.describe(), layers=results[m.name]) for m in models]
    numbers = dict(images=len(images), classes=classes, features=args.features, models=described)
    write_numbers(numbers, args.out)
    print(f'\nwritten to {args.out}')


if __name__ == '__main__':
    main()
