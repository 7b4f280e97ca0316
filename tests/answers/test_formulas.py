"""The derivations of answers/forward_process.md and answers/variational_bound.md against independent calculations.

value("F14", {...}) computes the formula with this number as it stands in the Markdown. The oracles are integrals on a
grid, torch's distributions, chains of steps and the suite's own functions; everything is float64.
"""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from answers_process import ALPHA, BAR, BETA, DX, X, at, close, lambda_network, moments, normal, suite_ddpm
from answers_text import ANSWERS, ROOT, n_sides, sections, value
from torch.distributions import Independent, Normal, kl_divergence

from diffusion.likelihood import gaussian_kl

NOISE_GAP = r"\lVert \epsilon - \epsilon_\theta(x_t, t) \rVert"

# ------------------------------------------------------------ forward_process.md


def test_closed_form_is_what_the_steps_lead_to():
    """Paths simulated step by step have the mean and the standard deviation of (F1)."""
    generator, x0 = torch.Generator().manual_seed(0), torch.tensor([-1.0, 0.4]).double()
    x = x0.repeat(200_000, 1)
    for t in range(1, 5):
        x = ALPHA[t].sqrt() * x + BETA[t].sqrt() * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        mean = value("F1", {**at(t), "x_0": x0, r"\epsilon": 0.0})
        deviation = value("F1", {**at(t), "x_0": 0.0, r"\epsilon": 1.0})
        close(x.mean(0), mean, 0, 0.01)
        close(x.std(0), deviation.expand(2), 0.01)
        assert n_sides("F2") == 3
        for side in range(3):
            close(value("F2", at(t), side), deviation**2)


def test_closed_form_is_q_sample():
    ddpm, x0, noise = suite_ddpm(), torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    for t in (1, 37, 400):
        known = {r"\bar\alpha_t": ddpm.alpha_bar_t[t], "x_0": x0, r"\epsilon": noise}
        close(ddpm.q_sample(x0, t, noise).double(), value("F1", known).double(), 1e-4, 1e-5)


def test_the_misprinted_loss_is_another_process():
    """With alpha_t for alpha_bar_t unit data would not keep their variance, and the image would never fade."""
    for t in range(2, 5):
        right = sum(value("F1", {**at(t), "x_0": a, r"\epsilon": b}) ** 2 for a, b in ((1.0, 0.0), (0.0, 1.0)))
        close(right, 1.0)
        wrong = {**at(t), r"\bar\alpha_t": ALPHA[t]}
        signal, noise = value("F1", {**wrong, "x_0": 1.0, r"\epsilon": 0.0}), (1 - BAR[t]).sqrt()
        assert signal**2 + noise**2 > 1.04
    ddpm = suite_ddpm()
    text = sections(ROOT / "answers" / "forward_process.md")["the-closed-form-by-induction"]
    printed = [float(x) for x in re.findall(r"\\sqrt\{(?:\\bar)?\\alpha_T\} = ([\d.]+)\$", text)]
    assert printed == [round(ddpm.alpha_t[400].sqrt().item(), 2), round(ddpm.sqrt_alpha_bar_t[400].item(), 2)]


def test_cost_of_a_random_timestep():
    ddpm = suite_ddpm()
    t, _, _ = ddpm.draw(torch.zeros(100_000, 1), None, torch.Generator().manual_seed(0))
    close(t.double().mean(), value("F3", {"T": 400.0}), 0.01)
    assert value("F3", {"T": 400.0}) == 200.5 == sum(range(1, 401)) / 400


