"""Small pieces of code written the way of the templates that the sheets give, on this suite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import sheets
import ToyData
from ddpm import DDPM
from diffusion.network_call import inputs_of
from networks import Conditional_UNet
from networks.fc import FcNetwork
from networks.unet import UNet
from sheets import IntegerTime, animals, likelihood

T = 6


class TwoInputs(nn.Module):
    """The unconditional networks of three sheets: forward(x, t), without a size of their own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(3, 2)

    def forward(self, x, t):
        return self.layers(torch.cat([x, t], dim=1))


class Embedded(nn.Module):
    """A network that looks whole numbers t in 0..T-1 up."""

    def __init__(self):
        super().__init__()
        self.time = nn.Embedding(T, 2)
        self.seen = []

    def forward(self, x, t):
        self.seen.append(t.tolist())
        return x + self.time(t)


# ------------------------------------------------------------ networks, devices, times


def test_a_network_without_classes_trains_and_samples():
    ddpm = DDPM(nn_model=TwoInputs(), n_timesteps=T, device="cpu")
    ddpm(torch.randn(5, 2)).backward()
    y, steps = ddpm.sample(3, (2,), n_classes=None)
    assert y.shape == (3, 2) and steps.shape == (T, 3, 2)
    assert ddpm.negative_elbo(torch.randn(5, 2)).shape == (5,)
    for wrong in (lambda: ddpm(torch.randn(5, 2), torch.eye(5)), lambda: ddpm.sample(3, (2,))):
        with pytest.raises(ValueError, match="TwoInputs has forward.x, t., no classes"):
            wrong()


@pytest.mark.parametrize(
    "forward, n",
    [
        (lambda x, t: x, 2),
        (lambda x, t, c=None: x, 3),
        (lambda x, t, c, mask=None: x, 3),
        (lambda *inputs: inputs[0], 3),
        (lambda x: x, 0),
        (lambda x, t, c, mask: x, 0),
        (lambda x, t, c=None, images=None: x, 4),
        (lambda x, t, c, images: x, 0),
    ],
)
def test_signatures(forward, n):
    network = nn.Module()
    network.forward = forward
    assert inputs_of(network) == n
    if n == 0:
        with pytest.raises(ValueError, match=r"forward\(x, t\) or forward\(x, t, c\)"):
            DDPM(network, n_timesteps=T, device="cpu")(torch.randn(2, 2))


def test_a_network_that_wants_another_shape_of_t_is_told_what_it_gets():
    class Flat(nn.Module):
        def forward(self, x, t):
            return x + torch.cat([x, t[:, None]], dim=1)

    with pytest.raises(ValueError, match="as many axes as x.*IntegerTime.*The network says"):
        DDPM(Flat(), n_timesteps=T, device="cpu")(torch.randn(4, 2))


def test_the_exercises_network_without_classes_says_so():
    ddpm = DDPM(Conditional_UNet.UNet(1, 8, 0, 8), n_timesteps=T, device="cpu")
    assert ddpm.sample(1, n_classes=None)[0].shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match="no classes .in `sample`: n_classes=None"):
        ddpm.sample(1)


def test_counts_of_numpy_are_counts():
    ddpm = DDPM(TwoInputs(), n_timesteps=np.int64(T), device="cpu")
    assert ddpm.sample(np.int64(3), (2,), n_classes=None)[0].shape == (3, 2)
    with pytest.raises(ValueError, match="n_sample"):
        ddpm.sample(3.0, (2,), n_classes=None)


def test_whole_numbers_for_networks_that_want_them():
    with pytest.raises(ValueError, match="sheets.IntegerTime"):
        DDPM(Embedded(), n_timesteps=T, device="cpu")(torch.randn(4, 2))
    for first in (0, 1):
        network = Embedded()
        network.time = nn.Embedding(T + first, 2)
        ddpm = DDPM(IntegerTime(network, T, first), n_timesteps=T, device="cpu")
        for t in range(1, T + 1):
            ddpm.eps(torch.randn(2, 2), t)
        assert network.seen == [[t - 1 + first] * 2 for t in range(1, T + 1)]
    seen = network.seen
    seen.clear()
    ddpm.respaced(2).eps(torch.randn(1, 2), 2)  # a model of fewer steps asks at the times that it keeps
    assert seen == [[T]]


