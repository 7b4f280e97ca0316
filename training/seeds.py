"""Random numbers that are a pure function of (seed, purpose, step)."""

from __future__ import annotations

import numpy as np
import torch

ORDER, STEP, VALIDATION, PICTURES, EXPORT, DROPOUT = range(6)  # separate streams of random numbers


def seed_for(seed: int, stream: int, index: int = 0) -> int:
    """A 63-bit seed for one purpose, so that no two purposes or steps share random numbers."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0]) >> 1


def order_of_epoch(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The n training samples in the order of an epoch (from 0), as indices int64 [n]."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_for(seed, ORDER, epoch)))
