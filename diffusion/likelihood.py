"""The variational bound on -log p_theta(x_0), and its simplified form.

    [Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239

The bound is a sum of T + 1 terms L_0 .. L_T ([Ho] equation 5). All but L_0 are KL divergences of Gaussians. With

    (mean of q(x_{t-1} | x_t, x_0)) - (mean of p_theta(x_{t-1} | x_t)) = k_t (eps_theta(x_t, t) - eps)

(k_t = beta_t / sqrt(alpha_t (1 - alpha_bar_t)), from [Ho] equations 8 to 12; at t = 1 the first mean is x_0 itself)
they follow from the squared error of the predicted noise alone: T numbers for each image.

`negative_elbo` and `variational_bound` are methods of DDPM; their first argument is self.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checks import check_choice, check_class_vectors, check_count, check_finite
from diffusion.process import Process, Progress

VARIANCES = ("beta", "posterior")
DECODERS = ("discrete", "gaussian")
HALF_BIN = 1 / 255  # half the distance between neighbours of the 256 levels of an image in [-1, 1]


class Bound(NamedTuple):
    """The result of `variational_bound` for N images of D = pixels * channels numbers; float64, on the CPU."""

    terms: Tensor  # [N, T + 1], nats: terms[:, k] is L_k. L_{t-1} comes from the network at time t, L_T from no network
    nats: Tensor  # [N]: their sum; in the mean over the noise at least -log p_theta(x_0)
    bits_per_dim: Tensor  # [N]: nats / (D ln 2)


def negative_elbo(
    ddpm: Process, x: Tensor, c: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The simplified objective of each sample ([Ho] equation 14): an unbiased estimate, with one t and one eps, of

        E_{t, eps} |eps - eps_theta(x_t, t, c)|^2 / D,    t uniform on 1..T, eps standard normal, D = pixels * channels.

    It is a mean over the D numbers, as the training loss: about 1 for a network that predicts 0, at any image size. It
    is not in nats and not a bound, because [Ho] drop the weights and constants that `variational_bound` keeps.

    x: float [N, *size] in [-1, 1]. c: [N, n_classes] or None; no row is dropped (to train for guidance call the model).
    Returns float32 [N] on the device. The mode of the network stays as it is, and gradients flow: training on the mean
    of this is [Ho] Algorithm 1. Raises ValueError for wrong input.
    """
    x, c = _checked(ddpm, x, c)
    t, noise, _ = ddpm.draw(x, None, generator)
    return (ddpm.eps(ddpm.q_sample(x, t, noise), t, c) - noise).square().flatten(1).mean(dim=1)


