"""The formulas and numbers of answers/guidance.md and answers/comparisons.md; see test_formulas.py for how."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
import torch.nn as nn
from answers_process import BAR, X, at, close, lambda_network, moments, normal, suite_ddpm
from answers_text import ROOT, sections, value

from diffusion.condition import Condition
from networks.Conditional_UNet import UNet as ConditionalUNet
from networks.unet import UNet
from train_cifar10 import DEFAULTS

# ------------------------------------------------------------ guidance.md

CLASSES = torch.tensor([-1.0, 1.0]).double()
SPREAD = 0.09


def class_density(x, k, t):
    return normal(x, BAR[t].sqrt() * CLASSES[k], BAR[t] * SPREAD + 1 - BAR[t])


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def noise_of(x, t, classes):
    """E[eps | x_t] by an integral over x_0, for data of these classes; x: [N]."""
    data = sum(normal(X, CLASSES[k], SPREAD) for k in classes)
    weight = data * normal(x[:, None], BAR[t].sqrt() * X, 1 - BAR[t])
    eps = (x[:, None] - BAR[t].sqrt() * X) / (1 - BAR[t]).sqrt()
    return (weight * eps).sum(1) / weight.sum(1)


POINTS = torch.linspace(-2, 2, 9, dtype=torch.float64)


def whole_density(x, t):
    return (class_density(x, 0, t) + class_density(x, 1, t)) / 2


@pytest.mark.parametrize("t", [2, 4])
def test_guided_noise_is_the_score_of_the_tilted_density(t):
    score = gradient(lambda x: whole_density(x, t).log(), POINTS)
    close(value("G1", {**at(t), r"\nabla \log q(x_t)": score}), noise_of(POINTS, t, (0, 1)), 1e-5, 1e-7)
    share = lambda x: (class_density(x, 1, t) / whole_density(x, t) / 2).log()  # noqa: E731
    known = {**at(t), r"\epsilon(x_t, c)": noise_of(POINTS, t, (1,)), r"\epsilon(x_t, 0)": noise_of(POINTS, t, (0, 1))}
    for w in (0.0, 1.0, 3.0, -1.0):
        with_w = {**known, "w": w, r"\nabla \log q(c \mid x_t)": gradient(share, POINTS)}
        close(value("G2", with_w), value("G3", with_w), 1e-5, 1e-7)
        tilted = gradient(lambda x, w=w: class_density(x, 1, t).log() + w * share(x), POINTS)
        close(value("G3", with_w), value("G1", {**at(t), r"\nabla \log q(x_t)": tilted}), 1e-5, 1e-7)

    network = lambda_network(lambda x, t, c: torch.where(c.any(1, keepdim=True), x.cos(), x.sin()))
    x = POINTS.float().view(-1, 1)
    known = {r"\epsilon(x_t, c)": x.cos(), r"\epsilon(x_t, 0)": x.sin(), "w": 3.0}
    close(suite_ddpm(4, network).eps(x, t, Condition(torch.ones(9, 1), 3.0)), value("G3", known), 1e-4, 1e-5)


def test_guided_gaussian():
    for w, v_c, v_0 in ((1.0, 0.09, 1.0), (3.0, 0.09, 1.0), (3.0, 0.5, 0.8), (0.0, 0.2, 1.0)):
        known = {"w": w, "v_c": v_c, "v_0": v_0, "m_c": 1.0, "m_0": -0.2}
        log_tilted = (1 + w) * -((X - 1.0) ** 2) / (2 * v_c) + w * (X + 0.2) ** 2 / (2 * v_0)
        mean, variance = moments((log_tilted - log_tilted.max()).exp())
        P = value("G4", known)
        close(1 / P, variance, 1e-5)
        close(value("G5", {**known, "P": P}), mean, 1e-5)
    assert value("G4", {"w": 3.0, "v_c": 1.0, "v_0": 0.5}) < 0  # a class wider than the whole


def guided_chain(w, T):
    """Mean and deviation at which the sampler's affine steps arrive, with the exact networks of N(1, 0.09), N(0, 1)."""

    def exact(x, t, c):
        a = bar[(t[:1] * T).round().long()]
        mean, variance = torch.where(c > 0, 1.0, 0.0), torch.where(c > 0, SPREAD, 1.0)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * variance + 1 - a)

    ddpm = suite_ddpm(T, lambda_network(exact))
    bar = ddpm.alpha_bar_t
    mean, variance = 0.0, 1.0
    for t in range(T, 0, -1):
        eps = ddpm.eps(torch.tensor([[0.0], [1.0]]), t, Condition(torch.ones(2, 1), w)).flatten().double()
        alpha, k = ddpm.alpha_t[t].item(), (1 - ddpm.alpha_t[t].item()) / ddpm.sqrt_one_minus_alpha_bar_t[t].item()
        slope, intercept = (1 - k * (eps[1] - eps[0]).item()) / alpha**0.5, -k * eps[0].item() / alpha**0.5
        mean, variance = slope * mean + intercept, slope**2 * variance + (1 - alpha if t > 1 else 0)
    return mean, variance**0.5


