"""Suggest what to use instead of a config that does not exist."""

import re
from difflib import get_close_matches
from pathlib import Path

# Ablations of one number were configs once.
SWEPT = {
    'mask-ratio': 'model.mask_ratio',
    'decoder-depth': 'model.neck.depth',
    'decoder-width': 'model.neck.embed_dims',
}


def suggest_config(path: str | Path) -> str:
    """The end of a sentence on a config that does not exist.

    Args:
        path: The file.

    Returns:
        The option that says the same as a config of former versions, or the most similar name in
        the same folder; empty if there is none.
    """
    path = Path(path)
    if match := re.fullmatch(rf'fcmae-({"|".join(SWEPT)})-([\d.]+)_(.+)', path.name):
        key, value, rest = match.groups()
        base = path.parent.parent / 'pretrain' / f'fcmae_{rest}'
        return f': use {base} with --cfg-options {SWEPT[key]}={value}'
    names = [file.name for file in path.parent.glob('*.py')]
    close = get_close_matches(path.name, names, n=1)
    return f'; did you mean {path.parent / close[0]}?' if close else ''
