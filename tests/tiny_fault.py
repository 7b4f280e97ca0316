"""train_toy.py without its pictures, of which one process fails: `tiny_fault.py KIND RANK STEP train_toy.py [ARGUMENTS]`.

KIND none: nothing fails.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
kind, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv = sys.argv[4:]

import train_toy  # noqa: E402
from common.console import run_script  # noqa: E402
from training import checkpoint, processes, trainer  # noqa: E402

train_step, save = trainer.Trainer.train_step, checkpoint.save


def step_that_fails(self: trainer.Trainer) -> None:
    first = not processes.restarted()
    if first and self.step == step and processes.rank() == rank:
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("a mistake in the code")
    train_step(self)


def save_that_fails(path: Path, content: dict) -> None:
    if content["step"] >= step:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    save(path, content)


if kind == "full_disk":
    checkpoint.save = save_that_fails
elif kind != "none":
    trainer.Trainer.train_step = step_that_fails
train_toy.draw_point_run = lambda run, **_: run.save_model()
run_script(train_toy.main)
