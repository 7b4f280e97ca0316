"""Conditions of several images at once, and noise that they share."""

from __future__ import annotations

import pytest
import torch

from ddpm import DDPM
from diffusion.condition import Condition
from diffusion.noise import SharedNoise, noise_like
from networks.Conditional_UNet import UNet


def network(x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """Answers a different number for each class, and x itself for none."""
    shift = 0 if c is None else (c @ torch.tensor([[1.0], [10.0], [100.0]])).view(-1, *[1] * (x.ndim - 1))
    return x + t * shift


def a_ddpm() -> DDPM:
    module = torch.nn.Module()
    module.forward = network
    return DDPM(module, n_timesteps=10, device="cpu")


def test_every_image_has_its_own_weight():
    ddpm, x = a_ddpm(), torch.randn(4, 2)
    c, weights = torch.eye(3)[[0, 1, 2, 1]], [0.0, 1.0, 3.0, -1.0]
    together = ddpm.eps(x, 5, Condition(c, weights))
    for i, w in enumerate(weights):
        torch.testing.assert_close(together[i : i + 1], ddpm.eps(x[i : i + 1], 5, Condition(c[i : i + 1], w)))


def test_images_of_different_kinds_cost_what_they_need():
    seen = []
    ddpm, x = a_ddpm(), torch.randn(3, 2)
    ddpm.nn_model.forward = lambda x, t, c: seen.append(len(x)) or network(x, t, c)
    ddpm.eps(x, 5, Condition(torch.eye(3), [0.0, 1.0, -1.0]))  # 1 + 2 + 1 questions
    assert seen == [4]


def test_what_does_not_see_the_class_is_computed_once_for_each_image():
    torch.manual_seed(0)
    net = UNet(in_channels=1, n_features=8, n_classes=3, height=8).eval()
    ddpm, x, c, t = DDPM(net, n_timesteps=10, device="cpu"), torch.randn(3, 1, 8, 8), torch.eye(3), torch.full((3,), 4)
    encoded, decoded = [], []
    net.encoder1.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    net.decoder1.register_forward_pre_hook(lambda _, given: decoded.append(len(given[0])))
    with torch.no_grad():
        guided = ddpm.eps(x, t, Condition(c, [0.0, 1.0, 3.0]))
        assert (encoded, decoded) == ([3], [5])
        w = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
        torch.testing.assert_close(guided, (1 + w) * ddpm.eps(x, t, c) - w * ddpm.eps(x, t), atol=1e-5, rtol=1e-4)


class Halved(UNet):
    """A student's network: no part of it is computed for several classes at once."""

    def forward(self, x, t, c=None):
        return super().forward(x, t, c) / 2


def test_guidance_asks_the_network_itself_and_refuses_what_it_refuses():
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "n_features": 8, "n_classes": 3, "height": 8}
    net, half = UNet(**sizes).eval(), Halved(**sizes).eval()
    half.load_state_dict(net.state_dict())
    whole_ddpm, half_ddpm = (DDPM(n, n_timesteps=10, device="cpu") for n in (net, half))
    x, c, calls = torch.randn(2, 1, 8, 8), torch.eye(3)[:2], []
    net.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        guided = whole_ddpm.eps(x, 5, Condition(c, 2.0))
        torch.testing.assert_close(half_ddpm.eps(x, 5, Condition(c, 2.0)), guided / 2, atol=1e-5, rtol=1e-4)
    assert calls == [1]
    for wrong in ({"n_classes": 1}, {"n_classes": 2}, {"n_classes": 3, "size": (1, 16, 16)}):
        with pytest.raises(ValueError, match="must be"):
            whole_ddpm.sample(1, g_weight=1.0, **wrong)
    without = DDPM(UNet(**{**sizes, "n_classes": 0}), n_timesteps=10, device="cpu")
    with pytest.raises(ValueError, match="no classes"):
        without.sample(1, n_classes=3, g_weight=1.0)