def test_guided_sampling_ends_elsewhere():
    """The table of the answer: the class, the tilted density, and what the sampler makes instead."""
    text = sections(ROOT / "answers" / "guidance.md")["what-guidance-does-to-the-score"]
    table = [tuple(map(float, row)) for row in re.findall(r"\| (\d\.\d+) \| (\d\.\d+) \|", text)]
    known = {"w": 3.0, "v_c": 0.09, "v_0": 1.0, "m_c": 1.0, "m_0": 0.0}
    P = value("G4", known)
    expected = [guided_chain(0.0, 1000), (value("G5", {**known, "P": P}), P**-0.5), guided_chain(3.0, 1000)]
    for row, (mean, deviation) in zip(table, expected):
        assert row == (pytest.approx(mean, abs=1.1e-3), pytest.approx(deviation, abs=1.1e-3))
    assert len(table) == 3
    assert guided_chain(3.0, 2000)[1] == pytest.approx(expected[2][1], abs=2e-3)  # more steps do not help


def test_composed_noise_is_the_score_of_the_product():
    t, weights = 3, {"w_1": 0.7, "w_2": 1.5}
    eps = {r"\epsilon(x_t, c_1)": (0,), r"\epsilon(x_t, c_2)": (1,), r"\epsilon(x_t, 0)": (0, 1)}
    known = {name: noise_of(POINTS, t, classes) for name, classes in eps.items()}

    def log_product(x):
        shares = [class_density(x, k, t) / whole_density(x, t) for k in (0, 1)]
        return whole_density(x, t).log() + 0.7 * shares[0].log() + 1.5 * shares[1].log()

    expected = value("G1", {**at(t), r"\nabla \log q(x_t)": gradient(log_product, POINTS)})
    close(value("G6", {**known, **weights}), expected, 1e-5, 1e-7)

    network = lambda_network(lambda x, t, c: x * (1 + c[:, :1] - 2 * c[:, 1:]))
    x = torch.linspace(-1, 1, 4).view(-1, 1)
    known = {r"\epsilon(x_t, c_1)": 2 * x, r"\epsilon(x_t, c_2)": -x, r"\epsilon(x_t, 0)": x, **weights}
    found = suite_ddpm(4, network).eps(x, t, Condition(torch.tensor([[0.7, 1.5]]).repeat(4, 1), 0.0, "scores"))
    close(found, value("G6", known), 1e-5, 1e-6)


def test_mixture_of_probabilities_needs_weights_that_depend_on_x():
    t, shares = 3, torch.tensor([0.3, 0.7]).double()
    both = lambda x: [share * class_density(x, k, t) for k, share in enumerate(shares)]  # noqa: E731
    total = sum(both(POINTS))
    known = {rf"q(c_{k + 1} \mid x_t)": part / total for k, part in enumerate(both(POINTS))}
    known.update({rf"\epsilon(x_t, c_{k + 1})": noise_of(POINTS, t, (k,)) for k in (0, 1)})
    score = gradient(lambda x: sum(both(x)).log(), POINTS)
    close(value("G7", known), value("G1", {**at(t), r"\nabla \log q(x_t)": score}), 1e-5, 1e-7)


def test_network_passes_of_guidance():
    seen = []
    network = lambda_network(lambda x, t, c: (seen.append(len(x)), x)[1])
    ddpm, x = suite_ddpm(4, network), torch.zeros(5, 1)
    for c, w, mixture, images in (
        (torch.eye(3)[[0] * 5], 0.0, "vector", 5),
        (torch.eye(3)[[0] * 5], 3.0, "vector", 10),
        (torch.tensor([[0.5, 0.5, 0]]).repeat(5, 1), 0.0, "vector", 5),
        (torch.tensor([[0.5, 0.5, 0]]).repeat(5, 1), 0.0, "scores", 10),  # the weights sum to 1: "no class" has none
        (torch.tensor([[0.5, 0.5, 0]]).repeat(5, 1), 1.0, "scores", 15),
    ):
        seen.clear()
        ddpm.eps(x, 2, Condition(c, w, mixture))
        assert sum(seen) == images


# ------------------------------------------------------------ comparisons.md


