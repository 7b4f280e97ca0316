"""A U-Net for colour images: residual blocks that depend on time and condition, and self-attention at low resolution.

    [Ho]        Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, appendix B
    [Dhariwal]  Dhariwal, Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, section 3
    [Vaswani]   Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3
    [Wu]        Wu, He 2018, "Group Normalization", arXiv:1803.08494

The architecture is that of [Ho], with adaptive group normalisation and several attention heads from [Dhariwal]. No layer
mixes the samples of a batch, so training and evaluation mode differ by dropout only. UNet(dim=16), the network of the
exercise on animal faces, has 4,071,571 parameters; as [Ho] for CIFAR-10, UNet(dim=128, dim_mults=(1, 2, 2, 2),
attention_heights=(16,)) has 38.3 M, of which 2.6 M are for the scale beside the shift.
"""

from __future__ import annotations

import math
from typing import Callable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from networks.Conditional_UNet import Float32GroupNorm
from networks.dropout import Dropout


def timestep_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """[cos(f_i s), sin(f_i s)] with s = 1000 t and f_i = 10000^(-2 i / dim), i = 0 .. dim / 2 - 1 ([Vaswani] 3.5).

    t: [N] float, t / T in (0, 1]. dim: even. Returns float32 [N, dim]. With the factor 1000, the frequencies are those of
    [Ho], where s = 1..1000, for every T. Always float32, because bfloat16 cannot tell 1000 steps apart.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = 1000 * t.float()[:, None] * frequencies  # [N, dim / 2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # [N, dim]


def zero_init(layer: nn.Module) -> nn.Module:
    """Set the weights and the bias of a layer to zero, so that its output starts at zero. Returns the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_at_least(minimum: int, **numbers: int | None) -> None:
    """Raise ValueError if one of the numbers is less than `minimum`. None stands for "not given"."""
    for name, number in numbers.items():
        if number is not None and number < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {number}")


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is at most `limit`; 1 if there is none."""
    return next((d for d in range(min(n, limit), 1, -1) if n % d == 0), 1)


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """[Wu] with 32 groups as in [Ho], or with fewer if 32 does not divide the channels or a group would have under 4."""
    return Float32GroupNorm(largest_divisor(channels, min(32, channels // 4)), channels, affine=affine)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v ([Vaswani] 3.2.1), of [..., pixels, d] each."""
    # torch's own backward pass is slow in bfloat16 on a CPU.
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class ResidualBlock(nn.Module):
    """x + conv(silu(AdaGN(conv(silu(GN(x))), emb))), with AdaGN(h, emb) = (1 + scale) GN(h) + shift ([Dhariwal] 3.1).

    x [N, in_channels, H, W], emb [N, embedding_dim] -> [N, out_channels, H, W]. If the number of channels changes, x goes
    through a 1 x 1 convolution. At the start of training the block returns x (or its convolution).
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.scale_shift = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels, affine=False)  # the bias of scale_shift takes the place of affine
        self.dropout = Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_shift(emb)[:, :, None, None].chunk(2, dim=1)  # 2 x [N, out_channels, 1, 1]
        h = self.conv1(F.silu(self.norm1(x)))  # [N, out_channels, H, W]
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """x + projection of softmax(q k^T / sqrt(d)) v, where every pixel attends to all pixels ([Vaswani] 3.2, [Ho] B).

    [N, channels, H, W] -> the same shape. A head has d = head_dim channels, or more if head_dim does not divide the number
    of channels. None: one head with all channels, as in [Ho]. At the start of training the layer returns x.
    """

    def __init__(self, channels: int, head_dim: int | None = 64):
        super().__init__()
        self.n_heads = 1 if head_dim is None else largest_divisor(channels, channels // head_dim)
        self.norm = group_norm(channels)
        # A bias would add nothing: norm and projection have one each, and the bias of k cancels in the softmax.
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.projection = zero_init(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # If x is channels last in memory, the reshapes copy nothing.
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        qkv = self.qkv(pixels).unflatten(2, (3, self.n_heads, -1))  # [N, HW, 3, heads, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x [N, heads, HW, d]
        mixed = attention(q, k, v)
        mixed = self.projection(mixed.transpose(1, 2).flatten(2))  # [N, HW, C]
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[2:])  # [N, C, H, W]


class Block(nn.Module):
    """A ResidualBlock, then SelfAttention or nothing: [N, in_channels, H, W] -> [N, out_channels, H, W]."""

    def __init__(self, residual: ResidualBlock, attention: SelfAttention | None):
        super().__init__()
        self.residual = residual
        self.attention = attention or nn.Identity()

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.attention(self.residual(x, emb))  # [N, out_channels, H, W]


class DownLevel(nn.ModuleList):
    """The Blocks of one level on the way down: [N, C, H, W] -> the list of their outputs, each [N, width, H, W]."""

    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for block in self:
            h = block(h, emb)  # [N, width, H, W]
            outputs.append(h)
        return outputs


class UpLevel(nn.ModuleList):
    """The Blocks of one level on the way up: [N, C, H, W] -> [N, width, H, W]. Each removes the last of `skips`."""

    def forward(self, h: torch.Tensor, emb: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for block in self:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)  # [N, C + S, H, W] -> [N, width, H, W]
        return h


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution (makes no checkerboard pattern): [N, C, H, W] -> [N, C, 2H, 2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # [N, C, 2H, 2W]


class UNet(nn.Module):
    """Predicts the noise in x_t ([Ho] appendix B, [Dhariwal] section 3), given a class, a context vector, or nothing.

    Args:
        in_channels: channels of the images.
        height: height and width of the images in pixels; every level but the first halves it.
        dim: channels of the first level, a multiple of 8; also the length of the sinusoidal time embedding.
        dim_mults: channels of each level as a multiple of dim, whole numbers.
        n_classes: length of the class vector; 0 or None: no classes.
        context_dim: length of a context vector (for example the embedding of a text) instead of a class vector. The
            initial weights suit vectors of length about 1, which one-hot vectors have.
        n_blocks: residual blocks per level on the way down. The way up has one more, for one more skip connection.
        attention_heights: heights of the levels with self-attention after each block. None: all up to 16. The middle
            always has it.
        head_dim: channels per attention head; None: one head.
        embedding_dim: width of the embedding of time and condition; None: 4 dim.
        dropout: probability in the residual blocks, in [0, 1).

    With neither n_classes nor context_dim the network is unconditional. The constructor and `forward` raise ValueError
    for arguments that do not fit. The output is zero before the first training step.
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
        if dim < 8 or dim % 8:
            raise ValueError(f"dim must be a multiple of 8, not {dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        if n_classes and context_dim:
            raise ValueError(f"give n_classes or context_dim, not both ({n_classes} and {context_dim})")
        check_at_least(1, in_channels=in_channels, n_blocks=n_blocks, embedding_dim=emb_dim, head_dim=head_dim)
        check_at_least(0, n_classes=n_classes, context_dim=context_dim)
        heights = _level_heights(height, dim_mults)
        if attention_heights is None:
            attention_heights = [h for h in heights if h <= 16]
        if not set(attention_heights) <= set(heights):
            raise ValueError(f"attention_heights must be among the levels' heights {heights}, not {attention_heights}")
        self.size = (in_channels, height, height)  # shape of one image; DDPM.sample reads it
        self.n_classes = n_classes or 0
        self.condition_dim = n_classes or context_dim or 0  # length of c
        self.dim = dim

        self.time_mlp = nn.Sequential(nn.Linear(dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        if self.condition_dim:
            # No bias, so zeros stay zeros ("no class" is the time embedding alone) and a mixture of classes becomes the
            # mixture of their embeddings. The initial weights have variance 1, as those of nn.Embedding.
            self.condition = nn.Linear(self.condition_dim, emb_dim, bias=False)
            nn.init.normal_(self.condition.weight)

        def block(in_width: int, width: int, attention: bool) -> Block:
            residual = ResidualBlock(in_width, width, emb_dim, dropout)
            return Block(residual, SelfAttention(width, head_dim) if attention else None)

        self.init_conv = nn.Conv2d(in_channels, dim, kernel_size=3, padding=1)
        self._add_levels(block, [dim * m for m in dim_mults], [h in attention_heights for h in heights], n_blocks)
        before = dim * dim_mults[0]
        last_conv = zero_init(nn.Conv2d(before, in_channels, kernel_size=3, padding=1))
        self.final = nn.Sequential(group_norm(before), nn.SiLU(), last_conv)
        # Only the memory layout changes, not the values. With channels last, convolutions are faster on CPUs and on the
        # tensor cores of GPUs, and attention needs no copies.
        self.to(memory_format=torch.channels_last)

    def _add_levels(
        self, block: Callable[[int, int, bool], Block], widths: list[int], attention: list[bool], n_blocks: int
    ) -> None:
        """Make the way down, the middle and the way up, from the channels of each level and whether it has attention."""
        lowest = len(widths) - 1
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        before = self.dim  # channels so far
        skips = [before]  # channels of the skip connections
        for level, width in enumerate(widths):
            in_widths = [before] + [width] * (n_blocks - 1)
            self.down.append(DownLevel(block(in_width, width, attention[level]) for in_width in in_widths))
            skips += [width] * n_blocks
            if level < lowest:
                self.downsample.append(nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1))
                skips.append(width)
            before = width

        self.middle = nn.ModuleList([block(before, before, True), block(before, before, False)])

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()  # from the lowest level to the first
        for level, width in reversed(list(enumerate(widths))):
            in_widths = [in_width + skips.pop() for in_width in [before] + [width] * n_blocks]
            self.up.append(UpLevel(block(in_width, width, attention[level]) for in_width in in_widths))
            if level > 0:
                self.upsample.append(Upsample(width))
            before = width

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """The predicted noise eps(x_t, t, c), with the shape of x.

        x: noisy images, [N, C, H, W] float. t: [N, 1, 1, 1] float, t / T in (0, 1].
        c: [N, n_classes] float: one-hot, a mixture, or zeros for "no class"; or [N, context_dim] float, zeros for "no
        context". None means zeros. An unconditional network takes only None.
        """
        emb = self._embedding(x, t, c)  # [N, embedding_dim]
        skips = [self.init_conv(x)]  # [N, dim, H, W]
        for i, level in enumerate(self.down):
            skips += level(skips[-1], emb)  # [N, dim * dim_mults[i], H / 2^i, W / 2^i] each
            if i < len(self.downsample):
                skips.append(self.downsample[i](skips[-1]))  # half the height and width

        h = skips[-1]
        for block in self.middle:
            h = block(h, emb)

        for i, level in enumerate(self.up):
            h = level(h, emb, skips)  # the channels, height and width of the same level on the way down
            if i < len(self.upsample):
                h = self.upsample[i](h)  # twice the height and width
        return self.final(h)  # [N, C, H, W]

    def _embedding(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """The embedding of time and condition for the blocks, [N, embedding_dim]. Checks the shapes first."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.size:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.size))}], not {list(x.shape)}")
        if tuple(t.shape) != (len(x), 1, 1, 1):
            raise ValueError(f"t must be [{len(x)}, 1, 1, 1], not {list(t.shape)}")
        if c is not None and not self.condition_dim:
            raise ValueError("c must be None: this network has neither n_classes nor context_dim")
        if c is not None and tuple(c.shape) != (len(x), self.condition_dim):
            raise ValueError(f"c must be [{len(x)}, {self.condition_dim}], not {list(c.shape)}")
        emb = self.time_mlp(timestep_embedding(t.flatten(), self.dim).to(x.dtype))  # [N, embedding_dim]
        if self.condition_dim:
            emb = emb + self.condition(x.new_zeros(len(x), self.condition_dim) if c is None else c)
        return F.silu(emb)


def _level_heights(height: int, dim_mults: Sequence[int]) -> list[int]:
    if len(dim_mults) == 0 or not all(isinstance(mult, int) and mult >= 1 for mult in dim_mults):
        raise ValueError(f"dim_mults must be whole numbers of at least 1, one per level, not {dim_mults}")
    smallest = 2 ** (len(dim_mults) - 1)
    if height < 1 or height % smallest:
        raise ValueError(f"height must be divisible by {smallest} for {len(dim_mults)} levels, not {height}")
    return [height // 2**level for level in range(len(dim_mults))]