@pytest.mark.parametrize("g_weight", [float("nan"), [1.0, 2.0], [[0.0], [1.0], [2.0]]])
def test_weights_that_fit_no_images_are_refused(g_weight):
    with pytest.raises(ValueError, match="g_weight"):
        Condition(torch.eye(3), g_weight)


def test_shared_noise_repeats_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    noise = noise_like(torch.empty(6, 2, 3), SharedNoise(generator, 2))
    assert torch.equal(noise[:2], noise[2:4]) and torch.equal(noise[:2], noise[4:])
    assert torch.equal(noise[:2], torch.randn(2, 2, 3, generator=generator.manual_seed(0)))
    with pytest.raises(ValueError, match="cannot be shared"):
        noise_like(torch.empty(5, 2), SharedNoise(generator, 2))


def test_samples_that_share_their_noise_differ_by_their_condition_alone():
    ddpm = a_ddpm()
    draw = lambda n, c, n_shared: ddpm.reverse_process(  # noqa: E731
        torch.ones(n, 2), 10, c=c, generator=SharedNoise(torch.Generator().manual_seed(1), n_shared)
    )[0]
    both = draw(4, Condition(torch.eye(3)[[0, 0, 1, 1]], [1.0] * 2 + [0.0] * 2), 2)
    torch.testing.assert_close(both[:2], draw(2, Condition(torch.eye(3)[[0, 0]], 1.0), 2))
    torch.testing.assert_close(both[2:], draw(2, Condition(torch.eye(3)[[1, 1]], 0.0), 2))


# ------------------------------------------------------------ context vectors


CONTEXT = torch.tensor([[0.3, -1.2, 0.02], [-0.5, 0.1, 0.004]])  # neither one-hot nor a mixture of classes


@pytest.mark.parametrize("sampler, n_steps", [("ddpm", 10), ("ddpm", 4), ("ddim", 4), ("dpm++2m", 4)])
def test_a_context_vector_conditions_samples_as_a_class_vector_does(sampler, n_steps):
    """The network is linear in c: guidance weight 1 is the same as a context twice as long."""
    ddpm = a_ddpm().respaced(n_steps, sampler)
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    guided, twice, none = (
        ddpm.sample(2, (2,), 3, w, c, generator=seeded())[0] for w, c in ((1, CONTEXT), (0, 2 * CONTEXT), (0, None))
    )
    torch.testing.assert_close(guided, twice)
    assert len(guided) == 4 and not torch.equal(guided[:2], none)


@pytest.mark.parametrize("method", ["mean", "repaint"])
def test_a_context_vector_conditions_completions(method):
    ddpm, known = a_ddpm(), torch.tensor([[1.0, 0.0]])
    completed = [
        ddpm.complete_image(
            torch.zeros(2, 2), known, method=method, c=c, g_weight=w, generator=torch.Generator().manual_seed(0)
        )
        for c, w in ((CONTEXT, 1.0), (2 * CONTEXT, 0.0), (CONTEXT, 0.0))
    ]
    torch.testing.assert_close(completed[0], completed[1])
    assert not torch.allclose(completed[0][:, 1], completed[2][:, 1])


def test_a_context_vector_conditions_likelihood_and_training():
    ddpm, y = a_ddpm(), torch.ones(2, 2)
    bounds = [
        ddpm.variational_bound(y, c, torch.Generator().manual_seed(0)).terms for c in (CONTEXT, 0 * CONTEXT, None)
    ]
    assert not torch.allclose(bounds[0], bounds[1]) and torch.equal(bounds[1], bounds[2])  # zeros are "no context"
    many = CONTEXT.repeat(500, 1)
    _, _, kept = ddpm.draw(torch.zeros(1000, 2), many, torch.Generator().manual_seed(0))
    dropped = (kept == 0).all(dim=1)
    assert torch.equal(kept[~dropped], many[~dropped]) and 60 < dropped.sum() < 140  # drop_prob is 0.1
