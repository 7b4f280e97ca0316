"""The losses of training and validation."""

from __future__ import annotations

import copy
from typing import Any, Callable

import numpy as np
import torch

from common.console import one_line
from ddpm import DDPM
from training.data_set import DataSet
from training.processes import gathered
from training.seeds import VALIDATION, seed_for

VALIDATION_IMAGES = 2000  # enough for a steady mean, few enough to cost a CPU seconds


class LossMeter:
    """The losses since the last row of metrics, summed by quarter of the timesteps, and the seconds that they took.

    By quarter, because the mean over all t hardly falls any more while training still improves the model. The losses of
    a step stay on the device (`pending`) until `collect`, because copying them makes the CPU wait for the GPU.
    """

    def __init__(self, n_timesteps: int):
        self.n_timesteps = n_timesteps
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []  # (t, losses) not yet copied to the CPU
        self.sums, self.counts = np.zeros(4), np.zeros(4, dtype=int)  # by quarter of the timesteps
        self.seconds = 0.0

    def add(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Take in the losses of a step and their times in 1..T, both [N] with the same N for every step.

        Of several processes each gives its rows.
        """
        self.pending.append((t, losses.detach()))

    def collect(self) -> np.ndarray:
        """Copy the pending losses to the CPU and add them up. Returns the mean of each step, float64 [steps]."""
        t = gathered(torch.stack([t for t, _ in self.pending]), dim=1).cpu().numpy()  # [steps, N]
        losses = gathered(torch.stack([losses for _, losses in self.pending]), dim=1).cpu().double().numpy()
        self.pending = []
        quarter = ((t - 1) * 4 // self.n_timesteps).ravel()
        self.sums += np.bincount(quarter, weights=losses.ravel(), minlength=4)
        self.counts += np.bincount(quarter, minlength=4)
        return losses.mean(axis=1)

    def mean(self) -> float:
        """The mean of all losses collected."""
        return float(self.sums.sum() / self.counts.sum())

    def quarter_means(self) -> list[float]:
        """The mean loss of each quarter; nan for one that no t fell into."""
        with np.errstate(invalid="ignore"):
            return [float(mean) for mean in self.sums / self.counts]

    def speed(self) -> float:
        """Losses collected per second, which is samples per second."""
        return float(self.counts.sum() / self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """What is collected, as plain values for a checkpoint."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        return {"loss_sums": sums, "loss_counts": counts, "train_seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.sums, self.counts = np.array(state["loss_sums"]), np.array(state["loss_counts"])
        self.seconds = state["train_seconds"]


@torch.inference_mode()
def validation_loss(
    ddpm: DDPM,
    images: DataSet,
    classes: bool,
    seed: int,
    batch_size: int = 256,
    watch: Callable[[], None] = lambda: None,
) -> float:
    """Mean loss on the first VALIDATION_IMAGES samples, with the same t and noise for every model that has this seed.

    The t are spread evenly over 1..T, so that few samples give a steady mean; no class is dropped. classes: whether the
    network takes any. images: with batches on the device of `ddpm`, which is left in eval mode. watch: called before
    each batch, and may raise an exception.
    """
    n = min(VALIDATION_IMAGES, len(images))
    generator = torch.Generator().manual_seed(seed_for(seed, VALIDATION))
    spread = torch.arange(n) * ddpm.n_timesteps // n + 1
    t = spread[torch.randperm(n, generator=generator)].to(ddpm.device)
    noise = torch.randn(n, *images.images.shape[1:], generator=generator).to(ddpm.device)
    ddpm.eval()
    losses = []
    for part in torch.arange(n).split(batch_size):
        watch()
        y, c = images.batch(part)
        losses.append(ddpm.training_losses(y, c if classes else None, t[part], noise[part]))
    return torch.cat(losses).cpu().double().mean().item()


def compiled_losses(
    ddpm: DDPM, y: torch.Tensor, c: torch.Tensor | None, say: Callable[[str], None]
) -> Callable[..., torch.Tensor]:
    """`ddpm.training_losses` compiled, after a trial on a batch of images y and class vectors c.

    If the compiler fails, `say` gets a line about it and `ddpm.training_losses` itself is returned. The trial leaves
    weights and BatchNorm statistics as they were, no gradients, and `ddpm` in train mode.
    """
    losses = ddpm.training_losses
    before = copy.deepcopy(ddpm.nn_model.state_dict())  # the trial changes the BatchNorm statistics
    try:
        compiled = torch.compile(ddpm.training_losses)
        t, noise, c = ddpm.train().draw(y, c)
        compiled(y, c, t, noise).mean().backward()  # the backward pass is compiled too
        losses = compiled
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways: none installed, too old, a bug
        say(f"torch.compile does not work here ({one_line(error)}): going on without it")
    ddpm.nn_model.load_state_dict(before)
    ddpm.nn_model.zero_grad(set_to_none=True)
    return losses
