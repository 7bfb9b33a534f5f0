"""Figures of the tools: styles, and writing them with their numbers."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..utils.atomic import atomic_write

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
"""Okabe and Ito's, which most colour-blind people tell apart (https://jfly.uni-koeln.de/color/),
without the yellow, which is pale on white."""

SUFFIXES = ('.png', '.svg')


def styles(names: list[str]) -> list[dict]:
    """A colour and a marker for each name, as options of ``Axes.plot``."""
    return [
        dict(color=colour, marker=marker, markersize=4, label=name)
        for name, colour, marker in zip(names, cycle(COLOURS), cycle('osD^vP'), strict=False)
    ]


def check_figure_path(path: str | Path) -> Path:
    """Check the path of a figure.

    Raises:
        ValueError: If its name has another ending than ``SUFFIXES``.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f'--out {path} is not allowed: it must end in {" or ".join(SUFFIXES)}')
    return Path(path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # text stays text
    with atomic_write(path) as beside, rc_context({'svg.fonttype': 'none'}):
        figure.savefig(beside, format=path.suffix[1:], dpi=150)


def write_numbers(numbers: dict, path: Path) -> None:
    """Write what a figure shows as JSON, beside it."""
    with atomic_write(path.with_suffix('.json')) as beside:
        beside.write_text(json.dumps(numbers, indent=1) + '\n')
