"""Being asked to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop:
    """A context that remembers which signal asked the run to stop (`number`, 0 for none).

    The handler only sets that number: more, in the middle of whatever it interrupts, could do harm. The run looks at
    it between steps. Cluster managers announce the end of a job by SIGTERM, some by USR1 or USR2, and may do so several
    times: the first says why the run ends (SLURM's SIGTERM after a USR1 is still the end of the time). A terminal that
    closes sends SIGHUP. Signals that are ignored stay ignored (nohup). Only a second Ctrl-C, which a person meant, acts
    at once, as if nobody listened.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Stop:
        numbers = [getattr(signal, name) for name in self.NAMES if hasattr(signal, name)]
        heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.handle) for number in heard}
        return self

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if number == signal.SIGINT:
            signal.signal(number, self.before[number])

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
