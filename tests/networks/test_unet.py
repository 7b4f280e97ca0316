"""The U-Net for colour images: its numbers of parameters, its equations, its refusals."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F

from ddpm import DDPM
from diffusion.fast_network import for_inference
from networks import Conditional_UNet
from networks.dropout import Dropout
from networks.unet import ResidualBlock, SelfAttention, UNet, Upsample, group_norm, largest_divisor, timestep_embedding

SMALL = {"height": 16, "dim": 8, "dim_mults": (1, 2), "n_blocks": 1}
HO = {"dim": 128, "dim_mults": (1, 2, 2, 2), "attention_heights": (16,)}  # the CIFAR-10 network of the DDPM paper


def awake(net):
    """Gives the layers that start at zero random values, so that every path shows in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net


def small(**arguments):
    torch.manual_seed(0)
    return awake(UNet(**{**SMALL, **arguments}))


def batch(net, n=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *net.size, generator=generator)
    return x, torch.rand(n, 1, 1, 1, generator=generator)


def count(**arguments):
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(**arguments).parameters())


@pytest.mark.parametrize(
    "arguments, expected", [({"dim": 16}, 4_071_571), (HO, 38_292_611), ({**HO, "embedding_dim": 256}, 35_506_819)]
)
def test_number_of_parameters(arguments, expected):
    assert count(**arguments) == expected


def test_number_of_parameters_is_that_of_ho_and_a_scale():
    """35,746,307 for CIFAR-10 (35.7 M in the paper), and the differences counted by hand."""
    widths = 2 * 128 + 6 * 256 + 2 * 256 + 9 * 256 + 3 * 128  # output widths of the residual blocks, down, middle, up
    scale = (512 + 1) * widths
    second_norm, attention_biases = 2 * widths, 6 * 3 * 256  # left out, since they would do nothing
    assert count(**HO) == 35_746_307 + scale - second_norm - attention_biases


def test_condition_adds_one_row_per_entry_of_the_embedding():
    assert count(dim=16, n_classes=10) - count(dim=16) == 10 * 4 * 16
    assert count(dim=16, context_dim=7, embedding_dim=24) - count(dim=16, embedding_dim=24) == 7 * 24


@pytest.mark.parametrize(
    "channels, height, mults, heights",
    [
        (3, 32, (1, 2, 4, 8), [32, 16, 8, 4]),
        (3, 64, (1, 2, 2), [64, 32, 16]),
        (1, 28, (1, 2, 3), [28, 14, 7]),
        (1, 9, (1,), [9]),
        (3, 4, (1, 1, 1), [4, 2, 1]),
    ],
)
def test_every_level_halves_and_doubles(channels, height, mults, heights):
    net = UNet(channels, height, 8, mults, n_blocks=1)
    seen = {"down": [], "up": []}
    for way in ("down", "up"):
        for blocks in getattr(net, way):
            for block in blocks:
                block.register_forward_hook(lambda _, __, out, way=way: seen[way].append(tuple(out.shape[1:])))
    x, t = batch(net, 2)
    assert net(x, t).shape == x.shape and net.size == (channels, height, height)
    levels = [(8 * mult, height, height) for mult, height in zip(mults, heights)]
    assert seen["down"] == levels
    assert seen["up"] == [level for level in reversed(levels) for _ in range(2)]


def test_every_skip_connection_is_used():
    """Every output of the way down (1 + n_blocks per level + 1 per halving) goes to exactly one block of the way up."""
    net = small(n_blocks=2, dim_mults=(1, 2, 3))
    handed, got = [], []
    for module in [net.init_conv, *net.downsample, *[block for blocks in net.down for block in blocks]]:
        module.register_forward_hook(lambda _, __, out: handed.append(out))
    for block in [block for blocks in net.up for block in blocks]:
        block.register_forward_pre_hook(lambda block, args: got.append(args[0]))
    net(*batch(net))
    assert len(handed) == len(got) == 1 + 3 * 2 + 2
    for out in handed:
        assert sum(out.shape[2:] == x.shape[2:] and torch.equal(x[:, -out.shape[1] :], out) for x in got) == 1