def test_times_of_any_kind_are_one_time():
    torch.manual_seed(0)
    ddpm = DDPM(TwoInputs(), n_timesteps=T, device="cpu")
    x = torch.randn(4, 2)
    drawn = [
        ddpm.p_sample(x, t, generator=torch.Generator().manual_seed(1))
        for t in (3, torch.tensor(3), torch.full((4,), 3), np.int64(3), np.full(4, 3))
    ]
    assert all(torch.equal(one, drawn[0]) for one in drawn)
    noise = torch.randn(4, 2)
    for t in (torch.full((4,), 3), np.full(4, 3), torch.full((4, 1), 3), np.int64(3)):
        torch.testing.assert_close(ddpm.q_sample(x, t, noise), ddpm.q_sample(x, 3, noise))
        torch.testing.assert_close(ddpm.eps(x, t), ddpm.eps(x, 3))
    for wrong in (0, T + 1, torch.tensor([1, 2, 3, 4]), 2.5):
        with pytest.raises(ValueError, match="t must be"):
            ddpm.p_sample(x, wrong)


def test_the_device_can_be_set():
    ddpm = DDPM(TwoInputs(), n_timesteps=T, device="cpu")
    ddpm.device = "cpu"
    assert ddpm.device == torch.device("cpu")
    ddpm.device = "meta"
    assert ddpm.nn_model.layers.weight.device.type == ddpm.alpha_t.device.type == "meta"


# ------------------------------------------------------------ sample_xt


def test_sample_xt_draws_the_noise_itself():
    bars = torch.linspace(1, 0, T + 1)
    x0 = torch.zeros(20_000, 1)
    torch.manual_seed(0)
    assert sheets.sample_xt(x0, 3, None, bars).var().item() == pytest.approx(1 - bars[3].item(), rel=0.05)
    torch.manual_seed(0)
    assert sheets.sample_xt(x0, 3, alphaBars=bars).var().item() == pytest.approx(1 - bars[3].item(), rel=0.05)
    for error, words, call in (
        (TypeError, "needs alphaBars", lambda: sheets.sample_xt(x0, 3)),
        (ValueError, "x0 must be float", lambda: sheets.sample_xt(x0.byte(), 3, None, bars)),
        (
            ValueError,
            "one for each of the 20000 images",
            lambda: sheets.sample_xt(x0, torch.tensor([1, 2]), None, bars),
        ),
    ):
        with pytest.raises(error, match=words):
            call()


def test_tables_from_0_and_from_1_are_told_apart_where_the_number_of_steps_is_given():
    ours = DDPM.ddpm_schedule(0.1, 0.2, T)["alpha_bar_t"]
    theirs, x0, noise = ours[1:], torch.randn(2, 3), torch.randn(2, 3)
    from_1 = sheets.sample_xt(x0, torch.tensor([1, T]), noise, ours, T)
    torch.testing.assert_close(sheets.sample_xt(x0, torch.tensor([0, T - 1]), noise, theirs, T), from_1)
    for bars, t in ((ours, 0), (theirs, T), (ours, T + 1), (theirs, -1)):
        with pytest.raises(ValueError, match="t must be whole numbers in"):
            sheets.sample_xt(x0, t, noise, bars, T)
    with pytest.raises(ValueError, match="alphaBars must have T = 5 entries"):
        sheets.sample_xt(x0, 1, noise, ours, 5)


def test_samples_from_a_network_that_does_not_say_its_size_or_classes():
    class Bare(nn.Module):
        def forward(self, x, t, c):
            return x * c.sum(dim=1).view(-1, 1)

    ddpm = DDPM(Bare(), n_timesteps=T, device="cpu")
    assert sheets.sample(ddpm, 2, torch.eye(3), size=(4,)).shape == (6, 4)
    with pytest.raises(ValueError, match="does not say how many"):
        sheets.sample(ddpm, 2, [1], size=(4,))


