"""Count parameters and multiply-adds of a config's model, part by part, for one image.

A multiply-add is one FLOP here, as in the papers of ConvNeXt; counted are those of convolutions,
linear layers and attention. Detectors of two stages work on as many proposals and masks as their
test_cfg allows. FCMAE: visible sites only. Nothing is computed: the largest model needs no memory.
"""

import argparse

from convnextv2_mm.apis.flops import count_flops, table
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        required=True,
        metavar=('H', 'W'),
        help='size of the image that the network gets, padding included',
    )
    parser.add_argument('--depth', type=int, default=1, help='list parts of parts down to here')
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        if min(args.shape) < 1 or args.depth < 0:
            raise ValueError('--shape must be positive and --depth at least 0')
        flops = count_flops(args.config, tuple(args.shape), args.cfg_options)
    note = ''
    if flops.visible:
        visible, patches = flops.visible
        note = (
            f'{visible} of {patches} patches are visible; '
            f'with all of them the encoder would take {flops.dense / 1e9:.2f}G.'
        )
    print(table(flops.model, flops.counts, args.depth))
    print(f'One image of {args.shape[0]}x{args.shape[1]}; a multiply-add is one FLOP. {note}')


if __name__ == '__main__':
    main()
