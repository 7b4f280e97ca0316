"""How long each part of a run takes."""

from __future__ import annotations

import time

from common.files import format_duration


class Stopwatch:
    """Seconds by name of a part. A call of `lap` ends the part that began with the lap before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Forget the time so far that no lap has taken in; `time_left` counts from here."""
        self.began = self.last = time.perf_counter()

    def lap(self, part: str) -> float:
        """Add the time since the last lap to `part`, and return it in seconds."""
        now = time.perf_counter()
        lap, self.last = now - self.last, now
        self.seconds[part] = self.seconds.get(part, 0.0) + lap
        return lap

    def time_left(self, done: int, left: int, apart: float = 0.0, more: float = 0.0) -> str:
        """How long the steps that are left still take, such as '3 min 05 s left'; '' if there is nothing to tell.

        apart: seconds since `start` that no step took. more: seconds that come to those of the steps.
        """
        each = (time.perf_counter() - self.began - apart) / max(done, 1)
        return f"{format_duration(each * left + more)} left" if done and left else ""

    def __str__(self) -> str:
        """Such as 'training 3 min 05 s, grids 42 s': the parts by their time, longest first."""
        parts = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{part} {format_duration(seconds)}" for part, seconds in parts)
