"""A training run: the model, its data, what it has reached, and the files that tell of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import torch

from common.console import CallError, RunError, one_line
from common.machine import advised, keep_large_buffers
from ddpm import DDPM
from reporting.log_files import animation_name, grid_name, model_name
from training import checkpoint, processes
from training.batches import Batches
from training.data_set import DataSet
from training.ema import MovingAverage
from training.log_folder import LogFolder, arithmetic_of
from training.losses import LossMeter
from training.seeds import PICTURES, seed_for
from training.settings import About, Plan, Settings
from training.signals import Stop
from training.stopwatch import Stopwatch

# Older ones fail for some memory layouts.
FUSED_ADAM = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)


class Diverged(RunError):
    """The training diverged. Its weights are not saved."""


class Run:
    """The state of a run between two steps, and its files. `Trainer` takes the steps; functions that draw use this part.

    Of several processes only rank 0 calls what writes files.

    Args:
        ddpm: the model, on its device.
        train_set, val_set: data whose batches come on that device.
        settings, plan, about: see training/settings.py.
    """

    folder: LogFolder  # of rank 0, when it is open

    def __init__(self, ddpm: DDPM, train_set: DataSet, val_set: DataSet, settings: Settings, plan: Plan, about: About):
        self.ddpm, self.train_set, self.val_set = ddpm, train_set, val_set
        self.settings, self.about = settings, about
        self.device, self.log_dir = ddpm.device, settings.log_dir
        self.batch_size = min(settings.batch_size, len(train_set))
        parts = processes.count() * settings.accumulate
        if self.batch_size % parts:
            raise CallError(
                f"--batch_size {self.batch_size} cannot be shared equally by {processes.count()} processes that take "
                f"--accumulate {settings.accumulate} parts each: take a multiple of {parts}"
            )
        self.batches = Batches(ddpm, train_set, self.batch_size, settings)
        self.takes_classes, self.steps_per_epoch = self.batches.takes_classes, self.batches.per_epoch
        self.plan = dataclasses.replace(plan, steps_per_epoch=self.steps_per_epoch)

        keep_large_buffers()
        # On a GPU one kernel for all weights; on a CPU Adam is a hundredth of the step whichever way.
        self.adam: dict[str, Any] = {
            "lr": settings.l_rate,
            "fused": True if self.device.type == "cuda" and FUSED_ADAM else None,
        }
        self.optimizer = torch.optim.Adam(ddpm.nn_model.parameters(), **self.adam)
        self.average = MovingAverage(ddpm, settings.ema)
        self.averaged = processes.share(self.average.ddpm)
        self.seed_for_pictures = seed_for(settings.seed, PICTURES)
        self.checkpoint_path = settings.log_dir / "checkpoint.pt"

        self.step = 0  # training steps completed: all that is needed to know which comes next
        self.first_step = 0  # of this process
        self.saved_step, self.saved_at = 0, time.monotonic()  # of the checkpoint on the disk
        self.history: list[dict[str, Any]] = []  # a row for each epoch (or row_steps) completed
        self.meter = LossMeter(ddpm.n_timesteps)  # since the last row
        self.stop, self.watch = Stop(), Stopwatch()
        self.stopped_by = 0  # the signal that stops the run
        self.updating = False  # during a step, when the weights belong to neither the last step nor the next
        self.sets, self.set_seconds = 0, 0.0  # of pictures that this process has drawn
        self.redraw = False  # pictures that are there already
        self.drawing = self.drawn = False  # see `missing`
        self.picture, self.n_pictures = 0, 0  # of the present set: which is next, of how many

    def l_rate(self, step: int) -> float:
        """The learning rate of a training step, counted from 0."""
        if self.settings.l_rate_schedule == "constant":
            return self.settings.l_rate
        return self.settings.l_rate * (1 + math.cos(math.pi * step / self.plan.last_step)) / 2

    # ------------------------------------------------------------------------------------------------ checkpoint and model

    def restore(self, content: dict[str, Any]) -> None:
        """Continue the run whose checkpoint has this content. RunError if its weights do not fit."""
        path, optimizer = self.checkpoint_path, content["optimizer"]
        checkpoint.load_weights(self.ddpm.nn_model, content["model"], path)
        checkpoint.load_weights(self.averaged.nn_model, content["average"], path)
        # Not the settings of the file: device and learning rate may be others now.
        groups = [{**group, **self.adam} for group in optimizer["param_groups"] if isinstance(group, dict)]
        checkpoint.load_optimizer(self.optimizer, {**optimizer, "param_groups": groups}, path)
        self.step = self.first_step = self.saved_step = content["step"]
        self.history = content["history"]
        self.meter.load_state_dict(content)

    def save_checkpoint(self) -> None:
        """Write checkpoint.pt, all that resuming needs. RunError in place of overwriting good weights with infinite ones."""
        if not torch.stack([w.isfinite().all() for w in self.ddpm.nn_model.parameters()]).all():
            self.diverged(f"weights became infinite or nan by step {self.step}")
        self.folder.check()
        content = {
            **self.origin(),
            "train_images": len(self.train_set),
            "arithmetic": arithmetic_of(self.ddpm),
            "model": self.ddpm.nn_model.state_dict(),
            "average": self.averaged.nn_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            **self.meter.state_dict(),
        }
        checkpoint.save(self.checkpoint_path, content)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def save_model(self) -> None:
        """The averaged weights, for sampling; `draw` calls it when the pictures that they make are there."""
        checkpoint.save(self.model_path(), {**self.origin(), "model": self.averaged.nn_model.state_dict()})

    def origin(self) -> dict[str, Any]:
        """What checkpoint.pt and the model files say about their model."""
        return {
            "spec": self.about.spec,
            "arguments": self.about.arguments,
            "class_names": list(self.train_set.class_names) if getattr(self.ddpm.nn_model, "n_classes", 0) else [],
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
        }

    def model_path(self) -> Path:
        return self.log_dir / model_name(self.plan.unit, self.plan.number(self.step))

    # ------------------------------------------------------------------------------------------------ pictures

    def sample_names(self, weight: float | None, animate: bool) -> list[str]:
        """The files with samples of the present step at a guidance weight: the grid and, with `animate`, the GIF."""
        moment = (self.plan.unit, self.plan.number(self.step), weight)
        return [grid_name(*moment), *([animation_name(*moment)] if animate else [])]

    def expect_pictures(self, n: int) -> None:
        """For `draw`, before the first picture: how many times it is going to ask whether pictures are missing."""
        self.picture, self.n_pictures = 0, n

    def missing(self, *names: str) -> bool:
        """For `draw`: whether these files of the present step still have to be made.

        A process that resumes the run at this step keeps the files that are newer than its checkpoint. So even a job
        whose time limit is too short for all pictures makes progress.
        """
        self.drawn = self.drawn or self.drawing  # the files that were asked for before are there now
        self.picture += not names[0].endswith(".pt")
        paths = [self.log_dir / name for name in names]
        saved = self.checkpoint_path.stat().st_mtime_ns
        there = all(path.exists() and path.stat().st_mtime_ns > saved for path in paths)
        self.drawing = self.redraw or self.step != self.first_step or not there
        return self.drawing

    def heed_signals(self) -> None:
        """For `draw`, while pictures are made: end the run if a signal came. The checkpoint is written; --resume draws the rest."""
        self.stopped_by = self.stopped_by or self.stop.number
        if self.stopped_by:
            self.leave()

    def sampling_progress(self, what: str) -> Callable[[int], None]:
        """A function that `draw` calls with t after each reverse step of `what`: for signals and the live line."""

        def progress(t: int) -> None:
            self.heed_signals()
            if t % 10 == 0:
                self.progress(f"picture {self.picture} of {self.n_pictures}, {what}: t = {t}")

        return progress

    # ------------------------------------------------------------------------------------------------ the end, and messages

    def leave(self) -> None:
        """A signal came: save, tell how to go on, end with the status that shells give a process ended by a signal."""
        if self.step != self.saved_step:
            self.save_checkpoint()
        self.write_report()
        self.say(f"time: {self.watch}")
        if os.environ.get("DDPM_STOPPED") and (self.step > self.first_step or self.drawn):
            Path(os.environ["DDPM_STOPPED"]).write_text(signal.Signals(self.stopped_by).name)  # see cluster/job.sh
        self.say(f"stopped by {signal.Signals(self.stopped_by).name} after step {self.step}; to go on:")
        self.say(f"  {advised('--resume')}")
        sys.exit(128 + self.stopped_by)

    def diverged(self, what: str) -> None:
        """Raise a RunError that says what to change."""
        saved = f"; checkpoint.pt holds step {self.saved_step}, from which --resume goes on with these changed"
        advice = f"with learning rate {self.settings.l_rate:g}: try a smaller --l_rate, or --amp off"
        raise Diverged(f"{what} {advice}{saved if self.saved_step else ''}")

    def say_failed(self, error: Exception) -> None:
        """The last line of train.log, and the report of what there is, if they can still be written."""
        self.folder.live("")
        reason = str(error) if isinstance(error, RunError) else one_line(error)
        at = f" (at step {self.step}; checkpoint.pt holds step {self.saved_step})" if self.saved_step else ""
        self.folder.write_log(f"failed: {reason}{at}")
        with contextlib.suppress(Exception):
            self.write_report()

    def say(self, line: str) -> None:
        """Print a line, and write it to train.log. Only rank 0 does."""
        if not processes.rank():
            self.folder.say(line)

    def progress(self, what: str) -> None:
        """The live line of a terminal: where the run is, how fast, how long it still takes."""
        speed = f"  {self.meter.speed():.0f} images/s" if self.meter.seconds else ""
        if not processes.rank():
            self.folder.live(f"{self.plan.where(self.step)}  {what}{speed}  {self.time_left()}")

    def mark(self) -> str:
        """Where the run stands, in words: 'epoch 3'."""
        return self.plan.mark(self.step)

    def time_left(self) -> str:
        """How long the steps that are left still take, and the pictures among them, if some are drawn already."""
        done, left = self.step - self.first_step, self.plan.last_step - self.step
        sets = self.plan.sets_after(self.step)
        known = bool(self.sets) or not sets
        of_sets = self.set_seconds / self.sets * sets if self.sets else 0.0
        return self.watch.time_left(done, left, self.set_seconds, of_sets) + ("" if known else ", without pictures")

    def write_report(self) -> None:
        self.folder.write_report(self.history, self.plan.unit)
        self.watch.lap("files")
