"""Stop requests: signals from a cluster, Ctrl-C, or a closed terminal."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from mmengine.dist import is_distributed
from torch import distributed


class Interruption:
    """Record stop signals, and agree on one answer across all processes of a run.

    The first signal is noted; a second of the same kind does what it did before, which is to end
    the program at once. A signal that was ignored before, as SIGHUP is after ``nohup``, still is.
    """

    # Clusters send SIGTERM, Slurm SIGUSR1 where it is told to. Windows has neither of the last two.
    NAMES = ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1')

    def __init__(self) -> None:
        self.number = 0  # of the signal, 0 if there was none
        self.is_watching = False
        self._before: dict[int, Any] = {}
        self._group = None
        self._ballot = torch.zeros(1, dtype=torch.int64)
        self._vote: distributed.Work | None = None

    def watch(self) -> None:
        """Start recording signals."""
        self.is_watching = True
        if threading.current_thread() is threading.main_thread():  # no other may
            numbers = [getattr(signal, name) for name in self.NAMES if hasattr(signal, name)]
            heard = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
            self._before = {n: signal.signal(n, self._note) for n in heard}
        if is_distributed():
            # On the host, even with NCCL: so that no process waits for its device.
            self._group = distributed.new_group(backend='gloo')

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])

    def ended(self) -> None:
        """Restore the previous signal handlers."""
        self.is_watching = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._vote is not None:
            self._vote.wait()
        # Who holds the group keeps its threads, also when all groups are left.
        self._vote = self._group = None

    def least(self, number: int) -> int:
        """The smallest of the numbers that the processes give."""
        if not is_distributed():
            return number
        numbers = torch.tensor(number)
        distributed.all_reduce(numbers, distributed.ReduceOp.MIN, self._group)
        return int(numbers)

    def agreed(self) -> int:
        """The signal that some process has noted, the same answer in all; 0 if none.

        To be called by all processes at the same steps. With several, the answer is that of the
        step before: the processes exchange it while they compute.
        """
        if not is_distributed():
            return self.number
        answer = 0
        if self._vote is not None:
            self._vote.wait()
            answer = int(self._ballot)
        self._ballot.fill_(self.number)
        self._vote = distributed.all_reduce(
            self._ballot, distributed.ReduceOp.MAX, self._group, async_op=True
        )
        return answer
