"""How much the share of masked patches matters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.utils import track_iter_progress

from ...visualization.figures import COLOURS
from ..inference import find_images
from .loading import load_fcmae

KEY = 'model.mask_ratio'


def losses_at_ratios(
    config: str | Path | Config,
    checkpoint: str,
    images: Sequence[str],
    ratios: Sequence[float],
    num_images: int | None = None,
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> list[dict[str, float]]:
    """Reconstruction loss of a pre-trained FCMAE at several mask ratios.

    The mask of an image depends on its file name, and what a larger ratio masks holds what a
    smaller one does.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        images: Image files, and folders with images in them.
        ratios: Shares of the patches.
        num_images: Take so many images at random.
        device: Where to compute.
        cfg_options: Changes of the config.

    Returns:
        For each ratio, in ascending order: ``model.mask_ratio``, mean ``loss``, its
        ``standard_error`` over the images, and their number, ``images``.

    Raises:
        FileNotFoundError: If the config, the checkpoint or an image does not exist.
        ValueError: If a ratio does not lie between 0 and 1, or config and checkpoint are not of one
            FCMAE.
    """
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise ValueError(f'--ratios {ratio} is not allowed: it must lie between 0 and 1')
    found = find_images(images, num_images)
    model, _, reconstruct = load_fcmae(config, checkpoint, device, cfg_options)
    ratios = sorted(set(ratios))
    sums = [[0.0, 0.0] for _ in ratios]
    for image in track_iter_progress(found):
        for total, model.mask_ratio in zip(sums, ratios, strict=True):
            loss = reconstruct(image).reconstruction_loss
            total[0] += loss
            total[1] += loss**2
    rows = []
    for ratio, (of_losses, of_squares) in zip(ratios, sums, strict=True):
        mean = of_losses / len(found)
        spread = max(of_squares / len(found) - mean**2, 0) ** 0.5
        error = spread / max(len(found) - 1, 1) ** 0.5
        rows.append({KEY: ratio, 'loss': mean, 'standard_error': error, 'images': len(found)})
    return rows


def read_sweep(path: str, metrics: Sequence[str] | None = None) -> tuple[list[dict], list[str]]:
    """Rows of a sweep over mask ratios, and which of their columns are figures.

    Args:
        path: JSON list of rows with ``model.mask_ratio`` and figures.
        metrics: Names of columns; by default all that have figures.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no list of rows, or a column is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'table {path} does not exist')
    try:
        rows = json.loads(Path(path).read_text())
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'table {path} is not a JSON list of rows')
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in [KEY, *(metrics or [])]:
        if column not in columns:
            raise ValueError(f'table {path} has no column {column}: it has {", ".join(columns)}')
    rows = [row for row in rows if is_figure(row.get(KEY))]
    figures = [c for c in columns if c != KEY and any(is_figure(row.get(c)) for row in rows)]
    if not figures:
        raise ValueError(f'table {path} has no figures beside {KEY}: it has {", ".join(columns)}')
    return rows, list(metrics or figures)


def is_figure(value: object) -> bool:
    """Whether a cell of a table is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw(rows: list[dict], metrics: Sequence[str]) -> Figure:
    """Each metric over the mask ratio."""
    figure = Figure(figsize=(1 + 4 * len(metrics), 3.6), layout='constrained')
    for axis, metric, colour in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0],
        metrics,
        [COLOURS[i % len(COLOURS)] for i in range(len(metrics))],
        strict=True,
    ):
        found = [row for row in rows if is_figure(row.get(metric))]
        ratios = sorted({row[KEY] for row in found})
        at_ratio = [[row[metric] for row in found if row[KEY] == ratio] for ratio in ratios]
        means = [sum(values) / len(values) for values in at_ratio]
        axis.plot(ratios, means, color=colour, marker='o', markersize=4)
        axis.plot([r[KEY] for r in found], [r[metric] for r in found], '.', color=colour, alpha=0.5)
        if metric == 'loss' and all('standard_error' in row for row in found):
            errors = [row['standard_error'] for row in found]
            axis.errorbar(ratios, means, errors, color=colour, capsize=3)
        axis.set(xlabel='mask ratio', ylabel=metric)
        axis.set_xlim(0, 1)
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.3)
    return figure


def table(rows: list[dict], columns: Sequence[str]) -> str:
    """The rows as text, a dash where there is no figure."""
    lines = [''.join(f'{column:>20}' for column in columns)]
    for row in rows:
        values = [row.get(column) for column in columns]
        lines.append(''.join(f'{v:20.4g}' if is_figure(v) else f'{"-":>20}' for v in values))
    return '\n'.join(lines)
