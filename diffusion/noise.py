"""Gaussian noise for sampling; several images may share it."""

from __future__ import annotations

from typing import NamedTuple, Union

import torch
from torch import Tensor


class SharedNoise(NamedTuple):
    """In place of a generator: noise for n images, repeated over the batch. Image i and image i + n get the same noise
    at every step, so that they differ by their conditions only.
    """

    generator: torch.Generator | None
    n: int


Generator = Union[torch.Generator, SharedNoise, None]


def noise_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of x [N, *size]. None: torch's own generator.

    Raises ValueError if N is not a multiple of SharedNoise's n.
    """
    if isinstance(generator, SharedNoise):
        if len(x) % generator.n:
            raise ValueError(f"noise for {generator.n} images cannot be shared by {len(x)}")
        return noise_like(x[: generator.n], generator.generator).repeat(len(x) // generator.n, *[1] * (x.ndim - 1))
    return torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
