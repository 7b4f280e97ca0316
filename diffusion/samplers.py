"""Samplers: ways to take one reverse step, from x_t to x_{t-1}.

    [Ho]    Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
    [DDIM]  Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502
    [DPM++] Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Models", arXiv:2211.01095

    sampler     noise in each step    order    made for
    ddpm        as much as [Ho]       1        many steps (Algorithm 2); few steps of a network that trained briefly
    ddim        eta times as much     1        the same image from the same noise, whatever the number of steps
    dpm++2m     none                  2        few steps of a network that trained long
    sde-dpm++2m as much as [Ho]       2        as ddpm, in fewer steps

A step may be a long one: `DDPM.respaced` keeps a few of the T times and numbers them 1, 2, ..., so that "the next time" is
still t - 1. Every sampler is a function with the arguments

    process  the DDPM; its clip_x0 says whether the predicted x_0 is clamped to [-1, 1]
    x        x_t, float [N, *size]
    t        int in 1..n_timesteps
    c        class vectors, None or a `Condition` (guidance, mixtures); see `DDPM.eps`
    before   the x_0 that was predicted one step before (at t + 1), or None in the first step: what a solver of order 2
             learns the slope from
    generator  source of the noise

and returns x_{t-1} and the predicted x_0. With a_t = sqrt(alpha_bar_t) and s_t = sqrt(1 - alpha_bar_t):

    x_t = a_t x_0 + s_t eps,    log-SNR / 2: lambda_t = log(a_t / s_t),    h = lambda_{t-1} - lambda_t > 0
"""

from __future__ import annotations

from typing import Callable, Optional, Tuple, Union

import torch
from torch import Tensor

from diffusion.noise import Generator, noise_like
from diffusion.process import ConditionLike, Process

Before = Optional[Tensor]
Step = Callable[[Process, Tensor, int, ConditionLike, Before, Generator], Tuple[Tensor, Before]]


def ddpm(
    process: Process, x: Tensor, t: int, c: ConditionLike, before: Before, generator: Generator
) -> tuple[Tensor, Before]:
    """[Ho] Algorithm 2, with the variance that the process has (see `DDPM.p_sample`)."""
    return process.p_sample(x, t, c, process.clip_x0, process.variance, generator), None


def ddim(
    process: Process, x: Tensor, t: int, c: ConditionLike, before: Before, generator: Generator, eta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """[DDIM] equation 12. eta = 0 adds no noise; eta = 1 is Algorithm 2 with the posterior variance."""
    a, s = process.sqrt_alpha_bar_t, process.sqrt_one_minus_alpha_bar_t
    x0 = predicted_x0(process, x, t, c)
    eps = (x - a[t] * x0) / s[t]
    sigma = eta * process.sqrt_beta_t[t] * s[t - 1] / s[t]  # [DDIM] equation 16; 0 at t = 1
    x = a[t - 1] * x0 + (s[t - 1] ** 2 - sigma**2).clamp(min=0).sqrt() * eps
    return (x + sigma * noise_like(x, generator) if eta and t > 1 else x), x0


def dpm_2m(
    process: Process, x: Tensor, t: int, c: ConditionLike, before: Before, generator: Generator
) -> tuple[Tensor, Tensor]:
    """DPM-Solver++(2M), [DPM++] Algorithm 2: the probability-flow ODE, with x_0 as a straight line in lambda."""
    a, s = process.sqrt_alpha_bar_t, process.sqrt_one_minus_alpha_bar_t
    x0 = predicted_x0(process, x, t, c)
    return s[t - 1] / s[t] * x + a[t - 1] * (1 - decay(process, t)) * middle_x0(process, t, x0, before), x0


def sde_dpm_2m(
    process: Process, x: Tensor, t: int, c: ConditionLike, before: Before, generator: Generator
) -> tuple[Tensor, Tensor]:
    """SDE-DPM-Solver++(2M), [DPM++] equation 18: the reverse SDE with the noise of Algorithm 2, solved in the same way."""
    a, s, shrink = process.sqrt_alpha_bar_t, process.sqrt_one_minus_alpha_bar_t, decay(process, t)
    x0 = predicted_x0(process, x, t, c)
    x = s[t - 1] / s[t] * shrink * x + a[t - 1] * (1 - shrink**2) * middle_x0(process, t, x0, before)
    return (x + s[t - 1] * (1 - shrink**2).sqrt() * noise_like(x, generator) if t > 1 else x), x0


SAMPLERS: dict[str, Step] = {"ddpm": ddpm, "ddim": ddim, "dpm++2m": dpm_2m, "sde-dpm++2m": sde_dpm_2m}
Sampler = Union[str, Step]  # one of these names, or such a function: functools.partial(ddim, eta=0.5)


def predicted_x0(process: Process, x: Tensor, t: int, c: ConditionLike) -> Tensor:
    x0 = process.predict_x0(x, t, process.eps(x, t, c))
    return x0.clamp(-1, 1) if process.clip_x0 else x0


def decay(process: Process, t: int) -> Tensor:
    """exp(-h). It is 0 at t = 1, where h is infinite."""
    a, s = process.sqrt_alpha_bar_t, process.sqrt_one_minus_alpha_bar_t
    return a[t] * s[t - 1] / (s[t] * a[t - 1])


def middle_x0(process: Process, t: int, x0: Tensor, before: Before) -> Tensor:
    """x_0 where the straight line through the last two predictions is in the middle of the step (in lambda).

    In the first step there is no line, and the last one ends at lambda = infinity: the prediction itself.
    """
    if before is None or t == 1:
        return x0
    ratio = torch.log(decay(process, t)) / torch.log(decay(process, t + 1))  # h / h of the step before
    return x0 + ratio / 2 * (x0 - before)
