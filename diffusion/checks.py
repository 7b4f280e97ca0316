"""Checks of arguments. Each raises a ValueError that names the argument and its value."""

from __future__ import annotations

from numbers import Integral
from typing import Sequence

import torch
from torch import Tensor


def check_finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, but holds {values[~values.isfinite()].flatten()[0].item()}")


def check_count(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value}")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")


def check_class_vectors(c: Tensor, n: int) -> None:
    if c.ndim != 2 or len(c) != n:
        raise ValueError(f"c must be [{n}, n_classes] for a batch of {n}, not {list(c.shape)}")


def one_time(t: int | Tensor, n_timesteps: int) -> int:
    """t as an int in 1..T. It may be a tensor or an array if all of its values are the same."""
    if type(t) is not int:
        values = set(torch.as_tensor(t).flatten().tolist())
        if len(values) != 1:
            raise ValueError(f"t must be one time for all samples, not {sorted(values)[:5]}")
        t = values.pop()
    if type(t) is not int or not 1 <= t <= n_timesteps:
        raise ValueError(f"t must be a whole number in 1..{n_timesteps} (0 is clean data), not {t}")
    return t
