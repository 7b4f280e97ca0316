"""What the command-line scripts share: their arguments, the choice of device and precision, and how they end.

Exit status: 0 finished, 1 a run that failed, 2 a wrong call, 128 + n stopped by signal n with a checkpoint written.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch

from datasets import DataError
from utils import format_duration


class RunError(RuntimeError):
    """A run that cannot go on, in one line that says what is wrong and what to do (exit status 1)."""


class CallError(ValueError):
    """A call that cannot be meant, in one line (exit status 2)."""


@contextlib.contextmanager
def values_from_call() -> Iterator[None]:
    """A ValueError in the block is about a value that the call gave: it becomes a CallError."""
    try:
        yield
    except ValueError as error:
        raise CallError(str(error)) from None


# ------------------------------------------------------------------------------------------------ arguments


def whole(lowest: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `lowest` (that a machine word holds)."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, not {value}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"must be below 2^63, not {value}")
        return value

    return whole_number


def number(lowest: float, highest: float = math.inf, open_ends: bool = False) -> Callable[[str], float]:
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


def add_method_arguments(parser: argparse.ArgumentParser, images: bool = True) -> None:
    """How any training script trains: schedule, loss, moving average, seed; and what can be done with images only."""
    add = parser.add_argument_group("method").add_argument
    add("--schedule", choices=["linear", "cosine"], default="linear", help="noise schedule")
    add("--loss", choices=["mse", "l1"], default="mse", help="distance of true and predicted noise")
    if images:
        add("--flip", choices=["on", "off"], default="off", help="mirror every second training image, left to right")
    add("--ema", type=number(0, 0.999999), default=0.999, metavar="DECAY",
        help="moving average of the weights, used for validation and pictures; 0: off")  # fmt: skip
    add("--seed", type=whole(0), default=0, help="decides every random draw")


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """How any training script runs: resuming, device, precision, compiler."""
    add = parser.add_argument_group("running").add_argument
    add("--resume", action="store_true", help="go on from the checkpoint in the log folder, if there is one")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    add("--amp", choices=["off", "bf16", "auto"], default="auto", help="bfloat16 network; auto: where the chip has it")
    add("--compile", choices=["off", "on", "auto"], default="auto", help="torch.compile; auto: on CUDA")


# ------------------------------------------------------------------------------------------------ the machine


def pick_device(name: str) -> torch.device:
    """'auto' is the first of CUDA, MPS, CPU that is there. CallError if a device is asked for that is not.

    The device has its index, without which torch before 2.5 does not tell a GPU's free memory.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CallError(f"--device {name} is not to be had ({reason}); --device cpu always is") from None


def pick_amp(choice: str, device: torch.device) -> torch.dtype | None:
    """The dtype for autocast, or None. 'auto' is bfloat16 where the chip computes in it, and not where it emulates."""
    if choice == "off" or (choice == "auto" and not has_bfloat16(device)):
        return None
    return torch.bfloat16


def has_bfloat16(device: torch.device) -> bool:
    """Does the processor itself multiply in bfloat16? (An emulation would run, at half the speed of float32.)"""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        try:
            flags = Path("/proc/cpuinfo").read_text().split()
        except OSError:
            return False
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def keep_large_buffers(keep: bool = True) -> None:
    """Tell glibc's allocator to keep freed memory for the next step instead of returning it to the system (or, with
    keep = False, to do again as it does by default).

    Training frees and takes the same large buffers every step; returning them means that the system has to clear
    every page again. Elsewhere than on Linux with glibc this does nothing.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20 if keep else 128 * 1024)  # 32 MiB is the most that glibc accepts
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)
    except (OSError, AttributeError):
        pass


def device_name(device: torch.device) -> str:
    """Such as 'cuda (NVIDIA H200)' or 'cpu (Intel(R) Xeon(R) Processor @ 2.80GHz, 2 threads)'."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    chip = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        chip = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{device.type} ({chip}, {torch.get_num_threads()} threads)"


def command_line(*extra: str) -> str:
    """The command that started this process, ready to paste, with `extra` arguments not yet in it appended."""
    words = ["python", *sys.argv]
    return " ".join(shlex.quote(word) for word in words + [word for word in extra if word not in words])


def environment(device: torch.device) -> dict[str, Any]:
    """What config.json tells about the circumstances of a run."""
    import imageio
    import matplotlib
    import torchvision

    return {
        "command": command_line(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "matplotlib": matplotlib.__version__,
            "imageio": imageio.__version__,
        },
        "device": device_name(device),
        "commit": commit(),
        "started": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }


def commit() -> str | None:
    """Short hash of the checkout that this file stands in, with '+' if it has changes; None outside of git."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        run = lambda *words: subprocess.run(git + list(words), capture_output=True, text=True, timeout=10)  # noqa: E731
        head = run("rev-parse", "--short", "HEAD")
        changed = run("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


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


def refuse_useless(
    parser: argparse.ArgumentParser, args: argparse.Namespace, options: dict[str, Sequence[str]]
) -> None:
    """CallError if the call gives an option another value than its default, and its network does not have that option.

    options: for each choice of --network, the names of those of its options that not all networks have.
    """
    for name in sorted({name for names in options.values() for name in names} - set(options[args.network])):
        if getattr(args, name) != parser.get_default(name):
            others = " or ".join(network for network, names in options.items() if name in names)
            raise CallError(f"--{name} does nothing for --network {args.network}: leave it out, or take {others}")


# ------------------------------------------------------------------------------------------------ how a script ends


def run_script(main: Callable[[], None]) -> None:
    """Run `main`; an error that a user can mend becomes one line on stderr and an exit status."""
    try:
        main()
    except CallError as error:
        _leave(2, str(error))
    except (RunError, DataError) as error:
        _leave(1, str(error))
    except torch.cuda.OutOfMemoryError:
        _leave(1, "the GPU has too little memory for this: try a smaller --batch_size or --n_features")
    except (MemoryError, RuntimeError) as error:  # torch has no error of its own for the main memory
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
