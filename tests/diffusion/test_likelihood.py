"""The bound against closed forms.

Where the network is affine in x_t, so is every reverse step: p_theta(x_0 .. x_T) is one Gaussian, -log p_theta(x_0) is
known, and the bound exceeds it by the divergence of two Gaussians. The bound's squared errors are then quadratic in the
noise, so that noise of +1 and -1 gives their exact expectation (`two_point_noise`), free of chance.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn as nn
from tiny_networks import trained_unet
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from datasets.image_set import to_float
from ddpm import DDPM
from diffusion import likelihood

M, S = 0.2, 0.4
LEVELS = to_float(torch.arange(256, dtype=torch.uint8)).view(-1, 1)


class NormalDenoiser(nn.Module):
    """The best noise prediction for pixels of N(m, s^2), m moved by the class vector's sum."""

    def __init__(self, alpha_bar, m=M, s=S):
        super().__init__()
        self.alpha_bar, self.m, self.s = alpha_bar, m, s
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, t, c=None):
        a = self.alpha_bar[(t * (len(self.alpha_bar) - 1)).round().long()]
        m = self.m if c is None else self.m + c.sum(dim=1).view(-1, *[1] * (x.ndim - 1))
        return self.scale * (1 - a).sqrt() * (x - a.sqrt() * m) / (a * self.s**2 + 1 - a)


