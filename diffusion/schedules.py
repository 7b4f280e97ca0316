"""Noise schedules: how much noise each of the T steps of the diffusion process adds.

[Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
[Nichol]  Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672
"""

from __future__ import annotations

import math
from typing import Mapping

import torch


def ddpm_schedule(beta1: float, beta2: float, n_timesteps: int, schedule: str = "linear") -> dict[str, torch.Tensor]:
    """The schedule tensors under the exercise's names, each float32 [T + 1], computed in float64.

    'linear': beta_1 = beta1 and beta_T = beta2 exactly, evenly spaced ([Ho] section 4).
    'cosine': alpha_bar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) * pi / 2), s = 0.008
    ([Nichol] equation 17), with alpha_t clipped to [0.001, 1] and alpha_bar rebuilt from the clipped alphas.
    """
    if not isinstance(n_timesteps, int) or n_timesteps < 1:
        raise ValueError(f"n_timesteps must be a whole number of at least 1, not {n_timesteps}")
    if schedule == "linear":
        if not 0 < beta1 < 1 or not 0 < beta2 < 1 or beta1 >= beta2:
            raise ValueError(f"0 < beta1 < beta2 < 1 must hold, not beta1 = {beta1}, beta2 = {beta2}")
        beta = torch.linspace(beta1, beta2, n_timesteps, dtype=torch.float64)
        beta[-1] = beta2 if n_timesteps > 1 else beta1
    elif schedule == "cosine":
        t = torch.arange(n_timesteps + 1, dtype=torch.float64)
        f = torch.cos((t / n_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = 1 - (f[1:] / f[:-1]).clamp(0.001, 1)
    else:
        raise ValueError(f"schedule must be 'linear' or 'cosine', not {schedule!r}")

    return _tensors(beta, torch.arange(n_timesteps + 1) / n_timesteps)


def respaced(tensors: Mapping[str, torch.Tensor], n_steps: int) -> dict[str, torch.Tensor]:
    """The schedule that visits n_steps of the T times of another one: `tensors` of `ddpm_schedule`, and such tensors.

    The times are 1 .. T, evenly spaced and rounded; between two of them lies one step with the noise of all that it
    leaves out: beta = 1 - alpha_bar_t / alpha_bar_s for neighbours s < t ([Nichol] section 4). One step: only T.
    ValueError unless 1 <= n_steps <= T.
    """
    T = len(tensors["time_t"]) - 1
    if not isinstance(n_steps, int) or not 1 <= n_steps <= T:
        raise ValueError(f"n_steps must be a whole number from 1 to T = {T}, not {n_steps}")
    kept = torch.linspace(1 if n_steps > 1 else T, T, n_steps, dtype=torch.float64).round().long()
    kept = torch.cat([kept.new_zeros(1), kept])
    time_t, alpha_bar, noise = (
        tensors[f"{name}_t"].cpu()[kept] for name in ("time", "alpha_bar", "sqrt_one_minus_alpha_bar")
    )
    alpha_bar, noise = alpha_bar.double(), noise.double() ** 2
    # Each way keeps the digits of float32 where the other loses them: near clean data, and farther away.
    beta = torch.where(
        alpha_bar[1:] > 0.5, (noise[1:] - noise[:-1]) / alpha_bar[:-1], 1 - alpha_bar[1:] / alpha_bar[:-1]
    )
    return _tensors(beta, time_t)


def _tensors(beta: torch.Tensor, time_t: torch.Tensor) -> dict[str, torch.Tensor]:
    """All that follows from beta_1 .. beta_T, float64 [T]. time_t: [T + 1], what the network is told of each t."""
    beta_t = torch.cat([beta.new_zeros(1), beta])
    alpha_t = 1 - beta_t
    alpha_bar_t = torch.cumprod(alpha_t, dim=0)
    sqrt_one_minus_alpha_bar_t = (1 - alpha_bar_t).sqrt()
    tensors = {
        "time_t": time_t,
        "sqrt_beta_t": beta_t.sqrt(),
        "alpha_t": alpha_t,
        "alpha_bar_t": alpha_bar_t,
        "one_over_sqrt_alpha_t": 1 / alpha_t.sqrt(),
        "sqrt_alpha_bar_t": alpha_bar_t.sqrt(),
        "sqrt_one_minus_alpha_bar_t": sqrt_one_minus_alpha_bar_t,
        # Entry 0 would be 0 / 0; the step at t = 0 changes nothing, so that 0 is its value. The tiny number
        # only keeps the division finite there.
        "one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t": beta_t / sqrt_one_minus_alpha_bar_t.clamp(min=1e-30),
    }
    return {name: values.float() for name, values in tensors.items()}