def test_classes_as_one_number_and_labels_of_any_kind():
    ddpm = DDPM(FcNetwork(4, 8, 3), n_timesteps=T, device="cpu")
    assert sheets.sample(ddpm, 2, classes=1).shape == (2, 4)
    optim, x, label = torch.optim.SGD(ddpm.parameters(), lr=0.0), torch.randn(3, 4), torch.tensor([0, 2, 1])
    losses = []
    for labels in (label, label.int(), F.one_hot(label), F.one_hot(label).float()):
        torch.manual_seed(0)
        losses += sheets.train_classconditional(ddpm, [(x, labels)], 1, optim, "cpu")
    assert len(set(losses)) == 1
    for wrong in (label + 1, label - 1, label.float()):
        with pytest.raises(ValueError, match="labels must be whole numbers in 0..2"):
            sheets.train_classconditional(ddpm, [(x, wrong)], 1, optim, "cpu")


# ------------------------------------------------------------ completing images


def test_known_pixels_in_0_to_1_are_warned_of():
    ddpm = DDPM(FcNetwork(16, 8, size=(1, 4, 4)), n_timesteps=2, device="cpu")
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1
    y = torch.rand(2, 1, 4, 4)
    with pytest.warns(UserWarning, match="2 . y - 1"):
        ddpm.complete_image(y, mask)


# ------------------------------------------------------------ the sheet on points and likelihood


@pytest.mark.parametrize("make, n", [(ToyData.TwoGaussians, 2), (ToyData.Chequerboard, 5)])
def test_toy_data(make, n):
    toy = make()
    torch.manual_seed(0)
    x = toy().sample((4000,))
    assert x.shape == (4000, 2) and toy().log_prob(x).isfinite().all() and tuple(toy.xlim) == tuple(toy.ylim) == (0, 1)
    side = (torch.arange(300) + 0.5) / 300 * 3 - 1  # the density is 1 in all
    density = toy().log_prob(torch.cartesian_prod(side, side)).exp()
    assert density.mean().item() * 9 == pytest.approx(1, abs=0.01)
    assert toy().mixture_distribution.probs.shape == (n,) and toy.distribution is toy()
    if n == 2:
        assert (x.sum(dim=1) < 1).double().mean().item() == pytest.approx(0.8, abs=0.03)
    else:
        assert toy().log_prob(torch.tensor([[0.1, 0.5], [0.5, 0.5], [0.9, 0.9]])).exp().tolist() == pytest.approx(
            [0, 1.8, 1.8]
        )


