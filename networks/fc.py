"""Fully connected networks that predict the noise: for points of the plane, and for images as vectors.

[Ho]          Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
[He]          He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027
[Mildenhall]  Mildenhall et al. 2020, "NeRF", arXiv:2003.08934, section 5.1
[Tancik]      Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions", arXiv:2006.10739
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from networks.unet import check_at_least, timestep_embedding, zero_init

KINDS = ("plain", "residual", "fourier")
TIME_DIM = 32  # length of the sinusoidal time embedding
EMBEDDING_DIM = 64  # length of the embedding of time and class in the residual blocks


class PlainLayers(nn.Module):
    """The exercise's network, two hidden layers: x [N, input_dim], t [N, 1], c [N, n_classes] -> [N, input_dim]."""

    def __init__(self, input_dim: int, num_hidden: int, n_classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_dim + 1 + n_classes, num_hidden),
            nn.ReLU(),
            nn.Linear(num_hidden, num_hidden),
            nn.ReLU(),
            nn.Linear(num_hidden, input_dim),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, t, c], dim=1))  # [N, input_dim + 1 + n_classes] -> [N, input_dim]


class ResidualBlock(nn.Module):
    """h + linear(silu(linear(silu(h)) + linear(emb))) ([He], with the embedding added as in [Ho] appendix B).

    h [N, width], emb [N, EMBEDDING_DIM] -> [N, width]. At the start of training the block returns h.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.embedding = nn.Linear(EMBEDDING_DIM, width, bias=False)  # linear1 has a bias already
        self.linear2 = zero_init(nn.Linear(width, width))

    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return h + self.linear2(F.silu(self.linear1(F.silu(h)) + self.embedding(emb)))


class ResidualLayers(nn.Module):
    """Residual blocks that get time and class: x [N, input_dim], t [N, 1], c [N, n_classes] -> [N, input_dim].

    If n_frequencies > 0, the input is x together with sin(2^k pi x) and cos(2^k pi x), k = 0 .. n_frequencies - 1
    ([Mildenhall] equation 4), and a sinusoidal embedding of t. With these a network learns fine details of the
    distribution faster ([Tancik]). The output is zero before the first training step.
    """

    def __init__(self, input_dim: int, num_hidden: int, n_classes: int, n_blocks: int, n_frequencies: int):
        super().__init__()
        self.n_frequencies = n_frequencies
        self.first = nn.Linear(input_dim * (1 + 2 * n_frequencies), num_hidden)
        first_time = nn.Linear(TIME_DIM if n_frequencies else 1, EMBEDDING_DIM)
        self.time = nn.Sequential(first_time, nn.SiLU(), nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM))
        # No bias, so zeros stay zeros: "no class" is the time embedding alone.
        self.condition = nn.Linear(n_classes, EMBEDDING_DIM, bias=False) if n_classes else None
        self.blocks = nn.ModuleList([ResidualBlock(num_hidden) for _ in range(n_blocks)])
        self.last = zero_init(nn.Linear(num_hidden, input_dim))

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        if self.n_frequencies:
            angles = torch.cat([2**k * math.pi * x for k in range(self.n_frequencies)], dim=1)
            x = torch.cat([x, angles.sin(), angles.cos()], dim=1)  # [N, input_dim (1 + 2 n_frequencies)]
            t = timestep_embedding(t.flatten(), TIME_DIM).to(x.dtype)  # [N, TIME_DIM]
        emb = self.time(t)  # [N, EMBEDDING_DIM]
        if self.condition is not None:
            emb = emb + self.condition(c)
        emb = F.silu(emb)
        h = self.first(x)  # [N, num_hidden]
        for block in self.blocks:
            h = block(h, emb)
        return self.last(F.silu(h))  # [N, input_dim]


class FcNetwork(nn.Module):
    """Predicts the noise in x_t by fully connected layers.

    Args:
        input_dim: numbers in one sample: 2 for points of the plane, C * H * W for images.
        num_hidden: width of the hidden layers.
        n_classes: length of the class vector; 0 or None: no classes.
        kind: 'plain': the exercise's network, two hidden layers with ReLU, which get input, time and class together.
            'residual': residual blocks, each of which gets time and class. 'fourier': residual blocks, with sines and
            cosines of several frequencies of input and time as the input; learns fine details faster.
        size: shape of one sample, such as (1, 28, 28); None: (input_dim,). `forward` flattens the images, and the noise
            has their shape again.
        n_blocks: number of residual blocks ('residual' and 'fourier').
        n_frequencies: number of frequencies for each input number ('fourier').
        skip: add g(t) x_t to the output, with a learnt number g(t). At large t the noise is nearly x_t, and layers
            narrower than the image cannot pass x_t on. With the skip they need to describe only the image.

    The constructor and `forward` raise ValueError for arguments that do not fit.
    """

    def __init__(
        self,
        input_dim: int = 2,
        num_hidden: int = 128,
        n_classes: int | None = 0,
        kind: str = "plain",
        size: Sequence[int] | None = None,
        n_blocks: int = 3,
        n_frequencies: int = 3,
        skip: bool = False,
    ):
        super().__init__()
        check_at_least(1, input_dim=input_dim, num_hidden=num_hidden, n_blocks=n_blocks, n_frequencies=n_frequencies)
        check_at_least(0, n_classes=n_classes)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
        self.size = (input_dim,) if size is None else tuple(size)  # shape of one sample; DDPM.sample reads it
        if math.prod(self.size) != input_dim:
            raise ValueError(f"size {list(self.size)} has {math.prod(self.size)} numbers, not input_dim = {input_dim}")
        self.n_classes = n_classes or 0
        self.layers: nn.Module
        if kind == "plain":
            self.layers = PlainLayers(input_dim, num_hidden, self.n_classes)
        else:
            frequencies = n_frequencies if kind == "fourier" else 0
            self.layers = ResidualLayers(input_dim, num_hidden, self.n_classes, n_blocks, frequencies)
        last = zero_init(nn.Linear(TIME_DIM, 1))
        self.gain = nn.Sequential(nn.Linear(TIME_DIM, TIME_DIM), nn.SiLU(), last) if skip else None

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """The predicted noise eps(x_t, t, c), with the shape of x.

        x: noisy samples, [N, *size] float. t: [N, 1, ...] float, t / T in (0, 1], with any number of dimensions.
        c: [N, n_classes] float: one-hot, a mixture, or zeros for "no class". None means zeros. A network without classes
        takes only None.
        """
        n = len(x)
        if tuple(x.shape[1:]) != self.size:
            raise ValueError(f"x must be [N, {', '.join(map(str, self.size))}], not {list(x.shape)}")
        if len(t) != n or t.numel() != n:
            raise ValueError(f"t must be [{n}, 1, ...], not {list(t.shape)}")
        if c is not None and not self.n_classes:
            raise ValueError("c must be None: this network has no classes")
        if c is None:
            c = x.new_zeros(n, self.n_classes)
        if tuple(c.shape) != (n, self.n_classes):
            raise ValueError(f"c must be [{n}, {self.n_classes}], not {list(c.shape)}")
        eps = self.layers(x.flatten(1), t.view(n, 1), c)  # [N, input_dim]
        if self.gain is not None:
            eps = eps + self.gain(timestep_embedding(t.flatten(), TIME_DIM)).to(x.dtype) * x.flatten(1)
        return eps.view(x.shape)  # [N, *size]