def normal_ddpm(T=12, beta1=1e-3, beta2=0.5, schedule="linear", m=M, s=S, **arguments):
    alpha_bar = DDPM.ddpm_schedule(beta1, beta2, T, schedule)["alpha_bar_t"]
    return DDPM(NormalDenoiser(alpha_bar, m, s), beta1, beta2, T, "cpu", schedule=schedule, **arguments)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def two_point_noise(monkeypatch):
    """Noise +1 in even rows and -1 in odd ones: the mean over two rows is exact for whatever is quadratic in it."""

    def plus_minus_one(shape, **_):
        return torch.tensor([1.0, -1.0]).repeat(shape[0] // 2).view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()

    monkeypatch.setattr(torch, "randn", plus_minus_one)


def twice(x):
    return x.repeat_interleave(2, dim=0)


def halved(values):
    """Mean over the two rows of each sample."""
    return values.view(-1, 2, *values.shape[1:]).mean(dim=1)


# ------------------------------------------------------------ the oracle: p_theta as one Gaussian


def affine_steps(ddpm, variance):
    """Slope, intercept and variance of p_theta(x_{t-1} | x_t), t = 1..T, read off the sampler's own steps."""
    steps = []
    for t in range(1, ddpm.n_timesteps + 1):
        eps = ddpm.eps(torch.tensor([[0.0], [1.0]]), t).detach().double().flatten()
        alpha, bar = ddpm.alpha_t[t].double(), ddpm.alpha_bar_t[t].double()
        before, beta = ddpm.alpha_bar_t[t - 1].double(), 1 - alpha
        k = beta / (1 - bar).sqrt()
        slope, intercept = (1 - k * (eps[1] - eps[0])) / alpha.sqrt(), -k * eps[0] / alpha.sqrt()
        posterior = beta * (1 - before) / (1 - bar)
        steps.append((slope, intercept, beta if variance == "beta" or t == 1 else posterior))
    return steps


def joint_of_p(ddpm, variance):
    """Mean [T + 1] and covariance of (x_0, .., x_T) under p_theta, one pixel, float64."""
    T = ddpm.n_timesteps
    mean, cov = torch.zeros(T + 1).double(), torch.zeros(T + 1, T + 1).double()
    cov[T, T] = 1
    for t, (slope, intercept, sigma2) in reversed(list(enumerate(affine_steps(ddpm, variance), start=1))):
        mean[t - 1] = slope * mean[t] + intercept
        cov[t - 1, t:] = cov[t:, t - 1] = slope * cov[t, t:]
        cov[t - 1, t - 1] = slope**2 * cov[t, t] + sigma2
    return mean, cov


def q_given(ddpm, x0):
    """q(x_1 .. x_T | x_0): cov(x_s, x_t) = sqrt(bar_t / bar_s) (1 - bar_s) for s <= t."""
    bar = ddpm.alpha_bar_t[1:].double()
    low, high = torch.maximum(bar[:, None], bar), torch.minimum(bar[:, None], bar)
    return MultivariateNormal(bar.sqrt() * x0, (high / low).sqrt() * (1 - low))


# ------------------------------------------------------------ the bound as a whole


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("m, s", [(M, S), (-0.6, 0.9)])
def test_bound_is_the_exact_likelihood_plus_the_exact_gap(two_point_noise, schedule, variance, m, s):
    """bound(x_0) = -log p_theta(x_0) + KL(q(x_1..x_T | x_0) || p_theta(x_1..x_T | x_0)), whatever the network."""
    ddpm = normal_ddpm(schedule=schedule, m=m, s=s)
    x = torch.tensor([[-1.0], [-0.2], [0.3], [0.9]])
    found = ddpm.variational_bound(twice(x), variance=variance, decoder="gaussian")
    mean, cov = joint_of_p(ddpm, variance)
    to_x0 = cov[1:, 0] / cov[0, 0]
    for x0, bound in zip(x.flatten().double(), halved(found.nats)):
        nll = -Normal(mean[0], cov[0, 0].sqrt()).log_prob(x0)
        p = MultivariateNormal(mean[1:] + to_x0 * (x0 - mean[0]), cov[1:, 1:] - to_x0[:, None] * cov[:1, 1:])
        gap = kl_divergence(q_given(ddpm, x0), p)
        assert bound > nll
        assert bound.item() == pytest.approx((nll + gap).item(), rel=2e-4)


def test_many_small_steps_reach_the_entropy(two_point_noise):
    """-E log p_theta(x_0) is at least the entropy of the data; with the exact network the bound falls to it as 1 / T.

    x_0 = m +- s has the data's moments, which is all that a quadratic sees of them. Measured: 0.0080, 0.0020 and 0.0005
    nats above. Tolerance: 0.01, and a quarter of it for four times the steps, up to a tenth.
    """
    entropy = 0.5 * math.log(2 * math.pi * math.e * S**2)
    x, above = torch.tensor([[M - S], [M + S]]), []
    for T in (250, 1000, 4000):
        ddpm = normal_ddpm(T, 0.1 / T, 20 / T)
        found = ddpm.variational_bound(twice(x), decoder="gaussian")
        assert found.terms[:, -1].max() < 1e-4
        above.append(found.nats.mean().item() - entropy)
    assert 0 < above[0] < 0.01, above
    assert above[1] / above[0] == pytest.approx(0.25, rel=0.1) and above[2] / above[1] == pytest.approx(0.25, rel=0.1)


def test_dimensions_add_up_and_bits_are_per_dimension(two_point_noise):
    ddpm = normal_ddpm()
    one = ddpm.variational_bound(twice(torch.tensor([[0.1], [-0.4]])), decoder="gaussian")
    image = torch.tensor([0.1, 0.1, 0.1, -0.4, -0.4, -0.4]).view(1, 1, 2, 3)
    both = ddpm.variational_bound(twice(image), decoder="gaussian")
    torch.testing.assert_close(halved(both.terms)[0], 3 * halved(one.terms).sum(dim=0), rtol=1e-5, atol=1e-6)
    assert both.terms.shape == (2, 13) and both.nats.shape == both.bits_per_dim.shape == (2,)
    assert all(values.dtype == torch.float64 and values.device.type == "cpu" for values in both)
    torch.testing.assert_close(both.nats, both.terms.sum(dim=1))
    torch.testing.assert_close(both.bits_per_dim, both.nats / 6 / math.log(2))


# ------------------------------------------------------------ its terms


@pytest.mark.parametrize("clip_x0", [False, True])
@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_terms_are_divergences_from_the_steps_that_the_sampler_takes(variance, clip_x0, monkeypatch):
    """L_{t-1}: torch's KL of q_posterior and of the Gaussian that p_sample draws from, at the same x_t."""
    ddpm = normal_ddpm(T=6, m=0.9, s=2.0)  # predicts beyond 1, so that the clamp acts
    x = 1.8 * torch.rand(5, 2, generator=seeded(1)) - 0.9
    found = ddpm.variational_bound(x, None, seeded(), 1, variance, clip_x0, "gaussian")
    generator = seeded()
    noises = {t: torch.randn(x.shape, generator=generator) for t in range(6, 0, -1)}
    for t in range(1, 7):
        x_t = ddpm.q_sample(x, t, noises[t])
        at_noise = {}
        for z in (0.0, 1.0):
            monkeypatch.setattr(torch, "randn", lambda shape, z=z, **_: torch.full(shape, z))
            at_noise[z] = ddpm.p_sample(x_t, t, clip_x0=clip_x0, variance=variance).detach().double()
        if t == 1:
            sigma = ddpm.sqrt_beta_t[1].double()
            expected = -Normal(at_noise[0.0], sigma).log_prob(x.double())
        else:
            mean, posterior = (values.double() for values in ddpm.q_posterior(x, x_t, t))
            p = Normal(at_noise[0.0], (at_noise[1.0] - at_noise[0.0]).mean())
            expected = kl_divergence(Normal(mean, posterior.sqrt()), p)
        torch.testing.assert_close(found.terms[:, t - 1], expected.sum(dim=1), rtol=1e-4, atol=1e-5)


def test_last_term_is_the_divergence_from_the_prior():
    x = torch.rand(3, 1, 2, 2, generator=seeded()) * 2 - 1
    for beta2 in (0.5, 0.02):
        ddpm = normal_ddpm(beta2=beta2)
        bar = ddpm.alpha_bar_t[12].double()
        expected = kl_divergence(Normal(bar.sqrt() * x.double(), (1 - bar).sqrt()), Normal(0, torch.ones(()).double()))
        found = ddpm.variational_bound(x, decoder="gaussian").terms[:, 12]
        torch.testing.assert_close(found, expected.sum(dim=(1, 2, 3)), rtol=1e-5, atol=1e-7)


def test_weights_of_the_noise_error():
    """With the posterior variance L_{t-1} is beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |error|^2 ([Ho] equation 12).

    A network that answers 0 has the noise itself as its error.
    """
    ddpm, x = normal_ddpm(T=5, beta2=0.3), torch.zeros(4, 7)
    nn.init.zeros_(ddpm.nn_model.scale)
    found = ddpm.variational_bound(x, generator=seeded(), variance="posterior", decoder="gaussian").terms
    beta = [0] + [1e-3 + (0.3 - 1e-3) * i / 4 for i in range(5)]
    bar = [math.prod(1 - b for b in beta[: t + 1]) for t in range(6)]
    generator = seeded()
    for t in range(5, 1, -1):
        square = torch.randn(4, 7, generator=generator).double().square().sum(dim=1)
        sigma2 = beta[t] * (1 - bar[t - 1]) / (1 - bar[t])
        weight = beta[t] ** 2 / (2 * sigma2 * (1 - beta[t]) * (1 - bar[t]))
        torch.testing.assert_close(found[:, t - 1], weight * square, rtol=1e-5, atol=0)


@pytest.mark.parametrize("v1, v2", [(1.0, 1.0), (0.3, 0.3), (1e-4, 2e-4), (5.0, 0.1), (1.0, 1.0000001)])
def test_gaussian_kl(v1, v2):
    m1, m2 = torch.randn(2, 3, 8, generator=seeded()).double()
    distance = (m1 - m2).square().sum(dim=1)
    v1, v2 = torch.tensor(v1).double(), torch.tensor(v2).double()
    expected = kl_divergence(Normal(m1, v1.sqrt()), Normal(m2, v2.sqrt())).sum(dim=1)
    torch.testing.assert_close(likelihood.gaussian_kl(distance, v1, v2, 8), expected)
    torch.testing.assert_close(likelihood.gaussian_kl(distance, v2, v2, 8), distance / (2 * v2))  # [Ho] equation 8
    assert likelihood.gaussian_kl(0 * distance, v1, v2, 8).min() >= 0


def test_clamping_lowers_every_divergence():
    ddpm = normal_ddpm(m=0.9, s=2.0)
    x = torch.rand(50, 3, generator=seeded(1)) * 2 - 1
    free, clamped = (
        ddpm.variational_bound(x, None, seeded(), clip_x0=clip, decoder="gaussian").terms for clip in (False, True)
    )
    assert (clamped <= free + 1e-5 * free.abs()).all() and clamped.sum() < 0.99 * free.sum()
    torch.testing.assert_close(clamped[:, -1], free[:, -1])  # no network


@pytest.mark.parametrize("decoder", ["discrete", "gaussian"])
def test_one_timestep_has_a_decoder_and_a_prior(decoder):
    ddpm = normal_ddpm(T=1, beta1=0.1)
    found = ddpm.variational_bound(LEVELS[:5], decoder=decoder)
    assert found.terms.shape == (5, 2) and found.terms.isfinite().all()


# ------------------------------------------------------------ the discrete decoder


def log_levels(mean, variance):
    """Log probabilities of the 256 levels, [256] float64."""
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    return likelihood.log_discrete(x, x - mean, torch.tensor(variance, dtype=torch.float64))


@pytest.mark.parametrize("variance", [1e-12, 1e-5, 5e-5, 0.01, 1.0, 1e4])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1 / 255, -1.0, 1.0, 1.004, -7.0, 40.0])
def test_probabilities_of_the_levels_sum_to_one(mean, variance):
    log_p = log_levels(mean, variance)
    assert torch.logsumexp(log_p, 0).item() == pytest.approx(0, abs=1e-9)
    assert (
        not log_p.isnan().any() and log_p.isfinite().all()
    )  # however far a level is, it costs a finite number of nats