def test_fully_connected_network_does_not_know_the_grid():
    """Shuffled pixels and first weights shuffled likewise: after training steps the outputs are the shuffled old ones.

    A convolution has no such symmetry: the same shuffling gives other pictures.
    """
    torch.manual_seed(0)
    order, images = torch.randperm(64), torch.randn(16, 64, dtype=torch.float64)
    net, shuffled = (nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 64)).double() for _ in range(2))
    first, last = net[0], net[2]
    weights = {"0.weight": first.weight[:, order], "0.bias": first.bias}
    shuffled.load_state_dict({**weights, "2.weight": last.weight[order], "2.bias": last.bias[order]})
    for model, x in ((net, images), (shuffled, images[:, order])):
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(5):
            optimiser.zero_grad()
            (model(x) - x).square().mean().backward()
            optimiser.step()
    assert (net(images) - images).square().mean() < 1.1
    close(shuffled(images[:, order]).detach(), net(images)[:, order].detach())

    convolution = nn.Conv2d(1, 1, 3, padding=1).double()
    pictures = convolution(images.view(16, 1, 8, 8)).flatten(1)
    of_shuffled = convolution(images[:, order].view(16, 1, 8, 8)).flatten(1)
    assert (of_shuffled - pictures[:, order]).abs().max() > 0.1


def test_steps_of_a_default_cifar_run():
    """The sizes and lengths that the answer on capacity quotes."""
    text = text_of("comparisons.md")
    assert DEFAULTS["n_epochs"] * (50_000 // 256) == 19_500 and "are 19,500 steps" in text
    assert DEFAULTS["dim_mults"] == [1, 2, 2, 2] and DEFAULTS["g_weight"] == [1, 3]
    with torch.device("meta"):
        networks = [ConditionalUNet(*sizes) for sizes in ((3, 32, 10, 32), (3, 128, 10, 32), (1, 32, 10, 28))]
        networks.append(UNet(n_classes=10, dim=128, dim_mults=[1, 2, 2, 2]))
    small, wide, digits, large = (sum(p.numel() for p in network.parameters()) for network in networks)
    assert (round(small / 1e6, 2), round(wide / 1e6, 1), round(large / 1e6)) == (0.72, 11.4, 41)
    for quoted in ("has 0.72 million", "as wide: 11.4 million", "(41 million;", f"U-Net ({digits:,})"):
        assert quoted in text, quoted
    assert 64 * 64 * 9 == 36_864 and 784 * 784 == 614_656 and "36,864" in text and "614,656" in text
    assert round(1 / (1 - 0.9999)) == 10_000


# ------------------------------------------------------------ numbers from log folders


def text_of(page):
    """The page with every line break as one space."""
    return " ".join((ROOT / "answers" / page).read_text(encoding="utf-8").split())


def read_log(folder, name):
    return json.loads((ROOT / "log" / folder / name).read_text(encoding="utf-8"))


def test_numbers_quoted_from_the_logs():
    """The table of guidance weights is metrics.json; the losses named are those of metrics.csv."""
    runs = read_log("log_mnist", "metrics.json")
    results = next(run for run in runs if run["command"].endswith("--n_samples 10"))["results"]
    guidance = sections(ROOT / "answers" / "guidance.md")
    assert [r.get("guidance_weight") for r in results] == [None, 0, 1, 3]
    for name, key, scale, digits in (
        ("accuracy of the classifier", "judge_accuracy", 100, 0),
        ("precision (fidelity)", "precision", 1, 2),
        ("recall (diversity)", "recall", 1, 2),
        ("Frechet distance to the training images", "frechet_distance", 1, 1),
    ):
        row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", guidance["weights-0-1-and-3"], re.MULTILINE)[1]
        assert [float(cell.strip(" %")) for cell in row.split("|")] == [round(scale * r[key], digits) for r in results]
    recalls = ", ".join(f"{r['recall']:.2f}" for r in results[1:])
    assert recalls in guidance["disadvantages-of-classifier-free-guidance"]

    with open(ROOT / "log" / "log_mnist" / "metrics.csv", encoding="utf-8") as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    losses = [row["train_loss"] for row in rows]
    quoted = [f"from {losses[0]:.3f} to {losses[1]:.3f}", f"from {losses[-2]:.4f} to {losses[-1]:.4f}"]
    for folder in ("log_mnist_fc", "log_cifar10", "log_cifar10_unet"):
        (samples,) = (run for run in read_log(folder, "metrics.json") if run["measured"] == "samples")
        weights, shares = zip(*((r["guidance_weight"], f"{r['judge_accuracy']:.0%}") for r in samples["results"][1:]))
        assert weights == (0, 1, 3)
        n = samples["results"][1]["n_images"]
        quoted.append(f"{shares[0]}, {shares[1]} and {shares[2]} of {n} samples at w = 0, 1, 3")
    quoted.append(f"right on {samples['judge_accuracy_on_real_test_images']:.1%} of the real test images")
    folders = ("log_mnist_fc", "log_cifar10", "log_cifar10_unet")
    fc, small, large = (read_log(folder, "config.json")["n_parameters"] for folder in folders)
    quoted += [f"parameters as the U-Net ({fc:,})", f"{large / small:.1f} times as many parameters"]
    assert [words for words in quoted if words not in text_of("comparisons.md")] == []
    lowest, highest = rows[-1]["loss_q1"], rows[-1]["loss_q4"]
    assert len(rows) == 20
    assert f"shows {lowest:.3f} there and {highest:.3f} in the highest" in text_of("variational_bound.md")
