"""The training loop: from a DDPM and two image sets to a complete log folder.

Every random draw of training is a pure function of (seed, step): the order of the images of (seed, epoch), time, noise
and class dropping of (seed, step). So a checkpoint holds no random state, a continued run is the run that was never
stopped, bit for bit on the CPU, and pictures, drawn from generators of their own, do not shift training.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from common.console import CallError, RunError
from common.files import format_duration, write_csv
from common.machine import command_line, environment, keep_large_buffers
from datasets.image_set import ImageSet, dequantise
from ddpm import DDPM
from reporting.page import write_report
from training import checkpoint
from training.ema import MovingAverage
from training.log_folder import LogFolder
from training.losses import VALIDATION_IMAGES, Tally, compiled_losses, validation_loss
from training.seeds import DROPOUT, ORDER, PICTURES, STEP, seed_for
from training.signals import Stop
from utils import plot_loss

WATCHED = 10  # seconds: an epoch that takes longer also refreshes loss curve and report
ROWS_PER_PICTURE = 10  # of metrics.csv, where a run is counted in steps
SAVE_EVERY = 30  # seconds between checkpoints there: on a GPU rows may follow each other as fast as a disk writes
FUSED_ADAM = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)  # before, it refused some strides
LOOK_EVERY = 10  # steps between looks at the losses: each look makes a GPU wait


class Trainer:
    """Trains `ddpm` as `args` say, and keeps the log folder.

    A run is counted in epochs (args.n_epochs, pictures every args.save_every) or in steps (args.train_steps, pictures
    every args.save_and_sample_every). `spec` is the recipe that built `ddpm` (checkpoint.Spec). `defaults` (the script's
    default arguments) and `expected` (what a healthy run looks like) are for config.json and the report.
    `draw(trainer)` makes the pictures of the moment that the trainer has reached (figures/images.py); `draw_first`, if there
    is one, those that need no training. `dequantised`: train on images that `datasets.dequantise` made continuous
    (validation sees the 8-bit images, as for every other model).
    """

    def __init__(
        self,
        ddpm: DDPM,
        spec: checkpoint.Spec,
        train_set: ImageSet,
        val_set: ImageSet,
        args: Any,
        defaults: dict[str, Any],
        expected: str,
        draw: Callable[[Trainer], None],
        draw_first: Callable[[Trainer], None] | None = None,
        dequantised: bool = False,
    ):
        self.ddpm, self.spec, self.args = ddpm, spec, args
        self.defaults, self.expected = defaults, expected
        self.draw, self.draw_first, self.dequantised = draw, draw_first, dequantised
        self.device = ddpm.device
        self.train_set, self.val_set = train_set.to(self.device), val_set.to(self.device)
        self.log_dir = Path(args.log_dir)
        # The last, shorter batch of an epoch is left out (other images each time): one shape compiles once.
        self.batch_size = min(args.batch_size, len(train_set))
        self.steps_per_epoch = len(train_set) // self.batch_size
        if "train_steps" in args:
            self.unit, self.unit_steps = "step", 1
            self.last_step, self.picture_steps = args.train_steps, args.save_and_sample_every
            self.row_steps = max(1, self.picture_steps // ROWS_PER_PICTURE)
        else:
            self.unit, self.unit_steps = "epoch", self.steps_per_epoch
            self.last_step, self.picture_steps = (n * self.steps_per_epoch for n in (args.n_epochs, args.save_every))
            self.row_steps = self.steps_per_epoch
        self.classes = bool(getattr(ddpm.nn_model, "n_classes", 0))  # does the network take any?

        keep_large_buffers()
        # On a GPU one kernel for all weights; on a CPU Adam is a hundredth of the step whichever way.
        self.adam = {"lr": args.l_rate, "fused": True if self.device.type == "cuda" and FUSED_ADAM else None}
        self.optimizer = torch.optim.Adam(ddpm.nn_model.parameters(), **self.adam)
        self.average = MovingAverage(ddpm, args.ema) if args.ema else None
        self.averaged = self.average.ddpm if self.average else ddpm
        self.training_losses = ddpm.training_losses
        self.generator = torch.Generator(self.device)
        self.stop = Stop()

        self.step = 0  # training steps completed: all that is needed to know which comes next
        self.saved_step, self.saved_at = 0, time.monotonic()  # of the checkpoint on the disk
        self.history: list[dict[str, Any]] = []  # a row for each epoch (or row_steps) completed
        self.started, self.first_step = time.time(), 0  # of this process
        self.order: torch.Tensor | None = None  # of the images in this epoch
        self.tally = Tally(ddpm.n_timesteps)  # since the last row

    # ---------------------------------------------------------------------------------------------- the run

    def run(self) -> None:
        """Train to the end (or to a signal), writing the log folder on the way."""
        with self.stop:
            self.open_folder()
            self.compile_losses()
            self.started = time.time()
            try:
                while self.step < self.last_step:
                    self.train_step()
                    if self.row_due():
                        self.end_row()
                    if self.pictures_due() and not self.stop.number:
                        self.make_pictures()
                    if self.stop.number:
                        self.leave()
            except RunError as error:
                self.folder.live("")
                self.folder.write_log(f"failed: {error}")
                self.make_report()
                raise
            self.say(f"done: {self.log_dir / 'report.html'}")

    def train_step(self) -> None:
        """One step of Algorithm 1 and of Adam."""
        epoch, i = divmod(self.step, self.steps_per_epoch)
        if i == 0 or self.order is None:
            self.order = self.order_of_epoch(epoch)
        began = time.perf_counter()
        self.ddpm.train()
        self.generator.manual_seed(seed_for(self.args.seed, STEP, self.step))
        torch.manual_seed(seed_for(self.args.seed, DROPOUT, self.step))  # dropout takes no generator
        flip = None
        if self.args.flip == "on":
            flip = torch.rand(self.batch_size, device=self.device, generator=self.generator) < 0.5
        y, c = self.batch(self.train_set, self.order[i * self.batch_size : (i + 1) * self.batch_size], flip)
        if self.dequantised:
            y = dequantise(y, torch.rand(y.shape, device=self.device, generator=self.generator))
        t, noise, c = self.ddpm.draw(y, c, self.generator)

        losses = self.training_losses(y, c, t, noise)  # [N]
        self.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        self.optimizer.step()
        self.update_average()

        self.step += 1
        self.tally.add(t, losses)
        if self.step % LOOK_EVERY == 0 or self.row_due():
            self.look_at_losses()
        self.tally.seconds += time.perf_counter() - began

    def update_average(self) -> None:
        if self.average:
            self.average.update(self.step)

    def order_of_epoch(self, epoch: int) -> torch.Tensor:
        """The training images in the order of an epoch (from 0), as indices."""
        generator = torch.Generator().manual_seed(seed_for(self.args.seed, ORDER, epoch))
        return torch.randperm(len(self.train_set), generator=generator).to(self.train_set.images.device)

    def batch(
        self, images: ImageSet, index: torch.Tensor, flip: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images and class vectors, or None for these if the network takes no classes."""
        y, c = images.batch(index, flip)
        return y, c if self.classes else None

    def look_at_losses(self) -> None:
        """Take in the losses of the latest steps. RunError if one is not finite."""
        means = self.tally.collect()  # [steps]
        if not np.isfinite(means).all():
            first = int(np.argmin(np.isfinite(means)))
            self.diverged(f"the loss became {means[first]} at step {self.step - len(means) + first + 1}")
        self.progress(f"loss {means[-1]:.4f}")

    def diverged(self, what: str) -> None:
        saved = f"checkpoint.pt holds step {self.saved_step}, from which --resume goes on with these changed"
        raise RunError(
            f"{what} with learning rate {self.args.l_rate:g}: try a smaller --l_rate, or --amp off"
            + (f"; {saved}" if self.saved_step else "")
        )

    def end_row(self) -> None:
        """A row of metrics; where pictures follow, and after every epoch, with validation and a checkpoint."""
        began = time.perf_counter()
        steps = self.step - (self.history[-1]["step"] if self.history else 0)
        due = self.unit == "epoch" or self.pictures_due()
        val_loss = self.validate() if due else None
        row = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "train_loss": self.tally.mean(),
            "val_loss": val_loss,
            **{f"loss_q{q}": mean for q, mean in enumerate(self.tally.quarter_means(), 1)},
            "learning_rate": self.args.l_rate,
            "images_per_second": steps * self.batch_size / self.tally.seconds,
            "seconds": self.tally.seconds + time.perf_counter() - began,
        }
        self.history.append(row)
        self.tally = Tally(self.ddpm.n_timesteps)
        if due or time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save_checkpoint()
        write_csv(self.log_dir / "metrics.csv", self.history)
        self.say(
            f"{self.mark(of_all=True)}  train loss {row['train_loss']:.4f}  "
            + (f"val loss {val_loss:.4f}  " if due else "")
            + f"{row['images_per_second']:.0f} images/s  {format_duration(row['seconds'])}  {self.time_left()}"
        )
        if row["seconds"] > WATCHED and not self.pictures_due():
            self.make_report()

    def validate(self) -> float:
        """The validation loss of the averaged weights."""
        return validation_loss(self.averaged, self.val_set, self.classes, self.args.seed, self.args.batch_size)

    # ---------------------------------------------------------------------------------------------- the log folder

    def open_folder(self) -> None:
        """Continue what stands in the folder, or begin anew without destroying it."""
        old = self.log_dir / "checkpoint.pt"
        resume = self.args.resume and old.exists()
        # Read before anything is written: a refusal leaves no trace.
        content = (
            checkpoint.load(old, "arguments", "train_images", "model", "average", "optimizer", "step") if resume else {}
        )
        self.folder = LogFolder(self.log_dir, resume)
        if resume:
            self.restore(old, content)
        else:
            if self.args.resume:
                self.say(f"nothing to resume in {self.log_dir}: beginning at step 0")
            self.folder.write_config(self.config())
        if self.draw_first:
            self.draw_first(self)
        self.make_report()  # already now: it shows what the run is going to do
        if resume:
            self.take_up()

    def restore(self, path: Path, content: dict[str, Any]) -> None:
        """Take up the run of a checkpoint. CallError that names the difference if it is another run's."""
        forbidden, adjusted = checkpoint.differences(content["arguments"], plain_arguments(self.args))
        if content["train_images"] != len(self.train_set):
            forbidden.append(f"{content['train_images']} training images were there, now {len(self.train_set)}")
        if forbidden:
            raise CallError(f"{path} is of a run with other arguments: {'; '.join(forbidden)}. Use its arguments, "
                            "or another --log_dir, or leave out --resume")  # fmt: skip
        if content["step"] > self.last_step:
            raise CallError(
                f"{path} stands at step {content['step']}, but the run asked for is over at step {self.last_step}"
            )
        checkpoint.load_weights(self.ddpm.nn_model, content["model"], path)
        checkpoint.load_weights(self.averaged.nn_model, content["average"], path)
        for group in content["optimizer"]["param_groups"]:
            group.update(self.adam)  # not the file's: the device and the learning rate may be others now
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = self.first_step = self.saved_step = content["step"]
        self.history = content["history"]
        self.tally.restore(content)
        self.folder.write_config(self.config(), resumed_at=self.step)
        if self.history:
            write_csv(self.log_dir / "metrics.csv", self.history)
        if content.get("arithmetic", self.arithmetic()) != self.arithmetic():
            adjusted.append(
                f"{self.arithmetic()} instead of {content['arithmetic']!s:.60}, so not the same bits any more"
            )
        for line in adjusted:
            self.say(f"from step {self.step} on: {line}")

    def take_up(self) -> None:
        """Tell where a continued run stands, and make the pictures of that moment if it may have none."""
        if self.step == self.last_step:
            self.say(f"the run is already finished ({self.mark()}): making its pictures and report again")
            self.make_pictures()
        else:
            epoch, within = divmod(self.step, self.steps_per_epoch)
            self.say(f"resuming at step {self.step}: epoch {epoch + 1}, after {within} of {self.steps_per_epoch} steps")
            if self.pictures_due() and not self.model_path().exists():
                self.make_pictures()  # the signal came between the checkpoint and its pictures

    def config(self) -> dict[str, Any]:
        """config.json: what was asked for, on what data and which machine."""
        return {
            **environment(self.device),
            "arguments": plain_arguments(self.args),
            "defaults": self.defaults,
            "precision": self.precision(),
            "seed": self.args.seed,
            "dataset": {
                "name": self.train_set.name,
                "train_images": len(self.train_set),
                "val_images": min(VALIDATION_IMAGES, len(self.val_set)),
                "classes": self.train_set.class_names,
                "dequantised": self.dequantised,
            },
            "n_parameters": sum(p.numel() for p in self.ddpm.nn_model.parameters()),
            "spec": self.spec,
            "expected": self.expected,
        }

    def save_checkpoint(self) -> None:
        """Everything that continuing needs; no random state, see the top of this file.

        Weights that are no longer finite never take the place of good ones.
        """
        if not torch.stack([w.isfinite().all() for w in self.ddpm.nn_model.parameters()]).all():
            self.diverged(f"weights became infinite or nan by step {self.step}")
        checkpoint.save(
            self.log_dir / "checkpoint.pt",
            {
                "spec": self.spec,
                "arguments": plain_arguments(self.args),
                "class_names": list(self.train_set.class_names) if self.classes else [],
                "train_images": len(self.train_set),
                "arithmetic": self.arithmetic(),
                "model": self.ddpm.nn_model.state_dict(),
                "average": self.averaged.nn_model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "history": self.history,
                **self.tally.state(),
            },
        )
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def precision(self) -> str:
        return "bf16 autocast" if self.ddpm.amp_dtype else "float32"

    def arithmetic(self) -> str:
        """What a run has to keep to remain the same to the bit (on a GPU there are kernels that vary besides)."""
        return f"{self.precision()} on {self.device.type}"

    def mark(self, of_all: bool = False) -> str:
        """Where the run stands, in words: 'epoch 3', or 'epoch 3/20'."""
        total = f"/{self.last_step // self.unit_steps}" if of_all else ""
        return f"{self.unit} {self.step // self.unit_steps}{total}"

    def tail(self) -> str:
        """Where the run stands, for names of files: 'epoch3'."""
        return self.mark().replace(" ", "")

    def model_path(self) -> Path:
        return self.log_dir / f"model_{self.tail()}.pt"

    def row_due(self) -> bool:
        return self.step % self.row_steps == 0 or self.pictures_due()

    def pictures_due(self) -> bool:
        return self.step > 0 and (self.step % self.picture_steps == 0 or self.step == self.last_step)

    def make_pictures(self) -> None:
        """Pictures, loss curve, report and, with the pictures, the model that made them."""
        self.draw(self)
        self.make_report()

    def save_model(self) -> None:
        """The (averaged) weights, for sampling; `draw` calls it when the pictures that they make stand."""
        checkpoint.save(
            self.model_path(),
            {
                "spec": self.spec,
                "arguments": plain_arguments(self.args),
                "class_names": list(self.val_set.class_names) if self.classes else [],
                "model": self.averaged.nn_model.state_dict(),
                "epoch": self.step // self.steps_per_epoch,
                "step": self.step,
            },
        )

    def seed_for_pictures(self) -> int:
        return seed_for(self.args.seed, PICTURES)

    def make_report(self) -> None:
        if self.history:
            plot_loss(self.log_dir / "loss.png", self.history, self.unit)
        write_report(self.log_dir)

    def leave(self) -> None:
        """A signal came: save, tell how to go on, end with the status that shells give a signal's victim."""
        if self.tally.pending:
            self.look_at_losses()
        self.save_checkpoint()
        self.make_report()
        number = self.stop.number
        self.say(f"stopped by {signal.Signals(number).name} after step {self.step}; to go on:")
        self.say(f"  {command_line('--resume')}")
        sys.exit(128 + number)

    # ---------------------------------------------------------------------------------------------- small parts

    def compile_losses(self) -> None:
        """Compile the loss if that is asked for."""
        if self.args.compile == "on" or (self.args.compile == "auto" and self.device.type == "cuda"):
            y, c = self.batch(self.train_set, torch.arange(self.batch_size))
            self.training_losses = compiled_losses(self.ddpm, y, c, self.say)

    def heed_signals(self) -> None:
        """While pictures are made: the checkpoint of this moment stands, and resuming makes them."""
        if self.stop.number:
            self.leave()

    def sampling_progress(self, what: str, t: int) -> None:
        self.heed_signals()
        if t % 10 == 0:
            self.progress(f"pictures, {what}: t = {t}")

    def time_left(self) -> str:
        done = self.step - self.first_step
        if self.step >= self.last_step or not done:
            return ""
        left = (time.time() - self.started) / done * (self.last_step - self.step)
        return f"{format_duration(left)} left"

    def progress(self, what: str) -> None:
        """The live line of a terminal: where the run is, how fast, how long it still takes."""
        where = self.mark(of_all=True)
        if self.unit == "epoch":
            epoch, within = divmod(max(self.step - 1, 0), self.steps_per_epoch)
            where = f"epoch {epoch + 1}/{self.args.n_epochs}  step {within + 1}/{self.steps_per_epoch}"
        images = (self.step - (self.history[-1]["step"] if self.history else 0)) * self.batch_size
        speed = f"  {images / self.tally.seconds:.0f} images/s" if self.tally.seconds else ""
        self.folder.live(f"{where}  {what}{speed}  {self.time_left()}")

    def say(self, line: str) -> None:
        self.folder.say(line)


def plain_arguments(args: Any) -> dict[str, Any]:
    """An argparse.Namespace as a dict of plain values, for files."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