@pytest.mark.parametrize("variance", [1e-5, 0.01, 1.0])
def test_levels_are_symmetric_and_fall_away_from_the_mean(variance):
    log_p = log_levels(0.37, variance)
    torch.testing.assert_close(log_levels(-0.37, variance), log_p.flip(0), rtol=1e-5, atol=1e-9)
    peak = round((0.37 + 1) * 127.5)  # the edge bins are wider than the others
    assert (log_p[1 : peak + 1].diff() > 0).all() and (log_p[peak:-1].diff() < 0).all()


def test_edge_bins_are_the_tails():
    log_p = log_levels(-0.9, 0.04)
    lower = 0.5 * math.erfc((-0.9 - (-1 + 1 / 255)) / 0.2 / math.sqrt(2))
    upper = 0.5 * math.erfc(((1 - 1 / 255) + 0.9) / 0.2 / math.sqrt(2))
    assert log_p[0].item() == pytest.approx(math.log(lower), rel=1e-6)
    assert log_p[255].item() == pytest.approx(math.log(upper), rel=1e-6)


# log(Phi(b) - Phi(a)), computed with 1000 digits.
IN_THE_TAILS = [
    (-0.5, 0.5, -0.95991633369562231933),
    (0.0, 1.0, -1.0748623268620713817),
    (-3.0, -2.5, -5.3267647240790622482),
    (-1.2, -1.1921875, -6.4862878313514719015),
    (8.0, 9.0, -35.013618593437148117),
    (30.0, 30.0078125, -455.8858781072252256),
    (300.0, 300.0009765625, -45007.993321137026366),
    (2000.0, 2000.0078125, -2000008.5198414064787),
    (-math.inf, -40.0, -804.60844201375378817),
    (10.0, math.inf, -53.231285150512470578),
    (-math.inf, 0.3, -0.48141016158848120517),
    (-0.3, 7.0, -0.48141016159055239612),
    (-0.001, 0.001, -7.1335467982935200192),
]


