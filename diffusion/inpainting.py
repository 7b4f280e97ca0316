"""Completing images of which some pixels are known, with a trained DDPM and without more training.

    [Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
    [DPS]     Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", arXiv:2209.14687
    [PiGDM]   Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023
    [RePaint] Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", arXiv:2201.09865

`complete_image` is a method of DDPM; its first argument is self. It has three methods. 'mean' and 'input' correct every
reverse step, with x0_hat = E[x_0 | x_t] clamped to [-1, 1]:

    x_{t-1} <- x_{t-1} - scale * grad MSE(ymask * (x0_hat - y))

'mean': the gradient with respect to the mean of x_{t-1}, which is k_t x0_hat + ... x_t ([Ho] equation 7). It needs no
    backward pass. The known pixels act on the hidden ones only through the noise that is still on them.
'input': the gradient with respect to x_t, back through the network ([DPS], [PiGDM]). It moves the hidden pixels together
    with the known ones.
'repaint': no gradient. Each step replaces the known pixels by y with the noise of that step ([RePaint]).

The MSE is the sum over the pixels of one image (not a mean over pixels or batch) times k_t^2 / 2 for 'mean' and
k_t / (2 s_t) for 'input', with the slope s_t of `divided_by_slope`. So scale means the same for every image size, mask,
batch, T and schedule: the share of the known pixels' error that a step removes from x0_hat. 0 is plain sampling (with
clip_x0 and the posterior variance). At 1 the known pixels of 'mean' follow q(x_{t-1} | x_t, x_0 = y) and end as y.

Resampling ([RePaint]): noise is added again, and the same steps are repeated, so that hidden and known pixels come to
agree. 'repaint' needs it; the other methods profit from it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from diffusion.checks import check_choice, check_class_vectors, check_count
from diffusion.condition import Condition
from diffusion.noise import noise_like
from diffusion.process import ConditionLike, Process, Progress

MIN_SLOPE = 0.05  # limits the step where the error hardly depends on x_t
METHODS = ("mean", "input", "repaint")
JUMP_LENGTH = 10
N_RESAMPLE = {"mean": 1, "input": 1, "repaint": 5}  # by default
# What completed most digits to their true class (docs/results.md), with few steps; figures of the scripts use it.
BEST: dict[str, Any] = {"method": "input", "n_resample": 10, "jump_length": 5}
MASKS = ("bottom", "top", "left", "right", "center", "random")


def mask_named(name: str, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """A mask, float32 [1, 1, height, width], 1 where the image is known. `name` says which part is hidden.

    'bottom', 'top', 'left', 'right': that half; 'center': the middle half of height and width; 'random': three quarters
    of the pixels, drawn from `generator` (on the CPU). Raises ValueError for another name.
    """
    if name == "random":
        return (torch.rand(1, 1, height, width, generator=generator) < 0.25).float()
    check_choice("mask", name, MASKS)
    row, column = torch.arange(height).view(-1, 1), torch.arange(width)
    y, x = height // 2, width // 2
    top, left = height // 4, width // 4
    hidden = {
        "bottom": row >= y,
        "top": row < y,
        "left": column < x,
        "right": column >= x,
        "center": (top <= row) & (row < top + y) & (left <= column) & (column < left + x),
    }[name]
    return (~hidden).float().expand(1, 1, height, width).contiguous()


def complete_image(
    ddpm: Process,
    y: Tensor | None = None,
    ymask: Tensor | None = None,
    scale: float = 1.0,
    method: str = "mean",
    c: Tensor | None = None,
    g_weight: float = 0.0,
    n_sample: int = 1,
    mixture: str = "vector",
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
    generator: torch.Generator | None = None,
    progress: Progress = None,
) -> Tensor:
    """Sample images of which some pixels are known. The head of diffusion/inpainting.py explains the methods.

    Args:
        y: float [N, *size] in [-1, 1]; its values where ymask is 0 are not used. None: nothing is known.
        ymask: 1 where y is known, 0 elsewhere; float, integer or bool, broadcast to y (a mask for all channels).
        scale: how much of the known pixels' error each step removes; not used by 'repaint'. method: see above.
        c: class vector of each image, float [N, n_classes], or None: no class. g_weight, mixture: see `Condition`.
        n_sample: completions of each image.
        n_resample, jump_length: how often steps are taken (None: 'repaint' 5 times, others 1), and how many at a time.
        generator: source of all noise, on this object's device. progress: called with t after each reverse step.

    Returns float32 [n_sample * N, *size] on the device: completion j of image k stands at k + j * N.
    Raises ValueError that names the argument and its value.
    """
    check_count("n_sample", n_sample)
    check_choice("method", method, METHODS)
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale must be at least 0 and finite, not {scale}")
    times = resampling_times(ddpm.n_timesteps, jump_length, N_RESAMPLE[method] if n_resample is None else n_resample)
    y, ymask = _checked(ddpm, y, ymask)
    condition = None
    if c is not None:
        check_class_vectors(c, len(y))
        condition = Condition(c.to(ddpm.device).repeat(n_sample, 1), g_weight, mixture)
    y, ymask = (values.repeat(n_sample, *[1] * (y.ndim - 1)) for values in (y, ymask))

    with torch.inference_mode(False), torch.no_grad():  # False: 'input' needs gradients, wherever it is called
        fast, x = ddpm.fast_copy(gradients=method == "input"), noise_like(y, generator)
        for t, t_next in zip(times, times[1:]):
            if t_next > t:
                kept = ddpm.alpha_bar_t[t_next] / ddpm.alpha_bar_t[t]  # x_{t_next} ~ q(x_{t_next} | x_t)
                x = kept.sqrt() * x + (1 - kept).sqrt() * noise_like(x, generator)
                continue
            if method == "repaint":  # [RePaint] Algorithm 1
                noise = noise_like(x, generator)
                hidden = fast.p_sample(x, t, condition, clip_x0=True, variance="posterior", generator=generator)
                x = torch.where(ymask == 1, fast.q_sample(y, t - 1, noise), hidden)  # at t = 1 that is y itself
            else:
                x0 = corrected_x0(fast, x, t, condition, y, ymask, scale, method == "input")
                mean, variance = fast.q_posterior(x0, x, t)
                x = mean + variance.sqrt() * noise_like(x, generator)  # variance 0 at t = 1
            if progress is not None:
                progress(t)
    return x


def _checked(ddpm: Process, y: Tensor | None, ymask: Tensor | None) -> tuple[Tensor, Tensor]:
    """y and ymask as float32 [N, *size] on the device, with y = 0 where it is unknown."""
    size = ddpm.sample_size(getattr(ddpm.nn_model, "size", None if y is None else y.shape[1:]))
    if y is None and ymask is None:
        y, ymask = torch.zeros(1, *size), torch.zeros(1, *size)
    if y is None or ymask is None:
        raise ValueError("ymask without y" if y is None else "y needs a ymask that says which of its pixels are known")
    if len(y) == 0:
        raise ValueError("y holds no image")
    if not y.is_floating_point() or tuple(y.shape[1:]) != size:
        raise ValueError(f"y must be float [N, {', '.join(map(str, size))}], not {y.dtype} {list(y.shape)}")
    y, ymask = y.to(ddpm.device, torch.float32), ymask.to(ddpm.device, torch.float32)
    try:
        ymask = ymask.expand_as(y)
    except RuntimeError:
        raise ValueError(f"ymask {list(ymask.shape)} does not broadcast to y {list(y.shape)}") from None
    if not ((ymask == 0) | (ymask == 1)).all():
        raise ValueError("ymask must be 1 where y is known and 0 elsewhere")
    y = torch.where(ymask == 1, y, 0.0)  # not y * ymask: nan stands for "unknown" in some images
    largest = y.abs().max().item()
    if not largest <= 1 + 1e-3:  # allows for rounding, but not for values in 0..255
        raise ValueError(f"the known pixels of y must be in [-1, 1], not {largest:g}")
    if y.min() >= 0 and largest > 0:
        warnings.warn(
            "no known pixel of y is below 0: images are in [-1, 1] here; from [0, 1]: 2 * y - 1", stacklevel=3
        )
    return y, ymask


def corrected_x0(
    ddpm: Process, x: Tensor, t: int, c: ConditionLike, y: Tensor, ymask: Tensor, scale: float, through_network: bool
) -> Tensor:
    """x0_hat - scale * gradient of the squared error on the known pixels, like x = x_t.

    The mean of q(x_{t-1} | x_t, x_0) is k_t x_0 + ... x_t. So this moves it by k_t gradient, as the head says.
    """
    with torch.set_grad_enabled(through_network):
        x = x.detach().requires_grad_(through_network)
        x0 = ddpm.predict_x0(x, t, ddpm.eps(x, t, c))
    x0_hat = x0.detach().clamp(-1, 1)
    gradient = error = ymask * (x0_hat - y)
    if through_network:
        # The derivative leaves out the clamp: where the clamp acts its slope is 0, and a pixel that is predicted darker
        # than black could never become white.
        gradient = divided_by_slope(torch.autograd.grad(x0, x, error)[0], error)
    return x0_hat - scale * gradient


def divided_by_slope(gradient: Tensor, error: Tensor) -> Tensor:
    """The gradient J^T error (J = d x0_hat / d x_t) [N, *size], divided by the slope of each image.

    With the slope s = <error, J^T error> / <error, error> the known pixels move by their error on average, as with
    'mean', and the hidden ones in proportion. [PiGDM] has a function of t alone, which is right for data of variance 1;
    the measured slope fits any data. For Gaussian data it is exact where the error is an eigenvector of the known
    pixels' block of J (for example, one known pixel), and approximate elsewhere.
    """
    dims = tuple(range(1, error.ndim))
    slope = (gradient * error).sum(dims, keepdim=True) / (error * error).sum(dims, keepdim=True).clamp(min=1e-12)
    return gradient / slope.clamp(min=MIN_SLOPE)


def resampling_times(n_timesteps: int, jump_length: int, n_resample: int) -> list[int]:
    """The times of all steps, from T to 0. At 1, 1 + jump_length, 1 + 2 jump_length, ... the time goes back up by
    jump_length, until the steps in between have been taken n_resample times ([RePaint] section 4.2).
    """
    check_count("jump_length", jump_length)
    check_count("n_resample", n_resample)
    times, t = [n_timesteps], n_timesteps
    left = {start: n_resample - 1 for start in range(1, n_timesteps, jump_length)}
    while t > 0:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            t = min(t + jump_length, n_timesteps)
            times.append(t)
    return times
