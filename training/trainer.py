"""The training loop: from a DDPM and two data sets to a complete log folder.

Every random draw of training is a pure function of (seed, step): the order of the images of (seed, epoch), time, noise
and class dropping of (seed, step). So a checkpoint holds no random state, a resumed run is bit for bit the run that was
never stopped (on the CPU), and pictures, drawn from generators of their own, do not change training.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, Sequence

import numpy as np
import torch

from common.console import CallError, RunError, is_live
from common.files import format_duration
from ddpm import DDPM
from networks.dropout import Dropout
from training import checkpoint, first_weights, processes
from training.data_set import DataSet
from training.log_folder import LogFolder, arithmetic_of, config_of
from training.losses import LossMeter, compiled_losses, validation_loss
from training.run import Diverged, Run
from training.seeds import DROPOUT, seed_for
from training.settings import About, Plan, Settings

REPORT_AFTER = 10  # seconds: a row of metrics that took longer also refreshes loss curve and report
MOST_LEFT = 0.05  # of alpha_bar_T, for samples that begin with pure noise
CHECK_EVERY = 10  # steps between checks of the losses: each makes the CPU wait for the GPU


class Trainer(Run):
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
        super().__init__(ddpm, train_set, val_set, settings, plan, about)
        self.draw, self.draw_first = draw, draw_first
        self.dropouts = [module for module in ddpm.nn_model.modules() if isinstance(module, Dropout)]
        self.training_losses: Callable[..., torch.Tensor] = ddpm.training_losses
        self.checkpoint_due = 0  # agreed between all processes, as `stopped_by` is

    # ------------------------------------------------------------------------------------------------ the run

    def run(self) -> None:
        """Train to the end (or to a signal), writing the log folder on the way."""
        with self.stop:
            self.begin()
            try:
                self.led(self.first_files)
                self.prepare()
                while self.step < self.plan.last_step:
                    self.train_step()
                    self.look_up()
                self.say(f"time: {self.watch}")
                self.say(f"done: {self.log_dir / 'report.html'}")
            except Exception as error:
                if not processes.rank():
                    self.save_before_the_end(error)
                    self.say_failed(error)
                raise
            finally:
                if not processes.rank():  # a notebook lives on, and keeps what an error's traceback leads to
                    self.folder.log.close()

    def led(self, work: Callable[[], None]) -> None:
        """Let rank 0 do `work`; all processes help it with samples and losses of the averaged model."""
        processes.led(work, self.averaged)

    def save_before_the_end(self, error: Exception) -> None:
        """After an error: save the steps that no checkpoint holds yet, if the weights are good and the file can be written."""
        lost = isinstance(error, Diverged) or self.folder.gone or self.updating or processes.count() > 1
        if self.step != self.saved_step and not lost:
            with contextlib.suppress(Exception):  # the disk may be full, the GPU lost, the loss no number
                self.check_losses()
                self.save_checkpoint()

    def begin(self) -> None:
        """Open the log folder; continue the run in it if --resume asks for that, or begin with the weights of a file."""
        content, weights = processes.led(self.open_folder)
        self.resumed = content is not None
        if content is not None:
            self.restore(content)
        elif weights is not None:
            for network in (self.ddpm.nn_model, self.averaged.nn_model):
                network.load_state_dict(weights)

    def prepare(self) -> None:
        """Prepare the training loss: compiled, if that is wanted, and shared by all processes."""
        if self.settings.compile == "on" or (self.settings.compile == "auto" and self.device.type == "cuda"):
            y, c = self.train_set.batch(torch.arange(self.batch_size))
            self.training_losses = compiled_losses(self.ddpm, y, c if self.takes_classes else None, self.say)
            self.watch.lap("compiling")
        self.training_losses = processes.shared_losses(self.ddpm, self.training_losses, self.say)
        self.watch.start()

    def look_up(self) -> None:
        """Between two steps: heed signals and the clock, and do what is due."""
        if self.step % CHECK_EVERY == 0 or self.device.type == "cpu" or processes.count() == 1:
            self.agree()  # several GPUs would have to wait for it in every step
        due = self.plan.row_due(self.step) or self.checkpoint_due or self.stopped_by
        if due or self.step % CHECK_EVERY == 0:
            self.check_losses()
        if due:
            self.led(self.after_step)
            self.checkpoint_due = 0

    def open_folder(self) -> tuple[dict[str, Any] | None, dict[str, torch.Tensor] | None]:
        """Open the log folder. Returns what its checkpoint holds, if the run is to go on from there, and otherwise the
        first weights, if there is a --load_path.
        """
        changes: list[str] = []
        names = self.train_set.class_names if self.takes_classes else []
        content, resume = None, "auto" if processes.restarted() else self.settings.resume
        # All files are read before anything is written: a refusal leaves no trace.
        if resume != "no" and self.checkpoint_path.exists():
            now = (self.about.arguments, len(self.train_set), arithmetic_of(self.ddpm), self.plan.last_step)
            try:
                defaults, encoder = self.about.defaults, self.about.spec.get("encoder")
                content, changes = checkpoint.load_run(
                    self.checkpoint_path, *now, defaults=defaults, class_names=names, encoder=encoder
                )
            except RunError as error:
                if resume != "auto":
                    raise
                changes = [str(error)]
        weights, told = self.read_first_weights(names) if content is None else (None, [])
        self.folder = LogFolder(self.log_dir, resume=content is not None, asked=resume != "no")
        if content is None and resume != "no":
            self.say(f"nothing to resume in {self.log_dir}: beginning at step 0")
        for change in changes:
            self.say(f"from step {content['step'] if content else 0} on: {change}")
        for line in told:
            self.say(line)
        return content, weights

    def read_first_weights(self, class_names: Sequence[str]) -> tuple[dict[str, torch.Tensor] | None, list[str]]:
        """What `first_weights.read` returns of --load_path, if there is one."""
        path = self.settings.load_path
        if path is None:
            return None, []
        if self.log_dir.resolve() in path.resolve().parents:
            raise CallError(f"{path} lies in {self.log_dir}, which a new run moves aside: take another --log_dir")
        return first_weights.read(path, self.ddpm.nn_model.state_dict(), self.about, class_names)

    def first_files(self) -> None:
        """Write what the log folder holds before the first step; for a resumed run also the pictures that are missing."""
        config = config_of(self.about, self.settings, self.ddpm, self.train_set, self.val_set)
        self.folder.write_config(config, resumed_at=self.step if self.resumed else None)
        self.folder.write_metrics(self.history)
        if self.draw_first:
            self.draw_first(self)
        self.write_report()  # already now: it shows what the run is going to do
        left = self.ddpm.alpha_bar_t[-1].item()
        if left > MOST_LEFT and not self.resumed:
            self.say(
                f"alpha_bar_T = {left:.2g}: x_T still holds {left**0.5:.0%} of the image, but sampling begins with pure "
                "noise, so samples will be poor. Try --schedule cosine, or more --n_timesteps"
            )
        if self.step == self.plan.last_step:
            self.redraw = self.settings.resume == "yes"
            what = "making its pictures and report again" if self.redraw else "making the pictures that it lacks"
            self.say(f"the run is already finished ({self.mark()}): {what}")
        elif self.resumed:
            epoch, within = divmod(self.step, self.steps_per_epoch)
            where = f"epoch {epoch + 1}, after {within} of {self.steps_per_epoch} steps"
            self.say(f"resuming at step {self.step}: {where}")
        if self.resumed and self.plan.row_due(self.step) and self.step not in [row["step"] for row in self.history]:
            self.end_row()
        if self.plan.pictures_due(self.step):
            self.make_pictures()

    def train_step(self) -> None:
        """One step of Algorithm 1 (Ho et al. 2020) and of Adam."""
        self.ddpm.train()
        y, c, t, noise = self.batches.of_step(self.step)
        losses = self.backward(y, c, t, noise)  # [rows]
        if self.settings.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.ddpm.nn_model.parameters(), self.settings.clip_grad)
        self.updating = True
        for group in self.optimizer.param_groups:
            group["lr"] = self.l_rate(self.step)
        self.optimizer.step()
        processes.share_buffers(self.ddpm.nn_model)
        self.average.update(self.step)
        self.meter.add(t, losses)
        self.step += 1
        self.updating = False

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
        due = not processes.rank() and time.monotonic() - self.saved_at > self.settings.checkpoint_every
        self.stopped_by, self.checkpoint_due = processes.most([self.stop.number, int(due)])

    def check_losses(self) -> None:
        """Add up the losses since the last check. RunError if one is not finite."""
        if not self.meter.pending:
            return
        means = self.meter.collect()  # [steps]
        self.meter.seconds += self.watch.lap("training")
        wrong = np.flatnonzero(~np.isfinite(means))
        if len(wrong):
            self.diverged(f"the loss became {means[wrong[0]]} at step {self.step - len(means) + wrong[0] + 1}")
        self.progress(f"loss {means[-1]:.4f}")

    def after_step(self) -> None:
        """Write what is due after the present step: a row of metrics, a checkpoint, pictures. After a signal the run ends."""
        if self.plan.row_due(self.step):
            self.end_row()
        elif self.checkpoint_due:
            self.save_checkpoint()
        if self.plan.pictures_due(self.step) and not self.stopped_by:
            self.make_pictures()
        if self.stopped_by:
            self.leave()

    def end_row(self) -> None:
        """A row of metrics; where pictures follow, and after every epoch, with validation and a checkpoint.

        A signal during validation ends the run before the row is there: a process that resumes it writes the row first.
        """
        settings, pictures_due = self.settings, self.plan.pictures_due(self.step)
        due = self.plan.unit == "epoch" or pictures_due
        val_loss, val_text, seconds = None, "", self.meter.seconds
        if due:
            size = max(settings.batch_size, min(256, 8 * settings.batch_size))  # without gradients, larger batches fit
            val_loss = validation_loss(
                self.averaged, self.val_set, self.takes_classes, settings.seed, size, self.heed_signals
            )
            val_text = f"val loss {val_loss:.4f}  "
            seconds += self.watch.lap("validation")
        row = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "train_loss": self.meter.mean(),
            "val_loss": val_loss,
            **{f"loss_q{q}": mean for q, mean in enumerate(self.meter.quarter_means(), 1)},
            "learning_rate": self.l_rate(self.step - 1),
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
        self.say(f"{self.mark()}/{self.plan.length}  {losses}{speed}")
        self.watch.lap("files")
        if seconds > REPORT_AFTER and not pictures_due:
            self.write_report()

    def make_pictures(self) -> None:
        """Pictures, loss curve, report and, with the pictures, the model that made them."""
        self.folder.check()
        began, live = time.perf_counter(), is_live()
        if not live:
            about = f", about {format_duration(self.set_seconds / self.sets)}" if self.sets else ""
            self.say(f"{self.mark()}: drawing pictures{about} ...")
        self.draw(self)
        seconds = time.perf_counter() - began
        self.sets, self.set_seconds = self.sets + 1, self.set_seconds + seconds
        if not live:
            self.say(f"{self.mark()}: pictures are drawn ({format_duration(seconds)})")
        self.write_report()