def test_the_sheet_of_week_3_as_its_own_code_has_it():
    """Training, loss, tables and sampling by its names; each against the sheet's formula with t from 0."""
    torch.manual_seed(0)
    network = FcNetwork(2, 16)
    model = likelihood.DDPM(network, T=T).to("cpu")
    assert model.network is network and model.T == T
    bars = torch.linspace(1e-4, 2e-2, T).neg().add(1).cumprod(0)
    torch.testing.assert_close(model.alpha_cumprod, bars)
    torch.testing.assert_close(model.alpha, 1 - model.beta)
    x = torch.rand(64, 2) * 2 - 1
    torch.manual_seed(1)
    found = model.negative_elbo(x)
    torch.manual_seed(1)
    t, noise = torch.randint(1, T + 1, (64,)), torch.randn(64, 2)
    bar = bars[t - 1].view(-1, 1)
    predicted = network(bar.sqrt() * x + (1 - bar).sqrt() * noise, t.view(-1, 1) / T)
    torch.testing.assert_close(found, F.mse_loss(predicted, noise, reduction="none").sum(dim=1), rtol=1e-4, atol=1e-4)
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(x), found.mean())
    loader = torch.utils.data.DataLoader(x, batch_size=16, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = likelihood.train(model, optimizer, loader, 3, "cpu")
    assert len(losses) == 3 and losses[-1] < losses[0]
    with torch.no_grad():
        samples = model.sample((50, 2))
    assert samples.shape == (50, 2) and samples.isfinite().all()
    with pytest.raises(TypeError, match="sheets.likelihood.DDPM"):
        DDPM(network, T=T)


# ------------------------------------------------------------ the sheet on faces of animals


def test_the_starter_of_the_animal_sheet_as_its_own_code_has_it():
    """Its p_sample, loss and results in [0, 1], with t from 0, against its formulas."""

    class Unet(nn.Module):
        def forward(self, x, t):
            assert t.dtype == torch.int64 and t.shape == (len(x),)
            return 0.5 * x + (t / 10).view(-1, 1, 1, 1)

    diffusion = animals.Diffusion(Unet(), image_size=8, channels=3, timesteps=T).to("cpu")
    f = [math.cos((k / T + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(T + 1)]
    alphas = torch.tensor([max(0.001, f[k + 1] / f[k]) for k in range(T)])
    bars = alphas.cumprod(0)
    before = torch.cat([torch.ones(1), bars[:-1]])
    x, noise, i = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), 3
    t = torch.full((4,), i)
    torch.testing.assert_close(diffusion.q_sample(x, t, noise), bars[i].sqrt() * x + (1 - bars[i]).sqrt() * noise)
    x_t = diffusion.q_sample(x, t, noise)
    loss = F.l1_loss(0.5 * x_t + i / 10, noise)
    torch.testing.assert_close(diffusion.p_losses(x, t, noise), loss)
    torch.testing.assert_close(diffusion.p_loss(x, t, noise), loss)
    assert diffusion(x, noise).shape == ()
    torch.manual_seed(2)
    found = diffusion.p_sample(x_t, t, i)
    torch.manual_seed(2)
    x_0 = ((x_t - (1 - bars[i]).sqrt() * (0.5 * x_t + i / 10)) / bars[i].sqrt()).clamp(-1, 1)
    mean = before[i].sqrt() * (1 - alphas[i]) * x_0 + alphas[i].sqrt() * (1 - before[i]) * x_t
    sigma = ((1 - before[i]) / (1 - bars[i]) * (1 - alphas[i])).sqrt()
    torch.testing.assert_close(found, mean / (1 - bars[i]) + sigma * torch.randn(x.shape), rtol=1e-4, atol=1e-4)
    torch.manual_seed(2)  # some students leave out the index, which t has anyway, or count in tensors
    torch.testing.assert_close(diffusion.p_sample(x_t, t), found)
    torch.manual_seed(2)
    torch.testing.assert_close(diffusion.p_sample(x_t, t, torch.tensor(i)), found)
    torch.testing.assert_close(diffusion.q_sample(x, i, noise), x_t)
    assert diffusion(x).shape == diffusion.p_losses(x, t).shape == () and diffusion.q_sample(x, t).shape == x.shape
    torch.testing.assert_close(diffusion.alphas, alphas)
    torch.testing.assert_close(diffusion.alphas_cumprod, bars)
    assert diffusion.device == torch.device("cpu")
    images = diffusion.sample(5)
    assert images.shape == (5, 3, 8, 8) and images.min() >= 0 and images.max() <= 1 and diffusion.num_timesteps == T
    for wrong in (lambda: diffusion.q_sample(x, t + T, noise), lambda: diffusion.p_sample(x, t, i - 1)):
        with pytest.raises(ValueError, match="t must be"):
            wrong()
    with pytest.raises(ValueError, match="8 x 8"):
        diffusion(torch.randn(1, 3, 9, 9), noise)


def test_a_network_of_the_suite_gets_its_own_time_there():
    network = UNet(in_channels=3, height=8, dim=8, dim_mults=[1])
    diffusion = animals.Diffusion(network, image_size=8, timesteps=T)
    assert diffusion.model is network is diffusion.ddpm.nn_model
    diffusion(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)).backward()
