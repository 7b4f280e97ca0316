"""A U-Net for colour images: residual blocks that time and condition modulate, self-attention where it is affordable.

    python networks/unet.py     # checks the shapes on the CPU (and GPU), prints the numbers of parameters

    [Ho]        Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, appendix B
    [Dhariwal]  Dhariwal, Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, section 3
    [Vaswani]   Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3
    [Wu]        Wu, He 2018, "Group Normalization", arXiv:1803.08494

The plan is that of [Ho]; adaptive group normalisation and attention in several heads are from [Dhariwal]. No layer looks
at more than one sample, so that training and evaluation mode differ by dropout alone. Expected numbers of parameters:
see EXPECTED.
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

# Arguments and the number of parameters that they give: the small setting of the "animal face" exercise; the CIFAR-10
# network of [Ho] with a scale beside the shift, which is 2.6 M more than its 35.7 M; and the same with an embedding of
# half the width, which makes up for that.
HO = {"dim": 128, "dim_mults": (1, 2, 2, 2), "attention_heights": (16,)}
EXPECTED = [({"dim": 16}, 4_071_571), (HO, 38_292_611), ({**HO, "embedding_dim": 256}, 35_506_819)]


def timestep_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """[cos(f_i s), sin(f_i s)] for s = 1000 t and f_i = 10000^(-2 i / dim), i = 0 .. dim / 2 - 1 ([Vaswani] 3.5).

    t: [N] float, t / T in (0, 1]. dim: even. Returns float32 [N, dim]. [Ho] counts s = 1..1000; the factor 1000 keeps
    these frequencies right for every T. In float32 whatever the rest computes in: bfloat16 has 8 bits for 1000 steps.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = 1000 * t.float()[:, None] * frequencies  # [N, dim / 2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # [N, dim]


