"""Curves of several runs over each other, from the logs in their work dirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from ...visualization.figures import styles

TRAINING = ('loss', 'lr')
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU', 'accuracy/top1', 'fcmae/loss')
PER_ROW = 3

Curves = dict[str, tuple[dict[int, float], bool]]
"""Of each key, the values by step, and whether steps are epochs."""


def read_runs(work_dirs: Sequence[str], names: Sequence[str] | None = None) -> dict[str, Curves]:
    """The curves of several runs by their names.

    Args:
        work_dirs: Of the runs.
        names: By default those of the folders.

    Raises:
        FileNotFoundError: If one of them has no log.
        ValueError: If names are missing or not unique.
    """
    names = names or [Path(path).resolve().name for path in work_dirs]
    if len(names) != len(work_dirs) or len(set(names)) < len(names):
        raise ValueError(f'{len(work_dirs)} runs need --names as many and different, got {names}')
    return {name: read_run(path) for name, path in zip(names, work_dirs, strict=True)}


def read_run(work_dir: str) -> Curves:
    """Curves of all scalars that MMEngine's local backend wrote.

    What a resumed run did again counts once, as the resumed run did it.

    Raises:
        FileNotFoundError: If there is no log.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'work dir {work_dir} has no log */vis_data/scalars.json')
    curves: Curves = {}
    by_epoch = False
    for log in logs:
        begun = set()
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            step = entry.pop('step', 0)
            by_epoch |= 'epoch' in entry
            # Training logs by iteration; validation, without one, by epoch if training has epochs.
            is_epoch = 'iter' not in entry and by_epoch
            if 'base_lr' in entry:
                entry['lr'] = entry['base_lr']
            for key, value in entry.items():
                if not isinstance(value, int | float):
                    continue
                values, _ = curves.setdefault(key, ({}, is_epoch))
                if key not in begun:  # a resumed run: what came after its start is void
                    begun.add(key)
                    for later in [s for s in values if s >= step]:
                        del values[later]
                values[step] = value
    return curves


def choose_keys(runs: dict[str, Curves], keys: Sequence[str] | None = None) -> list[str]:
    """The keys to draw: those given, or loss, learning rate and whichever metrics there are.

    Raises:
        ValueError: If no run logged one of them.
    """
    known = sorted({key for curves in runs.values() for key in curves})
    for key in keys or ():
        if key not in known:
            raise ValueError(f'no run logged {key}: choose from {", ".join(known)}')
    return list(keys or [key for key in (*TRAINING, *METRICS) if key in known])


def draw(runs: dict[str, Curves], keys: Sequence[str]) -> Figure:
    """A panel for each key, a curve for each run."""
    columns, rows = min(PER_ROW, len(keys)), -(-len(keys) // PER_ROW)
    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Figure(figsize=(0.6 + 3.9 * columns, 0.5 + 3 * rows), layout=layout)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    looks = styles(list(runs))
    for axis, key in zip(axes, keys, strict=False):
        units = set()
        for look, curves in zip(looks, runs.values(), strict=True):
            if key not in curves:
                continue
            values, by_epoch = curves[key]
            units.add('epoch' if by_epoch else 'iteration')
            marker = look['marker'] if len(values) <= 30 else None
            axis.plot(values.keys(), values.values(), **{**look, 'marker': marker})
        axis.set(xlabel=' or '.join(sorted(units)), ylabel=key)
        low, high = axis.dataLim.intervalx
        if low == high:
            axis.set_xlim(low - 1, high + 1)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.3)
    for axis in axes[len(keys) :]:
        axis.axis('off')
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        found.update(zip(names, handles, strict=True))
    figure.legend(
        list(found.values()), list(found), loc='outside upper center', ncols=3, frameon=False
    )
    return figure


def series(runs: dict[str, Curves], keys: Sequence[str]) -> list[dict]:
    """The curves that are drawn, as numbers."""
    found = []
    for key in keys:
        for name, curves in runs.items():
            if key in curves:
                steps, values = zip(*curves[key][0].items(), strict=True)
                unit = 'epoch' if curves[key][1] else 'iteration'
                found.append(dict(key=key, run=name, unit=unit, steps=steps, values=values))
    return found