def test_upsample_repeats_pixels_before_its_convolution():
    up = Upsample(4)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(up(x), up.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))


def test_timestep_embedding_equation():
    embedding = timestep_embedding(torch.tensor([0.25, 1.0]), 6)
    for row, s in zip(embedding, (250, 1000)):
        angles = [s * 10000 ** (-i / 3) for i in range(3)]
        expected = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_bfloat16_tells_all_timesteps_apart():
    net = UNet(height=2, dim=8, dim_mults=(1,))
    embeddings = []
    net.down[0][0].register_forward_pre_hook(lambda block, args: embeddings.append(args[1]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for t in (torch.arange(1, 1001) / 1000).split(50):
            assert timestep_embedding(t, 8).dtype == torch.float32
            net(torch.zeros(len(t), *net.size), t.view(-1, 1, 1, 1))
    assert len(torch.cat(embeddings).unique(dim=0)) > 990


@pytest.mark.parametrize("channels, groups", [(8, 2), (16, 4), (48, 12), (128, 32), (384, 32), (240, 30), (2, 1)])
def test_groups_divide_the_channels_and_hold_at_least_four(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_largest_divisor():
    assert [largest_divisor(12, limit) for limit in (0, 1, 5, 7, 12, 50)] == [1, 1, 4, 6, 12, 12]


@pytest.mark.parametrize("out_channels", [8, 16])
def test_residual_block_equation(out_channels):
    block = awake(ResidualBlock(8, out_channels, 5)).eval()
    x, emb = torch.randn(2, 8, 6, 6), torch.randn(2, 5)

    def normalised(h):  # by hand: mean and variance of each sample's groups
        groups = h.reshape(len(h), -1, 4 * h.shape[2] * h.shape[3])
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, unbiased=False, keepdim=True)
        return ((groups - mean) / (variance + 1e-5).sqrt()).view_as(h)

    gain, offset = block.norm1.weight[:, None, None], block.norm1.bias[:, None, None]
    h = block.conv1(F.silu(gain * normalised(x) + offset))
    scale, shift = (emb @ block.scale_shift.weight.T + block.scale_shift.bias).view(2, 2, -1, 1, 1).unbind(1)
    h = block.conv2(F.silu((1 + scale) * normalised(h) + shift))
    torch.testing.assert_close(block(x, emb), h + (x if out_channels == 8 else block.shortcut(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_dim, n_heads", [(4, 2), (8, 1), (None, 1), (64, 1), (3, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_equation(head_dim, n_heads, memory_format):
    attention = awake(SelfAttention(8, head_dim))
    assert attention.n_heads == n_heads
    x = torch.randn(2, 8, 3, 5).contiguous(memory_format=memory_format)
    pixels = attention.norm(x).reshape(2, 8, 15)
    q, k, v = (weight @ pixels for weight in attention.qkv.weight.chunk(3))  # [2, 8, 15] each
    d = 8 // n_heads
    heads = []
    for i in range(n_heads):
        qi, ki, vi = (part[:, i * d : (i + 1) * d] for part in (q, k, v))
        weights = torch.softmax(qi.transpose(1, 2) @ ki / math.sqrt(d), dim=2)  # [2, query, key]
        heads.append((weights @ vi.transpose(1, 2)).transpose(1, 2))
    projected = attention.projection.weight @ torch.cat(heads, dim=1) + attention.projection.bias[:, None]
    torch.testing.assert_close(attention(x), x + projected.view_as(x), atol=1e-5, rtol=1e-5)


def test_norm_and_attention_in_bfloat16():
    layer = awake(SelfAttention(8, 4))
    x = 3 + 2 * torch.randn(4, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    torch.testing.assert_close(out.float(), layer(x), atol=0.05, rtol=0.01)
    assert not torch.equal(out, layer(x))
    norm, x = group_norm(64), (3 + 2 * torch.randn(2, 64, 28, 28)).bfloat16()  # torch's own is 9 % off here
    torch.testing.assert_close(norm(x).float(), norm(x.float()), atol=0, rtol=2**-8)  # the result alone is rounded


def test_a_network_of_bfloat16_weights():
    for net in (UNet(**SMALL, n_classes=3), Conditional_UNet.UNet(3, 8, 3, 16)):
        out = net.bfloat16()(
            *(part.bfloat16() for part in (torch.randn(2, 3, 16, 16), torch.rand(2, 1, 1, 1), torch.eye(3)[:2]))
        )
        assert out.dtype == torch.bfloat16 and out.isfinite().all()


@pytest.mark.parametrize("heights, found", [(None, [16, 8]), ((32,), [32]), ((), []), ([8, 16], [16, 8])])
def test_where_attention_is(heights, found):
    net = UNet(height=32, dim=8, dim_mults=(1, 1, 1), attention_heights=heights)
    has = [{isinstance(block.attention, SelfAttention) for block in blocks} for blocks in net.down]
    assert has == [{height in found} for height in (32, 16, 8)]
    assert has == [{isinstance(block.attention, SelfAttention) for block in blocks} for blocks in reversed(net.up)]
    assert [isinstance(block.attention, SelfAttention) for block in net.middle] == [True, False]


def test_output_is_zero_before_training_and_blocks_pass_their_input():
    net = UNet(**SMALL, n_classes=3)
    x, t = batch(net)
    assert not net(x, t, torch.eye(3)).any()
    h, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    assert torch.equal(net.down[0][0](h, emb), h)


def test_gradient_reaches_every_parameter():
    """Only from the third step on, because of the layers that start at zero."""
    torch.manual_seed(0)
    net = UNet(**SMALL, n_classes=3, dropout=0.1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x, t = batch(net)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, t, torch.eye(3)) - x).square().mean().backward()
        optimizer.step()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("condition", [{"n_classes": 3}, {"context_dim": 3}])
def test_no_class_is_the_zero_vector_and_class_and_time_matter(condition):
    net = small(**condition)
    x, t = batch(net)
    assert torch.equal(net(x, t), net(x, t, torch.zeros(3, 3)))
    expected = net(x, t, torch.eye(3))
    for other in (net(x, t), net(x, t, torch.full((3, 3), 1 / 3)), net(x, t * 0.5, torch.eye(3))):
        assert (other - expected).abs().max() > 1e-3 * expected.abs().max()


def test_samples_do_not_see_each_other():
    net = small(n_classes=3).train()
    x, t = batch(net)
    together = net(x, t, torch.eye(3))
    for i in range(3):
        alone = net(x[i : i + 1], t[i : i + 1], torch.eye(3)[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


def test_dropout_is_for_training_only():
    net = small(dropout=0.5)
    x, t = batch(net)
    assert not torch.equal(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


def test_everything_stays_channels_last():
    net = small(n_classes=3)
    images = []

    def keep(module, _, out):
        if isinstance(out, torch.Tensor) and out.ndim == 4 and out.shape[1] > 1:
            images.append((type(module).__name__, out))

    for module in net.modules():
        module.register_forward_hook(keep)
    net(*batch(net))
    assert len(images) > 40
    assert [name for name, out in images if not out.is_contiguous(memory_format=torch.channels_last)] == []


def test_in_bfloat16():
    net = small(n_classes=3)
    x, t = batch(net)
    expected = net(x, t, torch.eye(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, t, torch.eye(3))
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()
    out.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_compiles_as_one_graph():
    net = UNet(height=4, dim=8, dim_mults=(1, 2), n_classes=3, n_blocks=1)
    x, t = batch(awake(net))
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(net, backend="eager", fullgraph=True)(x, t, torch.eye(3))
        torch.testing.assert_close(compiled, net(x, t, torch.eye(3)))
    torch._dynamo.reset()


def test_copies_for_inference_and_from_files():
    net = small(n_classes=3, dropout=0.1)
    x, t = batch(net)
    expected = copy.deepcopy(net).eval()(x, t, torch.eye(3))
    torch.testing.assert_close(for_inference(net)(x, t, torch.eye(3)), expected)
    other = UNet(**SMALL, n_classes=3).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, t, torch.eye(3)), expected)


@pytest.mark.parametrize("n_classes", [0, None, 3])
def test_trains_and_samples_in_a_ddpm(n_classes):
    net = UNet(1, 8, 8, (1, 2), n_classes, n_blocks=1)
    ddpm = DDPM(net, n_timesteps=3, device="cpu")
    loss = ddpm(torch.rand(3, 1, 8, 8), torch.eye(3) if n_classes else None)
    assert 0 < loss < 3
    y_0, _ = ddpm.sample(2, n_classes=net.n_classes)
    assert y_0.shape == (2 * max(net.n_classes, 1), 1, 8, 8) and y_0.isfinite().all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"height": 28, "dim_mults": (1, 2, 4, 8)}, "height must be divisible by 8"),
        ({"height": 0}, "height"),
        ({"dim": 12}, "dim must be a multiple of 8, not 12"),
        ({"dim": 0}, "dim must be"),
        ({"dim_mults": ()}, "dim_mults"),
        ({"dim_mults": (1, 0)}, "not (1, 0)"),
        ({"dim_mults": (1, 1.5)}, "not (1, 1.5)"),
        ({"in_channels": 0}, "in_channels"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"head_dim": 0}, "head_dim"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"attention_heights": (16, 10)}, "[16, 8], not (16, 10)"),
        ({"n_classes": -1}, "n_classes must be at least 0, not -1"),
        ({"context_dim": -1}, "context_dim"),
        ({"n_classes": 3, "context_dim": 5}, "not both (3 and 5)"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_refuses_impossible_arguments(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        UNet(**{**SMALL, **arguments})


@pytest.mark.parametrize(
    "x, t, c, words",
    [
        ((2, 3, 16, 8), (2, 1, 1, 1), (2, 4), "x must be [N, 3, 16, 16], not [2, 3, 16, 8]"),
        ((2, 1, 16, 16), (2, 1, 1, 1), (2, 4), "not [2, 1, 16, 16]"),
        ((2, 3, 16, 16), (2,), (2, 4), "t must be [2, 1, 1, 1], not [2]"),
        ((2, 3, 16, 16), (2, 1, 1, 1), (2, 3), "c must be [2, 4], not [2, 3]"),
        ((2, 3, 16, 16), (2, 1, 1, 1), (1, 4), "c must be [2, 4], not [1, 4]"),
    ],
)
@pytest.mark.parametrize("condition", ["n_classes", "context_dim"])
def test_refuses_batches_that_do_not_fit(x, t, c, words, condition):
    with pytest.raises(ValueError, match=re.escape(words)):
        UNet(**SMALL, **{condition: 4})(torch.zeros(x), torch.zeros(t), torch.zeros(c))


def test_unconditional_takes_no_condition():
    net = small()
    assert net.n_classes == 0
    x, t = batch(net)
    net(x, t)
    with pytest.raises(ValueError, match="c must be None"):
        net(x, t, torch.zeros(3, 10))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_of_the_parts_is_that_of_the_whole_batch(layout):
    x, dropout = torch.randn(6, 8, 4, 4).to(memory_format=layout), Dropout(0.5)
    torch.manual_seed(0)
    whole, parts = dropout(x), []
    for dropout.part, part in enumerate(x.chunk(3)):
        dropout.parts = 3
        torch.manual_seed(0)
        parts.append(dropout(part))
    assert torch.equal(torch.cat(parts), whole) and 0.2 < (whole == 0).float().mean() < 0.8
