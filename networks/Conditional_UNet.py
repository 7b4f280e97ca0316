"""The class-conditional U-Net of the exercise.

    python networks/Conditional_UNet.py     # checks the shapes on the CPU (and GPU), prints the number of parameters

UNet(3, 32, 10, 32) has 717,955 parameters, UNet(1, 32, 10, 28) has 655,361.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch.nn.functional import group_norm


class ConvBlock(nn.Module):
    """Conv3x3 - BatchNorm - GELU, twice, with a residual connection: [N, in_channels, H, W] -> [N, out_channels, H, W].

    The residual is the input if the number of channels stays the same, otherwise the output of the first half. The sum
    of two parts is divided by sqrt(2), so that its variance stays the same.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.same_channels = in_channels == out_channels
        self.conv1 = self._half(in_channels, out_channels)
        self.conv2 = self._half(out_channels, out_channels)

    @staticmethod
    def _half(in_channels: int, out_channels: int) -> nn.Sequential:
        # BatchNorm subtracts the mean, so the bias of the convolution has no effect. The exercise's network has it.
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1)
        # BatchNorm also removes the scale of the weights. But the length of Adam's steps does not depend on that scale,
        # so with smaller weights each step changes their direction more. Training starts faster: on MNIST the mean
        # training loss of the first epoch is 0.165 with PyTorch's initial weights and 0.119 with a tenth of them.
        with torch.no_grad():
            conv.weight.mul_(0.1)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv1(x)  # [N, out_channels, H, W]
        second = self.conv2(first)
        residual = x if self.same_channels else first
        return (residual + second).mul_(1 / math.sqrt(2))  # in place: needs no memory for another tensor


