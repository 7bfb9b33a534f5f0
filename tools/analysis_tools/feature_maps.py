"""Draw channels of chosen layers as small squares, models side by side: the paper's Figure 3.

The squares of a layer share one scale, from the least value to the 99.5th percentile, so dead and
saturated channels look flat. Printed beside: the cosine distance over all channels, and the share
of flat ones, whose standard deviation over space is below 1% of that of the whole layer (our
measure, not the paper's). The network is the dense one and sees the whole image, also with a
checkpoint of FCMAE.
"""

import argparse

from convnextv2_mm.analysis import choose_blocks, cosine_distance, watch_features
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import write_figure, write_numbers

import torch
from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress
from model_arguments import Model, add_model_arguments, add_several_models, load_models

PER_ROW = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    add_several_models(parser, features='expansion')
    parser.add_argument('--channels', type=int, default=64, help='first so many (%(default)s)')
    args = parser.parse_args()
    if args.channels < 1:
        parser.error(f'--channels {args.channels} is not allowed: 1 is least')
    return args


@torch.no_grad()
def measure(model: Model, image: str, args: argparse.Namespace) -> tuple[list[dict], list]:
    """Figures of each layer, and the maps ``(channels, H, W)`` that are drawn."""
    rows, maps = [], []

    def add(name: str, features: torch.Tensor) -> None:
        x = features[0].float().flatten(0, -2)  # [L, C]
        shown = features[0, ..., : args.channels].float().permute(2, 0, 1).cpu()
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

    with watch_features(choose_blocks(model.backbone, args.layers), add, args.features):
        model.backbone(model.read(image))
    return rows, maps


def mosaic(maps: torch.Tensor) -> torch.Tensor:
    """``(channels, H, W)`` as one picture of squares, NaN between them."""
    channels, height, width = maps.shape
    columns, rows = min(PER_ROW, channels), -(-channels // PER_ROW)
    gap = max(1, width // 14)
    out = maps.new_full((rows * (height + gap) - gap, columns * (width + gap) - gap), torch.nan)
    for index, square in enumerate(maps):
        top, left = index // PER_ROW * (height + gap), index % PER_ROW * (width + gap)
        out[top : top + height, left : left + width] = square
    return out


def draw(results: dict[str, tuple[list[dict], list]]) -> Figure:
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


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        images = find_images(args.images, args.num_images)
        if len(images) > 1:
            raise ValueError(f'feature maps are of one image, got {len(images)}: --num-images 1')
        models = load_models(args)
        if not args.layers:  # the last block of each stage
            last = {name.split('.')[1]: name for name in choose_blocks(models[0].backbone)}
            args.layers = list(last.values())
        for model in models:
            choose_blocks(model.backbone, args.layers)
    results = {model.name: measure(model, images[0], args) for model in track_iter_progress(models)}
    for name, (rows, _) in results.items():
        print(f'\n{name}\n  {"layer":12}{"distance":>10}{"flat":>8}')
        for row in rows:
            print(f'  {row["layer"]:12}{row["cosine_distance"]:10.4f}{row["flat"]:8.1%}')
    write_figure(draw(results), args.out)
    described = [dict(m.describe(), layers=results[m.name][0]) for m in models]
    write_numbers(dict(image=images[0], features=args.features, models=described), args.out)
    print(f'\nwritten to {args.out}')


if __name__ == '__main__':
    main()
