"""The faster copy for sampling computes what the network computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from tiny_networks import trained_unet

from diffusion.fast_network import ConvGELU, for_inference


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    return x, torch.rand(4, 1, 1, 1, generator=generator), torch.eye(10)[:4]


@pytest.mark.parametrize("fuse", [True, False])
def test_same_outputs_without_batchnorm(fuse, monkeypatch):
    if not fuse:
        monkeypatch.setattr(ConvGELU, "works", lambda self: False)
    net = trained_unet().eval()
    expected = net(*batch())
    fast = for_inference(net)
    torch.testing.assert_close(fast(*batch()), expected, rtol=1e-4, atol=1e-5)
    kinds = {type(module) for module in fast.modules()}
    assert nn.BatchNorm2d not in kinds and (ConvGELU in kinds) == fuse


def test_in_bfloat16():
    net = trained_unet().eval()
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(*batch()).float()
        fast = for_inference(net, torch.bfloat16)(*batch()).float()
    assert (fast - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_original_is_left_alone():
    net = trained_unet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for_inference(net)(*batch())
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_operator_that_is_missing_is_not_used(monkeypatch):
    """What torch does not promise may be gone in its next release; then the two layers stay apart."""

    class Gone:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(torch.ops, "mkldnn", Gone(), raising=False)
    net = trained_unet().eval()
    fast = for_inference(net)
    assert not any(isinstance(module, ConvGELU) for module in fast.modules())
    torch.testing.assert_close(fast(*batch()), net(*batch()), rtol=1e-4, atol=1e-5)


def test_other_paddings_and_batchnorms_without_statistics_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.GELU())
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(for_inference(layers)(x), layers(x))
    layers = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.GELU())
    torch.testing.assert_close(for_inference(layers)(x), layers(x))


def test_only_exact_gelu_is_fused():
    layers = nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU(approximate="tanh"))
    x = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(for_inference(layers)(x), layers(x))
