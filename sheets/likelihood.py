"""The names of the sheet on points and likelihood (its file ddpm.py), thin over the class `DDPM` of this suite.

    from sheets.likelihood import DDPM, FcNetwork, train
    import ToyData

    toy = ToyData.Chequerboard()
    loader = torch.utils.data.DataLoader((toy().sample((100_000,)) - 0.5) * 2, batch_size=10_000, shuffle=True)
    model = DDPM(FcNetwork(2, 64), T=1000).to(device)
    train(model, torch.optim.Adam(model.parameters(), lr=1e-3), loader, epochs=10, device=device)
    samples = model.sample((5000, 2)) / 2 + 0.5

Here tables have T entries and t counts from 0, as the sheet has it; the network gets (t + 1) / T, [N, 1].
"""

from __future__ import annotations

from typing import Iterable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

import ddpm
from networks.fc import FcNetwork
from sheets import train_with

__all__ = ["DDPM", "FcNetwork", "train"]


class DDPM(nn.Module):
    """A noise schedule of T steps, beta_1 .. beta_T linear, and the network: sigma_t^2 = beta_t, nothing is clipped.

    network: forward(x, t), x float [N, *size], t float [N, 1, ...]. `model.ddpm` is the same model as the suite's DDPM.
    """

    def __init__(self, network: nn.Module, beta_1: float = 1e-4, beta_T: float = 2e-2, T: int = 100):
        super().__init__()
        self.beta_1, self.beta_T, self.T = beta_1, beta_T, T
        self.ddpm = ddpm.DDPM(network, beta_1, beta_T, T, device="cpu", drop_prob=0)

    @property
    def network(self) -> nn.Module:
        return self.ddpm.nn_model

    @property
    def beta(self) -> Tensor:
        return self.ddpm.sqrt_beta_t[1:] ** 2

    @property
    def alpha(self) -> Tensor:
        return self.ddpm.alpha_t[1:]

    @property
    def alpha_cumprod(self) -> Tensor:
        return self.ddpm.alpha_bar_t[1:]

    def negative_elbo(self, x: Tensor) -> Tensor:
        """|eps - eps_theta(x_t, t)|^2 of each sample, summed over its numbers, for one t and one eps: [N].

        `ddpm.DDPM.negative_elbo` is the mean over the numbers instead.
        """
        return self.ddpm.negative_elbo(x) * x[0].numel()

    def loss(self, x: Tensor) -> Tensor:
        """The mean of `negative_elbo` over the batch, a scalar."""
        return self.negative_elbo(x).mean()

    forward = loss

    def sample(self, shape: Sequence[int]) -> Tensor:
        """Samples of this shape, (N, *size), by all T reverse steps (Ho et al. 2020, Algorithm 2)."""
        return self.ddpm.reverse_process(torch.randn(*shape, device=self.ddpm.device), self.T)[0]


def train(
    model: DDPM, optimizer: torch.optim.Optimizer, data_loader: Iterable, epochs: int, device: str | torch.device
) -> list[float]:
    """Train on batches x or (x, ...); prints a line per epoch. Returns the mean loss of each epoch."""
    return train_with(model, data_loader, epochs, optimizer, device, lambda x, label: model.loss(x))
