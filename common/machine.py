"""The machine a run is on: device, precision, memory, and where its results come from."""

from __future__ import annotations

import ctypes
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.console import CallError


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
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    try:
        run = lambda *words: subprocess.run(git + list(words), capture_output=True, text=True, timeout=10)  # noqa: E731
        head = run("rev-parse", "--short", "HEAD")
        changed = run("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None
