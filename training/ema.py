"""The exponential moving average of a model's weights: what validation, pictures and everything later are made with."""

from __future__ import annotations

import copy

import torch

from ddpm import DDPM


class MovingAverage:
    """`ddpm` of this object is a copy of the given one whose network holds the averages; with decay 0 the weights.

    Only the network's tensors are averaged, not the schedule. BatchNorm's statistics are averaged with the weights,
    because those of the present weights would not fit the averaged ones.
    """

    def __init__(self, ddpm: DDPM, decay: float):
        self.decay = decay
        self.ddpm = copy.deepcopy(ddpm).eval().requires_grad_(False)
        pairs = list(zip(self.ddpm.nn_model.state_dict().values(), ddpm.nn_model.state_dict().values()))
        self.floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]  # BatchNorm's

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after training step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))  # else a short run would keep its first weights
        means, values = [mean for mean, _ in self.floats], [value for _, value in self.floats]
        if means and means[0].device.type == "cuda":
            torch._foreach_lerp_(means, values, 1 - decay)  # one kernel instead of a hundred
        else:
            for mean, value in zip(means, values):
                mean.lerp_(value, 1 - decay)
        for mean, value in self.counters:
            mean.copy_(value)
