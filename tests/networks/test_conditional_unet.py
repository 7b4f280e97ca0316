"""The exercise's U-Net: its numbers of parameters, its equations, and the arguments that it refuses."""

import math
import re

import pytest
import torch

from networks.Conditional_UNet import ConvBlock, Decoder_Block, Embedding_Block, Encoder_Block, UNet


@pytest.mark.parametrize("arguments, count", [((3, 32, 10, 32), 717_955), ((1, 32, 10, 28), 655_361)])
def test_number_of_parameters(arguments, count):
    assert sum(p.numel() for p in UNet(*arguments).parameters() if p.requires_grad) == count


@pytest.mark.parametrize("channels, height, batch", [(1, 28, 1), (3, 32, 2), (3, 64, 1), (1, 8, 1)])
def test_keeps_the_shape_also_for_one_image_in_training_mode(channels, height, batch):
    net = UNet(channels, 8, 10, height).train()
    x = torch.randn(batch, channels, height, height)
    assert net(x, torch.rand(batch, 1, 1, 1), torch.eye(10)[:batch]).shape == x.shape


@pytest.mark.parametrize("in_channels, out_channels", [(8, 8), (3, 8)])
def test_conv_block_equation(in_channels, out_channels):
    block = ConvBlock(in_channels, out_channels).eval()
    x = torch.randn(2, in_channels, 6, 6)
    first = block.conv1(x)
    residual = x if in_channels == out_channels else first
    torch.testing.assert_close(block(x), (residual + block.conv2(first)) / math.sqrt(2))
    kinds = [type(layer).__name__ for half in (block.conv1, block.conv2) for layer in half]
    assert kinds == ["Conv2d", "BatchNorm2d", "GELU"] * 2


def test_blocks_change_the_size_as_they_say():
    x = torch.randn(2, 8, 6, 6)
    assert Encoder_Block(8, 16)(x).shape == (2, 16, 3, 3)
    assert Decoder_Block(8, 4, 7)(x).shape == (2, 4, 42, 42)
    assert Decoder_Block(12, 4, 2)(x, torch.randn(2, 4, 6, 6)).shape == (2, 4, 12, 12)


@pytest.mark.parametrize("activation, function", [("sin", torch.sin), ("GELU", torch.nn.functional.gelu)])
def test_embedding_equation(activation, function):
    block = Embedding_Block(3, 5, activation)
    first, _, second = block.layers
    x = torch.randn(4, 3)
    expected = function(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(block(x), expected[:, :, None, None])
    assert (first.in_features, first.out_features, second.out_features) == (3, 5, 5)
    with pytest.raises(ValueError, match="'relu'"):
        Embedding_Block(3, 5, "relu")


def test_no_class_is_the_zero_vector_and_class_and_time_matter():
    net = UNet(1, 8, 10, 8).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.full((2, 1, 1, 1), 0.5)
    none = net(x, t)
    torch.testing.assert_close(none, net(x, t, torch.zeros(2, 10)), rtol=0, atol=0)
    assert not torch.allclose(none, net(x, t, torch.eye(10)[:2]))
    assert not torch.allclose(none, net(x, t * 0.1))


def test_every_parameter_gets_a_gradient():
    net = UNet(1, 8, 10, 8)
    net(torch.randn(4, 1, 8, 8), torch.rand(4, 1, 1, 1), torch.eye(10)[:4]).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"height": 30}, "height must be divisible by 4"),
        ({"height": 4}, "not 4"),
        ({"n_features": 12}, "n_features must be a multiple of 8"),
        ({"n_classes": -1}, "n_classes 0, not 3 and -1"),
    ],
)
def test_refuses_impossible_sizes(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        UNet(**arguments)


@pytest.mark.parametrize(
    "x, t, c, words",
    [
        ((2, 1, 8, 12), (2, 1, 1, 1), (2, 10), "x must be [N, 1, 8, 8], not [2, 1, 8, 12]"),
        ((2, 1, 8, 8), (2,), (2, 10), "t must be [2, 1, 1, 1], not [2]"),
        ((2, 1, 8, 8), (2, 1, 1, 1), (3, 10), "c must be [2, 10], not [3, 10]"),
    ],
)
def test_refuses_batches_that_do_not_fit(x, t, c, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        UNet(1, 8, 10, 8)(torch.zeros(x), torch.zeros(t), torch.zeros(c))


def test_bfloat16_tells_all_timesteps_apart():
    """A matrix product in bfloat16 would round t / T to 8 bits: 328 different values of 400."""
    block = Embedding_Block(1, 32, "sin")
    t = torch.arange(1, 401).view(-1, 1, 1, 1) / 400
    with torch.autocast("cpu", torch.bfloat16):
        assert len(block(t).flatten(1).unique(dim=0)) > 390


def test_weights_before_a_batchnorm_start_small():
    torch.manual_seed(0)
    block = ConvBlock(32, 32)
    bound = 1 / math.sqrt(32 * 9)  # PyTorch's own weights are uniform up to here
    for half in (block.conv1, block.conv2):
        assert 0.09 * bound < half[0].weight.abs().max() <= 0.1 * bound
