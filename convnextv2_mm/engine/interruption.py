"""Being asked to stop: SIGTERM, which a cluster sends before it takes a machine, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from mmengine.dist import is_distributed
from torch import distributed


class Interruption:
    """Notes SIGTERM and SIGINT, and brings all processes of a run to one answer.

    The first signal is noted; a second of the same kind does what it did before, which is to end
    the program at once.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.number = 0  # of the signal, 0 if there was none
        self._before: dict[int, object] = {}
        self._group = None
        self._ballot = torch.zeros(1, dtype=torch.int64)
        self._vote: distributed.Work | None = None

    def watch(self) -> None:
        """Begin to note signals."""
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
        if is_distributed():
            # On the host, even with NCCL: so that no process waits for its device.
            self._group = distributed.new_group(backend='gloo')

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])

    def ended(self) -> None:
        """Leave the signals as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._vote is not None:
            self._vote.wait()
            self._vote = None

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
