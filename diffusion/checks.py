"""A check of tensors that come from a caller, for whatever takes some."""

from __future__ import annotations

import torch


def check_finite(name: str, values: torch.Tensor) -> None:
    """ValueError that names the argument, and the first value that is not finite, if there is one."""
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, but holds {values[~values.isfinite()].flatten()[0].item()}")
