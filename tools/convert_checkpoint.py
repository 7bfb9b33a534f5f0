"""Convert a ConvNeXt checkpoint: official, timm, transformers, mmpretrain or ours, any to any.

The layout of SRC is found from its names, the size from its shapes. Averaged weights (EMA) are
taken where there are some.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from convnextv2_mm.checkpoints import (
    FORMATS,
    read_checkpoint,
    select_task,
    write_checkpoint,
)
from convnextv2_mm.errors import exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source',
        metavar='SRC',
        help='file, folder of transformers, index of a sharded file, URL, or convnextv2://NAME',
    )
    parser.add_argument(
        'destination', metavar='DST', type=Path, help='file, or for transformers a new folder'
    )
    parser.add_argument('--to', choices=FORMATS, default='mm', help='layout of DST (default: mm)')
    parser.add_argument(
        '--task',
        choices=['backbone', 'classification', 'pretraining'],
        help='write only what this needs (default: all that SRC has and the layout can hold)',
    )
    parser.add_argument(
        '--prefix', help='which backbone to take from a SRC with several, such as "backbone."'
    )
    return parser.parse_args()


def convert(
    source: str, destination: Path, to: str, task: str | None, prefix: str | None = None
) -> None:
    """Convert a checkpoint and print what was found."""
    if destination.exists() and Path(source).exists() and destination.samefile(source):
        raise ValueError(f'{destination} is the source: give another destination')
    checkpoint = read_checkpoint(source, prefix)
    print(f'found    {checkpoint.architecture}')
    place = f', under {checkpoint.place}' if checkpoint.place else ''
    print(f'layout   {checkpoint.layout}{place}')
    if task:
        select_task(checkpoint, task)
    how_to_open = write_checkpoint(checkpoint, destination, to)
    for names, reason in checkpoint.dropped:
        print(f'dropped  {summarize(names)}: {reason}')
    print(f'written  {destination}')
    print(f'open it  {how_to_open}')


def summarize(names: list[str]) -> str:
    """``backbone.norm0.* (2), roi_head.* (8)``: long lists of names in short."""
    beginnings = (re.match(r'backbone\.\w+\.|\w+\.?', name)[0] for name in names)
    counts = Counter(beginnings)
    return ', '.join(f'{n}* ({count})' if n[-1] == '.' else n for n, count in counts.items())


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        convert(args.source, args.destination, args.to, args.task, args.prefix)


if __name__ == '__main__':
    main()
