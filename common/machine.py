"""The machine of a run: device, precision, memory; and what config.json says about it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, Sequence

import torch

from common.console import CallError, first_line


def pick_device(name: str) -> torch.device:
    """The device with this name; 'auto': the first available of CUDA, MPS, CPU. Raises CallError if it is not available.

    The returned device has an index, because torch before 2.5 needs it to tell a GPU's free memory.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        number = torch.ones(1, device=name)
        number.item()  # some names are of devices that keep no numbers ("meta")
        return number.device
    except Exception as error:  # names that torch knows, of hardware that it was not built for, raise anything
        raise CallError(f"--device {name} is not available ({first_line(error)}); --device cpu always is") from None


def pick_amp(choice: str, device: torch.device) -> torch.dtype | None:
    """The dtype for autocast, or None. 'auto': bfloat16 if the hardware has it (emulated, it is slower than float32)."""
    if choice != "auto":
        return None if choice == "off" else torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = device.type == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpuinfo().split())
    return torch.bfloat16 if fast else None


def keep_large_buffers(keep: bool = True) -> None:
    """Tell glibc's allocator to keep freed memory for the next step; keep = False: its default. Without glibc, nothing.

    Training frees and allocates the same large buffers in every step. If they are returned to the system, it has to
    clear every page again.
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
    model = re.search(r"^model name.*?:(.*)", _cpuinfo(), re.M)
    chip = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{device.type} ({chip}, {torch.get_num_threads()} threads)"


def _cpuinfo() -> str:
    """What Linux says about its processors; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def command_line(*extra: str) -> str:
    """The command that started this process, ready to paste, with the `extra` arguments that it lacks."""
    words = ["python", *sys.argv]
    return as_command(words + [word for word in extra if word not in words])


def advised(*extra: str) -> str:
    """The same for this machine: with the interpreter that runs, where `python` would be another one or none."""
    return this_python() + command_line(*extra)[len("python") :]


def this_python() -> str:
    """What the running interpreter is called on a command line: `python`, or its path."""
    same = shutil.which("python") == sys.executable
    return "python" if same or not sys.executable else as_command([sys.executable])


def as_command(words: Sequence[str]) -> str:
    """Words as a line to paste into a shell (cmd.exe on Windows): quotes, spaces and backslashes survive."""

    def quoted(word: str) -> str:
        plain = "'" in word and not set(word) & set('"$`\\!')  # easier to read than the quotes of shlex
        return f'"{word}"' if plain else shlex.quote(word)

    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(quoted, words))


def environment(device: torch.device) -> dict[str, Any]:
    """What config.json says about the circumstances of a run."""
    packages = ("torch", "torchvision", "numpy", "matplotlib", "imageio")
    versions = {package: import_module(package).__version__ for package in packages}
    return {
        "command": command_line(),
        "versions": {"python": platform.python_version(), **versions},
        "device": device_name(device),
        "commit": commit(),
        "started": now(),
    }


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def commit() -> str | None:
    """Short hash of the commit that this code is from, with '+' if Python files have changed; None without git."""

    def git(*words: str) -> str:
        call = ["git", "-C", str(Path(__file__).resolve().parents[1]), *words]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
