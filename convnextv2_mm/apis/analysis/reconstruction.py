"""What FCMAE makes of masked images."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress

from ...visualization.drawing import draw_reconstruction
from ...visualization.figures import check_figure_path, write_figure, write_numbers
from ..inference import find_images
from .loading import load_fcmae


class Reconstructions(NamedTuple):
    """What :func:`reconstruct` found.

    Attributes:
        losses: Reconstruction loss of each image file.
        mask_ratio: Share of the patches that were masked.
    """

    losses: dict[str, float]
    mask_ratio: float

    @property
    def mean(self) -> float:
        """Mean of the losses."""
        return statistics.mean(self.losses.values())


def reconstruct(
    config: str | Path | Config,
    checkpoint: str,
    images: Sequence[str],
    out: str | Path,
    num_images: int | None = None,
    rows: int = 8,
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> Reconstructions:
    """Draw what FCMAE makes of masked images: masked, reconstructed and original, a row for each.

    The mask of an image depends on its file name only. A predicted patch is drawn with the mean and
    spread of the true one, which the network does not predict.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        images: Image files, and folders with images in them.
        out: The figure, .png or .svg; the losses go beside it, as .json. Pages after the first are
            ``OUT-2`` and on.
        num_images: Take so many of them at random.
        rows: Images on a page.
        device: Where to compute.
        cfg_options: Changes of the config, such as of ``model.mask_ratio``.

    Raises:
        FileNotFoundError: If the config, the checkpoint or an image does not exist.
        ValueError: If they do not fit each other, or are not of FCMAE.
    """
    if rows < 1:
        raise ValueError(f'--rows {rows} is not allowed: 1 is least')
    place = check_figure_path(out)
    found = find_images(images, num_images)
    name = str(config.filename if isinstance(config, Config) else config)
    model, config, reconstruct_one = load_fcmae(config, checkpoint, device, cfg_options)
    losses, page = [], []
    for number, image in enumerate(track_iter_progress(found), start=1):
        page.append(reconstruct_one(image))
        losses.append(page[-1].reconstruction_loss)
        if len(page) == rows or number == len(found):
            first = number - len(page)
            names = [Path(image).stem for image in found[first:number]]
            numbered = place.with_stem(f'{place.stem}-{first // rows + 1}') if first else place
            write_figure(draw(page, names, config), numbered)
            page = []
            gc.collect()  # a figure refers to itself, with all its pictures
    result = Reconstructions(dict(zip(found, losses, strict=True)), model.mask_ratio)
    entries = [dict(image=image, loss=loss) for image, loss in result.losses.items()]
    numbers = dict(config=name, checkpoint=checkpoint, mask_ratio=model.mask_ratio)
    write_numbers(dict(numbers, mean_loss=result.mean, images=entries), place)
    return result


def draw(samples: list[BaseDataElement], names: list[str], config: Config) -> Figure:
    """One page."""
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
