"""Predicting v and weighting the loss, against the same model that predicts the noise."""

from __future__ import annotations

import pytest
import torch

from ddpm import DDPM
from diffusion.condition import Condition

T = 50


class Noise(torch.nn.Module):
    """Some function of x_t and c as the predicted noise."""

    size, n_classes = (3,), 2

    def forward(self, x, t, c=None):
        return 0.7 * x + t - 0.2 * (0 if c is None else c.sum(dim=1, keepdim=True))


class Velocity(Noise):
    """The same prediction, said as v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0."""

    def __init__(self, alpha_bar):
        super().__init__()
        self.alpha_bar = alpha_bar.double()

    def forward(self, x, t, c=None):
        alpha_bar, eps = self.alpha_bar[(t * T).round().long()], super().forward(x, t, c)
        x_0 = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0


def pair(**arguments):
    """A model that predicts the noise, and the same one that predicts v; in float64."""
    eps = DDPM(Noise(), n_timesteps=T, device="cpu", beta2=0.2, **arguments).double()
    v = DDPM(Velocity(eps.alpha_bar_t), n_timesteps=T, device="cpu", beta2=0.2, predict="v", **arguments).double()
    return eps, v


def batch():
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(T, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    return y, torch.eye(2, dtype=torch.float64).repeat(T // 2, 1), torch.arange(1, T + 1), noise


def test_v_stands_for_the_same_noise_with_guidance_too():
    eps, v = pair()
    y, c, t, noise = batch()
    x_t = eps.q_sample(y, t, noise)
    for condition in (None, c, Condition(c, g_weight=1.5), Condition(c / 2, g_weight=0.5, mixture="scores")):
        torch.testing.assert_close(v.eps(x_t, t, condition), eps.eps(x_t, t, condition), rtol=1e-5, atol=1e-5)


def test_the_loss_of_v_is_that_of_the_noise_over_alpha_bar():
    eps, v = pair()
    y, c, t, noise = batch()
    ours, expected = (model.training_losses(y, c, t, noise) for model in (v, eps))
    torch.testing.assert_close(ours, expected / eps.alpha_bar_t[t], rtol=1e-4, atol=1e-6)


def test_min_snr_counts_errors_of_x_0_alike_for_both():
    eps, v = pair(weighting="min-snr")
    y, c, t, noise = batch()
    x_t = eps.q_sample(y, t, noise)
    wrong_by = eps.predict_x0(x_t, t, eps.eps(x_t, t, c)) - y
    snr = eps.alpha_bar_t[t] / (1 - eps.alpha_bar_t[t])
    assert (snr > 5).any() and (snr < 5).any()
    expected = snr.clamp(max=5) * wrong_by.square().mean(dim=1)
    for model in (eps, v):
        torch.testing.assert_close(model.training_losses(y, c, t, noise), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"predict": "x0"}, {"weighting": "snr"}])
def test_other_names_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DDPM(Noise(), device="cpu", **wrong)
