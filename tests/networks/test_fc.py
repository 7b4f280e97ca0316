"""The fully connected networks: their equations, their shapes, and the arguments that they refuse."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from networks.fc import KINDS, TIME_DIM, FcNetwork, ResidualBlock
from networks.unet import timestep_embedding
from training import checkpoint

ALL = pytest.mark.parametrize("kind", KINDS)


def awake(net):
    """Gives all parameters random values, also those that start at zero, so that every path shows in the output."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@ALL
@pytest.mark.parametrize("size, n_classes", [((2,), 0), ((1, 28, 28), 10), ((3, 8, 8), 3)])
def test_keeps_the_shape_and_every_parameter_learns(kind, size, n_classes):
    net = awake(FcNetwork(math.prod(size), 16, n_classes, kind, size))
    assert net.size == size and net.n_classes == n_classes
    x = torch.randn(4, *size)
    c = torch.eye(n_classes)[[0, 1, 2, 0]] if n_classes else None
    out = net(x, torch.rand(4, *[1] * len(size)), c)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_plain_is_the_exercises_network():
    net = FcNetwork(input_dim=2, num_hidden=5)
    first, _, second, _, third = net.layers.layers
    x, t = torch.randn(3, 2), torch.rand(3, 1)
    h = (torch.cat([x, t], dim=1) @ first.weight.T + first.bias).clamp(min=0)
    h = (h @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(net(x, t), h @ third.weight.T + third.bias)
    assert sum(p.numel() for p in net.parameters()) == (3 * 5 + 5) + (5 * 5 + 5) + (5 * 2 + 2)


def test_residual_block_equation():
    block = awake(ResidualBlock(6))
    h, emb = torch.randn(3, 6), torch.randn(3, block.embedding.in_features)
    inner = block.linear1(F.silu(h)) + emb @ block.embedding.weight.T
    torch.testing.assert_close(block(h, emb), h + block.linear2(F.silu(inner)))
    fresh = ResidualBlock(6)
    torch.testing.assert_close(fresh(h, emb), h)


def test_fourier_features_are_waves_of_x_and_t():
    net = FcNetwork(2, 4, kind="fourier", n_frequencies=3)
    x, t = torch.randn(3, 2), torch.rand(3, 1)
    seen = {}
    net.layers.first.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    net.layers.time.register_forward_pre_hook(lambda _, inputs: seen.update(t=inputs[0]))
    net(x, t)
    angles = torch.cat([math.pi * x, 2 * math.pi * x, 4 * math.pi * x], dim=1)
    torch.testing.assert_close(seen["x"], torch.cat([x, angles.sin(), angles.cos()], dim=1))
    torch.testing.assert_close(seen["t"], timestep_embedding(t[:, 0], TIME_DIM))


@ALL
def test_images_are_flattened_in_one_order(kind):
    """The same weights, the same numbers: as an image and as a vector."""
    image, vector = (awake(FcNetwork(12, 8, 2, kind, size)) for size in ((3, 2, 2), None))
    x, t, c = torch.randn(2, 3, 2, 2), torch.rand(2, 1, 1, 1), torch.eye(2)
    torch.testing.assert_close(image(x, t, c).flatten(1), vector(x.flatten(1), t[..., 0, 0], c), rtol=0, atol=0)


@ALL
def test_no_class_is_the_zero_vector_and_class_and_time_matter(kind):
    net = awake(FcNetwork(2, 16, 3, kind))
    x, t = torch.randn(3, 2), torch.full((3, 1), 0.5)
    none = net(x, t)
    torch.testing.assert_close(none, net(x, t, torch.zeros(3, 3)), rtol=0, atol=0)
    assert not torch.allclose(none, net(x, t, torch.eye(3)))
    assert not torch.allclose(none, net(x, t * 0.1))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"kind": "deep"}, "kind must be one of"),
        ({"num_hidden": 0}, "num_hidden must be at least 1, not 0"),
        ({"n_classes": -1}, "n_classes must be at least 0"),
        ({"input_dim": 784, "size": (1, 28, 27)}, "size [1, 28, 27] has 756 numbers, not input_dim = 784"),
    ],
)
def test_refuses_impossible_arguments(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        FcNetwork(**arguments)


@pytest.mark.parametrize(
    "x, t, c, n_classes, words",
    [
        ((2, 3), (2, 1), None, 0, "x must be [N, 2], not [2, 3]"),
        ((2, 2), (2, 2), None, 0, "t must be [2, 1, ...], not [2, 2]"),
        ((2, 2), (2, 1), (2, 3), 0, "c must be None"),
        ((2, 2), (2, 1), (2, 3), 4, "c must be [2, 4], not [2, 3]"),
    ],
)
def test_refuses_batches_that_do_not_fit(x, t, c, n_classes, words):
    net = FcNetwork(2, 4, n_classes)
    with pytest.raises(ValueError, match=re.escape(words)):
        net(torch.zeros(x), torch.zeros(t), None if c is None else torch.zeros(c))


@ALL
def test_a_file_brings_it_back(kind, tmp_path):
    network = {"input_dim": 12, "num_hidden": 8, "n_classes": 2, "kind": kind, "size": [3, 2, 2]}
    spec = {"network": "fc", "network_arguments": network, "ddpm": {"n_timesteps": 5}}
    ddpm = checkpoint.build(spec, torch.device("cpu"))
    awake(ddpm.nn_model)
    content = {
        "spec": spec,
        "model": ddpm.nn_model.state_dict(),
        "arguments": {},
        "class_names": ["a", "b"],
        "epoch": 1,
    }
    checkpoint.save(tmp_path / "model.pt", content)
    loaded, _ = checkpoint.load_model(tmp_path / "model.pt", torch.device("cpu"))
    draws = [d.sample(1, n_classes=2, generator=torch.Generator().manual_seed(0))[0] for d in (ddpm, loaded)]
    assert draws[0].shape == (2, 3, 2, 2) and draws[0].equal(draws[1])
