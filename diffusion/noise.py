"""Gaussian noise for sampling, also the same noise for several images."""

from __future__ import annotations

from typing import NamedTuple, Union

import torch


class SharedNoise(NamedTuple):
    """In place of a generator: noise is drawn for n images and repeated over the batch, so that image i and image i + n
    get the same at every step. What differs between them is then an effect of their conditions alone.
    """

    generator: torch.Generator | None
    n: int


Generator = Union[torch.Generator, SharedNoise, None]


def noise_like(x: torch.Tensor, generator: Generator = None) -> torch.Tensor:
    """Standard normal noise with the shape, dtype and device of x [N, *size]. None: torch's own generator.

    Raises ValueError if SharedNoise does not divide N.
    """
    if isinstance(generator, SharedNoise):
        if len(x) % generator.n:
            raise ValueError(f"noise for {generator.n} images cannot be shared by {len(x)}")
        return noise_like(x[: generator.n], generator.generator).repeat(len(x) // generator.n, *[1] * (x.ndim - 1))
    return torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
