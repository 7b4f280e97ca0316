"""Mixtures of classes: composed scores, against a distribution that is known in closed form.

With classes N(m_k, S) of one covariance, and no class being N(m_0, S), every score is affine in x with the same slope,
so that the composition with weights w_k is the score of N(m_0 + sum_k w_k (m_k - m_0), S).
"""

from __future__ import annotations

import pytest
import torch
from gaussian import gaussian_ddpm
from tiny_networks import trained_unet

from ddpm import DDPM
from diffusion.condition import Condition

MEANS = torch.tensor([[0.3, 0.0], [0.0, 0.6], [-0.3, -0.3]])
S = 0.04 * torch.tensor([[1.0, 0.5], [0.5, 1.0]])
NONE = MEANS.mean(dim=0)


@pytest.fixture(scope="module")
def ddpm():
    return gaussian_ddpm(MEANS, S, (2,), n_timesteps=100, beta2=0.1)


@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.0], [1.0, 1.0, 0.0], [0.7, 0.0, 0.3], [1.0, -0.5, 0.0]])
@pytest.mark.parametrize("w", [0.0, 1.0])
def test_composed_scores_sample_the_composed_distribution(ddpm, weights, w):
    row = torch.tensor([weights])
    generator = torch.Generator().manual_seed(0)
    y, _ = ddpm.sample(4000, None, 3, w, row, variance="posterior", generator=generator, mixture="scores")
    expected = NONE + (1 + w) * (row[0] @ (MEANS - NONE))
    torch.testing.assert_close(y.mean(dim=0), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(y.T), S, rtol=0, atol=0.2 * S.max().item())


def test_rows_of_different_classes_in_one_batch(ddpm):
    x, c = torch.randn(4, 2), torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 0], [2.0, -1, 0]])
    together = ddpm.eps(x, 30, Condition(c, 1.5, "scores"))
    for i in range(4):
        alone = ddpm.eps(x[i : i + 1], 30, Condition(c[i : i + 1], 1.5, "scores"))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("w", [0.0, 2.0, -1.0])
def test_composing_one_class_is_guidance(w):
    ddpm = DDPM(trained_unet().eval(), n_timesteps=10, device="cpu")
    x, c = torch.randn(3, 1, 8, 8), torch.eye(10)[[3, 8, 8]]
    torch.testing.assert_close(
        ddpm.eps(x, 5, Condition(c, w, "scores")), ddpm.eps(x, 5, Condition(c, w)), rtol=1e-4, atol=1e-5
    )


def test_the_two_kinds_of_mixture_differ():
    """A network that is not affine in the class vector: the soft vector and the composed scores are two answers."""
    ddpm = DDPM(trained_unet().eval(), n_timesteps=10, device="cpu")
    x, c = torch.randn(1, 1, 8, 8), torch.tensor([[0.5, 0.5] + 8 * [0.0]])
    assert (
        ddpm.eps(x, 5, Condition(c, 0.0, "scores")) - ddpm.eps(x, 5, Condition(c, 0.0, "vector"))
    ).abs().max() > 1e-4


def test_no_class_stays_no_class():
    ddpm = DDPM(trained_unet().eval(), n_timesteps=10, device="cpu")
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(ddpm.eps(x, 5, Condition(torch.zeros(2, 10), 3.0, "scores")), ddpm.eps(x, 5, None))


def test_an_unknown_kind_of_mixture_is_refused(ddpm):
    with pytest.raises(ValueError, match="soup"):
        ddpm.sample(1, None, 3, mixture="soup")
