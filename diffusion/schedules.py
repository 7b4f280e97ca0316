"""Noise schedules: how much noise each of the T diffusion steps adds.

[Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
[DDIM]    Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502
[DPM]     Lu et al. 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Models", arXiv:2206.00927
[Nichol]  Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672
"""

from __future__ import annotations

import math
from typing import Mapping, Sequence

import torch
from torch import Tensor

from diffusion.checks import check_choice, check_count

PLACEMENTS = ("uniform", "quadratic", "log-snr", "fitted")  # the last: diffusion/fitted_times.py


def linear(n_timesteps: int, beta1: float, beta2: float) -> Tensor:
    """beta_1 = beta1 and beta_T = beta2 exactly, evenly spaced ([Ho] section 4). Float64 [T]."""
    if not 0 < beta1 < 1 or not 0 < beta2 < 1 or beta1 >= beta2:
        raise ValueError(f"0 < beta1 < beta2 < 1 is needed, not beta1 = {beta1}, beta2 = {beta2}")
    beta = torch.linspace(beta1, beta2, n_timesteps, dtype=torch.float64)
    beta[-1] = beta2 if n_timesteps > 1 else beta1
    return beta


def cosine(n_timesteps: int, beta1: float, beta2: float) -> Tensor:
    """alpha_bar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) * pi / 2), s = 0.008 ([Nichol] equation 17), with
    alpha_t clipped to [0.001, 1] and alpha_bar rebuilt from the clipped alphas. It has no use for beta1 and beta2.
    """
    t = torch.arange(n_timesteps + 1, dtype=torch.float64)
    f = torch.cos((t / n_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - (f[1:] / f[:-1]).clamp(0.001, 1)


# Each returns beta_1 .. beta_T, float64 [T], each in (0, 1). docs/adding_a_schedule.md adds one.
SCHEDULES = {"linear": linear, "cosine": cosine}


def ddpm_schedule(beta1: float, beta2: float, n_timesteps: int, schedule: str = "linear") -> dict[str, Tensor]:
    """The schedule tensors under the exercise's names, each float32 [T + 1], computed in float64.

    schedule: a name in SCHEDULES. Raises ValueError for impossible arguments.
    """
    check_count("n_timesteps", n_timesteps)
    check_choice("schedule", schedule, list(SCHEDULES))
    beta = SCHEDULES[schedule](n_timesteps, beta1, beta2)
    return _tensors(beta, torch.arange(n_timesteps + 1) / n_timesteps)


def kept_times(
    sqrt_alpha_bar: Tensor, sqrt_one_minus_alpha_bar: Tensor, n_steps: int | Sequence[int], placement: str = "uniform"
) -> Tensor:
    """n_steps different times from 1 to T (only T if n_steps = 1), int64 [n_steps], rising, on the CPU.

    The schedule's tensors are float [T + 1]. Times are rounded, and moved apart where rounding makes two of them one.
    placement: 'uniform': evenly spaced ([Nichol] section 4). 'quadratic': evenly spaced roots, so that most lie near
    clean data ([DDIM] appendix D). 'log-snr': evenly spaced in log(alpha_bar / (1 - alpha_bar)) ([DPM] section 3.4).
    A list of times in place of n_steps is taken as it is. Raises ValueError for impossible ones.
    """
    T = len(sqrt_alpha_bar) - 1
    if not isinstance(n_steps, int) and isinstance(n_steps, Sequence):
        kept = sorted(set(n_steps))
        if not kept or len(kept) < len(n_steps) or kept[0] < 1 or kept[-1] != T:
            raise ValueError(f"times must be different whole numbers from 1 to T = {T}, with T, not {list(n_steps)}")
        return torch.tensor(kept)
    if not isinstance(n_steps, int) or not 1 <= n_steps <= T:
        raise ValueError(f"n_steps must be a whole number from 1 to T = {T}, not {n_steps}")
    check_choice("placement", placement, PLACEMENTS)
    first = 1 if n_steps > 1 else T
    if placement == "log-snr":
        log_snr = (sqrt_alpha_bar.cpu().double() / sqrt_one_minus_alpha_bar.cpu().double()).log()
        wanted = torch.linspace(log_snr[first].item(), log_snr[T].item(), n_steps, dtype=torch.float64)
        times = (log_snr[1:, None] - wanted).abs().argmin(dim=0) + 1
    else:
        power = 2 if placement == "quadratic" else 1
        times = torch.linspace(first ** (1 / power), T ** (1 / power), n_steps, dtype=torch.float64)
        times = (times**power).round().long()
    rank = torch.arange(n_steps)
    return ((times - rank).cummax(dim=0).values + rank).minimum(T - n_steps + 1 + rank)


def respaced(tensors: Mapping[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    """A schedule with some of the T times of another one. Takes and returns tensors as `ddpm_schedule` does.

    kept: int64, the times, rising. One step between neighbours s < t adds the noise of all steps from s to t:
    beta = 1 - alpha_bar_t / alpha_bar_s ([Nichol] section 4).
    """
    kept = torch.cat([kept.new_zeros(1), kept])
    time_t, alpha_bar, noise = (
        tensors[f"{name}_t"].cpu()[kept] for name in ("time", "alpha_bar", "sqrt_one_minus_alpha_bar")
    )
    alpha_bar, noise = alpha_bar.double(), noise.double() ** 2
    # The same beta in two forms: the first keeps more digits of float32 near clean data, the second elsewhere.
    near = (noise[1:] - noise[:-1]) / alpha_bar[:-1]
    return _tensors(torch.where(alpha_bar[1:] > 0.5, near, 1 - alpha_bar[1:] / alpha_bar[:-1]), time_t)


def _tensors(beta: Tensor, time_t: Tensor) -> dict[str, Tensor]:
    """All schedule tensors from beta_1 .. beta_T, float64 [T]. time_t: [T + 1], the network's input for each t."""
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
        # The clamp makes entry 0, otherwise 0 / 0, equal to 0: the step at t = 0 changes nothing.
        "one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t": beta_t / sqrt_one_minus_alpha_bar_t.clamp(min=1e-30),
    }
    return {name: values.float() for name, values in tensors.items()}
