"""What the command-line scripts share: errors, types of arguments, progress, exit status.

Exit status: 0 finished, 1 the run failed, 2 wrong call, 128 + n stopped by signal n with a checkpoint written.
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
    """The run cannot go on. The message is one line: what is wrong, and what to do (exit status 1)."""


class DataError(RunError):
    """Data are missing or damaged."""


class CallError(ValueError):
    """The call is wrong. The message is one line (exit status 2)."""


def one_line(error: BaseException) -> str:
    """A library's exception as part of such a message: its type and the beginning of its text."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


@contextlib.contextmanager
def values_from_call() -> Iterator[None]:
    """Turns a ValueError into a CallError: for blocks that check values given on the command line."""
    try:
        yield
    except ValueError as error:
        raise CallError(str(error)) from None


# ------------------------------------------------------------------------------------------------ arguments


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least `lowest` that fits into 64 bits."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, not {value}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"must be below 2^63, not {value}")
        return value

    return whole_number


def in_range(lowest: float, highest: float = math.inf, open_ends: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number in [lowest, highest], or in (lowest, highest) with `open_ends`."""

    def finite_number(text: str) -> float:
        value = float(text)
        inside = lowest < value < highest if open_ends else lowest <= value <= highest
        if not inside or not math.isfinite(value):
            ends = "()" if open_ends or highest == math.inf else "[]"
            raise argparse.ArgumentTypeError(f"must be in {ends[0]}{lowest:g}, {highest:g}{ends[1]}, not {text}")
        return value

    return finite_number


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the default of every argument, and the description (the script's docstring) without new line breaks."""


# ------------------------------------------------------------------------------------------------ progress


def live_line(line: str) -> None:
    """Print a line that the next line overwrites. Only on a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and then "\r" cannot go back
        print(f"\r{line[:width]:<{width}}\r", end="", flush=True)


class Progress:
    """Shows how much of a long job is done, its speed and the time left: as a live line on a terminal, otherwise as a
    new line every 30 seconds. `total` and `done` count `unit`s.
    """

    def __init__(self, total: int, unit: str = "images", done: float = 0):
        self.total, self.unit, self.done, self.first = total, unit, done, done
        self.began = self.shown = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        live = sys.stdout.isatty()
        if now - self.shown < (0.2 if live else 30):
            return
        self.shown = now
        speed = (self.done - self.first) / (now - self.began)
        left = format_duration((self.total - self.done) / speed)
        line = f"{self.done:,.0f} of {self.total:,} {self.unit}, {speed:.3g} {self.unit}/s, {left} left"
        if live:
            live_line(line)
        else:
            print(line, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        live_line("")


# ------------------------------------------------------------------------------------------------ exit status


def run_script(main: Callable[[], None]) -> None:
    """Run `main`. An error that the user can fix becomes one line on stderr and an exit status."""
    try:
        main()
        return
    except CallError as error:
        status, message = 2, str(error)
    except RunError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    except (MemoryError, RuntimeError) as error:
        # Torch's errors are recognised by name and text: scripts that need no torch do not import it.
        if type(error).__name__ == "OutOfMemoryError":
            status, message = 1, "not enough GPU memory: try a smaller --batch_size or --n_features"
        elif isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            status, message = 1, "not enough memory: try a smaller --batch_size, --n_samples or --n_features"
        else:
            raise
    print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)
