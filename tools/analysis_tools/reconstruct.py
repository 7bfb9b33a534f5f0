"""Draw what FCMAE makes of masked images: masked, reconstructed and original, a row for each.

The mask of an image depends on its file name only; its share is that of the config
(--cfg-options model.mask_ratio=0.75). A predicted patch is drawn with the mean and spread of the
true one, which the network does not predict. Pictures after the first page are FIGURE-2 and on.
"""

import argparse
import gc
import statistics
from pathlib import Path

from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.drawing import draw_reconstruction
from convnextv2_mm.visualization.figures import write_figure, write_numbers

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from model_arguments import add_model_arguments, load_fcmae


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument('--rows', type=int, default=8, help='images on a page (%(default)s)')
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f'--rows {args.rows} is not allowed: 1 is least')
    return args


def draw(samples: list[BaseDataElement], names: list[str], config: Config) -> Figure:
    panels = [draw_reconstruction(sample, config) for sample in samples]
    heights = [panel.shape[0] / panel.shape[1] for panel in panels]  # of a row, by its width
    figure = Figure(figsize=(6.6, 0.3 + 6.2 * sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel, sample, name in zip(axes, panels, samples, names, strict=True):
        axis.imshow(panel)
        for part in (1, 2):
            axis.axvline(part * panel.shape[1] / 3 - 0.5, color='white', linewidth=4)
        axis.set_xticks([])
        axis.set_yticks([])
        label = name if len(name) <= 24 else f'{name[:23]}…'
        axis.set_ylabel(f'{label}\nloss {sample.reconstruction_loss:.3f}', fontsize=7)
    width = panels[0].shape[1] / 3
    axes[0].set_xticks(
        [(i + 0.5) * width for i in range(3)], ['masked', 'reconstructed', 'original']
    )
    axes[0].tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    return figure


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        images = find_images(args.images, args.num_images)
        model, config, reconstruct = load_fcmae(args)
    losses, page = [], []
    for number, image in enumerate(track_iter_progress(images), start=1):
        page.append(reconstruct(image))
        losses.append(page[-1].reconstruction_loss)
        if len(page) == args.rows or number == len(images):
            first = number - len(page)
            names = [Path(image).stem for image in images[first:number]]
            place = args.out
            if first:
                place = place.with_stem(f'{place.stem}-{first // args.rows + 1}')
            write_figure(draw(page, names, config), place)
            page = []
            gc.collect()  # a figure refers to itself, with all its pictures
    for image, loss in zip(images, losses, strict=True):
        print(f'{loss:8.4f}  {image}')
    mean = statistics.mean(losses)
    print(f'{mean:8.4f}  mean of {len(losses)} images, {model.mask_ratio:.0%} masked')
    rows = [dict(image=i, loss=loss) for i, loss in zip(images, losses, strict=True)]
    numbers = dict(config=args.config, checkpoint=args.checkpoint, mask_ratio=model.mask_ratio)
    write_numbers(dict(numbers, mean_loss=mean, images=rows), args.out)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