def variational_bound(
    ddpm: Process,
    x: Tensor,
    c: Tensor | None = None,
    generator: torch.Generator | None = None,
    n_draws: int = 1,
    variance: str | None = None,
    clip_x0: bool | None = None,
    decoder: str = "discrete",
    batch_size: int = 256,
    progress: Progress = None,
) -> Bound:
    """The variational bound L_0 + ... + L_T >= -log p_theta(x_0 | c) of each image, term by term ([Ho] equation 5):

        L_T     = KL(q(x_T | x_0) || N(0, I))                                    exact
        L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t, c))         t = 2..T, x_t drawn from q(x_t | x_0)
        L_0     = -log p_theta(x_0 | x_1, c)                                     x_1 drawn from q(x_1 | x_0)

    It takes n_draws * T network passes per batch. The bound of a single image is noisy, because x_t is random (it may
    be below the true value). The mean over many images or draws is not.

    Args:
        x: float [N, *size] in [-1, 1]. c: [N, n_classes] or None: no class.
        generator: source of the noise, on the model's device. n_draws: draws of x_t at each t, averaged.
        variance, clip_x0: the p_theta of `DDPM.p_sample`; None: as the DDPM samples. 'beta' gives a tighter bound for
            data with a density, 'posterior' for data that x_t nearly determines. Clipping, as in [Ho]'s code, lowers
            L_1 .. L_{T-1} of data in [-1, 1] but may raise L_0: a black pixel is most probable if the mean is below -1.
        decoder: p_theta(x_0 | x_1). 'discrete': probabilities of 8-bit images; then bits per dimension compare with
            published ones. 'gaussian': a density, for data that are not images (bits per dimension may be negative).
        batch_size: images that the network sees at once. progress: called with t after each network pass.

    A faster copy of the network runs, as in `DDPM.sample`; the model is not changed. Raises ValueError for wrong
    arguments.
    """
    x, c = _checked(ddpm, x, c)
    variance = ddpm.variance if variance is None else variance
    clip_x0 = ddpm.clip_x0 if clip_x0 is None else clip_x0
    check_choice("variance", variance, VARIANCES)
    check_choice("decoder", decoder, DECODERS)
    check_count("n_draws", n_draws)
    check_count("batch_size", batch_size)
    if decoder == "discrete" and not is_8_bit(x):
        raise ValueError("x must hold the 256 levels k / 127.5 - 1 of 8-bit images; for other data: decoder='gaussian'")

    terms = torch.zeros(len(x), ddpm.n_timesteps + 1, dtype=torch.float64)
    with torch.no_grad():
        fast = ddpm.fast_copy()
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            for _ in range(n_draws):
                squares, error = _errors(fast, x[rows], None if c is None else c[rows], clip_x0, generator, progress)
                terms[rows] += _terms(fast, x[rows].cpu().double(), squares, error, variance, decoder) / n_draws
    nats = terms.sum(dim=1)
    return Bound(terms, nats, nats / (x[0].numel() * math.log(2)))


def _errors(
    ddpm: Process, x: Tensor, c: Tensor | None, clip_x0: bool, generator: torch.Generator | None, progress: Progress
) -> tuple[Tensor, Tensor]:
    """|eps_theta - eps|^2 for t = 1..T, [N, T], and eps_theta - eps at t = 1, [N, D]; float64 on the CPU."""
    squares = []
    for t in range(ddpm.n_timesteps, 0, -1):
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        x_t = ddpm.q_sample(x, t, noise)
        error = ddpm.eps(x_t, t, c) - noise
        if clip_x0:  # the noise that leads from the clamped x_0 to x_t, minus the true noise
            wrong_by = x - ddpm.predict_x0(x_t, t, noise + error).clamp(-1, 1)
            error = wrong_by * ddpm.sqrt_alpha_bar_t[t] / ddpm.sqrt_one_minus_alpha_bar_t[t]
        error = error.flatten(1)
        squares.append(error.square().sum(dim=1))
        if progress is not None:
            progress(t)
    # One copy at the end, since a copy inside the loop makes a GPU wait. Float64 on the CPU: Apple's GPUs have none.
    return torch.stack(squares[::-1], dim=1).cpu().double(), error.cpu().double()


def _terms(ddpm: Process, x: Tensor, squares: Tensor, error: Tensor, variance: str, decoder: str) -> Tensor:
    """L_0 .. L_T, [N, T + 1], from the results of `_errors`; float64, on the CPU."""
    x, D, T = x.flatten(1), x[0].numel(), ddpm.n_timesteps
    k = (ddpm.one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t * ddpm.one_over_sqrt_alpha_t)[1:].cpu().double()
    posterior, sigma2, sigma2_1 = _variances(ddpm, variance, decoder)

    log_p = log_discrete if decoder == "discrete" else log_gaussian
    L_0 = -log_p(x, k[0] * error, sigma2_1).sum(dim=1, keepdim=True)
    L_between = gaussian_kl(k[1:] ** 2 * squares[:, 1:], posterior[1:], sigma2[1:], D)  # [Ho] equation 12
    distance = ddpm.alpha_bar_t[T].item() * x.square().sum(dim=1, keepdim=True)
    L_T = gaussian_kl(distance, ddpm.sqrt_one_minus_alpha_bar_t[T].cpu().double() ** 2, 1.0, D)
    return torch.cat([L_0, L_between, L_T], dim=1)