class Encoder_Block(nn.Module):
    """Two ConvBlocks, then max pooling: [N, in_channels, H, W] -> [N, out_channels, H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(in_channels, out_channels),
            ConvBlock(out_channels, out_channels),
            nn.MaxPool2d(2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # [N, out_channels, H/2, W/2]


class Decoder_Block(nn.Module):
    """Upsampling by the factor `transpose`, then two ConvBlocks.

    x [N, C, H, W] and x_skip [N, S, H, W] or None, with C + S = in_channels
    -> [N, out_channels, transpose * H, transpose * W].
    """

    def __init__(self, in_channels: int, out_channels: int, transpose: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size=transpose, stride=transpose),
            ConvBlock(out_channels, out_channels),
            ConvBlock(out_channels, out_channels),
        )

    def forward(self, x: torch.Tensor, x_skip: torch.Tensor | None = None) -> torch.Tensor:
        if x_skip is not None:
            x = torch.cat([x, x_skip], dim=1)  # [N, C + S, H, W]
        return self.layers(x)  # [N, out_channels, transpose * H, transpose * W]


class Sine(nn.Module):
    """Elementwise sine, the activation of the time embedding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class Float32Linear(nn.Linear):
    """nn.Linear without a matrix product: autocast computes elementwise products in float32.

    In bfloat16 t / T would be rounded to 8 bits, and many neighbouring timesteps would become equal.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, :, None] * self.weight.t()).sum(dim=1) + self.bias  # [N, out_features]


class Float32GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that computes bfloat16 in float32, as autocast does on a GPU. On a CPU that is also three times as fast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        weight, bias = (None, None) if self.weight is None else (self.weight.float(), self.bias.float())
        return group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class Embedding_Block(nn.Module):
    """Linear - activation - Linear: [N, in_channels] or [N, in_channels, 1, 1] -> [N, out_channels, 1, 1].

    activation: 'sin' (for the time) or 'GELU' (for the class). Raises ValueError for any other.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: str):
        super().__init__()
        activations = {"sin": Sine, "GELU": nn.GELU}
        if activation not in activations:
            raise ValueError(f"activation must be one of {list(activations)}, not {activation!r}")
        self.layers = nn.Sequential(
            Float32Linear(in_channels, out_channels),
            activations[activation](),
            nn.Linear(out_channels, out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.flatten(1))[:, :, None, None]  # [N, out_channels, 1, 1]


class UNet(nn.Module):
    """Predicts the noise in x_t for class c.

    Args:
        in_channels: channels of the images, 1 or 3.
        n_features: channels of the first level; a multiple of 8, because GroupNorm has 8 groups.
        n_classes: length of the class vector, or of a context vector in its place; 0: none.
        height: height and width of the images in pixels: at least 8 and divisible by 4, because two levels halve it.

    The constructor and `forward` raise ValueError for sizes that do not fit.
    """

    def __init__(self, in_channels: int = 3, n_features: int = 32, n_classes: int = 10, height: int = 32):
        super().__init__()
        if height < 8 or height % 4:
            raise ValueError(f"height must be divisible by 4 (two levels halve it) and at least 8, not {height}")
        if n_features < 8 or n_features % 8:
            raise ValueError(f"n_features must be a multiple of 8 (GroupNorm has 8 groups), not {n_features}")
        if in_channels < 1 or n_classes < 0:
            raise ValueError(f"in_channels must be at least 1 and n_classes 0, not {in_channels} and {n_classes}")
        F = n_features
        self.n_classes = n_classes
        self.size = (in_channels, height, height)  # shape of one image; DDPM.sample reads it

        self.init_conv = ConvBlock(in_channels, F)
        self.encoder1 = Encoder_Block(F, F)
        self.encoder2 = Encoder_Block(F, 2 * F)
        self.to_vec = nn.Sequential(nn.AvgPool2d(height // 4), nn.GELU())

        self.time_embedding1 = Embedding_Block(1, 2 * F, "sin")
        self.time_embedding2 = Embedding_Block(1, F, "sin")
        if n_classes:
            self.class_embedding1 = Embedding_Block(n_classes, 2 * F, "GELU")
            self.class_embedding2 = Embedding_Block(n_classes, F, "GELU")

        self.decoder0 = Decoder_Block(2 * F, 2 * F, height // 4)
        self.decoder1 = Decoder_Block(4 * F, F, 2)
        self.decoder2 = Decoder_Block(2 * F, F, 2)
        self.final = nn.Sequential(
            nn.Conv2d(2 * F, F, kernel_size=3, padding=1),
            Float32GroupNorm(8, F),
            nn.ReLU(),
            nn.Conv2d(F, in_channels, kernel_size=3, padding=1),
        )
        # Only the memory layout changes, not the values. With channels last, convolutions are faster on CPUs and on the
        # tensor cores of GPUs.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The predicted noise eps(x_t, t, c), [R, C, H, W].

        x: noisy images, [N, C, H, W] float. t: [N, 1, 1, 1] float, t / T in (0, 1].
        c: [R, n_classes] float: one-hot, a mixture, or zeros for "no class". None means zeros.
        images: int64 [R], the image in x that each row of c is for: guidance asks for several c at the same x, and what
            does not depend on c is computed once. None: each row for its own image, R = N.
        """
        c = self._checked_class(x, t, c, images)
        h0 = self.init_conv(x)  # [N, F, H, W] with F = n_features
        h1 = self.encoder1(h0)  # [N, F, H/2, W/2]
        h2 = self.encoder2(h1)  # [N, 2F, H/4, W/4]
        v = self.to_vec(h2)  # [N, 2F, 1, 1]
        u0 = self.decoder0(v)  # [N, 2F, H/4, W/4]
        if images is not None:
            h0, h1, h2, u0, t = (part[images] for part in (h0, h1, h2, u0, t))  # [R, ...]

        u0 = self.class_embedding1(c) * u0 if self.n_classes else u0
        u1 = self.decoder1(u0 + self.time_embedding1(t), h2)  # [R, F, H/2, W/2]
        u1 = self.class_embedding2(c) * u1 if self.n_classes else u1
        u2 = self.decoder2(u1 + self.time_embedding2(t), h1)  # [R, F, H, W]
        return self.final(torch.cat([u2, h0], dim=1))  # [R, C, H, W]

    def _checked_class(
        self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None, images: torch.Tensor | None
    ) -> torch.Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.size:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.size))}], not {list(x.shape)}")
        if tuple(t.shape) != (len(x), 1, 1, 1):
            raise ValueError(f"t must be [{len(x)}, 1, 1, 1], not {list(t.shape)}")
        rows = len(x) if images is None else len(images)
        if c is None:
            return x.new_zeros(rows, self.n_classes)
        if not self.n_classes and c.shape[1:] != (0,):
            raise ValueError("c must be None: this network has no classes (in `sample`: n_classes=None)")
        if tuple(c.shape) != (rows, self.n_classes):
            raise ValueError(f"c must be [{rows}, {self.n_classes}], not {list(c.shape)}")
        return c


def _check_shapes() -> None:
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        for channels, height in ((3, 32), (1, 28)):
            net = UNet(channels, 32, 10, height).to(device)
            x = torch.randn(5, channels, height, height, device=device)
            t = torch.rand(5, 1, 1, 1, device=device)
            c = torch.eye(10, device=device)[:5]
            assert net(x, t, c).shape == x.shape
            count = sum(p.numel() for p in net.parameters())
            print(f"{device}: UNet({channels}, 32, 10, {height}) keeps {list(x.shape)}; {count:,} parameters")


if __name__ == "__main__":
    _check_shapes()
