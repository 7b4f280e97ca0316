"""What the command-line scripts share: errors, types of arguments, progress, exit status.

Exit status: 0 finished, 1 the run failed, 2 wrong call, 128 + n stopped by signal n with a checkpoint written.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any, Callable, Iterator, NoReturn

from common.files import format_duration
from common.limits import INT64, WHOLE


class RunError(RuntimeError):
    """The run cannot go on. The message is one line: what is wrong, and what to do (exit status 1)."""


class DataError(RunError):
    """Data are missing or damaged."""


class CallError(ValueError):
    """The call is wrong. The message is one line (exit status 2)."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


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


def number(name: str) -> Callable[[str], int]:
    """An argparse type: a whole number within the limits of this option (common/limits.py)."""
    return at_least(*WHOLE[name])


def at_least(lowest: int, highest: int = INT64) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `lowest` and at most `highest`."""

    def whole_number(text: str) -> int:
        value = _as_number(int, text, "a whole number")
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest:,}, not {text}")
        if value > highest:
            raise argparse.ArgumentTypeError(f"must be at most {highest:,}, not {text:.40}")
        return value

    return whole_number


def in_range(lowest: float, highest: float = math.inf, open_ends: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number in [lowest, highest], or in (lowest, highest) with `open_ends`."""

    def finite_number(text: str) -> float:
        value = _as_number(float, text, "a number") + 0.0  # minus zero becomes zero
        inside = lowest < value < highest if open_ends else lowest <= value <= highest
        if not inside or not math.isfinite(value):
            ends = "()" if open_ends or highest == math.inf else "[]"
            raise argparse.ArgumentTypeError(f"must be in {ends[0]}{lowest:g}, {highest:g}{ends[1]}, not {text:.40}")
        return value

    return finite_number


def _as_number(kind: Callable[[str], Any], text: str, what: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        several = "; separate several by spaces" if "," in text or ";" in text else ""
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r:.60}{several}") from None


def as_path(text: str) -> Path:
    """An argparse type: a file or folder. `~` is the home folder, also where the shell does not see it (--log_dir=~/run)."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(
            "is empty: a file or folder is needed" if not text else "holds a null character"
        )
    return Path(expanded(text))


def expanded(text: str) -> str:
    """An argparse type: a name, or a file as in `as_path`."""
    return os.path.expanduser(text)


class ArgumentParser(argparse.ArgumentParser):
    """As argparse's, which fails on `--option=--`, hides an error behind twenty lines of usage, and would print in each of
    several processes of torchrun.
    """

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains all arguments)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: expected a value, not --")
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        if place_in_group()[0] == 0:
            super()._print_message(message, file)


def place_in_group() -> tuple[int, int]:
    """The rank of this process and the number of processes that torchrun or srun started; (0, 1) for a single one.

    RANK and WORLD_SIZE may stand in the environment for reasons of the user's own: without both, as numbers, and an
    address to meet at, they say nothing.
    """
    try:
        rank, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, n) if 0 <= rank < n and n > 1 and os.environ.get("MASTER_ADDR") else (0, 1)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the default of every argument, and the description (the script's docstring) without new line breaks."""


# ------------------------------------------------------------------------------------------------ progress


def is_live() -> bool:
    """Can a line be overwritten? On a terminal, and in a notebook, whose output says that it is no terminal."""
    return sys.stdout.isatty() or type(sys.stdout).__module__ == "ipykernel.iostream"


def live_line(line: str) -> None:
    """Print a line that the next line overwrites, if `is_live`. What does not fit is left out, last part first."""
    if is_live():
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and then "\r" cannot go back
        parts = line.split("  ")
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        line = "  ".join(parts)
        print(f"\r{line[:width]:<{width}}\r", end="", flush=True)


class Progress:
    """Shows how much of a long job is done, its speed and the time left: as a line that changes on a terminal and in a
    notebook, otherwise as a new line every 30 seconds. `total` and `done` count `unit`s.
    """

    def __init__(self, total: int, unit: str = "images", done: float = 0):
        self.total, self.unit, self.done, self.first = total, unit, done, done
        self.began = self.shown = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        live = is_live()
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

    def steps(self, n_steps: int, amount: float | None = None) -> Callable[[int], None]:
        """A function to call with t after each of n_steps steps, which together do this amount (None: the whole job)."""
        share = (self.total if amount is None else amount) / n_steps
        return lambda t: self.advance(share)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        live_line("")


# ------------------------------------------------------------------------------------------------ exit status


class Output:
    """stdout or stderr that outlives its reader: a closed terminal, pipe or file costs the text, never the run."""

    def __init__(self, stream: IO[str]):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding does not know

    def _try(self, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # what is still in the buffer goes nowhere, too
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            return 0

    def write(self, text: str) -> Any:
        return self._try(lambda: self.stream.write(text))

    def flush(self) -> None:
        self._try(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _lasting_output() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    # None: the caller has closed it (>&-).
    sys.stdout, sys.stderr = (Output(stream or open(os.devnull, "w")) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if all(before):
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _plain_figures() -> Iterator[None]:
    """Figures as the suite draws them, whatever the user's matplotlibrc says (LaTeX, fonts, margins)."""
    matplotlib = sys.modules.get("matplotlib")
    with matplotlib.rc_context() if matplotlib else contextlib.nullcontext():
        if matplotlib:
            matplotlib.rcdefaults()
        yield


class Stopped(SystemExit):
    """A signal ended the process: its exit status is 128 + number."""

    code: int


# Python ends without a word at these, and at Ctrl-C with KeyboardInterrupt.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def listen() -> None:
    """For the first lines of a script, since importing torch takes seconds: until `run_script`, a signal that would end this
    process ends it with a line and the status 128 + number.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave_at_once)


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    line = f"{os.path.basename(sys.argv[0])}: error: stopped by {signal.Signals(number).name} before it began\n"
    os.write(2, line.encode())
    os._exit(128 + number)  # an exception could get lost in the library that is being imported


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """The signals that would kill this process raise Stopped in the block, as Ctrl-C raises KeyboardInterrupt: so names
    that are held are freed, and what is half written is removed. Signals that are ignored stay ignored (nohup).
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    known = ENDING if threading.current_thread() is threading.main_thread() else []
    caught = [number for number in known if signal.getsignal(number) in (signal.SIG_DFL, _leave_at_once)]
    for number in caught:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def run_script(main: Callable[[], None]) -> None:
    """Run `main`. An error that the user can fix becomes one line on stderr and an exit status."""
    with _lasting_output(), _plain_figures():
        try:
            with ended_by_signals():
                main()
            return
        except Exception as error:
            status, message = status_of(error)
        except KeyboardInterrupt:
            status, message = 130, "interrupted"
        except Stopped as stopped:
            status = stopped.code
            message = f"stopped by {signal.Signals(status - 128).name}"
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split("\n")))
        print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr, flush=True)
        sys.exit(status)


def status_of(error: Exception) -> tuple[int, str]:
    """Exit status and message of an error that the user can fix. Raises any other one again."""
    # Torch's errors are recognised by name and text: scripts that need no torch do not import it.
    if isinstance(error, CallError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, OSError):
        return 1, f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    if type(error).__name__ == "OutOfMemoryError":
        return 1, "not enough GPU memory: try a smaller --batch_size or --n_features"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return 1, "not enough memory: try a smaller --batch_size, --n_samples or --n_features"
    raise error