def zero_init(layer: nn.Module) -> nn.Module:
    """Zero the weights and the bias of a layer, so that the branch it ends starts as nothing. Returns the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is at most `limit`; 1 if there is none."""
    return next((d for d in range(min(n, limit), 1, -1) if n % d == 0), 1)


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """[Wu] with 32 groups, as in [Ho]; fewer where a group would have less than 4 channels, or unequal ones."""
    return nn.GroupNorm(largest_divisor(channels, min(32, channels // 4)), channels, affine=affine)


class ResidualBlock(nn.Module):
    """x + conv(silu(AdaGN(conv(silu(GN(x))), emb))), with AdaGN(h, emb) = (1 + scale) GN(h) + shift ([Dhariwal] 3.1).

    x [N, in_channels, H, W], emb [N, embedding_dim] -> [N, out_channels, H, W]. Where the number of channels changes, a
    1 x 1 convolution carries x over. Every block starts as (this projection of) its input.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.scale_shift = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels, affine=False)  # gain and offset are the bias of scale_shift
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_shift(emb)[:, :, None, None].chunk(2, dim=1)  # 2 x [N, out_channels, 1, 1]
        h = self.conv1(F.silu(self.norm1(x)))  # [N, out_channels, H, W]
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """x + projection of softmax(q k^T / sqrt(d)) v, every pixel looking at all pixels ([Vaswani] 3.2, [Ho] B).

    [N, channels, H, W] -> the same. d = head_dim channels form a head; more if head_dim does not divide their number,
    and all of them (one head, as in [Ho]) if head_dim is None. Starts as the identity.
    """

    def __init__(self, channels: int, head_dim: int | None = 64):
        super().__init__()
        self.n_heads = 1 if head_dim is None else largest_divisor(channels, channels // head_dim)
        self.norm = group_norm(channels)
        # No bias: that of the norm serves q, the projection's serves v, and for k it would cancel in the softmax.
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.projection = zero_init(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # With the channels last in memory all of these are views, and the matrix products need no copies.
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        qkv = self.qkv(pixels).unflatten(2, (3, self.n_heads, -1))  # [N, HW, 3, heads, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x [N, heads, HW, d]
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = self.projection(mixed.transpose(1, 2).flatten(2))  # [N, HW, C]
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[2:])  # [N, C, H, W]


class Block(nn.Module):
    """A ResidualBlock, then SelfAttention if asked for: [N, in_channels, H, W] -> [N, out_channels, H, W]."""

    def __init__(self, residual: ResidualBlock, attention: SelfAttention | None):
        super().__init__()
        self.residual = residual
        self.attention = attention or nn.Identity()

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.attention(self.residual(x, emb))


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution: [N, C, H, W] -> [N, C, 2H, 2W]. Has no checkerboard, unlike a transpose."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # [N, C, 2H, 2W]


class UNet(nn.Module):
    """Predicts the noise in x_t ([Ho] appendix B, [Dhariwal] section 3), given a class, a context vector, or nothing.

    Args:
        in_channels: channels of the images.
        height: height and width of the images in pixels; every level but the first halves it exactly.
        dim: width of the first level, a multiple of 8; also the length of the sinusoidal time embedding.
        dim_mults: the width of each level as a multiple of dim, whole numbers.
        n_classes: length of the class vector; 0 or None: no classes.
        context_dim: length of a context vector (such as the embedding of a text), which stands in the place of the class
            vector. Vectors of length about 1, as one-hot rows have it, fit the initial weights.
        n_blocks: residual blocks per level on the way down; on the way up there is one more, for the skip connection
            from the level's entrance.
        attention_heights: heights of the levels that get self-attention after each block. None: all up to 16. The
            middle always has it.
        head_dim: channels per attention head; None: one head.
        embedding_dim: width of the embedding of time and condition; None: 4 dim.
        dropout: probability, in [0, 1), inside the residual blocks.

    With neither n_classes nor context_dim the network is unconditional. Raises ValueError for what does not fit, here
    and in `forward`. The output is zero before the first training step.
    """

    def __init__(
        self,
        in_channels: int = 3,
        height: int = 32,
        dim: int = 64,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        n_classes: int | None = 0,
        context_dim: int | None = None,
        n_blocks: int = 2,
        attention_heights: Sequence[int] | None = None,
        head_dim: int | None = 64,
        embedding_dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        emb_dim = 4 * dim if embedding_dim is None else embedding_dim
        counts = {
            "in_channels": in_channels,
            "n_blocks": n_blocks,
            "embedding_dim": emb_dim,
            "head_dim": 1 if head_dim is None else head_dim,
        }
        self._check_numbers(dim, dropout, counts, {"n_classes": n_classes or 0, "context_dim": context_dim or 0})
        heights = self._checked_heights(height, dim_mults)
        if attention_heights is None:
            attention_heights = [h for h in heights if h <= 16]
        if not set(attention_heights) <= set(heights):
            raise ValueError(f"attention_heights must be among the levels' heights {heights}, not {attention_heights}")
        self.size = (in_channels, height, height)  # of one image; DDPM.sample takes it from here
        self.n_classes = n_classes or 0
        self.condition_dim = n_classes or context_dim or 0  # length of c
        self.dim = dim

        self.time_mlp = nn.Sequential(nn.Linear(dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        if self.condition_dim:
            # Without a bias zeros become zeros: "no class" is the time embedding alone, and a mixture of classes the
            # mixture of their embeddings. Entries of unit variance are those of nn.Embedding.
            self.condition = nn.Linear(self.condition_dim, emb_dim, bias=False)
            nn.init.normal_(self.condition.weight)

        def block(in_width: int, out_width: int, attention: bool) -> Block:
            residual = ResidualBlock(in_width, out_width, emb_dim, dropout)
            return Block(residual, SelfAttention(out_width, head_dim) if attention else None)

        def blocks(level: int, in_widths: Sequence[int]) -> nn.ModuleList:
            attention = heights[level] in attention_heights
            return nn.ModuleList([block(in_width, widths[level], attention) for in_width in in_widths])

        widths = [dim * mult for mult in dim_mults]
        lowest = len(widths) - 1
        self.init_conv = nn.Conv2d(in_channels, dim, kernel_size=3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        before, skips = dim, [dim]  # width so far; widths of what the way down hands over to the way up
        for level, width in enumerate(widths):
            self.down.append(blocks(level, [before] + [width] * (n_blocks - 1)))
            skips += [width] * n_blocks
            if level < lowest:
                self.downsample.append(nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1))
                skips.append(width)
            before = width

        self.middle = nn.ModuleList([block(before, before, True), block(before, before, False)])

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()  # from the lowest level to the first
        for level in range(lowest, -1, -1):
            width = widths[level]
            self.up.append(blocks(level, [w + skips.pop() for w in [before] + [width] * n_blocks]))
            if level > 0:
                self.upsample.append(Upsample(width))
            before = width

        last_conv = zero_init(nn.Conv2d(before, in_channels, kernel_size=3, padding=1))
        self.final = nn.Sequential(group_norm(before), nn.SiLU(), last_conv)
        # Weights with the channels last make the convolutions and all that lies between them work in that layout, which
        # is the fast one on tensor cores and many CPUs, and in which attention sees its pixels without a copy.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """eps(x_t, t, c), shaped like x.

        x: [N, C, H, W] float in about [-1, 1] plus noise. t: [N, 1, 1, 1] float, t / T in (0, 1].
        c: [N, n_classes] float, one-hot, a mixture, or zeros for "no class"; or [N, context_dim] float, zeros for "no
        context"; None stands for zeros. An unconditional network takes None only.
        """
        emb = self._embedding(x, t, c)  # [N, embedding_dim]
        h = self.init_conv(x)  # [N, dim, H, W]
        skips = [h]
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, emb)  # [N, dim * dim_mults[level], H / 2^level, W / 2^level]
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)  # half as high and wide
                skips.append(h)

        for block in self.middle:
            h = block(h, emb)

        for i, blocks in enumerate(self.up):
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), emb)  # widths and heights of the way down, backwards
            if i < len(self.upsample):
                h = self.upsample[i](h)  # twice as high and wide
        return self.final(h)  # [N, C, H, W]

    def _embedding(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """What every block is told about time and condition, [N, embedding_dim]; checks the shapes of the arguments."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.size:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.size))}], not {list(x.shape)}")
        if tuple(t.shape) != (len(x), 1, 1, 1):
            raise ValueError(f"t must be [{len(x)}, 1, 1, 1], not {list(t.shape)}")
        if c is not None and not self.condition_dim:
            raise ValueError("c must be None: this network has neither n_classes nor context_dim")
        if c is not None and tuple(c.shape) != (len(x), self.condition_dim):
            raise ValueError(f"c must be [{len(x)}, {self.condition_dim}], not {list(c.shape)}")
        emb = self.time_mlp(timestep_embedding(t.flatten(), self.dim).to(x.dtype))
        if self.condition_dim:
            emb = emb + self.condition(x.new_zeros(len(x), self.condition_dim) if c is None else c)
        return F.silu(emb)

    @staticmethod
    def _checked_heights(height: int, dim_mults: Sequence[int]) -> list[int]:
        """The height of each level."""
        if len(dim_mults) == 0 or not all(isinstance(mult, int) and mult >= 1 for mult in dim_mults):
            raise ValueError(f"dim_mults must be whole numbers of at least 1, one per level, not {dim_mults}")
        halvings = len(dim_mults) - 1
        if height < 1 or height % 2**halvings:
            raise ValueError(
                f"height must be divisible by {2**halvings} (dim_mults has {len(dim_mults)} levels, each but the first "
                f"halves it exactly), not {height}"
            )
        return [height // 2**level for level in range(len(dim_mults))]

    @staticmethod
    def _check_numbers(dim: int, dropout: float, counts: dict[str, int], lengths: dict[str, int]) -> None:
        if dim < 8 or dim % 8:
            raise ValueError(f"dim must be a multiple of 8, not {dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name, value in lengths.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")
        if all(lengths.values()):
            raise ValueError(f"n_classes and context_dim exclude each other, but are {list(lengths.values())}")


def _check_shapes() -> None:
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        for arguments, expected in EXPECTED:
            net = UNet(**arguments).to(device)
            x = torch.randn(2, *net.size, device=device)
            assert net(x, torch.rand(2, 1, 1, 1, device=device)).shape == x.shape
            count = sum(p.numel() for p in net.parameters())
            assert count == expected, f"{count:,} parameters, not {expected:,}"
            given = ", ".join(f"{name}={value}" for name, value in arguments.items())
            print(f"{device}: UNet({given}) keeps {list(x.shape)}; {count:,} parameters")


if __name__ == "__main__":
    _check_shapes()
