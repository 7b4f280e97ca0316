"""Fully connected networks that predict the noise: for points in the plane, and for images seen as long vectors.

    [Ho]          Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
    [He]          He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027
    [Mildenhall]  Mildenhall et al. 2020, "NeRF", arXiv:2003.08934, section 5.1
    [Tancik]      Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions", arXiv:2006.10739

`FcNetwork` has three kinds, each the one before with one idea more: see there.
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from networks.unet import timestep_embedding, zero_init

KINDS = ("plain", "residual", "fourier")
TIME_DIM = 32  # length of the sinusoidal time embedding
EMBEDDING_DIM = 64  # of what every block is told about time and class


class PlainLayers(nn.Module):
    """The exercise's network: point, time and class side by side, two hidden layers, the noise.

    x [N, input_dim], t [N, 1], c [N, n_classes] -> [N, input_dim].
    """

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
        return self.layers(torch.cat([x, t, c], dim=1))


class ResidualBlock(nn.Module):
    """h + linear(silu(linear(silu(h)) + linear(emb))) ([He], with the embedding added as in [Ho] appendix B).

    h [N, width], emb [N, EMBEDDING_DIM] -> [N, width]. Every block starts as the identity.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.embedding = nn.Linear(EMBEDDING_DIM, width, bias=False)  # the bias of linear1 serves both
        self.linear2 = zero_init(nn.Linear(width, width))

    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return h + self.linear2(F.silu(self.linear1(F.silu(h)) + self.embedding(emb)))


class ResidualLayers(nn.Module):
    """Residual blocks, each of which is told time and class: x [N, input_dim], t [N, 1], c [N, n_classes] -> like x.

    With n_frequencies, x comes with sin(2^k pi x) and cos(2^k pi x), k = 0 .. n_frequencies - 1 ([Mildenhall] equation
    4), and time as a sinusoidal embedding: a network is slow to learn what changes fast in its input, and fast to learn
    what changes slowly in these ([Tancik]). The output is zero before the first training step.
    """

    def __init__(self, input_dim: int, num_hidden: int, n_classes: int, n_blocks: int, n_frequencies: int):
        super().__init__()
        self.n_frequencies = n_frequencies
        self.first = nn.Linear(input_dim * (1 + 2 * n_frequencies), num_hidden)
        time_dim = TIME_DIM if n_frequencies else 1
        self.time = nn.Sequential(
            nn.Linear(time_dim, EMBEDDING_DIM), nn.SiLU(), nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM)
        )
        # Without a bias zeros become zeros: "no class" is the time embedding alone.
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
        h = self.first(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.last(F.silu(h))


class FcNetwork(nn.Module):
    """Predicts the noise in x_t by fully connected layers.

    Args:
        input_dim: numbers in one sample: 2 for points of the plane, C * H * W for images.
        num_hidden: width of the hidden layers.
        n_classes: length of the class vector; 0 or None: no classes.
        kind: 'plain' is the exercise's network: input and time (and class) side by side, two hidden layers of ReLUs.
            'residual': residual blocks, each of which is told time and class anew. 'fourier': the same on waves of
            several frequencies of input and time, so that fine structure is easy to learn.
        size: shape of one sample, such as (1, 28, 28); None: (input_dim,). Images are flattened on the way in, and the
            noise is given the shape of the image on the way out.
        n_blocks: residual blocks; n_frequencies: of each input number, in 'fourier'. 'plain' has neither.
        skip: add g(t) x_t to the answer, with a learnt number g(t). At high t the noise is nearly x_t itself, which
            layers narrower than the image cannot pass on: num_hidden of its input_dim numbers at best. Beside them it
            passes, and what is left to the layers is the image, which takes far fewer numbers to describe.

    Raises ValueError for what does not fit, here and in `forward`.
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
        counts = {
            "input_dim": input_dim,
            "num_hidden": num_hidden,
            "n_blocks": n_blocks,
            "n_frequencies": n_frequencies,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if n_classes is not None and n_classes < 0:
            raise ValueError(f"n_classes must not be negative, not {n_classes}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
        self.size = (input_dim,) if size is None else tuple(size)  # of one sample; DDPM.sample takes it from here
        if math.prod(self.size) != input_dim:
            raise ValueError(f"size {list(self.size)} has {math.prod(self.size)} numbers, not input_dim = {input_dim}")
        self.n_classes = n_classes or 0
        if kind == "plain":
            self.layers = PlainLayers(input_dim, num_hidden, self.n_classes)
        else:
            frequencies = n_frequencies if kind == "fourier" else 0
            self.layers = ResidualLayers(input_dim, num_hidden, self.n_classes, n_blocks, frequencies)
        last = zero_init(nn.Linear(TIME_DIM, 1))
        self.gain = nn.Sequential(nn.Linear(TIME_DIM, TIME_DIM), nn.SiLU(), last) if skip else None

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """eps(x_t, t, c), shaped like x.

        x: [N, *size] float in about [-1, 1] plus noise. t: [N, 1, ...] float, t / T in (0, 1], any number of axes.
        c: [N, n_classes] float, one-hot, a mixture, or zeros for "no class"; None stands for zeros. A network without
        classes takes None only.
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
        eps = self.layers(x.flatten(1), t.view(n, 1), c)
        if self.gain is not None:
            eps = eps + self.gain(timestep_embedding(t.flatten(), TIME_DIM)).to(x.dtype) * x.flatten(1)
        return eps.view(x.shape)
