"""How different the channels of each layer are: the paper's Figure 4, for one model or several.

Feature cosine distance: the mean of (1 - cos)/2 over all pairs of channels, for each image, then
averaged over the images. 0: all channels are alike (collapsed); near 0.5: they are as different as
they can be. The network is the dense one and sees the whole image, also with a checkpoint of
FCMAE. The paper takes 1000 images of ImageNet's validation set (--num-images 1000).
"""

import argparse

from convnextv2_mm.analysis import choose_blocks, cosine_distance, watch_features
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import styles, write_figure, write_numbers

import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress
from model_arguments import Model, add_model_arguments, add_several_models, load_models


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    add_several_models(parser, features='expansion')
    return parser.parse_args()


@torch.no_grad()
def measure(
    model: Model, images: list[str], layers: list[str] | None, features: str
) -> list[dict[str, float | str]]:
    """Mean and standard deviation over the images, for each layer."""
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


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        images = find_images(args.images, args.num_images)
        models = load_models(args)
        for model in models:
            choose_blocks(model.backbone, args.layers)
    results = {m.name: measure(m, images, args.layers, args.features) for m in models}
    for name, rows in results.items():
        print(f'\n{name}, {len(images)} images\n  {"layer":12}{"distance":>10}{"std":>8}')
        for row in rows:
            print(f'  {row["layer"]:12}{row["cosine_distance"]:10.4f}{row["std"]:8.4f}')
    write_figure(draw(results), args.out)
    described = [dict(m.describe(), layers=results[m.name]) for m in models]
    numbers = dict(images=len(images), features=args.features, models=described)
    write_numbers(numbers, args.out)
    print(f'\nwritten to {args.out}')


if __name__ == '__main__':
    main()