def test_closed_form_is_hundreds_of_times_cheaper(capsys):
    """Runs the code of the answer. The bound is far below the measured 600, because machines are shared."""
    text = (ROOT / "answers" / "forward_process.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    assert names["step_by_step"] > 20 * names["closed_form"]
    assert "a factor of" in capsys.readouterr().out
    close(names["x"].std(), names["ddpm"].q_sample(names["x0"], 400, torch.randn(names["x0"].shape)).std(), 0.02)


def test_gaussian_divergence_by_integration():
    for m1, v1, m2, v2 in ((0.3, 0.5, -0.4, 1.2), (1.0, 1.5, 0.0, 0.8), (0.0, 0.7, 0.0, 0.7)):
        p, q = normal(X, m1, v1), normal(X, m2, v2)
        integral = (p * (p / q).log()).sum() * DX
        known = {"D": 1.0, "v_1": v1, "v_2": v2, "m_1": m1, "m_2": m2}
        close(value("F4", known), integral, 1e-6, 1e-8)
        many = value("F4", {**known, "D": 3.0, r"\lVert m_1 - m_2 \rVert": math.sqrt(3) * abs(m1 - m2)})
        close(many, 3 * integral, 1e-6, 1e-8)
        suite = gaussian_kl(torch.tensor(3 * (m1 - m2) ** 2), torch.tensor(v1), torch.tensor(v2), 3)
        close(suite, many, 1e-4, 1e-6)


def divergence_of(tag, bar, x0):
    """(F5) or (F8) for one image."""
    known = {r"\bar\alpha_T": torch.as_tensor(bar).double(), r"\lVert x_0 \rVert": x0.norm(), "D": float(x0.numel())}
    return value(tag, known)


def test_divergence_of_the_last_step_from_the_prior():
    x0 = torch.tensor([0.9, -0.5, 0.2, 0.0]).double()
    for bar in (0.5, 0.1, 1e-2, 1e-4):
        q = Independent(Normal(bar**0.5 * x0, (1 - bar) ** 0.5), 1)
        exact = kl_divergence(q, Independent(Normal(torch.zeros_like(x0), 1.0), 1))
        close(divergence_of("F5", bar, x0), exact, 1e-6, 1e-12)
        assert exact < divergence_of("F8", bar, x0) * (1 + 1e-6)
    close(divergence_of("F8", 1e-4, x0), exact, 1e-6)  # the bound is sharp where little is left
    nothing = torch.zeros(4).double()
    close(divergence_of("F8", 1e-3, nothing), divergence_of("F5", 1e-3, nothing), 1e-3)


def test_schedules_that_reach_the_gaussian_and_one_that_does_not():
    t = torch.arange(1, 200_001).double()
    x0 = torch.ones(5).double()
    slow, fast, constant = 1 / (t + 1), 1 / (t + 1) ** 2, torch.full_like(t, 0.03)
    for beta, exact in ((slow, "F9"), (fast, "F10"), (constant, None)):
        bar = torch.cumprod(1 - beta, 0)
        for T in (1, 7, 200):
            assert bar[T - 1] <= value("F6", {r"\sum_{t=1}^T \beta_t": beta[:T].sum()})
            if exact:
                close(value(exact, {"T": float(T)}), bar[T - 1])
    bar = torch.cumprod(1 - constant, 0)
    close(bar[199], (1 - torch.tensor(0.03).double()) ** 200)
    close(value("F7", {"b": 0.03, "T": torch.tensor(200.0).double()}), bar[199])  # sharp for a constant schedule
    close(divergence_of("F5", 1 / 200_001, x0), 5 / (2 * 200_000), 1e-3)  # slow: |x_0|^2 / 2T
    limit = value("F11", {"D": 5.0, r"\lVert x_0 \rVert": x0.norm()})
    close(divergence_of("F5", torch.cumprod(1 - fast, 0)[-1], x0), limit, 1e-4)
    close(limit, 2.5 * math.log(2))
    assert value("F11", {"D": 5.0, r"\lVert x_0 \rVert": 0.0}) > 0.4
    close(torch.cumprod(1 - torch.full((100_000,), 2.0 / 100_000).double(), 0)[-1], math.exp(-2), 1e-4)  # c / T


def test_numbers_of_the_default_schedule():
    """What the answers quote of the schedule, and what follows from it for images of 784 pixels with |x_0|^2 = 726."""
    bar, D, norm2 = suite_ddpm().alpha_bar_t[400].item(), 784, 726
    mnist = torch.full((D,), math.sqrt(norm2 / D)).double()
    long = suite_ddpm(1000).alpha_bar_t[1000].item()
    bits = lambda nats: nats.item() / D / math.log(2)  # noqa: E731
    assert round(bar, 4) == 0.0175
    assert round(divergence_of("F5", bar, mnist).item(), 1) == 6.4
    assert round(bits(divergence_of("F5", bar, mnist)), 3) == 0.012
    assert round(divergence_of("F5", long, mnist).item(), 3) == 0.015
    assert round(bits(divergence_of("F5", long, mnist)), 5) == 0.00003
    assert round(D / 2 * math.log(2)) == 272
    text = " ".join(" ".join(page.read_text(encoding="utf-8") for page in ANSWERS).split())
    for quoted in ("= 0.0175$, and (F5) is 6.4 nats", "or 0.012 bits", "it is 0.015 nats, or 0.00003 bits", "272 nats"):
        assert quoted in text, quoted

    ddpm = suite_ddpm()
    weights = {}
    for t in (1, 10, 50, 200, 400):
        alpha, beta = ddpm.alpha_t[t], 1 - ddpm.alpha_t[t]
        known = {r"\beta_t": beta, r"\sigma_t": beta.sqrt(), r"\alpha_t": alpha, r"\bar\alpha_t": ddpm.alpha_bar_t[t]}
        weights[t] = value("B12", {**known, NOISE_GAP: 1.0}).item()
    assert [f"{weights[t]:.2g}" for t in weights] == ["0.5", "0.085", "0.02", "0.0079", "0.01"]
    assert "0.50 at t = 1, 0.085 at 10, 0.020 at 50, 0.0079 at 200 and 0.010 at 400" in text
    assert round(weights[1] / weights[50]) == 25 and 60 < weights[1] / weights[200] < 65
    assert -0.5 * math.log(0.02) == pytest.approx(1.956, abs=1e-3) and "nearly 2 nats for every pixel" in text


@pytest.mark.skipif(not (ROOT / "data" / "MNIST" / "raw").is_dir(), reason="MNIST is not there")
def test_mean_square_of_the_test_images():
    from datasets.image_set import to_float
    from datasets.sources import load

    images = to_float(load("mnist", ROOT / "data", train=False).images)
    assert round(images.square().flatten(1).sum(1).mean().item()) == 726


def test_posterior_by_integrating_bayes_theorem():
    """q(x_t | x_{t-1}) q(x_{t-1} | x_0), normalised by a sum over x_{t-1}, has the mean and variance of the formulas."""
    for t, x0, xt in itertools.product((2, 3, 4), (-0.7, 0.9), (-1.3, 0.5)):
        joint = normal(xt, ALPHA[t].sqrt() * X, BETA[t]) * normal(X, BAR[t - 1].sqrt() * x0, 1 - BAR[t - 1])
        mean, variance = moments(joint)
        known = {**at(t), "x_0": x0, "x_t": xt}
        close(value("F14", known), variance, 1e-5)
        close(value("F15", known), mean, 1e-5)
        A, B = value("F12", known), value("F13", known)
        close(1 / A, variance, 1e-5)
        close(B / A, mean, 1e-5)
    ddpm = suite_ddpm()
    x0, xt = torch.randn(5), torch.randn(5)
    weight = {r"\bar\alpha_t": ddpm.alpha_bar_t[2], r"\bar\alpha_{t-1}": ddpm.alpha_bar_t[1], "x_0": 1.0, "x_t": 0.0}
    weight.update({r"\beta_t": 1 - ddpm.alpha_t[2], r"\alpha_t": ddpm.alpha_t[2]})
    assert round(value("F15", weight).item(), 1) == 0.6  # as the answer says
    for t in (1, 2, 100, 400):
        bars = {r"\bar\alpha_t": ddpm.alpha_bar_t[t].double(), r"\bar\alpha_{t-1}": ddpm.alpha_bar_t[t - 1].double()}
        known = {**bars, r"\beta_t": 1 - ddpm.alpha_t[t].double(), r"\alpha_t": ddpm.alpha_t[t].double()}
        mean, variance = ddpm.q_posterior(x0, xt, t)
        close(mean, value("F15", {**known, "x_0": x0.double(), "x_t": xt.double()}), 1e-3, 1e-3)
        close(variance, value("F14", known), 2e-3, 1e-9)


def test_posterior_mean_from_the_noise():
    for t in range(1, 5):
        assert n_sides("F16") == 3
        for side in range(3):
            close(value("F16", at(t), side), 1 / ALPHA[t].sqrt())
        x0, noise = torch.randn(6).double(), torch.randn(6).double()
        xt = value("F1", {**at(t), "x_0": x0, r"\epsilon": noise})
        close(value("F17", {**at(t), "x_t": xt, r"\epsilon": noise}), value("F15", {**at(t), "x_0": x0, "x_t": xt}))


# ------------------------------------------------------------ variational_bound.md

T = 3
GRID = torch.linspace(-5.5, 5.5, 141, dtype=torch.float64)
CELL = ((GRID[1] - GRID[0]) ** T).item()
X0 = 0.6


def paths():
    """Log densities on the grid of all (x_1, x_2, x_3), for one x_0: of q and of a model that is no Gaussian."""
    x = [torch.tensor(X0).double(), *(GRID.view([-1 if i == t else 1 for i in range(T)]) for t in range(T))]
    log = lambda x, mean, variance: normal(x, mean, variance).log()  # noqa: E731
    q_step = [None] + [log(x[t], ALPHA[t].sqrt() * x[t - 1], BETA[t]) for t in range(1, T + 1)]
    q_from_0 = [None] + [log(x[t], BAR[t].sqrt() * X0, 1 - BAR[t]) for t in range(1, T + 1)]
    p_back = [log(x[t - 1], torch.tanh(1.3 * x[t]) - 0.1 * t, 0.2 + 0.1 * t) for t in range(1, T + 1)]  # [t - 1]
    turned = [None, None]
    for t in range(2, T + 1):
        known = {**at(t), "x_0": X0, "x_t": x[t]}
        turned.append(log(x[t - 1], value("F15", known), value("F14", known)))
    return q_step, q_from_0, p_back, turned, log(x[T], 0, 1.0)


def mean_over_q(log_ratio, log_q):
    return (log_q.exp() * log_ratio).sum() * CELL


def test_every_line_of_the_bound_has_the_same_value():
    q_step, q_from_0, p_back, turned, prior = paths()
    log_q, log_p = sum(q_step[1:]), prior + sum(p_back)
    E = lambda f: mean_over_q(f, log_q)  # noqa: E731
    close(E(torch.ones(1)), 1.0, 1e-6)

    likelihood = log_p.exp().sum() * CELL  # p_theta(x_0): all paths summed up
    posterior = log_p - likelihood.log()
    from_2 = range(2, T + 1)
    ratios = sum(p_back[t - 1] - turned[t] for t in from_2)
    telescope = sum(q_from_0[t - 1] - q_from_0[t] for t in from_2)
    lines = {
        "B1": -likelihood.log() + E(log_q - posterior),
        "B2": E(-prior - sum(p_back[t - 1] - q_step[t] for t in range(1, T + 1))),
        "B3": E(-prior - sum(p_back[t - 1] - q_step[t] for t in from_2) - p_back[0] + q_step[1]),
        "B4": E(-prior - ratios - telescope - p_back[0] + q_from_0[1]),
        "B5": E(-prior + q_from_0[T] - ratios - p_back[0]),
    }
    known = {r"\bar\alpha_T": BAR[T], r"\lVert x_0 \rVert": X0, "D": 1.0}
    terms = [value("F5", known)]  # L_T
    for t in from_2:  # inner KL in closed form, outer mean over x_t alone
        mean = value("F15", {**at(t), "x_0": X0, "x_t": X})
        p, q = Normal(torch.tanh(1.3 * X) - 0.1 * t, (0.2 + 0.1 * t) ** 0.5), Normal(mean, value("F14", at(t)).sqrt())
        terms.append((normal(X, BAR[t].sqrt() * X0, 1 - BAR[t]) * kl_divergence(q, p)).sum() * DX)
    q_1 = normal(X, BAR[1].sqrt() * X0, 1 - BAR[1])
    terms.append(-(q_1 * normal(torch.tensor(X0), torch.tanh(1.3 * X) - 0.1, 0.3).log()).sum() * DX)  # L_0
    lines["B6"] = sum(terms)
    for tag, found in lines.items():
        assert found.item() == pytest.approx(lines["B1"].item(), rel=1e-5), tag
    assert lines["B1"] > -likelihood.log() + 0.1  # the gap is there


def test_second_form_and_its_two_traps():
    q_step, _, p_back, _, prior = paths()
    log_q = sum(q_step[1:])
    E = lambda f: mean_over_q(f, log_q)  # noqa: E731
    bound = E(log_q - prior - sum(p_back))
    ratios = [E(q_step[t] - p_back[t]) for t in range(1, T)]  # p_back[t]: of x_t given x_{t+1}
    second_form = -E(p_back[0]) + E(q_step[T] - prior) + sum(ratios)  # (B7)
    close(second_form, bound, 1e-6)

    # As KL divergences, x_t drawn from q(x_t | x_{t-1}) independently of x_{t+1}: another number.
    wrong = []
    for t in range(1, T):
        before = BAR[t - 1].sqrt() * X0
        n = torch.linspace(-6, 6, 81, dtype=torch.float64)
        weight = normal(n, 0, 1.0) / normal(n, 0, 1.0).sum()
        earlier = before + (1 - BAR[t - 1]).sqrt() * n  # x_{t-1} given x_0
        w_2 = weight[:, None] * weight
        later = BAR[t + 1].sqrt() / BAR[t - 1].sqrt() * earlier[:, None] + (1 - BAR[t + 1] / BAR[t - 1]).sqrt() * n
        q = Normal(ALPHA[t].sqrt() * earlier[:, None], BETA[t].sqrt())
        p = Normal(torch.tanh(1.3 * later) - 0.1 * (t + 1), (0.2 + 0.1 * (t + 1)) ** 0.5)
        wrong.append((w_2 * kl_divergence(q, p)).sum())
    assert all(abs(a - b) > 0.02 for a, b in zip(ratios, wrong)), (ratios, wrong)


def test_prior_term_of_the_second_form():
    generator, x0, t = torch.Generator().manual_seed(0), torch.tensor([0.8, -0.3, 0.1]).double(), 4
    earlier = BAR[t - 1].sqrt() * x0 + (1 - BAR[t - 1]).sqrt() * torch.randn(400_000, 3, generator=generator).double()
    q = Normal(ALPHA[t].sqrt() * earlier, BETA[t].sqrt())
    known = {r"\bar\alpha_T": BAR[t], r"\beta_T": BETA[t], r"\lVert x_0 \rVert": x0.norm(), "D": 3.0}
    close(value("B8", known), kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean(), 2e-3)


@pytest.mark.parametrize("sigma2", [0.02, 0.3])
def test_weighted_distance_of_means_is_the_divergence(sigma2):
    for t in range(2, 5):
        known = {**at(t), r"\tilde\mu_t": 0.5, r"\mu_\theta(x_t, t)": 0.1, r"\sigma_t": sigma2**0.5, "D": 1.0}
        q, p = Normal(0.5, at(t)[r"\tilde\beta_t"].sqrt()), Normal(0.1, sigma2**0.5)
        close(value("B9", known), kl_divergence(q, p))


def test_true_reverse_variance_between_the_two_choices():
    for t, s2 in itertools.product((2, 3, 4), (0.0, 0.3, 1.0)):
        v_before, v = (BAR[k] * s2 + 1 - BAR[k] for k in (t - 1, t))
        found = value("B10", {**at(t), "v_{t-1}": v_before, "v_t": v})
        xt = 0.7
        _, variance = moments(normal(xt, ALPHA[t].sqrt() * X, BETA[t]) * normal(X, 0.0, v_before))
        close(found, variance, 1e-5)
        if s2 != 0.3:
            close(found, BETA[t] if s2 == 1 else value("F14", at(t)), 1e-9)


def test_noise_weight_is_the_divergence(monkeypatch):
    """(B12) is gaussian_kl of the posterior and of the Gaussian around (B11), whose mean is the sampler's."""
    generator = torch.Generator().manual_seed(0)
    for t, sigma2 in itertools.product((2, 3, 4), (0.05, 0.4)):
        x0, noise, guess = (torch.randn(6, generator=generator).double() for _ in range(3))
        xt = value("F1", {**at(t), "x_0": x0, r"\epsilon": noise})
        mean = value("B11", {**at(t), "x_t": xt, r"\epsilon_\theta(x_t, t)": guess})
        target = value("F15", {**at(t), "x_0": x0, "x_t": xt})
        weighted = value("B12", {**at(t), r"\sigma_t": sigma2**0.5, NOISE_GAP: (noise - guess).norm()})
        distance = torch.stack([(target - mean).square().sum(), torch.tensor(0.0)])
        kl, constant = gaussian_kl(distance, value("F14", at(t)), torch.tensor(sigma2).double(), 6)
        close(weighted, kl - constant)
    close(value("B12", {**at(1), r"\sigma_t": BETA[1].sqrt(), NOISE_GAP: 1.0}), 1 / (2 * ALPHA[1]))

    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
    ddpm = suite_ddpm(20, lambda_network(lambda x, t, c: x.cos()))
    x = torch.linspace(-2, 2, 5).view(-1, 1)
    for t in (1, 5, 20):
        known = {r"\alpha_t": ddpm.alpha_t[t], r"\beta_t": 1 - ddpm.alpha_t[t], r"\bar\alpha_t": ddpm.alpha_bar_t[t]}
        known.update({"x_t": x, r"\epsilon_\theta(x_t, t)": x.cos()})
        close(ddpm.p_sample(x, t), value("B11", known), 1e-3, 1e-4)


IMAGE_GAP, BEST_GAP = r"\lVert x_0 - \hat x_0 \rVert", r"E \lVert x_0 - E[x_0 \mid x_t] \rVert^2"


def test_weight_as_a_difference_of_signal_to_noise():
    for t in range(2, 5):
        x0, guess = torch.randn(4).double(), torch.randn(4).double()
        xt = torch.randn(4).double()
        a, b = (value("F15", {**at(t), "x_0": x, "x_t": xt}) for x in (x0, guess))
        posterior = value("F14", at(t))
        kl = gaussian_kl((a - b).square().sum(), posterior, posterior, 4)
        close(value("B13", {**at(t), IMAGE_GAP: (x0 - guess).norm()}), kl)


def test_smallest_consistency_term():
    """For data -1 or 1 with equal probability E[x_0 | x_t] is a tanh: the mean KL of this network, and of worse ones."""
    for t in range(2, 5):
        best = torch.tanh(BAR[t].sqrt() * X / (1 - BAR[t]))
        q = {x0: 0.5 * normal(X, BAR[t].sqrt() * x0, 1 - BAR[t]) for x0 in (-1.0, 1.0)}
        posterior = value("F14", at(t))

        def term(guess, t=t, q=q, posterior=posterior):
            mean = {x0: value("F15", {**at(t), "x_0": x0, "x_t": X}) for x0 in q}
            model = value("F15", {**at(t), "x_0": guess, "x_t": X})
            return sum((q[x0] * gaussian_kl((mean[x0] - model) ** 2, posterior, posterior, 1)).sum() * DX for x0 in q)

        doubt = sum((q[x0] * (x0 - best) ** 2).sum() * DX for x0 in q)
        smallest = value("B14", {**at(t), BEST_GAP: doubt})
        close(term(best), smallest, 1e-6)
        assert smallest > 0.01 and term(0.9 * best) > smallest and term(best + 0.05) > smallest
