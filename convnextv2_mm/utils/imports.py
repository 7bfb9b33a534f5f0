"""Import OpenMMLab's libraries without what they print meanwhile."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def without_onedl() -> Iterator[None]:
    """Leave out the lines that say that OneDL, an optional part of them, is not installed."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        sys.stdout.writelines(line for line in lines if 'Could not import OneDL' not in line)