@pytest.mark.parametrize("lower, upper, expected", IN_THE_TAILS)
def test_log_of_a_difference_of_normal_cdfs(lower, upper, expected):
    lower, upper = torch.tensor([lower, upper], dtype=torch.float64)
    for a, b in ((lower, upper), (-upper, -lower)):
        assert likelihood.log_normal_between(a, b).item() == pytest.approx(expected, rel=1e-13)


def exact_code_lengths(ddpm, variance):
    """By numerical integration over x_1, for the 256 levels: the expectation of L_0, and -log p_theta(x_0); nats."""
    bar, x0 = ddpm.alpha_bar_t.double(), LEVELS.double()
    mean, cov = joint_of_p(ddpm, variance)
    slope, intercept, _ = affine_steps(ddpm, variance)[0]
    beta = 1 - ddpm.alpha_t.double()
    sigma2 = (beta[2] * (1 - bar[1]) / (1 - bar[2])).item()
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])

    def log_p(x, x_1):
        cdf = Normal(slope * x_1 + intercept, math.sqrt(sigma2)).cdf
        above = torch.where(x < 0.999, cdf(x + 1 / 255), 1.0)
        return torch.log((above - torch.where(x > -0.999, cdf(x - 1 / 255), 0.0)).clamp(min=1e-300))

    L_0 = -(log_p(x0, bar[1].sqrt() * x0 + (1 - bar[1]).sqrt() * z) * weight).sum(dim=1)
    nll = -torch.log((log_p(x0, mean[1] + cov[1, 1].sqrt() * z).exp() * weight).sum(dim=1))
    return L_0, nll


