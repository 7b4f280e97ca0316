"""The equations against closed forms.

The data of the oracle are Gaussian per class: x_0 ~ N(m_k, s^2). Then the best prediction of the noise is known,

    E[eps | x_t] = sqrt(1 - alpha_bar_t) (x_t - sqrt(alpha_bar_t) m_k) / (alpha_bar_t s^2 + 1 - alpha_bar_t),

and a DDPM whose network is this function must have the known loss and draw samples of the known mean and variance.
"""

import math
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from tiny_networks import trained_unet

from ddpm import DDPM
from diffusion.condition import Condition
from networks import layout_on
from networks.Conditional_UNet import UNet

MEANS, NO_CLASS_MEAN, S = [-0.5, 0.25, 0.75], 0.1, 0.3


class GaussianDenoiser(nn.Module):
    """The best noise prediction for x_0 ~ N(m, s^2), with m = c @ MEANS, or NO_CLASS_MEAN where c is zero."""

    def __init__(self, n_timesteps, schedule="linear"):
        super().__init__()
        self.n_timesteps = n_timesteps
        self.alpha_bar = DDPM.ddpm_schedule(1e-4, 0.02, n_timesteps, schedule)["alpha_bar_t"]
        self.batches = []  # how many rows each call had

    def forward(self, x, t, c):
        self.batches.append(len(x))
        a = self.alpha_bar[(t * self.n_timesteps).round().long()]
        m = torch.full((len(x), 1), NO_CLASS_MEAN)
        if c is not None:
            m = torch.where(c.abs().sum(1, keepdim=True) > 0, c @ torch.tensor(MEANS)[:, None], m)
        m = m.view(-1, *[1] * (x.ndim - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * S**2 + 1 - a)


def gaussian_ddpm(n_timesteps=50, **arguments):
    return DDPM(
        GaussianDenoiser(n_timesteps, arguments.get("schedule", "linear")),
        n_timesteps=n_timesteps,
        device="cpu",
        **arguments,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------ schedule


def numpy_alpha_bar(schedule, T, beta1=1e-4, beta2=0.02):
    """alpha_bar_0 .. alpha_bar_T, written again from the papers, in another way."""
    if schedule == "linear":
        alphas = [1 - (beta1 + (beta2 - beta1) * t / (T - 1)) for t in range(T)]
    else:
        f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
        alphas = [min(max(f[t] / f[t - 1], 0.001), 1) for t in range(1, T + 1)]
    return np.array([math.prod(alphas[:t]) for t in range(T + 1)])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("T", [2, 50, 400, 1000])
def test_schedule_against_numpy(schedule, T):
    tensors = DDPM.ddpm_schedule(1e-4, 0.02, T, schedule)
    alpha_bar = numpy_alpha_bar(schedule, T)
    alpha = np.concatenate([[1], alpha_bar[1:] / alpha_bar[:-1]])
    with np.errstate(invalid="ignore"):
        expected = {
            "time_t": np.arange(T + 1) / T,
            "sqrt_beta_t": np.sqrt(np.maximum(1 - alpha, 0)),
            "alpha_t": alpha,
            "alpha_bar_t": alpha_bar,
            "one_over_sqrt_alpha_t": 1 / np.sqrt(alpha),
            "sqrt_alpha_bar_t": np.sqrt(alpha_bar),
            "sqrt_one_minus_alpha_bar_t": np.sqrt(1 - alpha_bar),
            "one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t": np.nan_to_num((1 - alpha) / np.sqrt(1 - alpha_bar)),
        }
    assert tensors.keys() == expected.keys()
    for name, values in tensors.items():
        assert values.dtype == torch.float32 and values.shape == (T + 1,) and values.isfinite().all(), name
        torch.testing.assert_close(values.double(), torch.from_numpy(expected[name]), rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("n_steps", [1, 2, 50, 399, 400])
def test_a_respaced_schedule_visits_times_of_the_whole_one(schedule, n_steps):
    """Between two of its times lies what all steps between them do together: alpha_bar is the same at the same time."""
    whole = DDPM(nn.Identity(), n_timesteps=400, device="cpu", schedule=schedule)
    few = whole.respaced(n_steps)
    kept = (few.time_t * 400).round().long()
    assert few.n_timesteps == n_steps and kept[0] == 0 and kept[-1] == 400 and (kept.diff() > 0).all()
    assert n_steps == 1 or kept[1] == 1
    assert kept.diff()[1:].max() - kept.diff()[1:].min() <= 1 if n_steps > 2 else True  # evenly, up to rounding
    torch.testing.assert_close(few.alpha_bar_t, whole.alpha_bar_t[kept], rtol=1e-5, atol=1e-9)
    product = torch.stack([whole.alpha_t.double()[a + 1 : b + 1].prod() for a, b in zip(kept, kept[1:])])
    torch.testing.assert_close(few.alpha_t[1:].double(), product, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(few.sqrt_beta_t[1:].double() ** 2, 1 - product, rtol=2e-3, atol=1e-9)


def test_respaced_sampling_tells_the_network_the_times_that_it_knows():
    whole, times = DDPM(ZeroNoise(), n_timesteps=400, device="cpu"), []
    whole.nn_model.register_forward_hook(lambda module, inputs, output: times.extend(inputs[1].flatten().tolist()))
    whole.respaced(5).sample(1, (1, 4, 4), None, generator=seeded(0))
    assert [round(400 * t, 4) for t in times] == [400, 300, 200, 101, 1]
    assert whole.n_timesteps == 400 and len(whole.alpha_t) == 401  # is as it was


def test_respaced_to_all_steps_draws_the_same_samples():
    ddpm = gaussian_ddpm(30)
    a, b = (d.sample(50, (2,), None, generator=seeded(3))[0] for d in (ddpm, ddpm.respaced(30)))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fewer_steps_draw_from_nearly_the_same_gaussian():
    """MEANS[1] and the same spread as with all steps, which no step that forgets some noise would give."""
    ddpm, found = gaussian_ddpm(400), {}
    for d in (ddpm, ddpm.respaced(100)):
        x, _ = d.sample(20_000, (1,), 3, classes=[1], variance="beta", generator=seeded(5))
        found[d.n_timesteps] = (x.mean().item(), x.std().item())
    assert found[100][0] == pytest.approx(MEANS[1], abs=0.03)
    assert found[100][1] == pytest.approx(found[400][1], rel=0.05)


def test_few_steps_leave_no_noise_on_data_that_x_t_determines(monkeypatch):
    """As images are. beta_t, in 10 of 400 steps, leaves ten times the spread of the data and more."""
    monkeypatch.setattr(sys.modules[__name__], "S", 0.01)
    few, spread = gaussian_ddpm(400).respaced(10), {}
    for variance in (None, "posterior", "beta"):
        x, _ = few.sample(2000, (1,), None, variance=variance, generator=seeded(5))
        spread[variance] = x.std().item()
    assert spread[None] == spread["posterior"] < 0.01 and spread["beta"] > 0.1, spread
    assert gaussian_ddpm(400).variance == gaussian_ddpm(400).respaced(400).variance == "beta"


@pytest.mark.parametrize("n_steps", [0, 31, -1, 2.5])
def test_impossible_respacing_is_refused(n_steps):
    with pytest.raises(ValueError, match="n_steps must be a whole number from 1 to T = 30"):
        gaussian_ddpm(30).respaced(n_steps)


def test_schedule_ends_and_identity():
    tensors = DDPM.ddpm_schedule(1e-4, 0.02, 400)
    betas = tensors["sqrt_beta_t"].double() ** 2
    assert betas[1].item() == pytest.approx(1e-4, rel=1e-6) and betas[-1].item() == pytest.approx(0.02, rel=1e-6)
    identity = {name: values[0].item() for name, values in tensors.items()}
    assert identity.pop("time_t") == identity.pop("sqrt_beta_t") == identity.pop("sqrt_one_minus_alpha_bar_t") == 0
    assert identity.pop("one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t") == 0
    assert set(identity.values()) == {1.0}


def test_schedule_is_in_the_state_but_no_parameter():
    ddpm = gaussian_ddpm()
    assert "alpha_bar_t" in dict(ddpm.named_buffers()) and not list(ddpm.parameters())


# ------------------------------------------------------------ q


def test_q_sample_moments_equal_step_by_step_noising():
    """The closed form, against T times x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) z ([Ho] equation 2)."""
    ddpm, n = gaussian_ddpm(20), 100_000
    x = torch.full((n, 1), 0.8)
    for t in range(1, 21):
        x = ddpm.alpha_t[t].sqrt() * x + ddpm.sqrt_beta_t[t] * torch.randn(n, 1, generator=seeded(t))
    direct = ddpm.q_sample(torch.full((n, 1), 0.8), 20, torch.randn(n, 1, generator=seeded(99)))
    for sample in (x, direct):
        assert sample.mean().item() == pytest.approx(0.8 * ddpm.alpha_bar_t[20].sqrt().item(), abs=5 / math.sqrt(n))
        assert sample.var().item() == pytest.approx(1 - ddpm.alpha_bar_t[20].item(), rel=0.03)


@pytest.mark.parametrize("size", [(2,), (784,), (3, 8, 8)])
def test_predict_x0_undoes_q_sample_for_any_shape(size):
    ddpm = gaussian_ddpm()
    x0, noise = torch.randn(5, *size), torch.randn(5, *size)
    t = torch.tensor([1, 10, 20, 49, 50])
    x_t = ddpm.q_sample(x0, t, noise)
    torch.testing.assert_close(ddpm.predict_x0(x_t, t, noise), x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ddpm.q_sample(x0, 0, noise), x0)
    torch.testing.assert_close(ddpm.q_sample(x0[3:4], 49, noise[3:4]), x_t[3:4])


@pytest.mark.parametrize("t", [1, 2, 25, 50])
def test_q_posterior_is_bayes_theorem(t):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): multiply on a grid and compare."""
    ddpm = gaussian_ddpm()
    x0, x_t = torch.tensor([[0.3]]), torch.tensor([[0.7]])
    mean, variance = ddpm.q_posterior(x0, x_t, t)
    if t == 1:
        assert (mean.item(), variance.item()) == (pytest.approx(0.3), 0)
        return
    alpha, alpha_bar = (1 - ddpm.sqrt_beta_t[t].double() ** 2).item(), ddpm.alpha_bar_t[t - 1].double().item()
    x = np.linspace(-3, 3, 600_001)
    log_q = -((0.7 - math.sqrt(alpha) * x) ** 2) / (2 * (1 - alpha))
    log_q -= (x - math.sqrt(alpha_bar) * 0.3) ** 2 / (2 * (1 - alpha_bar))
    q = np.exp(log_q - log_q.max())
    q /= q.sum()
    assert mean.item() == pytest.approx((q * x).sum(), abs=1e-5)
    assert variance.item() == pytest.approx((q * (x - (q * x).sum()) ** 2).sum(), rel=1e-3)


def test_q_posterior_takes_a_tensor_of_times():
    ddpm = gaussian_ddpm()
    x0, x_t, t = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([1, 7, 50])
    mean, variance = ddpm.q_posterior(x0, x_t, t)
    for i in range(3):
        single = ddpm.q_posterior(x0[i : i + 1], x_t[i : i + 1], int(t[i]))
        torch.testing.assert_close(mean[i : i + 1], single[0])
        torch.testing.assert_close(variance[i].squeeze(), single[1])


# ------------------------------------------------------------ training


def test_loss_of_the_best_denoiser():
    """E |eps - E[eps | x_t]|^2 = alpha_bar s^2 / (alpha_bar s^2 + 1 - alpha_bar), averaged over t = 1..T."""
    ddpm, n = gaussian_ddpm(drop_prob=0.0), 200_000
    c = torch.eye(3)[torch.randint(3, (n,), generator=seeded())]
    y = c @ torch.tensor(MEANS)[:, None] + S * torch.randn(n, 1, generator=seeded(1))
    alpha_bar = ddpm.alpha_bar_t[1:].double()
    expected = (alpha_bar * S**2 / (alpha_bar * S**2 + 1 - alpha_bar)).mean().item()
    assert ddpm(y, c, seeded(2)).item() == pytest.approx(expected, rel=0.01)


def test_l1_loss_of_the_best_denoiser():
    """The error is Gaussian, so that E |error| = sqrt(2 / pi) times its deviation."""
    ddpm, n = gaussian_ddpm(drop_prob=0.0, loss="l1"), 200_000
    y = MEANS[0] + S * torch.randn(n, 1, generator=seeded(1))
    alpha_bar = ddpm.alpha_bar_t[1:].double()
    expected = (alpha_bar * S**2 / (alpha_bar * S**2 + 1 - alpha_bar)).sqrt().mean().item() * math.sqrt(2 / math.pi)
    assert ddpm(y, torch.eye(3)[:1].repeat(n, 1), seeded(2)).item() == pytest.approx(expected, rel=0.01)


def test_draw_reaches_every_timestep_and_drops_classes():
    ddpm = gaussian_ddpm(10, drop_prob=0.25)
    t, noise, c = ddpm.draw(torch.zeros(40_000, 2), torch.ones(40_000, 3), seeded())
    counts = torch.bincount(t, minlength=12)
    assert counts[0] == counts[11] == 0 and (counts[1:11] > 3_700).all()  # 4,000 expected, deviation 60
    kept = c.sum(1)
    assert set(kept.tolist()) == {0.0, 3.0}  # whole vectors, never single entries
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.012)
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("drop_prob", [0.0, 1.0])
def test_drop_prob_at_its_ends(drop_prob):
    _, _, c = gaussian_ddpm(drop_prob=drop_prob).draw(torch.zeros(1000, 2), torch.ones(1000, 3), seeded())
    assert (c == 1 - drop_prob).all()


def test_forward_is_differentiable_and_repeatable():
    ddpm = DDPM(UNet(1, 8, 10, 8), n_timesteps=10, device="cpu")
    y, c = torch.rand(4, 1, 8, 8), torch.eye(10)[:4]
    losses = [ddpm(y, c, seeded(5)) for _ in range(2)]
    assert losses[0].shape == () and torch.equal(losses[0], losses[1])
    losses[0].backward()
    assert all(p.grad is not None for p in ddpm.parameters())


# ------------------------------------------------------------ sampling


def exact_moments(ddpm, m_c, w, variance, m_0=NO_CLASS_MEAN):
    """Mean and variance of y_0 by recursion: with the Gaussian denoiser every reverse step is affine in x."""
    alpha_bar = ddpm.alpha_bar_t.double().numpy()
    mean, var = 0.0, 1.0
    for t in range(ddpm.n_timesteps, 0, -1):
        a, alpha = alpha_bar[t], alpha_bar[t] / alpha_bar[t - 1]
        slope = math.sqrt(1 - a) / (a * S**2 + 1 - a)
        centre = (1 + w) * m_c - w * m_0
        scale = (1 - (1 - alpha) / math.sqrt(1 - a) * slope) / math.sqrt(alpha)
        shift = (1 - alpha) / math.sqrt(1 - a) * slope * math.sqrt(a) * centre / math.sqrt(alpha)
        noise = 0 if t == 1 else 1 - alpha
        if variance == "posterior":
            noise *= (1 - alpha_bar[t - 1]) / (1 - a)
        mean, var = scale * mean + shift, scale**2 * var + noise
    return mean, var


@pytest.mark.parametrize("w", [-1, 0, 0.5, 1, 3])
@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samples_have_the_moments_of_algorithm_2(w, variance, schedule):
    n = 20_000
    ddpm = gaussian_ddpm(schedule=schedule)
    y, _ = ddpm.sample(n, (2,), 3, w, variance=variance, generator=seeded(), record=False)
    y = y.view(n, 3, 2)  # class-fastest order
    for k in range(3):
        mean, var = exact_moments(ddpm, MEANS[k], w, variance)
        assert y[:, k].mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / (2 * n)))
        assert y[:, k].var().item() == pytest.approx(var, rel=0.05)


def test_samples_are_the_data_when_T_is_large():
    """Not only the algorithm but the distribution: with many steps the samples are N(m_k, s^2)."""
    y, _ = gaussian_ddpm(1000).sample(4_000, (2,), 3, generator=seeded(), record=False)
    y = y.view(4_000, 3, 2)
    for k in range(3):
        assert y[:, k].mean().item() == pytest.approx(MEANS[k], abs=0.02)
        assert y[:, k].std().item() == pytest.approx(S, rel=0.03)


def test_posterior_mean_form_without_clipping_is_the_eps_form():
    """[Ho] equation 10: both means are the same; with x_0 inside [-1, 1] the clamp does nothing."""
    ddpm = gaussian_ddpm()
    x, c = 0.1 * torch.randn(6, 2), torch.eye(3).repeat(2, 1)
    for t in (1, 2, 30):
        x_t = ddpm.q_sample(x, t, torch.zeros_like(x))
        clipped = ddpm.p_sample(x_t, t, c, clip_x0=True, generator=seeded())
        torch.testing.assert_close(clipped, ddpm.p_sample(x_t, t, c, generator=seeded()), rtol=1e-4, atol=1e-5)


def test_clipping_acts_before_the_mean():
    """A network that predicts no noise where x_t = 5 means x_0 > 1: clipped, it must give another mean."""
    ddpm = gaussian_ddpm()
    ddpm.nn_model = ZeroNoise()
    x = torch.full((2, 1), 5.0)
    clipped = ddpm.p_sample(x, 1, clip_x0=True)
    torch.testing.assert_close(clipped, torch.ones(2, 1))  # at t = 1 the posterior mean is x_0 itself
    assert (ddpm.p_sample(x, 1) > 4.9).all()
    # Between the ends the mean mixes x_0 and x_t. Its share of x_0 must come from the clamped one:
    mean, variance = ddpm.q_posterior(torch.ones(2, 1), x, 30)
    drawn = ddpm.p_sample(x, 30, clip_x0=True, variance="posterior", generator=seeded())
    noise = torch.randn(2, 1, generator=seeded())
    torch.testing.assert_close(drawn, mean + variance.sqrt() * noise)
    y, _ = ddpm.sample(3, (2,), None, clip_x0=True)
    assert y.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("variance, clip_x0", [("posterior", True), ("beta", True), ("posterior", False)])
def test_the_way_a_model_draws_goes_with_it(variance, clip_x0):
    """What the constructor is told holds for samples, steps and the bound, until a call says something else."""
    step = {"variance": variance, "clip_x0": clip_x0}
    made, plain = gaussian_ddpm(**step), gaussian_ddpm()
    made.nn_model = plain.nn_model = ZeroNoise()
    draw = lambda d, **k: d.sample(3, (2,), None, generator=seeded(), record=False, **k)[0]  # noqa: E731
    assert torch.equal(draw(made), draw(plain, **step)) and not torch.equal(draw(made), draw(plain))
    assert torch.equal(draw(made, variance="beta", clip_x0=False), draw(plain))
    x = torch.full((2, 2), 0.2)
    bound = lambda d, **k: d.variational_bound(x, None, seeded(), decoder="gaussian", **k).nats  # noqa: E731
    assert torch.equal(bound(made), bound(plain, **step))
    assert torch.equal(bound(made, variance="beta", clip_x0=False), bound(plain))
    few = made.respaced(5)
    assert few.clip_x0 is clip_x0 and few.variance == "posterior"


class ZeroNoise(nn.Module):
    def forward(self, x, t, c):
        return torch.zeros_like(x)


@pytest.mark.parametrize("w, factor", [(0, 1), (-1, 1), (1, 2), (0.5, 2)])
def test_the_network_sees_no_more_images_than_needed(w, factor):
    seen = []
    ddpm = gaussian_ddpm(8)
    ddpm.nn_model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    ddpm.sample(2, (2,), 3, w)
    assert seen == [6 * factor] * 8


def test_guidance_convention():
    ddpm = gaussian_ddpm()
    x, c = torch.randn(3, 2), torch.eye(3)
    eps_c, eps_0 = ddpm.eps(x, 7, c), ddpm.eps(x, 7, torch.zeros_like(c))
    for w in (-1, 0, 0.5, 1, 3):
        torch.testing.assert_close(ddpm.eps(x, 7, Condition(c, w)), (1 + w) * eps_c - w * eps_0)
    torch.testing.assert_close(ddpm.eps(x, 7, Condition(torch.zeros_like(c), 3)), eps_0)


def test_order_of_samples_and_recorded_pictures():
    ddpm = gaussian_ddpm(50)
    y, steps = ddpm.sample(5, (1, 4, 4), 3, generator=seeded())
    means = y.view(5, 3, -1).mean(dim=(0, 2))
    assert means.argsort().tolist() == [0, 1, 2] and y.shape == (15, 1, 4, 4)
    times = ddpm.recorded_times()
    assert times == [49, 39, 19, 6, 5, 4, 3, 2, 1, 0]  # what the steps from t = 50, 40, 20, 7 .. 1 reach
    assert steps.shape == (len(times), 15, 1, 4, 4) and steps.dtype == np.float32
    assert (steps[-1] == y.numpy()).all()
    noise, c = torch.randn(15, 1, 4, 4, generator=(generator := seeded())), torch.eye(3).repeat(5, 1)
    torch.testing.assert_close(torch.tensor(steps[0]), ddpm.p_sample(noise, 50, c, generator=generator))
    assert len(DDPM(ZeroNoise(), device="cpu").recorded_times()) == 27  # T = 400
    assert DDPM(ZeroNoise(), n_timesteps=1, device="cpu").sample(1, (2,), None)[1].shape == (1, 1, 2)


def test_every_timestep_is_visited_once():
    visited = []
    gaussian_ddpm(30).sample(1, (2,), 3, progress=visited.append)
    assert visited == list(range(30, 0, -1))


def test_same_generator_state_same_samples_and_global_state_untouched():
    ddpm = gaussian_ddpm()
    before = torch.random.get_rng_state()
    first, second = (ddpm.sample(2, (2,), 3, 1, generator=seeded(3))[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first, ddpm.sample(2, (2,), 3, 1, generator=seeded(4))[0])


def test_classes_by_index_by_vector_and_none():
    ddpm, n = gaussian_ddpm(200), 4_000
    by_index, _ = ddpm.sample(n, (1,), 3, classes=[2, 0], generator=seeded(), record=False)
    by_vector, _ = ddpm.sample(n, (1,), 3, classes=torch.eye(3)[[2, 0]], generator=seeded(), record=False)
    assert torch.equal(by_index, by_vector)
    assert by_index.view(n, 2).mean(0).tolist() == pytest.approx([MEANS[2], MEANS[0]], abs=0.03)
    mixture, _ = ddpm.sample(n, (1,), 3, classes=[[0.5, 0, 0.5]], generator=seeded(), record=False)
    assert mixture.mean().item() == pytest.approx((MEANS[0] + MEANS[2]) / 2, abs=0.03)
    for arguments in ({"n_classes": None}, {"n_classes": 0}, {"classes": None}):
        none, _ = ddpm.sample(n, (1,), g_weight=2, generator=seeded(), record=False, **arguments)
        assert none.shape == (n, 1) and none.mean().item() == pytest.approx(NO_CLASS_MEAN, abs=0.03)


# ------------------------------------------------------------ the network around sampling


@pytest.mark.parametrize("training", [True, False])
def test_sample_leaves_model_mode_and_weights_as_found(training):
    ddpm = DDPM(trained_unet(), n_timesteps=3, device="cpu").train(training)
    before = {name: value.clone() for name, value in ddpm.state_dict().items()}
    y, _ = ddpm.sample(1, n_classes=10, generator=seeded())
    assert y.shape == (10, 1, 8, 8)  # the size is the network's own
    assert ddpm.training == ddpm.nn_model.training == training
    assert before.keys() == ddpm.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in ddpm.state_dict().items())
    assert all(p.requires_grad for p in ddpm.parameters())


def test_sampling_uses_eval_mode():
    """A sample must not depend on what else is in the batch, as BatchNorm in training mode would make it."""
    ddpm = DDPM(trained_unet(), n_timesteps=1, device="cpu").train()
    y, _ = ddpm.sample(2, n_classes=10, generator=seeded())
    x, c = torch.randn(20, 1, 8, 8, generator=seeded()), torch.eye(10)
    alone = ddpm.eval().p_sample(x[:1], 1, c[:1])
    torch.testing.assert_close(alone, y[:1], rtol=1e-3, atol=1e-4)


def test_samples_are_ordinary_tensors_for_training():
    """Tensors made in inference mode cannot be used with autograd; what sampling returns can."""
    layer = nn.Linear(2, 1)
    y, steps = gaussian_ddpm().reverse_process(torch.randn(6, 2), 50, [49, 0])
    (layer(y).sum() + layer(steps).sum()).backward()
    assert layer.weight.grad is not None


def test_bfloat16_network_float32_loss():
    torch.manual_seed(0)
    ddpm = DDPM(UNet(1, 8, 10, 8), n_timesteps=10, device="cpu", amp_dtype=torch.bfloat16)
    kinds = []
    ddpm.nn_model.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    y, c = torch.rand(8, 1, 8, 8), torch.eye(10)[:8]
    loss = ddpm(y, c, seeded())
    assert loss.dtype == torch.float32 and kinds == [torch.bfloat16]
    ddpm.amp_dtype = None
    assert loss.item() == pytest.approx(ddpm(y, c, seeded()).item(), rel=0.02)
    assert ddpm.sample(1, n_classes=10)[0].dtype == torch.float32


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"beta1": 0.03}, "beta1 = 0.03, beta2 = 0.02"),
        ({"beta1": 0.02}, "beta1 = 0.02, beta2 = 0.02"),
        ({"beta1": 0.0}, "beta1 = 0.0"),
        ({"beta2": 1.0}, "beta2 = 1.0"),
        ({"beta1": math.nan}, "beta1 = nan"),
        ({"n_timesteps": 0}, "n_timesteps must be a whole number of at least 1, not 0"),
        ({"n_timesteps": 2.5}, "2.5"),
        ({"n_timesteps": 400.0}, "400.0"),
        ({"n_timesteps": math.nan}, "nan"),
        ({"drop_prob": 1.5}, "drop_prob must be in [0, 1], not 1.5"),
        ({"schedule": "quadratic"}, "schedule must be 'linear' or 'cosine', not 'quadratic'"),
        ({"loss": "huber"}, "loss must be 'mse' or 'l1', not 'huber'"),
    ],
)
def test_refuses_impossible_models(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        DDPM(ZeroNoise(), **{"device": "cpu", **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="here 'cuda' is right")
def test_default_device_without_gpu_is_one_clear_error():
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no CUDA GPU"):
        DDPM(ZeroNoise())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"n_sample": 0}, "n_sample must be a whole number of at least 1, not 0"),
        ({"classes": [0, 3]}, "classes holds 3, but class indices run from 0 to 2"),
        ({"classes": [-1]}, "classes holds -1"),
        ({"classes": []}, "at least one class"),
        ({"classes": torch.ones(2, 4)}, "must be [K, 3], not [2, 4]"),
        ({"classes": [[math.nan, 0, 0]]}, "classes must be finite, but holds nan"),
        ({"classes": "some"}, "'some'"),
        ({"variance": "learned"}, "'learned'"),
        ({"g_weight": math.inf}, "g_weight must be a finite number"),
        ({"size": None}, "size must be the shape of one sample"),
        ({"n_classes": -1}, "n_classes must be at least 0, not -1"),
    ],
)
def test_refuses_impossible_samples(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        gaussian_ddpm().sample(**{"n_sample": 1, "size": (2,), "n_classes": 3, **arguments})


@pytest.mark.parametrize(
    "y, c, words",
    [
        (torch.tensor([[math.nan]]), torch.zeros(1, 3), "y must be finite, but holds nan"),
        (torch.zeros(1, 1), torch.tensor([[math.inf, 0, 0]]), "c must be finite, but holds inf"),
        (torch.zeros(2, 1), torch.zeros(3, 3), "c must be [2, n_classes] for a batch of 2, not [3, 3]"),
        (torch.zeros(2, 1), torch.zeros(2), "not [2]"),
        (torch.zeros(2, 1, dtype=torch.uint8), None, "y must be float in [-1, 1], not torch.uint8"),
    ],
)
def test_forward_refuses_bad_batches(y, c, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        gaussian_ddpm()(y, c)


def test_whole_numbered_class_vectors_are_taken():
    """torch.nn.functional.one_hot gives int64."""
    c = nn.functional.one_hot(torch.tensor([0, 2]), 3)
    assert gaussian_ddpm()(torch.zeros(2, 1), c, seeded()) == gaussian_ddpm()(torch.zeros(2, 1), c.float(), seeded())


def test_without_amp_no_autocast_is_entered(monkeypatch):
    """Entering it, even switched off, is an error for some devices in older releases."""
    monkeypatch.setattr(torch, "autocast", None)
    gaussian_ddpm().sample(1, (2,), 3)


def test_wrong_class_width_is_refused_by_the_network():
    with pytest.raises(ValueError, match=re.escape("c must be [2, 10], not [2, 7]")):
        DDPM(UNet(1, 8, 10, 8), device="cpu")(torch.zeros(2, 1, 8, 8), torch.zeros(2, 7))


def test_weights_lie_in_memory_as_the_device_wants_them(monkeypatch):
    assert layout_on("cpu") is layout_on("cuda:0") is torch.preserve_format
    assert layout_on("mps") is layout_on(torch.device("mps", 0)) is torch.contiguous_format
    for layout, last in ((torch.preserve_format, True), (torch.contiguous_format, False)):
        monkeypatch.setattr("ddpm.layout_on", lambda device, layout=layout: layout)
        weights = [w for w in DDPM(UNet(1, 8, 10, 8), device="cpu").parameters() if w.ndim == 4 and w.shape[2] == 3]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights if w.shape[1] > 1) == last
