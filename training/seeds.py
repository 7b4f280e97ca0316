"""Random numbers that are a pure function of (seed, purpose, step)."""

from __future__ import annotations

import numpy as np

ORDER, STEP, VALIDATION, PICTURES, EXPORT, DROPOUT = range(6)  # separate streams of random numbers


def seed_for(seed: int, stream: int, index: int = 0) -> int:
    """A 63-bit seed for one purpose, so that no two purposes or steps share random numbers."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0]) >> 1