@pytest.mark.parametrize("clip_x0", [False, True])
def test_discrete_bins_lie_around_what_the_sampler_ends_at(clip_x0):
    """L_0 is the bin's probability under the mean that p_sample gives at t = 1, and the variance of t = 2."""
    ddpm = normal_ddpm(beta1=0.1, m=0.9, s=2.0)
    found = ddpm.variational_bound(LEVELS, None, seeded(), clip_x0=clip_x0).terms[:, 0]
    generator = seeded()
    for _ in range(12):  # the last one is drawn at t = 1
        noise = torch.randn(LEVELS.shape, generator=generator)
    mean = ddpm.p_sample(ddpm.q_sample(LEVELS, 1, noise), 1, clip_x0=clip_x0).detach().double()
    cdf = Normal(mean, ddpm.q_posterior(LEVELS, LEVELS, 2)[1].double().sqrt()).cdf
    lower, upper = cdf(LEVELS - 1 / 255), cdf(LEVELS + 1 / 255)
    lower[0], upper[255] = 0, 1
    torch.testing.assert_close(found, -(upper - lower).log().flatten(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_discrete_bound_of_every_level(variance):
    """L_0 in expectation is the integral; the bound is above the true code length, and is itself a code (Kraft)."""
    ddpm, n = normal_ddpm(), 2000
    found = ddpm.variational_bound(LEVELS.repeat(n, 1), None, seeded(), variance=variance, batch_size=256 * n)
    terms, nats = found.terms.view(n, 256, 13), found.nats.view(n, 256)
    L_0, nll = exact_code_lengths(ddpm, variance)
    assert torch.logsumexp(-nll, 0).item() == pytest.approx(0, abs=1e-6)  # the oracle itself
    error, nats_error = (values.std(dim=0) / math.sqrt(n) for values in (terms[:, :, 0], nats))
    assert ((terms[:, :, 0].mean(dim=0) - L_0).abs() < 5 * error).all() and (error < 0.05).all()
    above = nats.mean(dim=0) - nll
    assert (above > -5 * nats_error).all() and above.mean() > 0.05
    assert torch.logsumexp(-nats.mean(dim=0), 0) < 0


# ------------------------------------------------------------ the simplified objective


def test_negative_elbo_is_unbiased():
    """Its mean over many draws is the exact average over t. Tolerance: 5 standard errors."""
    ddpm, n, x0 = normal_ddpm(T=8), 200_000, 0.7
    found = ddpm.negative_elbo(torch.full((n, 2), x0), generator=seeded()).detach()
    exact = 0.0
    for bar in ddpm.alpha_bar_t[1:].tolist():
        v = bar * S**2 + 1 - bar  # of x_t; error = slope * eps + shift
        exact += ((bar * S**2 / v) ** 2 + (1 - bar) * bar * (x0 - M) ** 2 / v**2) / 8
    assert found.shape == (n,) and found.dtype == torch.float32
    assert found.mean().item() == pytest.approx(exact, abs=5 * found.std().item() / math.sqrt(n))


@pytest.mark.parametrize("size", [(1,), (784,), (3, 4, 4)])
def test_negative_elbo_is_the_training_loss_of_each_sample(size):
    ddpm, x, c = normal_ddpm(drop_prob=0.0), torch.rand(6, *size), torch.rand(6, 3)
    for vectors in (None, c):
        found = ddpm.negative_elbo(x, vectors, seeded())
        assert found.shape == (6,)
        torch.testing.assert_close(found.mean(), ddpm(x, vectors, seeded()))
    assert not torch.equal(ddpm.negative_elbo(x, c, seeded()), ddpm.negative_elbo(x, None, seeded()))


def test_negative_elbo_drops_no_class_and_squares_whatever_the_loss():
    x, c = torch.rand(40, 3), torch.rand(40, 3)
    expected = normal_ddpm(drop_prob=0.0).negative_elbo(x, c, seeded())
    torch.testing.assert_close(normal_ddpm(drop_prob=1.0, loss="l1").negative_elbo(x, c, seeded()), expected)


def test_negative_elbo_can_be_trained_with():
    """The best scale of the best prediction is 1: started elsewhere, training finds it."""
    ddpm = normal_ddpm()
    nn.init.constant_(ddpm.nn_model.scale, 0.3)
    optimizer, generator = torch.optim.Adam(ddpm.parameters(), lr=0.03), seeded()
    for _ in range(150):
        loss = ddpm.negative_elbo(M + S * torch.randn(256, 4, generator=generator), None, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ddpm.nn_model.scale.item() == pytest.approx(1, abs=0.05)


def test_negative_elbo_uses_the_mode_it_finds():
    ddpm, x, c = DDPM(trained_unet(), n_timesteps=5, device="cpu"), torch.rand(4, 1, 8, 8), torch.eye(10)[:4]
    statistics = {name: value.clone() for name, value in ddpm.state_dict().items() if "running" in name}
    measured = ddpm.eval().negative_elbo(x, c, seeded())
    assert all(torch.equal(ddpm.state_dict()[name], value) for name, value in statistics.items())
    trained = ddpm.train().negative_elbo(x, c, seeded())
    assert not torch.allclose(measured, trained)
    assert not all(torch.equal(ddpm.state_dict()[name], value) for name, value in statistics.items())


# ------------------------------------------------------------ conditions, batches, state


def test_class_vectors_reach_the_network(two_point_noise):
    x, c = torch.tensor([[0.1], [0.5]]), torch.tensor([[0.0, 0.0], [0.1, 0.3]])  # moves the mean by 0 and 0.4
    found = halved(normal_ddpm().variational_bound(twice(x), twice(c), decoder="gaussian").nats)
    plain = halved(normal_ddpm().variational_bound(twice(x), decoder="gaussian").nats)
    moved = halved(normal_ddpm(m=M + 0.4).variational_bound(twice(x), decoder="gaussian").nats)
    torch.testing.assert_close(found, torch.stack([plain[0], moved[1]]), rtol=1e-5, atol=1e-6)
    assert (plain[1] - moved[1]).abs() > 0.01


def test_batches_and_draws(two_point_noise):
    """Noise that is the same in every batch and draw: neither may change anything, nor the order of the images."""
    ddpm, x, c = normal_ddpm(), twice(LEVELS[::40]), twice(torch.linspace(0, 0.3, 7)[:, None])
    whole = ddpm.variational_bound(x, c)
    for arguments in ({"batch_size": 4}, {"n_draws": 3}, {"batch_size": 6, "n_draws": 2}):
        torch.testing.assert_close(ddpm.variational_bound(x, c, **arguments).terms, whole.terms, rtol=1e-5, atol=1e-6)


def test_draws_are_new_ones_and_are_averaged():
    ddpm, generator = normal_ddpm(), seeded()
    one_by_one = torch.stack([ddpm.variational_bound(LEVELS[:9], None, generator).terms for _ in range(3)])
    torch.testing.assert_close(ddpm.variational_bound(LEVELS[:9], None, seeded(), 3).terms, one_by_one.mean(dim=0))
    assert (one_by_one.std(dim=0)[:, :-1] > 0).all() and (one_by_one.std(dim=0)[:, -1] == 0).all()


def test_every_timestep_is_visited_once_per_batch():
    seen, sizes = [], []
    ddpm = normal_ddpm(T=4)
    inner = ddpm.fast_copy

    def spying():
        fast = inner()
        fast.nn_model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        return fast

    ddpm.fast_copy = spying
    ddpm.variational_bound(LEVELS[:5], n_draws=2, batch_size=3, progress=seen.append)
    assert seen == 4 * [4, 3, 2, 1] and sizes == 8 * [3] + 8 * [2]


@pytest.mark.parametrize("training", [True, False])
def test_same_seed_same_bound_and_everything_left_as_found(training):
    ddpm = DDPM(trained_unet(), n_timesteps=4, device="cpu").train(training)
    before = {name: value.clone() for name, value in ddpm.state_dict().items()}
    x, c = LEVELS[torch.randint(256, (3, 64), generator=seeded())].view(3, 1, 8, 8), torch.eye(10)[:3]
    kept = x.clone()
    first, second, other = (ddpm.variational_bound(x, c, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first.terms, second.terms) and not torch.equal(first.terms, other.terms)
    assert torch.equal(x, kept)
    assert ddpm.training == ddpm.nn_model.training == training
    assert all(torch.equal(value, before[name]) for name, value in ddpm.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in ddpm.parameters())
    assert not first.nats.requires_grad
    alone = ddpm.variational_bound(x[:1], c[:1], seeded()).terms[:, -1]  # eval mode: no image depends on the others
    torch.testing.assert_close(alone, first.terms[:1, -1])
    (
        first.nats * torch.ones(3, requires_grad=True).double()
    ).sum().backward()  # ordinary tensors, not of inference mode


def test_half_precision_images_are_computed_in_float32():
    ddpm, x = normal_ddpm(), LEVELS[[0, 255]]
    torch.testing.assert_close(
        ddpm.variational_bound(x.half(), generator=seeded()).terms, ddpm.variational_bound(x, generator=seeded()).terms
    )
    assert ddpm.negative_elbo(x.double(), generator=seeded()).dtype == torch.float32


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize("method", ["negative_elbo", "variational_bound"])
@pytest.mark.parametrize(
    "x, c, words",
    [
        (
            torch.zeros(2, 1, dtype=torch.uint8),
            None,
            "x must be float [N, *size] with at least one sample, not torch.uint8",
        ),
        (torch.zeros(3), None, "[3]"),
        (torch.zeros(0, 4), None, "[0, 4]"),
        (torch.tensor([[math.nan]]), None, "x must be finite"),
        (torch.ones(1, 1), torch.tensor([[math.inf]]), "c must be finite"),
        (torch.ones(2, 1), torch.zeros(3, 3), "c must be [2, n_classes] for a batch of 2, not [3, 3]"),
        (torch.ones(2, 1), torch.zeros(2), "not [2]"),
    ],
)
def test_refuses_bad_batches(method, x, c, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(normal_ddpm(), method)(x, c)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"variance": "learned"}, "variance must be 'beta' or 'posterior', not 'learned'"),
        ({"decoder": "laplace"}, "decoder must be 'discrete' or 'gaussian', not 'laplace'"),
        ({"n_draws": 0}, "n_draws must be a whole number of at least 1, not 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, not 2.5"),
        ({"x": torch.tensor([[0.5]])}, "256 levels"),
        ({"x": torch.tensor([[1 + 1 / 127.5]])}, "256 levels"),
        ({"x": torch.tensor([[-1 - 1 / 127.5]])}, "256 levels"),
    ],
)
def test_refuses_impossible_bounds(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        normal_ddpm().variational_bound(**{"x": LEVELS[:2], **arguments})


def test_knows_8_bit_images():
    assert likelihood.is_8_bit(LEVELS) and likelihood.is_8_bit(LEVELS.double() + 1e-7)
    assert not likelihood.is_8_bit(LEVELS + 0.5 / 127.5) and not likelihood.is_8_bit(2 * LEVELS)
