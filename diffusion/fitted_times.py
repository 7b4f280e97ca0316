"""Few time steps that fit a model: they are placed where its own trajectories bend.

    [DDIM]    Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502
    [Watson]  Watson et al. 2021, "Learning to Efficiently Sample from Diffusion Probabilistic Models", arXiv:2106.03802

A sampler with few steps makes an error in every step, since the predicted x_0 changes on the way. How much it changes, and
at which t, depends on the data and on the network. So it is measured. A few images are drawn in GRID steps; this costs as
much as drawing them once. The x_i and the predictions on this way give, without another call of the network, the error of one
long step of DDIM from any time i to any earlier time j:

    E(i, j) = mean square of (DDIM step from x_i to time j) - x_j

Among all ways from T to 0 in n steps the one with the least sum of errors is found by dynamic programming, as in [Watson],
who minimise the variational bound in place of this error.
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from diffusion.process import Process
from diffusion.samplers import dpm_2m

GRID = 50  # times among which the steps are chosen; more if more steps are wanted
IMAGES = 30


def fitted_times(process: Process, numbers: Sequence[int]) -> dict[int, list[int]]:
    """For each number of steps its times, falling from T, as explained above. The same model has the same times.

    Classes are taken in turn, without guidance. Raises ValueError unless all numbers are in 1..T.
    """
    T = process.n_timesteps
    for n_steps in numbers:
        if not 1 <= n_steps <= T:
            raise ValueError(f"n_steps must be a whole number from 1 to T = {T}, not {n_steps}")
    grid = min(max(GRID, *numbers), T)
    times = torch.linspace(1, T, grid).round().long().tolist()
    errors = step_errors(process, times)
    return {n_steps: [times[i - 1] for i in cheapest_way(errors, n_steps)] for n_steps in numbers}


def step_errors(process: Process, times: list[int]) -> Tensor:
    """E(i, j), float64 [M + 1, M + 1] for M times, on the CPU; infinite unless j < i. Index 0 is clean data."""
    few = process.respaced(times).fast_copy()
    a, s, n_classes = few.sqrt_alpha_bar_t, few.sqrt_one_minus_alpha_bar_t, getattr(process.nn_model, "n_classes", None)
    c = torch.eye(n_classes, device=few.device).repeat(IMAGES, 1)[:IMAGES] if n_classes else None
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        x = torch.randn(IMAGES, *few.sample_size(None), generator=generator).to(few.device)
        way: list[Tensor] = [x]  # x_M, x_{M-1}, ...
        predicted: list[Tensor] = []  # the x_0 predicted at M, M - 1, ...
        for t in range(len(times), 0, -1):
            x, x0 = dpm_2m(few, x, t, c, predicted[-1] if predicted else None, None)
            way.append(x)
            predicted.append(x0)
        xs, errors = torch.stack(way[::-1]), [torch.full((len(way),), torch.inf)]
        scale = [-1, *[1] * (x.ndim)]
        for i, x0 in enumerate(predicted[::-1], 1):
            eps = (xs[i] - a[i] * x0) / s[i]
            off = a[:i].view(scale) * x0 + s[:i].view(scale) * eps - xs[:i]  # [DDIM] equation 12 without noise
            found = off.flatten(1).square().mean(dim=1).cpu()
            errors.append(torch.cat([found, torch.full((len(way) - i,), torch.inf)]))
    return torch.stack(errors).double()


def cheapest_way(errors: Tensor, n_steps: int) -> list[int]:
    """The indices M = i_1 > i_2 > ... > i_n, from which a last step leads to 0, with the least sum of errors[i, j]."""
    cost, came_from = torch.full((len(errors),), torch.inf, dtype=torch.float64), []
    cost[0] = 0  # of the best way from i to 0 in k steps, for k = 0
    for _ in range(n_steps):
        cost, nearer = (errors + cost).min(dim=1)
        came_from.append(nearer.tolist())
    way = [len(errors) - 1]
    for nearer_of in came_from[:0:-1]:
        way.append(nearer_of[way[-1]])
    return way
