"""What the command-line scripts share: errors of one line, types of arguments, progress, and how they end.

Exit status: 0 finished, 1 a run that failed, 2 a wrong call, 128 + n stopped by signal n with a checkpoint written.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
import textwrap
import time
from typing import Callable, Iterator

from common.files import format_duration


class RunError(RuntimeError):
    """A run that cannot go on, in one line that says what is wrong and what to do (exit status 1)."""


class DataError(RuntimeError):
    """Data are missing or damaged. The message is one line: what is wrong, and what to do about it."""


class CallError(ValueError):
    """A call that cannot be meant, in one line (exit status 2)."""


def one_line(error: BaseException) -> str:
    """An exception of a library as part of such a message: its type and the beginning of what it says."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


@contextlib.contextmanager
def values_from_call() -> Iterator[None]:
    """A ValueError in the block is about a value that the call gave: it becomes a CallError."""
    try:
        yield
    except ValueError as error:
        raise CallError(str(error)) from None


# ------------------------------------------------------------------------------------------------ arguments


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `lowest` (that a machine word holds)."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, not {value}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"must be below 2^63, not {value}")
        return value

    return whole_number


def in_range(lowest: float, highest: float = math.inf, open_ends: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number in [lowest, highest], or between the two if the ends are open."""

    def finite_number(text: str) -> float:
        value = float(text)
        inside = lowest < value < highest if open_ends else lowest <= value <= highest
        if not inside or not math.isfinite(value):
            ends = "()" if open_ends or highest == math.inf else "[]"
            raise argparse.ArgumentTypeError(f"must be in {ends[0]}{lowest:g}, {highest:g}{ends[1]}, not {text}")
        return value

    return finite_number


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default, and the script's own docstring as it stands."""


# ------------------------------------------------------------------------------------------------ progress


def live_line(line: str) -> None:
    """A line that the next one overwrites; only on a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and could not be overwritten
        print(f"\r{line[:width]:<{width}}\r", end="", flush=True)


class Progress:
    """How far a long job is, how fast it goes and how long it still takes: a live line on a terminal, and elsewhere,
    where lines stay, a plain one every 30 seconds. `total` and `done` count `unit`s.
    """

    def __init__(self, total: int, unit: str = "images", done: float = 0):
        self.total, self.unit, self.done, self.first = total, unit, done, done
        self.live = sys.stdout.isatty()
        self.began = self.told = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.told < (0.2 if self.live else 30):
            return
        self.told = now
        speed = (self.done - self.first) / (now - self.began)
        left = format_duration((self.total - self.done) / speed)
        line = f"{self.done:,.0f} of {self.total:,} {self.unit}, {speed:.3g} {self.unit}/s, {left} left"
        if self.live:
            live_line(line)
        else:
            print(line, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        live_line("")


# ------------------------------------------------------------------------------------------------ how a script ends


def run_script(main: Callable[[], None]) -> None:
    """Run `main`; an error that a user can mend becomes one line on stderr and an exit status."""
    try:
        main()
    except CallError as error:
        _leave(2, str(error))
    except (RunError, DataError) as error:
        _leave(1, str(error))
    except (MemoryError, RuntimeError) as error:
        # Torch's errors are told by name and text, so that scripts that need no torch need not load it.
        if type(error).__name__ == "OutOfMemoryError":
            _leave(1, "the GPU has too little memory for this: try a smaller --batch_size or --n_features")
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        _leave(1, "there is too little memory for this: try a smaller --batch_size, --n_samples or --n_features")
    except OSError as error:
        _leave(1, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        _leave(130, "interrupted")


def _leave(status: int, message: str) -> None:
    script = os.path.basename(sys.argv[0])
    print(f"{script}: error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)
