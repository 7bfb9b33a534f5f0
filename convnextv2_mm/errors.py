"""Errors that a user can mend, and how a tool ends on them."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class BadData(ValueError):
    """Says in one sentence which file or annotation cannot be used, and why."""


USER_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    OSError,
    ImportError,
    SyntaxError,
)


@contextmanager
def exit_on_user_error(kinds: tuple[type[Exception], ...] = USER_ERRORS) -> Iterator[None]:
    """End the program with exit code 2 and one line when what the user gave cannot be used.

    Args:
        kinds: Errors that are the user's: before a run nearly all, during it ``BadData`` alone.
    """
    try:
        yield
    except kinds as error:
        # MMEngine wraps an error of a constructor in one of the same type: the first says the most.
        while error.__cause__ is None and type(error.__context__) is type(error):
            error = error.__context__
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        # From a process of the loader comes its whole traceback, the error at the end.
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1]
        sentence = re.split(r'(?<=\.)\s', ' '.join(text.split()))[0]
        if not sentence:  # a bare assertion of a library: what it says is its source
            frame = traceback.extract_tb(error.__traceback__)[-1]
            sentence = f'{type(error).__name__} in {frame.filename}:{frame.lineno}: {frame.line}'
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(2)
