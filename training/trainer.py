"""The training loop: from a DDPM and two data sets to a complete log folder.

Every random draw of training is a pure function of (seed, step): the order of the images of (seed, epoch), time, noise
and class dropping of (seed, step). So a checkpoint holds no random state, a resumed run is bit for bit the run that was
never stopped (on the CPU), and pictures, drawn from generators of their own, do not change training.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from common.console import CallError, RunError
from common.files import format_duration
from common.machine import advised, keep_large_buffers
from datasets.image_set import dequantise
from ddpm import DDPM
from networks.dropout import Dropout
from reporting.log_files import model_name
from training import checkpoint, processes
from training.data_set import DataSet
from training.ema import MovingAverage
from training.log_folder import LogFolder, arithmetic_of, config_of
from training.losses import LossMeter, compiled_losses, validation_loss
from training.seeds import DROPOUT, PICTURES, STEP, order_of_epoch, seed_for
from training.settings import About, Plan, Settings
from training.signals import Stop
from training.stopwatch import Stopwatch

REPORT_AFTER = 10  # seconds: a row of metrics that took longer also refreshes loss curve and report
FUSED_ADAM = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)  # before, it refused some strides
CHECK_EVERY = 10  # steps between checks of the losses: each makes the CPU wait for the GPU


class Trainer:
    """Trains a DDPM, and keeps the log folder.

    Args:
        ddpm: the model, on its device.
        train_set, val_set: data whose batches come on that device.
        settings, plan, about: see training/settings.py.
        draw: draw(trainer) makes the pictures of the present step, and calls `save_model`.
        draw_first: draw_first(trainer) makes those that need no training, before the first step.
    """

    def __init__(
        self,
        ddpm: DDPM,
        train_set: DataSet,
        val_set: DataSet,
        settings: Settings,
        plan: Plan,
        about: About,
        draw: Callable[[Trainer], None],
        draw_first: Callable[[Trainer], None] | None = None,
    ):
        self.ddpm, self.train_set, self.val_set = ddpm, train_set, val_set
        self.settings, self.about, self.draw, self.draw_first = settings, about, draw, draw_first
        self.device, self.log_dir = ddpm.device, processes.folder_for(settings.log_dir)
        names = ("n_classes", "condition_dim")  # of a class, or of a context vector
        self.takes_classes = any(getattr(ddpm.nn_model, name, 0) for name in names)
        # The last, shorter batch of an epoch is left out (other images each time): one shape compiles once.
        self.batch_size = min(settings.batch_size, len(train_set))
        parts = processes.count() * settings.accumulate
        if self.batch_size % parts:
            raise CallError(
                f"--batch_size {self.batch_size} cannot be shared equally by {processes.count()} processes that take "
                f"--accumulate {settings.accumulate} parts each: take a multiple of {parts}"
            )
        self.rows = processes.rows(self.batch_size)  # of every batch, this process's
        self.steps_per_epoch = len(train_set) // self.batch_size
        self.plan = dataclasses.replace(plan, steps_per_epoch=self.steps_per_epoch)

        keep_large_buffers()
        # On a GPU one kernel for all weights; on a CPU Adam is a hundredth of the step whichever way.
        self.adam: dict[str, Any] = {
            "lr": settings.l_rate,
            "fused": True if self.device.type == "cuda" and FUSED_ADAM else None,
        }
        self.optimizer = torch.optim.Adam(ddpm.nn_model.parameters(), **self.adam)
        self.average = MovingAverage(ddpm, settings.ema)
        self.dropouts = [module for module in ddpm.nn_model.modules() if isinstance(module, Dropout)]
        self.averaged = processes.share(self.average.ddpm)
        self.training_losses: Callable[..., torch.Tensor] = ddpm.training_losses
        self.seed_for_pictures = seed_for(settings.seed, PICTURES)
        self.generator = torch.Generator(self.device)
        self.order = torch.empty(0)  # of the images in this epoch

        self.step = 0  # training steps completed: all that is needed to know which comes next
        self.first_step = 0  # of this process
        self.saved_step, self.saved_at = 0, time.monotonic()  # of the checkpoint on the disk
        self.history: list[dict[str, Any]] = []  # a row for each epoch (or row_steps) completed
        self.meter = LossMeter(ddpm.n_timesteps)  # since the last row
        self.stop, self.watch = Stop(), Stopwatch()
        self.stopped_by, self.checkpoint_due = 0, 0  # what all processes know of signals and of the time

    # ------------------------------------------------------------------------------------------------ the run

    def run(self) -> None:
        """Train to the end (or to a signal), writing the log folder on the way."""
        with self.stop:
            self.begin()
            try:
                while self.step < self.plan.last_step:
                    self.train_step()
                    if self.step % CHECK_EVERY == 0 or self.device.type == "cpu" or processes.count() == 1:
                        self.agree()  # several GPUs would have to wait for it in every step
                    if self.plan.row_due(self.step):
                        self.end_row()
                    elif self.checkpoint_due:
                        self.save_checkpoint()
                    if self.plan.pictures_due(self.step) and not self.stopped_by:
                        self.make_pictures()
                    if self.stopped_by:
                        self.leave()
            except RunError as error:  # in all processes: they compare what can fail
                self.folder.live("")
                self.folder.write_log(f"failed: {error}")
                if not self.folder.gone:
                    self.write_report()
                processes.wait()
                raise
            self.folder.say(f"time: {self.watch}")
            self.folder.say(f"done: {self.log_dir / 'report.html'}")

    def begin(self) -> None:
        """Open the log folder, and take up the run that stands there if that is asked for."""
        path, content = self.settings.log_dir / "checkpoint.pt", None
        changes: list[str] = []
        resume = "auto" if processes.restarted() else self.settings.resume
        if resume != "no" and path.exists():  # read before anything is written: a refusal leaves no trace
            now = (self.about.arguments, len(self.train_set), arithmetic_of(self.ddpm), self.plan.last_step)
            names = self.train_set.class_names if self.takes_classes else []
            try:
                content, changes = checkpoint.load_run(path, *now, defaults=self.about.defaults, class_names=names)
            except RunError as error:
                if resume != "auto":
                    raise
                changes = [str(error)]
        processes.wait()
        going_on = content is not None and not processes.rank()
        self.folder = LogFolder(self.log_dir, resume=going_on, asked=resume != "no")
        if content is not None:
            self.restore(content, path)
        elif resume != "no":
            self.folder.say(f"nothing to resume in {self.log_dir}: beginning at step 0")
        config = config_of(self.about, self.settings, self.ddpm, self.train_set, self.val_set)
        self.folder.write_config(config, resumed_at=self.step if content else None)
        self.folder.write_metrics(self.history)
        for change in changes:
            self.folder.say(f"from step {self.step} on: {change}")
        if self.draw_first:
            self.draw_first(self)
        self.write_report()  # already now: it shows what the run is going to do
        if content is not None:
            self.take_up()
        if self.settings.compile == "on" or (self.settings.compile == "auto" and self.device.type == "cuda"):
            y, c = self.train_set.batch(torch.arange(self.batch_size))
            self.training_losses = compiled_losses(self.ddpm, y, c if self.takes_classes else None, self.folder.say)
            self.watch.lap("compiling")
        self.training_losses = processes.shared_losses(self.ddpm, self.training_losses, self.folder.say)
        self.watch.start()

    def take_up(self) -> None:
        """Tell where a resumed run stands, and make the pictures of that moment if it may have none."""
        if self.step == self.plan.last_step:
            self.folder.say(f"the run is already finished ({self.mark()}): making its pictures and report again")
            self.make_pictures()
            return
        epoch, within = divmod(self.step, self.steps_per_epoch)
        where = f"epoch {epoch + 1}, after {within} of {self.steps_per_epoch} steps"
        self.folder.say(f"resuming at step {self.step}: {where}")
        if self.plan.pictures_due(self.step) and not self.model_path().exists():
            self.make_pictures()  # the signal came between the checkpoint and its pictures

    def train_step(self) -> None:
        """One step of Algorithm 1 (Ho et al. 2020) and of Adam."""
        seed = self.settings.seed
        epoch, i = divmod(self.step, self.steps_per_epoch)
        if i == 0 or not len(self.order):
            self.order = order_of_epoch(len(self.train_set), seed, epoch).to(self.train_set.images.device)
        self.ddpm.train()
        self.generator.manual_seed(seed_for(seed, STEP, self.step))
        mine, generator = self.rows, self.generator  # what is random is drawn for the whole batch
        index, flip = self.order[i * self.batch_size : (i + 1) * self.batch_size], None
        if self.settings.flip:
            flip = (torch.rand(self.batch_size, device=self.device, generator=generator) < 0.5)[mine]
        y, c = self.train_set.batch(index[mine], flip)
        whole = y.new_empty(1).expand(self.batch_size, *y.shape[1:])  # takes no memory
        if self.settings.dequantise:
            y = dequantise(y, torch.rand(whole.shape, device=self.device, generator=generator)[mine])
        ones = torch.ones(self.batch_size, 1, device=self.device) if self.takes_classes else None
        t, noise, keep = self.ddpm.draw(whole, ones, generator)
        t, noise = t[mine], noise[mine]
        if c is not None and keep is not None:
            c = c * keep[mine]

        losses = self.backward(y, c if self.takes_classes else None, t, noise)  # [rows]
        if self.settings.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.ddpm.nn_model.parameters(), self.settings.clip_grad)
        self.optimizer.step()
        processes.share_buffers(self.ddpm.nn_model)
        self.average.update(self.step)

        self.step += 1
        self.meter.add(t, losses)
        if self.step % CHECK_EVERY == 0 or self.plan.row_due(self.step):
            self.check_losses()
        self.meter.seconds += self.watch.lap("training")

    def backward(self, y: torch.Tensor, c: torch.Tensor | None, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The losses of these samples, [N], and the gradient of their mean (over all processes), in `accumulate` parts."""
        n, losses = self.settings.accumulate, []
        size = len(y) // n
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(n):
            rows = slice(part * size, (part + 1) * size)
            for dropout in self.dropouts:  # a row's dropout does not depend on how the batch is shared
                dropout.part, dropout.parts = processes.rank() * n + part, processes.count() * n
            torch.manual_seed(seed_for(self.settings.seed, DROPOUT, self.step))  # dropout takes no generator
            with processes.no_sync(self.training_losses, last=part == n - 1):
                of_part = self.training_losses(y[rows], None if c is None else c[rows], t[rows], noise[rows])
                (of_part.mean() / n).backward()
            losses.append(of_part.detach())
        return torch.cat(losses)

    def agree(self) -> None:
        """Learn what all processes have to know at the same step: the signal that stops the run, and that a checkpoint is due."""
        due = time.monotonic() - self.saved_at > self.settings.checkpoint_every
        self.stopped_by, self.checkpoint_due = processes.most([self.stop.number, int(due)])

    def check_losses(self) -> None:
        """Take in the losses of the latest steps. RunError if one is not finite."""
        means = self.meter.collect()  # [steps]
        wrong = np.flatnonzero(~np.isfinite(means))
        if len(wrong):
            self.diverged(f"the loss became {means[wrong[0]]} at step {self.step - len(means) + wrong[0] + 1}")
        self.progress(f"loss {means[-1]:.4f}")

    def diverged(self, what: str) -> None:
        """Raise a RunError that says what to change."""
        saved = f"; checkpoint.pt holds step {self.saved_step}, from which --resume goes on with these changed"
        advice = f"with learning rate {self.settings.l_rate:g}: try a smaller --l_rate, or --amp off"
        raise RunError(f"{what} {advice}{saved if self.saved_step else ''}")

    def end_row(self) -> None:
        """A row of metrics; where pictures follow, and after every epoch, with validation and a checkpoint."""
        settings, pictures_due = self.settings, self.plan.pictures_due(self.step)
        due = self.plan.unit == "epoch" or pictures_due
        val_loss, val_text, seconds = None, "", self.meter.seconds
        if due:
            val_loss = validation_loss(
                self.averaged, self.val_set, self.takes_classes, settings.seed, settings.batch_size
            )
            val_text = f"val loss {val_loss:.4f}  "
            seconds += self.watch.lap("validation")
        row = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "train_loss": self.meter.mean(),
            "val_loss": val_loss,
            **{f"loss_q{q}": mean for q, mean in enumerate(self.meter.quarter_means(), 1)},
            "learning_rate": settings.l_rate,
            "images_per_second": self.meter.speed(),
            "seconds": seconds,
        }
        self.history.append(row)
        self.meter = LossMeter(self.ddpm.n_timesteps)
        if due or self.checkpoint_due:
            self.save_checkpoint()
        self.folder.write_metrics(self.history)
        speed = f"{row['images_per_second']:.0f} images/s  {format_duration(seconds)}  {self.time_left()}"
        losses = f"train loss {row['train_loss']:.4f}  {val_text}"
        self.folder.say(f"{self.mark()}/{self.plan.length}  {losses}{speed}")
        self.watch.lap("files")
        if seconds > REPORT_AFTER and not pictures_due:
            self.write_report()

    def make_pictures(self) -> None:
        """Pictures, loss curve, report and, with the pictures, the model that made them."""
        self.folder.check()
        self.draw(self)
        self.write_report()

    def leave(self) -> None:
        """A signal came: save, tell how to go on, end with the status that shells give a process ended by a signal."""
        if self.step != self.saved_step:
            self.save_checkpoint()
        self.write_report()
        self.folder.say(f"time: {self.watch}")
        if os.environ.get("DDPM_STOPPED") and self.step > self.first_step and not processes.rank():
            Path(os.environ["DDPM_STOPPED"]).write_text(signal.Signals(self.stopped_by).name)  # see cluster/job.sh
        self.folder.say(f"stopped by {signal.Signals(self.stopped_by).name} after step {self.step}; to go on:")
        self.folder.say(f"  {advised('--resume')}")
        processes.wait()  # else torchrun stops the process that still writes
        sys.exit(128 + self.stopped_by)

    # ------------------------------------------------------------------------------------------------ files

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Take up the run whose checkpoint `path` holds. RunError if its weights do not fit."""
        checkpoint.load_weights(self.ddpm.nn_model, content["model"], path)
        checkpoint.load_weights(self.averaged.nn_model, content["average"], path)
        content["optimizer"]["param_groups"] = [
            {**group, **self.adam} for group in content["optimizer"]["param_groups"] if isinstance(group, dict)
        ]  # not the file's: the device and the learning rate may be others now
        checkpoint.load_optimizer(self.optimizer, content["optimizer"], path)
        self.step = self.first_step = self.saved_step = content["step"]
        self.history = content["history"]
        self.meter.load_state_dict(content)

    def save_checkpoint(self) -> None:
        """Write checkpoint.pt, all that resuming needs. RunError in place of overwriting good weights with infinite ones."""
        if not torch.stack([w.isfinite().all() for w in self.ddpm.nn_model.parameters()]).all():
            self.diverged(f"weights became infinite or nan by step {self.step}")
        if self.meter.pending:
            self.check_losses()
        self.saved_at, self.checkpoint_due = time.monotonic(), 0
        if processes.rank():
            return
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
        checkpoint.save(self.log_dir / "checkpoint.pt", content)
        self.saved_step = self.step

    def save_model(self) -> None:
        """The averaged weights, for sampling; `draw` calls it when the pictures that they make are there."""
        checkpoint.save(self.model_path(), {**self.origin(), "model": self.averaged.nn_model.state_dict()})

    def origin(self) -> dict[str, Any]:
        """What both kinds of file say of the model that they hold."""
        return {
            "spec": self.about.spec,
            "arguments": self.about.arguments,
            "class_names": list(self.train_set.class_names) if getattr(self.ddpm.nn_model, "n_classes", 0) else [],
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
        }

    def model_path(self) -> Path:
        return self.log_dir / model_name(self.plan.unit, self.step // self.plan.unit_steps)

    def write_report(self) -> None:
        self.folder.write_report(self.history, self.plan.unit)
        self.watch.lap("files")

    def mark(self) -> str:
        """Where the run stands, in words: 'epoch 3'."""
        return self.plan.mark(self.step)

    def heed_signals(self) -> None:
        """For `draw`. While pictures are made: the checkpoint of this moment stands, and resuming makes them."""
        self.agree()
        if self.stopped_by:
            self.leave()

    def sampling_progress(self, what: str) -> Callable[[int], None]:
        """A function that `draw` calls with t after each reverse step of `what`: for signals and the live line."""

        def progress(t: int) -> None:
            self.heed_signals()
            if t % 10 == 0:
                self.progress(f"pictures, {what}: t = {t}")

        return progress

    def progress(self, what: str) -> None:
        """The live line of a terminal: where the run is, how fast, how long it still takes."""
        speed = f"  {self.meter.speed():.0f} images/s" if self.meter.seconds else ""
        self.folder.live(f"{self.plan.where(self.step)}  {what}{speed}  {self.time_left()}")

    def time_left(self) -> str:
        return self.watch.time_left(self.step - self.first_step, self.plan.last_step - self.step)
