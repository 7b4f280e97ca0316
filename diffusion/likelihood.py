"""How likely a DDPM finds given images: the variational bound on -log p_theta(x_0), and its simplified form.

    [Ho]      Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239

The bound is a sum of T + 1 terms L_0 .. L_T ([Ho] equation 5). All but L_0 are divergences of Gaussians, and thanks to

    (mean of q(x_{t-1} | x_t, x_0)) - (mean of p_theta(x_{t-1} | x_t)) = k_t (eps_theta(x_t, t) - eps)

(k_t = beta_t / sqrt(alpha_t (1 - alpha_bar_t)), from [Ho] equations 8 to 12; at t = 1 the first mean is x_0 itself)
they need of the network only the squared error of its noise: T numbers for each image. The rest is arithmetic.

`negative_elbo` and `variational_bound` are methods of DDPM; their first argument is its self.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import torch

from diffusion.checks import check_finite
from diffusion.process import Process

VARIANCES = ("beta", "posterior")
DECODERS = ("discrete", "gaussian")
HALF_BIN = 1 / 255  # half the distance of two of the 256 levels of an image in [-1, 1]


class Bound(NamedTuple):
    """What `variational_bound` found for N images of D = pixels * channels; float64, on the CPU."""

    terms: torch.Tensor  # [N, T + 1], nats: terms[:, k] is L_k; the network at time t makes L_{t-1}, no network L_T
    nats: torch.Tensor  # [N]: their sum, at least -log p_theta(x_0) on average over the noise
    bits_per_dim: torch.Tensor  # [N]: nats / (D ln 2)


def negative_elbo(
    ddpm: Process, x: torch.Tensor, c: torch.Tensor | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """The simplified objective of each sample ([Ho] equation 14): an unbiased estimate, from one t and one eps, of

        E_{t, eps} |eps - eps_theta(x_t, t, c)|^2 / D,    t uniform on 1..T, eps standard normal, D = pixels * channels.

    The mean over the D numbers, as in the training loss, not their sum: 1 for a network that answers 0, whatever the
    image size. It is neither nats nor a bound: [Ho] drop the weights and constants that `variational_bound` keeps.

    x: [N, *size] float in [-1, 1]. c: [N, n_classes] or None; no row is dropped (to train for guidance call the model).
    Returns float32 [N] on the device. The network runs in the mode it is in, and gradients flow: training on the mean
    of this is [Ho] Algorithm 1. Raises ValueError for input that cannot be.
    """
    x, c = _checked(ddpm, x, c)
    t, noise, _ = ddpm.draw(x, None, generator)
    return (ddpm.eps(ddpm.q_sample(x, t, noise), t, c) - noise).square().flatten(1).mean(dim=1)


def variational_bound(
    ddpm: Process,
    x: torch.Tensor,
    c: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    n_draws: int = 1,
    variance: str | None = None,
    clip_x0: bool | None = None,
    decoder: str = "discrete",
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Bound:
    """The variational bound L_0 + ... + L_T >= -log p_theta(x_0 | c) of each image, term by term ([Ho] equation 5):

        L_T     = KL(q(x_T | x_0) || N(0, I))                                    exact
        L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t, c))         t = 2..T, x_t drawn from q(x_t | x_0)
        L_0     = -log p_theta(x_0 | x_1, c)                                     x_1 drawn from q(x_1 | x_0)

    Every t is visited: n_draws * T network passes for each batch. What is drawn makes a single image's bound noisy (it
    may come out below the true value); in a mean over many images or draws that goes away.

    Args:
        x: float [N, *size] in [-1, 1]. c: [N, n_classes] or None: no class.
        generator: source of the noise, on the model's device. n_draws: draws of x_t at each t, averaged.
        variance, clip_x0: the p_theta of `DDPM.p_sample`; None: as the DDPM draws. 'beta' bounds data with a density more
            tightly, 'posterior' data that x_t all but determines. Clipping, as in the code of [Ho], lowers
            L_1 .. L_{T-1} of data in [-1, 1], but may raise L_0: a black pixel is likeliest where the mean is blacker than black.
        decoder: p_theta(x_0 | x_1). 'discrete': probabilities of 8-bit images, so that bits per dimension compare with
            published ones. 'gaussian': a density, for data that are no images (bits per dimension may be negative).
        batch_size: images that the network sees at once. progress: called with t after each network pass.

    The network that runs is the faster copy that `DDPM.sample` uses; the model is left as it was found.
    Raises ValueError for arguments that cannot be.
    """
    x, c = _checked(ddpm, x, c)
    variance = ddpm.variance if variance is None else variance
    clip_x0 = ddpm.clip_x0 if clip_x0 is None else clip_x0
    for name, value, allowed in (("variance", variance, VARIANCES), ("decoder", decoder, DECODERS)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, not {value!r}")
    for name, count in (("n_draws", n_draws), ("batch_size", batch_size)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {count}")
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
    ddpm: Process,
    x: torch.Tensor,
    c: torch.Tensor | None,
    clip_x0: bool,
    generator: torch.Generator | None,
    progress: Callable[[int], None] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the bound needs of the network: |eps_theta - eps|^2 for t = 1..T, [N, T], and eps_theta - eps at t = 1,
    [N, D]; float64 on the CPU.
    """
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
    # Copied at the end: a copy inside the loop would stop a GPU at every step. Float64 after it: Apple GPUs have none.
    return torch.stack(squares[::-1], dim=1).cpu().double(), error.cpu().double()


