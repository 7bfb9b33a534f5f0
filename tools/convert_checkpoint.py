"""Convert a ConvNeXt checkpoint: official, timm, transformers, mmpretrain or ours, any to any.

The layout of SRC is found from its names, the size from its shapes. Averaged weights (EMA) are
taken where there are some.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from convnextv2_mm.apis.conversion import convert
from convnextv2_mm.checkpoints import FORMATS
from convnextv2_mm.errors import exit_on_user_error


def summarize(names: list[str]) -> str:
    """``backbone.norm0.* (2), roi_head.* (8)``: long lists of names in short."""
    beginnings = (re.match(r'backbone\.\w+\.|\w+\.?', name)[0] for name in names)
    counts = Counter(beginnings)
    return ', '.join(f'{n}* ({count})' if n[-1] == '.' else n for n, count in counts.items())


def main() -> None:
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
    args = parser.parse_args()
    with exit_on_user_error():
        found, how_to_open = convert(**vars(args))
    print(f'found    {found.architecture}')
    print(f'layout   {found.layout}{f", under {found.place}" if found.place else ""}')
    for names, reason in found.dropped:
        print(f'dropped  {summarize(names)}: {reason}')
    print(f'written  {args.destination}')
    print(f'open it  {how_to_open}')


if __name__ == '__main__':
    main()
