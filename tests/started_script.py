"""A script in a process of its own. This file imports nothing of the suite: that process must find it by itself."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Sequence

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]


def no_layout(figure: Figure, *, pad: float = 1.08, h_pad=None, w_pad=None, rect=None) -> None:
    """In place of Figure.tight_layout, with its arguments: that takes a third of the time of a tiny run."""


def run_started(script: str, words: Sequence[str], folder: Path) -> tuple[int, str]:
    """`python ROOT/SCRIPT words`, called in `folder`: its exit status, and what it printed."""
    process = start(script, words, folder, folder / "printed.txt")
    process.join()
    return process.exitcode, (folder / "printed.txt").read_text(encoding="utf-8")


def run_code(code: str, words: Sequence[str], folder: Path) -> tuple[int, str]:
    """The same for lines of Python, which may import the suite."""
    file = folder / "code.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}", encoding="utf-8")
    return run_started(str(file), words, folder)


def start(script: str, words: Sequence[str], folder: Path, output: Path, **environment: str) -> BaseProcess:
    """The same, still running.

    The process is a fork of a fresh Python that has loaded torch and nothing of the suite. That saves 3 of 4 seconds.
    Figures are drawn with `no_layout`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "matplotlib.figure"])
    what = (str(ROOT / script), list(words), str(folder), str(output), environment)
    process = context.Process(target=_start, args=what)
    process.start()
    return process


def start_ranks(n: int, script: str, words: Sequence[str], folder: Path, name: str = "rank") -> list[BaseProcess]:
    """n processes that train together, as a launcher would start them. Rank k prints to folder/{name}{k}.txt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        start(script, words, folder, folder / f"{name}{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank), **meet)
        for rank in range(n)
    ]


def _start(script: str, words: list[str], folder: str, output: str, environment: dict[str, str]) -> None:
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    os.environ.update(environment)
    os.chdir(folder)
    Figure.tight_layout = no_layout
    sys.argv = [script, *words]
    suite = {str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "answers"), ""}
    sys.path = [os.path.dirname(script)] + [path for path in sys.path if path not in suite]
    runpy.run_path(script, run_name="__main__")
