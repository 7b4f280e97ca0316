"""What the next row of metrics is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Tally:
    """The losses since the last row of metrics, summed by quarter of the timesteps, and the seconds that they took.

    By quarter, because their mean over all t goes flat while training still gets on. A step's losses stay on the device
    (`pending`) until `collect`, because each look at them makes a GPU wait.
    """

    def __init__(self, n_timesteps: int):
        self.n_timesteps = n_timesteps
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []  # (t, losses) not yet brought to the CPU
        self.sums, self.counts = np.zeros(4), np.zeros(4, dtype=int)  # by quarter of the timesteps
        self.seconds = 0.0

    def add(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Take in the losses of a step and their times in 1..T, both [N] with the same N for every step."""
        self.pending.append((t, losses.detach()))

    def collect(self) -> np.ndarray:
        """Bring the pending losses to the CPU and add them up. Returns the mean of each such step, float64 [steps]."""
        t = torch.stack([t for t, _ in self.pending]).cpu().numpy()  # [steps, N]
        losses = torch.stack([losses for _, losses in self.pending]).cpu().double().numpy()
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

    def state(self) -> dict[str, Any]:
        """The part of checkpoint.pt that `restore` needs: what is collected, as plain values."""
        return {
            "loss_sums": self.sums.tolist(),
            "loss_counts": self.counts.tolist(),
            "train_seconds": self.seconds,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from the `state` that a checkpoint holds."""
        self.sums, self.counts = np.array(content["loss_sums"]), np.array(content["loss_counts"])
        self.seconds = content["train_seconds"]
