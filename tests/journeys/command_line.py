"""The tools as a user runs them: one process each, with its own output, folder and exit code.

Importing mmdet, mmseg and mmpretrain takes longer than most of what is tested. So a server imports
them once, and each command runs in a copy of it (``multiprocessing``'s fork server).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).parents[2] / 'tools'
TIMEOUT = 300  # seconds for one command

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(
    [
        'convnextv2_mm',
        'convnextv2_mm.datasets',
        'convnextv2_mm.models.detectors',
        'mmpretrain.apis',
    ]
)


class Command:
    """``python tools/NAME.py ARGUMENTS`` in a folder, from its start on.

    Args:
        name: Of the tool.
        arguments: Of the command line.
        folder: Where it runs, and where its output goes: ````NAME.log````.
    """

    def __init__(self, name: str, *arguments: object, folder: Path) -> None:
        self.log = folder / f'{name.replace("/", "-")}.log'
        self.words = [f'tools/{name}.py', *map(str, arguments)]
        path = TOOLS / f'{name}.py'
        self.process = _CONTEXT.Process(
            target=_run, args=(path, self.words[1:], folder, self.log, os.environ.copy())
        )
        self.process.start()

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something is there; fail if the command ends before."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.is_alive() and time.monotonic() < end, self.report()
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def end(self, code: int = 0) -> str:
        """Wait for the end, which must have this exit code; give what was printed."""
        self.process.join(TIMEOUT)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        assert self.process.exitcode == code, self.report()
        return self.log.read_text()

    def report(self) -> str:
        """The command, its exit code and its output, for a failed test."""
        words = ' '.join(self.words)
        return f'{words}\nexit code {self.process.exitcode}\n{self.log.read_text()[-6000:]}'


def _run(tool: Path, arguments: list[str], folder: Path, log: Path, environment: dict) -> None:
    """In the new process: become ``python TOOL ARGUMENTS > LOG 2>&1``."""
    gc.freeze()  # MMEngine collects garbage with each data set: what is imported is no garbage
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with log.open('w') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    sys.argv = [str(tool), *arguments]
    sys.path.insert(0, str(tool.parent))
    runpy.run_path(str(tool), run_name='__main__')
