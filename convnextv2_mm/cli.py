"""Arguments that tools share, with errors of argparse for what cannot be used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from mmengine.config import DictAction


class _OptionsAction(DictAction):
    """MMEngine's action of ``--cfg-options``; what is no ``KEY=VALUE`` ends in one sentence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.error(f'{option_string} {value} is not allowed: it must be KEY=VALUE')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Let a tool take ``--cfg-options KEY=VALUE ...``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionsAction,
        metavar='KEY=VALUE',
        help='change the config',
    )


def device_name(text: str) -> str:
    """Type of ``--device``: one that PyTorch can put a tensor on."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split('. ')[0].splitlines()[0]
        raise argparse.ArgumentTypeError(f'{text!r} cannot be used: {reason}') from error
    return text