def _variances(ddpm: Process, variance: str, decoder: str) -> tuple[Tensor, Tensor, Tensor]:
    """The variances of q(x_{t-1} | x_t, x_0) and of p_theta(x_{t-1} | x_t), [T] from t = 1 on, and of the decoder.

    The decoder cannot use the posterior variance, which is 0 at t = 1. For a density it uses beta_1; then the bound
    becomes exact in the limit of many small steps. For 8-bit images it uses the posterior variance at t = 2, about half
    as large, as in the code of [Ho].
    """
    zeros = torch.zeros(ddpm.n_timesteps, 1, device=ddpm.device)
    t = torch.arange(1, ddpm.n_timesteps + 1, device=ddpm.device)
    posterior = ddpm.q_posterior(zeros, zeros, t)[1].flatten().cpu().double()
    beta = ddpm.sqrt_beta_t[1:].cpu().double() ** 2
    sigma2_1 = posterior[1] if decoder == "discrete" and ddpm.n_timesteps > 1 else beta[0]
    return posterior, beta if variance == "beta" else posterior, sigma2_1


def gaussian_kl(distance: Tensor, v_1: Tensor, v_2: Tensor | float, dimensions: int) -> Tensor:
    """KL(N(m_1, v_1 I) || N(m_2, v_2 I)) in nats, with distance = |m_1 - m_2|^2; broadcasts.

    For equal variances v it is distance / (2 v) ([Ho] equation 8).
    """
    ratio = v_1 / v_2
    return dimensions / 2 * (ratio - 1 - ratio.log()) + distance / (2 * v_2)


# ------------------------------------------------------------ decoders, p_theta(x_0 | x_1)


def log_gaussian(x: Tensor, gap: Tensor, variance: Tensor) -> Tensor:
    """Log density of N(mean, variance) at each pixel x = mean + gap, shaped like x; nats."""
    return -(gap**2 / variance + (2 * math.pi * variance).log()) / 2


def log_discrete(x: Tensor, gap: Tensor, variance: Tensor) -> Tensor:
    """Log probability of each 8-bit pixel x = mean + gap, shaped like x; nats ([Ho] equation 13).

    It is the probability of the bin around x under N(mean, variance). The bins of -1 and 1 extend to infinity.
    """
    sigma = variance.sqrt()
    lower = torch.where(x < -1 + HALF_BIN, -math.inf, (gap - HALF_BIN) / sigma)
    upper = torch.where(x > 1 - HALF_BIN, math.inf, (gap + HALF_BIN) / sigma)
    return log_normal_between(lower, upper)


def log_normal_between(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Phi(upper) - Phi(lower)) of the standard normal for lower < upper, one of which may be infinite; float64.

    In the tails both Phi round to 0 or to 1. An interval is as probable as its mirror image: use the one where Phi is
    small, where its logarithm is exact.
    """
    mirror = lower + upper > 0
    small, large = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    log_small, log_large = torch.special.log_ndtr(small), torch.special.log_ndtr(large)
    return log_large + (-torch.expm1(log_small - log_large)).log()


# ------------------------------------------------------------ input


def is_8_bit(x: Tensor) -> bool:
    """Whether all of x are levels k / 127.5 - 1, k = 0..255, up to rounding."""
    k = (x + 1) * 127.5
    return bool(((k - k.round()).abs() < 1e-3).all() and k.min() > -0.5 and k.max() < 255.5)


def _checked(ddpm: Process, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x and c as float32 on the device."""
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be float [N, *size] with at least one sample, not {x.dtype} {list(x.shape)}")
    check_finite("x", x)
    if c is not None:
        check_class_vectors(c, len(x))
        check_finite("c", c)
        c = c.to(ddpm.device, torch.float32)
    return x.to(ddpm.device, torch.float32), c
