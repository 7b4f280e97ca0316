"""Fewer steps than T: `respaced`, a method of DDPM; its first argument is self.

[Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
[Nichol]  Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672
"""

from __future__ import annotations

import copy
from typing import Sequence, TypeVar

from diffusion import schedules
from diffusion.checks import check_choice
from diffusion.fitted_times import fitted_times
from diffusion.process import Process
from diffusion.samplers import SAMPLERS, Sampler

AnyDDPM = TypeVar("AnyDDPM", bound=Process)


def respaced(
    ddpm: AnyDDPM, n_steps: int | Sequence[int], sampler: Sampler | None = None, placement: str = "uniform"
) -> AnyDDPM:
    """A copy that samples with n_steps of the T steps ([Nichol] section 4). It shares the network.

    n_steps: how many, or the times themselves, T among them.
    sampler: 'ddpm', 'ddim', 'dpm++2m', 'sde-dpm++2m' or a function (diffusion/samplers.py); None: as this object.
    placement: of the times: 'uniform' in t, 'quadratic', uniform in 'log-snr' (diffusion/schedules.py), or 'fitted'
        to this model, which costs as much as drawing 30 images in 50 steps (diffusion/fitted_times.py).

    With fewer steps its `variance` is 'posterior': beta_t is much larger with few steps and would leave noise on
    images, which x_t nearly determines. Data that are spread out like noise need 'beta' ([Ho] section 3.2).
    Raises ValueError unless 1 <= n_steps <= T.
    """
    few = copy.copy(ddpm)
    if isinstance(sampler, str):
        check_choice("sampler", sampler, list(SAMPLERS))
    few.sampler = sampler or ddpm.sampler
    if placement == "fitted" and isinstance(n_steps, int):
        n_steps = fitted_times(ddpm, [n_steps])[n_steps]
    kept = schedules.kept_times(ddpm.sqrt_alpha_bar_t, ddpm.sqrt_one_minus_alpha_bar_t, n_steps, placement)
    if len(kept) < ddpm.n_timesteps:
        tensors = schedules.respaced(ddpm._buffers, kept)
        few._buffers = {name: values.to(ddpm.device) for name, values in tensors.items()}
        few.n_timesteps, few.variance = len(kept), "posterior"
    return few
