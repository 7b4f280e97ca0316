"""The inputs of a training run: what the loop needs, how long it runs, and what it only writes down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict

# {"network": a key of checkpoint.NETWORKS, "network_arguments": {...}, "ddpm": {...}}: arguments of the constructors.
Spec = Dict[str, Any]
L_RATE_SCHEDULES = ("constant", "cosine")
ROWS_PER_PICTURE = 10  # of metrics.csv, in a run that counts steps


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the training loop needs, under the names of the command line (training/arguments.py explains them)."""

    log_dir: Path
    batch_size: int
    l_rate: float
    l_rate_schedule: str = "constant"
    ema: float = 0.999
    seed: int = 0
    flip: bool = False
    dequantise: bool = False  # train on images made continuous; validation sees the 8-bit images all the same
    compile: str = "off"  # "on", "off" or "auto"
    resume: str = "no"  # "no", "yes" or "auto"
    load_path: Path | None = None  # of a model with whose weights the run begins
    accumulate: int = 1  # parts of a batch whose gradients are computed one after the other
    clip_grad: float | None = None  # largest norm of the gradient
    checkpoint_every: float = 300.0  # seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, and when it writes a row of metrics and makes pictures. Steps are training steps.

    unit: "epoch" or "step", what length and picture_every count.
    steps_per_epoch: the trainer sets it, when it knows the data.
    """

    unit: str
    length: int
    picture_every: int
    steps_per_epoch: int = 1

    @property
    def unit_steps(self) -> int:
        return self.steps_per_epoch if self.unit == "epoch" else 1

    @property
    def last_step(self) -> int:
        return self.length * self.unit_steps

    def pictures_due(self, step: int) -> bool:
        return step > 0 and (step % (self.picture_every * self.unit_steps) == 0 or step == self.last_step)

    def sets_after(self, step: int) -> int:
        """How many times pictures are still due after a step."""
        every = self.picture_every * self.unit_steps
        return self.last_step // every - step // every + (self.last_step % every > 0) * (step < self.last_step)

    def row_due(self, step: int) -> bool:
        every = self.unit_steps if self.unit == "epoch" else max(1, self.picture_every // ROWS_PER_PICTURE)
        return step % every == 0 or self.pictures_due(step)

    def number(self, step: int) -> int:
        """Of the epoch that is over, or of the step: what files are named after."""
        return step // self.unit_steps

    def mark(self, step: int) -> str:
        """Where a run stands, in words: 'epoch 3'."""
        return f"{self.unit} {self.number(step)}"

    def where(self, step: int) -> str:
        """In which step of the run, for a live line: 'epoch 3/20  step 5/234' or 'step 7/1000'."""
        if self.unit == "step":
            return f"step {step}/{self.length}"
        epoch, within = divmod(max(step - 1, 0), self.steps_per_epoch)
        return f"epoch {epoch + 1}/{self.length}  step {within + 1}/{self.steps_per_epoch}"


@dataclasses.dataclass(frozen=True)
class About:
    """What a run only writes down: in config.json, in its checkpoints and in the report."""

    spec: Spec  # the recipe that built the model
    arguments: dict[str, Any]  # of the command line, as plain values
    defaults: dict[str, Any]  # the same, of a call without any argument
    expected: str  # what a healthy run looks like, in words
