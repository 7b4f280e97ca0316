"""What the tests of the answers share: a noise process of four steps in float64, a grid to integrate on, small models."""

from __future__ import annotations

import math

import torch
from answers_text import value

from ddpm import DDPM

BETA = torch.tensor([0.0, 0.05, 0.15, 0.3, 0.5]).double()  # beta_t, t = 0..4
ALPHA, BAR = 1 - BETA, torch.cumprod(1 - BETA, 0)
X = torch.linspace(-9, 9, 3601, dtype=torch.float64)
DX = (X[1] - X[0]).item()


def at(t: int) -> dict:
    """The schedule at time t, under its LaTeX names."""
    return {
        **{r"\beta_t": BETA[t], r"\alpha_t": ALPHA[t], r"\bar\alpha_t": BAR[t], r"\bar\alpha_{t-1}": BAR[t - 1]},
        r"\tilde\beta_t": value("F14", {r"\beta_t": BETA[t], r"\bar\alpha_t": BAR[t], r"\bar\alpha_{t-1}": BAR[t - 1]}),
    }


def normal(x, mean, variance):
    """The density."""
    scale = (2 * math.pi * torch.as_tensor(variance, dtype=torch.float64)).sqrt()
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / scale


def close(found, expected, rtol=1e-6, atol=1e-9):
    found, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected))
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def moments(density):
    """Mean and variance of a density on the grid X, normalised or not."""
    density = density / density.sum()
    mean = (density * X).sum()
    return mean, (density * (X - mean) ** 2).sum()


def suite_ddpm(T=400, network=None, **arguments):
    return DDPM(network or torch.nn.Identity(), n_timesteps=T, device="cpu", **arguments)


def lambda_network(function):
    network = torch.nn.Module()
    network.forward = function
    return network
