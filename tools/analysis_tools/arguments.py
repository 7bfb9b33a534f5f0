"""Arguments that the tools beside this file share."""

import argparse

from convnextv2_mm.analysis import FEATURES
from convnextv2_mm.apis.analysis.loading import NamedBackbone, load_backbones
from convnextv2_mm.cli import add_cfg_options, device_name

import torch


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows the docstring of its tool as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """One model and its images, as in ``tools/infer.py``, and where the figure goes."""
    parser.add_argument('config', help='config file, of any task')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', nargs='+', help='image files, or folders of them')
    add_out(parser)
    parser.add_argument('--num-images', type=int, help='take so many of them at random')
    parser.add_argument(
        '--device', type=device_name, default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    add_cfg_options(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Where the figure goes."""
    parser.add_argument(
        '--out', required=True, help='figure, .png or .svg; its numbers go beside it, as .json'
    )


def add_comparison(parser: argparse.ArgumentParser, features: str) -> None:
    """More models to compare with the first, and which of their features."""
    parser.add_argument(
        '--versus',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another model, again for each',
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='of the models, for the legend')
    parser.add_argument('--layers', nargs='+', metavar='BLOCK', help='such as stages.2.5')
    parser.add_argument(
        '--features',
        choices=FEATURES,
        default=features,
        help='expansion: the 4C channels after GELU and GRN; output: of the block (%(default)s)',
    )


def load(args: argparse.Namespace) -> list[NamedBackbone]:
    """The backbones of a command line."""
    pairs = [(args.config, args.checkpoint), *map(tuple, args.versus)]
    return load_backbones(pairs, args.names, args.layers, args.device, args.cfg_options)
