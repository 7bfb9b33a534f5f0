"""Keep the screen readable: long messages of a run go to its log file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger

MOST_LINES = 20


class _OnlyShort(logging.Filter):
    """Lets messages of at most ``MOST_LINES`` lines through, and names the others once."""

    def __init__(self, log_file: str) -> None:
        super().__init__()
        self.log_file = log_file
        self.told = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().count('\n') < MOST_LINES or record.levelno >= logging.WARNING:
            return True
        if not self.told:
            self.told = True
            print(f'environment, config and hooks are in {self.log_file}')
        return False


@contextmanager
def long_messages_to_file() -> Iterator[None]:
    """Keep messages of many lines off the screen, for each MMEngine logger made meanwhile.

    MMEngine starts a run with some 330 lines: the environment, the config and the hooks.
    """
    make = MMLogger.__init__

    def make_short(self: MMLogger, *args, **kwargs) -> None:
        make(self, *args, **kwargs)
        files = [h.baseFilename for h in self.handlers if isinstance(h, logging.FileHandler)]
        for handler in self.handlers:
            if type(handler) is logging.StreamHandler and files:
                handler.addFilter(_OnlyShort(files[0]))

    MMLogger.__init__ = make_short  # type: ignore[method-assign]
    try:
        yield
    finally:
        MMLogger.__init__ = make  # type: ignore[method-assign]
