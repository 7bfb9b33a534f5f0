"""Converting the checkpoints of other libraries, and into them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..checkpoints import Checkpoint, read_checkpoint, select_task, write_checkpoint


class Conversion(NamedTuple):
    """What was found and written.

    Attributes:
        checkpoint: What was read: its architecture and layout, and in ``dropped`` the weights that
            were left out, with the reasons.
        how_to_open: Python code that opens the written file with the other library.
    """

    checkpoint: Checkpoint
    how_to_open: str


def convert(
    source: str,
    destination: str | Path,
    to: str = 'mm',
    task: str | None = None,
    prefix: str | None = None,
) -> Conversion:
    """Convert a ConvNeXt checkpoint: official, timm, transformers, mmpretrain or ours, any to any.

    Args:
        source: File, folder of transformers, index of a sharded file, URL, or
            ``convnextv2://NAME``. Its layout is found from its names, its size from its shapes.
        destination: File, or for transformers a new folder.
        to: Layout of the destination, of :data:`~convnextv2_mm.checkpoints.FORMATS`.
        task: Write only what ``backbone``, ``classification`` or ``pretraining`` needs; by default
            all that the source has and the layout can hold.
        prefix: Which backbone to take from a source with several, such as ``backbone.``.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If it holds no ConvNeXt, or the destination or the layout cannot hold it.
    """
    destination = Path(destination)
    if destination.exists() and Path(source).exists() and destination.samefile(source):
        raise ValueError(f'{destination} is the source: give another destination')
    checkpoint = read_checkpoint(source, prefix)
    if task:
        select_task(checkpoint, task)
    return Conversion(checkpoint, write_checkpoint(checkpoint, destination, to))