def _terms(
    ddpm: Process, x: torch.Tensor, squares: torch.Tensor, error: torch.Tensor, variance: str, decoder: str
) -> torch.Tensor:
    """L_0 .. L_T, [N, T + 1], from what `_errors` found. Everything float64, on the CPU."""
    x, D, T = x.flatten(1), x[0].numel(), ddpm.n_timesteps
    k = (ddpm.one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t * ddpm.one_over_sqrt_alpha_t)[1:].cpu().double()
    posterior, sigma2, sigma2_1 = _variances(ddpm, variance, decoder)

    log_p = log_discrete if decoder == "discrete" else log_gaussian
    L_0 = -log_p(x, k[0] * error, sigma2_1).sum(dim=1, keepdim=True)
    L_between = gaussian_kl(k[1:] ** 2 * squares[:, 1:], posterior[1:], sigma2[1:], D)  # [Ho] equation 12
    distance = ddpm.alpha_bar_t[T].item() * x.square().sum(dim=1, keepdim=True)
    L_T = gaussian_kl(distance, ddpm.sqrt_one_minus_alpha_bar_t[T].cpu().double() ** 2, 1.0, D)
    return torch.cat([L_0, L_between, L_T], dim=1)


def _variances(ddpm: Process, variance: str, decoder: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The variances of q(x_{t-1} | x_t, x_0) and of p_theta(x_{t-1} | x_t), [T] with t = 1 first, and of the decoder.

    The decoder needs one of its own, since the posterior one is 0 at t = 1. For a density it is beta_1: so the bound
    becomes exact as the steps become many and small. For 8-bit images it is, as in the code of [Ho] and for both
    choices, the posterior one of t = 2, about half as large: between their levels there is nothing to be unsure of.
    """
    zeros = torch.zeros(ddpm.n_timesteps, 1, device=ddpm.device)
    t = torch.arange(1, ddpm.n_timesteps + 1, device=ddpm.device)
    posterior = ddpm.q_posterior(zeros, zeros, t)[1].flatten().cpu().double()
    beta = ddpm.sqrt_beta_t[1:].cpu().double() ** 2
    sigma2_1 = posterior[1] if decoder == "discrete" and ddpm.n_timesteps > 1 else beta[0]
    return posterior, beta if variance == "beta" else posterior, sigma2_1


def gaussian_kl(distance: torch.Tensor, v_1: torch.Tensor, v_2: torch.Tensor | float, dimensions: int) -> torch.Tensor:
    """KL(N(m_1, v_1 I) || N(m_2, v_2 I)) in nats, with distance = |m_1 - m_2|^2; broadcasts.

    For equal variances v it is distance / (2 v) ([Ho] equation 8).
    """
    ratio = v_1 / v_2
    return dimensions / 2 * (ratio - 1 - ratio.log()) + distance / (2 * v_2)


# ------------------------------------------------------------ decoders, p_theta(x_0 | x_1)


def log_gaussian(x: torch.Tensor, gap: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Log density of N(mean, variance) at x = mean + gap, each pixel, shaped like x; nats."""
    return -(gap**2 / variance + (2 * math.pi * variance).log()) / 2


def log_discrete(x: torch.Tensor, gap: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Log probability of each 8-bit pixel x = mean + gap, shaped like x; nats ([Ho] equation 13).

    It is what N(mean, variance) gives to the bin around x; the bins of -1 and 1 reach to infinity.
    """
    sigma = variance.sqrt()
    lower = torch.where(x < -1 + HALF_BIN, -math.inf, (gap - HALF_BIN) / sigma)
    upper = torch.where(x > 1 - HALF_BIN, math.inf, (gap + HALF_BIN) / sigma)
    return log_normal_between(lower, upper)


def log_normal_between(lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """log(Phi(upper) - Phi(lower)) of the standard normal, lower < upper, one of which may be infinite; float64.

    Far out both Phi are 0 or both are 1, and so their difference 0. An interval is as probable as its mirror image:
    take the one where Phi is small, and its logarithms, which are exact there.
    """
    mirror = lower + upper > 0
    small, large = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    log_small, log_large = torch.special.log_ndtr(small), torch.special.log_ndtr(large)
    return log_large + (-torch.expm1(log_small - log_large)).log()


# ------------------------------------------------------------ input


def is_8_bit(x: torch.Tensor) -> bool:
    """Whether all of x are levels k / 127.5 - 1, k = 0..255, up to rounding."""
    k = (x + 1) * 127.5
    return bool(((k - k.round()).abs() < 1e-3).all() and k.min() > -0.5 and k.max() < 255.5)


def _checked(ddpm: Process, x: torch.Tensor, c: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x and c as float32 on the device."""
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be float [N, *size] with at least one sample, not {x.dtype} {list(x.shape)}")
    if c is not None and (c.ndim != 2 or len(c) != len(x)):
        raise ValueError(f"c must be [{len(x)}, n_classes] for {len(x)} samples x, not {list(c.shape)}")
    check_finite("x", x)
    if c is not None:
        check_finite("c", c)
    return x.to(ddpm.device, torch.float32), None if c is None else c.to(ddpm.device, torch.float32)
