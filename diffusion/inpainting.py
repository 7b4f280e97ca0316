"""Completing images of which some pixels are known, with a trained DDPM and without training anything more.

    [Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
    [DPS]     Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", arXiv:2209.14687
    [PiGDM]   Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023
    [RePaint] Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", arXiv:2201.09865

`complete_image` is a method of DDPM (its first argument is its self) and says what the methods are; below it are their
loops, and above it masks to try them with.
"""

from __future__ import annotations

import math
from typing import Callable

import torch

from diffusion.condition import Condition
from diffusion.noise import noise_like
from diffusion.process import Process

LEAST_SLOPE = 0.05  # where an error hardly depends on x_t, no step takes it away: none longer than this allows
METHODS = ("mean", "input", "repaint")
JUMP_LENGTH = 10
N_RESAMPLE = {"mean": 1, "input": 1, "repaint": 5}  # by default
MASKS = ("bottom", "top", "left", "right", "center", "random")


def mask_named(name: str, height: int, width: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """A mask, float32 [1, 1, height, width], 1 where the image is known; `name` says which part is hidden.

    'bottom', 'top', 'left', 'right': that half; 'center': the middle half of height and width; 'random': three quarters
    of the pixels, drawn from `generator` (on the CPU). Any other name is a ValueError.
    """
    mask = torch.ones(1, 1, height, width)
    half_y, half_x = height // 2, width // 2
    if name == "bottom":
        mask[..., half_y:, :] = 0
    elif name == "top":
        mask[..., :half_y, :] = 0
    elif name == "left":
        mask[..., :half_x] = 0
    elif name == "right":
        mask[..., half_x:] = 0
    elif name == "center":
        mask[..., height // 4 : height // 4 + half_y, width // 4 : width // 4 + half_x] = 0
    elif name == "random":
        mask = (torch.rand(mask.shape, generator=generator) < 0.25).float()
    else:
        raise ValueError(f"a mask is one of {', '.join(MASKS)}, not {name!r}")
    return mask


def checked(
    y: torch.Tensor | None, ymask: torch.Tensor | None, size: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """y and ymask as float32 [N, *size] on the device, y zero where it is unknown. ValueError for what cannot be."""
    if y is None or ymask is None:
        raise ValueError("ymask without y" if y is None else "y needs a ymask that says which of its pixels are known")
    if len(y) == 0:
        raise ValueError("y holds no image")
    if not y.is_floating_point() or tuple(y.shape[1:]) != size:
        raise ValueError(f"y must be float [N, {', '.join(map(str, size))}], not {y.dtype} {list(y.shape)}")
    y, ymask = y.to(device, torch.float32), ymask.to(device, torch.float32)
    try:
        ymask = ymask.expand_as(y)
    except RuntimeError:
        raise ValueError(f"ymask {list(ymask.shape)} does not broadcast to y {list(y.shape)}") from None
    if not ((ymask == 0) | (ymask == 1)).all():
        raise ValueError("ymask must be 1 where y is known and 0 elsewhere")
    y = torch.where(ymask == 1, y, 0.0)  # not y * ymask: nan stands for "unknown" in some images
    largest = y.abs().max().item()
    if not largest <= 1 + 1e-3:  # rounding is forgiven; values of 0..255 would draw nonsense
        raise ValueError(f"the known pixels of y must lie within [-1, 1], not {largest:g}")
    return y, ymask


def complete_image(
    ddpm: Process,
    y: torch.Tensor | None = None,
    ymask: torch.Tensor | None = None,
    scale: float = 1.0,
    method: str = "mean",
    c: torch.Tensor | None = None,
    g_weight: float = 0.0,
    n_sample: int = 1,
    mixture: str = "vector",
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Sample images of which some pixels are known, with the model as it is.

    'mean' and 'input' add a correction to every reverse step, with x0_hat = E[x_0 | x_t] clamped to [-1, 1]:

        x_{t-1} <- x_{t-1} - scale * grad MSE(ymask * (x0_hat - y))

    'mean': the gradient with respect to the mean of x_{t-1}, which is k_t x0_hat + ... x_t ([Ho] equation 7), so that
        no backward pass is needed. Hidden pixels hear of the known ones only through the noise that is still on these.
    'input': the gradient with respect to x_t, back through the network ([DPS], [PiGDM]), which moves the hidden
        pixels together with the known ones.
    'repaint': no gradient; the known pixels are replaced by their noised truth ([RePaint]).

    Stretches of jump_length steps are walked down n_resample times with new noise, so that hidden and known pixels may
    come to agree; by default 5 times with 'repaint', which needs it, and once with the others, which gain by it too.

    How the MSE is reduced: it is the sum over the pixels of one image (never a mean over pixels or batch) times
    k_t^2 / 2 for 'mean' and k_t / (2 s_t) for 'input', with the slope s_t of `step_that_fits`. So scale
    means the same for every image size, mask, batch, T and schedule: how much of the known pixels' error a step takes
    out of x0_hat. 0 is plain sampling (with clip_x0 and the posterior variance); at 1 the known pixels of 'mean'
    follow q(x_{t-1} | x_t, x_0 = y) and end as y itself. 'repaint' does not use it.

    Args:
        y: float [N, *size] in [-1, 1]; what it holds where ymask is 0 is not looked at. None: nothing is known.
        ymask: 1 where y is known, 0 elsewhere; float, integer or bool, broadcast to y (a mask for all channels).
        c: [N, n_classes] float, the class vector of each image, or None: no class. g_weight, mixture: see `Condition`.
        n_sample: completions of each image.
        generator: source of all noise, on this object's device. progress: called with t after each reverse step.

    Returns float32 [n_sample * N, *size] on the device: completion j of image k stands at k + j * N.
    Raises ValueError that names the argument that cannot be.
    """
    if n_sample < 1:
        raise ValueError(f"n_sample must be at least 1, not {n_sample}")
    size = ddpm.sample_size(getattr(ddpm.nn_model, "size", None if y is None else y.shape[1:]))
    if y is None and ymask is None:
        y, ymask = torch.zeros(1, *size), torch.zeros(1, *size)
    y, ymask = checked(y, ymask, size, ddpm.device)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    n_resample = N_RESAMPLE[method] if n_resample is None else n_resample
    times = repaint_times(ddpm.n_timesteps, jump_length, n_resample)
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale must be at least 0 and finite, not {scale}")
    if c is not None and len(c) != len(y):
        raise ValueError(f"c must be [{len(y)}, n_classes] for {len(y)} images y, not {list(c.shape)}")
    asked = None if c is None else Condition(c.to(ddpm.device).repeat(n_sample, 1), g_weight, mixture)
    y, ymask = (values.repeat(n_sample, *[1] * (y.ndim - 1)) for values in (y, ymask))

    with torch.inference_mode(False), torch.no_grad():  # False: 'input' needs gradients, wherever it is called
        x = noise_like(y, generator)
        if method == "repaint":
            return repaint(ddpm.fast_copy(), x, y, ymask, times, asked, generator, progress)
        back = method == "input"
        return by_gradient(ddpm.fast_copy(back), x, y, ymask, times, scale, back, asked, generator, progress)


def by_gradient(
    ddpm: Process,
    x: torch.Tensor,
    y: torch.Tensor,
    ymask: torch.Tensor,
    times: list[int],
    scale: float,
    through_network: bool,
    c: Condition | None,
    generator: torch.Generator | None,
    progress: Callable[[int], None] | None,
) -> torch.Tensor:
    """Along `times` from x = x_T: a step down is a reverse step, corrected by the gradient of the squared error on the
    known pixels; a step up adds noise again.
    """
    for t, t_next in zip(times, times[1:]):
        if t_next > t:
            x = noised_again(ddpm, x, t, t_next, generator)
            continue
        with torch.set_grad_enabled(through_network):
            x.requires_grad_(through_network)
            x0 = ddpm.predict_x0(x, t, ddpm.eps(x, t, c))
        x0_hat = x0.detach().clamp(-1, 1)
        error = ymask * (x0_hat - y)
        gradient = error
        if through_network:
            # The clamp is left out of the derivative: where it acts its slope is 0, and a pixel that is predicted black
            # beyond black could never be pulled to white.
            gradient = step_that_fits(torch.autograd.grad(x0, x, error)[0], error)
        # The mean of q(x_{t-1} | x_t, x_0) is k_t x_0 + ... x_t: moving x_0 by the gradient moves it by k_t gradient,
        # and that is the correction of `DDPM.complete_image`.
        x = x.detach()
        mean, variance = ddpm.q_posterior(x0_hat - scale * gradient, x, t)
        x = mean + variance.sqrt() * noise_like(x, generator)  # variance 0 at t = 1
        if progress is not None:
            progress(t)
    return x


def step_that_fits(gradient: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """The gradient J^T error (J = d x0_hat / d x_t), divided for each image by its slope.

    The slope s = <error, J^T error> / <error, error> makes the known pixels move by their error on average, as they do
    with 'mean', and the hidden ones in proportion. In [PiGDM] s is a function of t alone, right for data of variance 1;
    measured it fits any. For Gaussian data it is exact where the error is an eigenvector of the known pixels' block of J
    (a single known pixel, for one), and an approximation elsewhere.
    """
    dims = tuple(range(1, error.ndim))
    slope = (gradient * error).sum(dims, keepdim=True) / (error * error).sum(dims, keepdim=True).clamp(min=1e-12)
    return gradient / slope.clamp(min=LEAST_SLOPE)


def repaint(
    ddpm: Process,
    x: torch.Tensor,
    y: torch.Tensor,
    ymask: torch.Tensor,
    times: list[int],
    c: Condition | None,
    generator: torch.Generator | None,
    progress: Callable[[int], None] | None,
) -> torch.Tensor:
    """[RePaint] Algorithm 1 along `times`: a step down is a reverse step, a step up adds noise again."""
    for t, t_next in zip(times, times[1:]):
        if t_next > t:
            x = noised_again(ddpm, x, t, t_next, generator)
            continue
        noise = noise_like(x, generator)
        hidden = ddpm.p_sample(x, t, c, clip_x0=True, variance="posterior", generator=generator)
        x = torch.where(ymask == 1, ddpm.q_sample(y, t - 1, noise), hidden)  # at t = 1 that is y itself
        if progress is not None:
            progress(t)
    return x


def noised_again(
    ddpm: Process, x: torch.Tensor, t: int, t_next: int, generator: torch.Generator | None
) -> torch.Tensor:
    """x_{t_next} ~ q(x_{t_next} | x_t = x) for t_next > t: the forward process from t on."""
    kept = ddpm.alpha_bar_t[t_next] / ddpm.alpha_bar_t[t]
    return kept.sqrt() * x + (1 - kept).sqrt() * noise_like(x, generator)


def repaint_times(n_timesteps: int, jump_length: int, n_resample: int) -> list[int]:
    """The times that RePaint visits, from T to 0: at 1, 1 + jump_length, 1 + 2 jump_length, ... it goes back up by
    jump_length, so that each stretch between is walked down n_resample times ([RePaint] section 4.2).
    """
    for name, value in (("jump_length", jump_length), ("n_resample", n_resample)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value}")
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
