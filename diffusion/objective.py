"""What the network predicts, and how much each time t counts in the training loss.

    [Salimans]  Salimans, Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512
    [Hang]      Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", arXiv:2303.09556

The defaults are those of Ho et al.: the network predicts the noise eps, and every t counts the same. Or it predicts the
velocity v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 ([Salimans] section 4), from which eps follows (`noise_from`).
Both are sums with the factors of `q_sample`, which computes them.
"""

from __future__ import annotations

from torch import Tensor

from diffusion.process import Process, Time

PREDICTIONS = ("eps", "v")
WEIGHTINGS = ("constant", "min-snr")
GAMMA = 5  # [Hang] section 3.4


def target(process: Process, y: Tensor, t: Time, noise: Tensor) -> Tensor:
    """What the network's output should be, shaped like y; noise and y make x_t."""
    return noise if process.predict == "eps" else process.q_sample(noise, t, -y)


def noise_from(process: Process, output: Tensor, x_t: Tensor, t: Time) -> Tensor:
    """The noise that an output stands for: eps itself, or sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t.

    With guidance the output is a sum of outputs whose weights add up to 1: this is then the same sum of their noises.
    """
    return output if process.predict == "eps" else process.q_sample(output, t, x_t)


def weighted(process: Process, losses: Tensor, t: Tensor) -> Tensor:
    """The losses, [N], times the weights of their t, int64 [N].

    'min-snr': with SNR = alpha_bar_t / (1 - alpha_bar_t), a squared error of x_0 counts min(SNR, 5) ([Hang] equation 8).
    That of eps is SNR times it, so it counts min(SNR, 5) / SNR; that of v is SNR + 1 times it.
    """
    if process.weighting == "constant":
        return losses
    alpha_bar, rest = process.alpha_bar_t[t], process.sqrt_one_minus_alpha_bar_t[t] ** 2
    if process.predict == "v":
        return losses * alpha_bar.minimum(GAMMA * rest)
    return losses * (GAMMA * rest / alpha_bar).clamp(max=1)
