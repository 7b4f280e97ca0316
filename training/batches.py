"""The batches of training: which samples a step sees, and all that is random about it, as a function of (seed, step)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from datasets.image_set import dequantise
from ddpm import DDPM
from training import processes
from training.data_set import DataSet
from training.seeds import STEP, order_of_epoch, seed_for
from training.settings import Settings


class Batch(NamedTuple):
    """The rows of a batch that are this process's, as `DDPM.training_losses` takes them."""

    y: torch.Tensor  # [rows, *size]
    c: torch.Tensor | None  # class vectors [rows, n_classes], some of them zeros; None for a network without classes
    t: torch.Tensor  # [rows]
    noise: torch.Tensor  # like y


class Batches:
    """Makes the batch of each step. What is random is drawn for the whole batch, of which each process takes its rows."""

    def __init__(self, ddpm: DDPM, train_set: DataSet, size: int, settings: Settings):
        self.ddpm, self.train_set, self.size, self.settings = ddpm, train_set, size, settings
        names = ("n_classes", "condition_dim")  # of a class, or of a context vector
        self.takes_classes = any(getattr(ddpm.nn_model, name, 0) for name in names)
        # The last, shorter batch of an epoch is left out (other images each time): one shape compiles once.
        self.per_epoch = len(train_set) // size
        self.generator = torch.Generator(ddpm.device)
        self.epoch, self.order = -1, torch.empty(0)  # the order of the samples in that epoch

    def of_step(self, step: int) -> Batch:
        """The batch of training step `step`, counted from 0."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            order = order_of_epoch(len(self.train_set), self.settings.seed, epoch)
            self.epoch, self.order = epoch, order.to(self.train_set.images.device)
        mine, device, generator = processes.rows(self.size), self.ddpm.device, self.generator
        generator.manual_seed(seed_for(self.settings.seed, STEP, step))
        index, flip = self.order[i * self.size : (i + 1) * self.size], None
        if self.settings.flip:
            flip = (torch.rand(self.size, device=device, generator=generator) < 0.5)[mine]
        y, c = self.train_set.batch(index[mine], flip)
        whole = y.new_empty(1).expand(self.size, *y.shape[1:])  # takes no memory
        if self.settings.dequantise:
            y = dequantise(y, torch.rand(whole.shape, device=device, generator=generator)[mine])
        ones = torch.ones(self.size, 1, device=device) if self.takes_classes else None
        t, noise, keep = self.ddpm.draw(whole, ones, generator)
        c = None if c is None or keep is None else c * keep[mine]
        return Batch(y, c, t[mine], noise[mine])
