"""How a network is called: forward(x, t / T, c), or what the templates of the sheets have in its place."""

from __future__ import annotations

import inspect

import torch.nn as nn
from torch import Tensor

WANTED = (
    "a network has forward(x, t) or forward(x, t, c), with t / T in (0, 1], [N, 1, ...] with as many axes as x; "
    "for whole numbers t, [N]: sheets.IntegerTime"
)
# What torch says where t has not the type or shape that a network wants.
SIGNS = ("indices", "Expected 3D", "Expected 2D", "Sizes of tensors", "size of tensor", "same number of dim", "mat1")


def inputs_of(network: nn.Module) -> int:
    """How many of (x, t, c) `forward` takes: 3, 2 if it knows no classes, or 0 if it is something else.

    4: also `images`, as the exercise's network does (networks/Conditional_UNet.py).
    """
    parameters = inspect.signature(network.forward).parameters
    if list(parameters)[3:4] == ["images"] and parameters["images"].default is None:
        return 4
    kinds = [(p.kind, p.default is p.empty) for p in parameters.values()]
    if any(kind is inspect.Parameter.VAR_POSITIONAL for kind, _ in kinds):
        return 3
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [needed for kind, needed in kinds if kind in by_position]
    return min(len(needed), 3) if len(needed) >= 2 and sum(needed) <= 3 else 0


def predict(
    network: nn.Module, n_inputs: int, x: Tensor, t: Tensor, c: Tensor | None, images: Tensor | None = None
) -> Tensor:
    """network(x, t, c), or network(x, t) where it takes no more. ValueError if that cannot be.

    images: int64 [R], where c has R rows: which of the N images in x, and of the times in t, each row is for.
    """
    if images is not None:
        if n_inputs == 4:
            return network(x, t, c, images=images)
        x, t = x[images], t[images]
    if n_inputs >= 3:
        return network(x, t, c)
    if n_inputs == 0:
        raise ValueError(f"{WANTED}; {type(network).__name__} has neither")
    if c is not None:
        raise ValueError(
            f"c must be None (sample: n_classes=None): {type(network).__name__} has forward(x, t), no classes"
        )
    return network(x, t)


def explain(error: Exception) -> None:
    """Raise a ValueError that says what to do if a network that failed seems to want t of another type or shape."""
    if any(sign in str(error) for sign in SIGNS):
        raise ValueError(f"{WANTED}. The network says: {str(error).splitlines()[0]}") from error


class IntegerTime(nn.Module):
    """A network that wants whole numbers t, made one that takes t / T: `DDPM(IntegerTime(network, T), n_timesteps=T)`.

    network: forward(x, t) or forward(x, t, c), t int64 [N] in first .. first + T - 1 (sheets that count from 0: first=0).
    """

    def __init__(self, network: nn.Module, n_timesteps: int, first: int = 0):
        super().__init__()
        self.network, self.n_timesteps, self.first, self.n_inputs = network, n_timesteps, first, inputs_of(network)
        for name in ("size", "n_classes"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def forward(self, x: Tensor, time: Tensor, c: Tensor | None = None) -> Tensor:
        """The predicted noise, like x [N, *size]. time: t / T, [N, 1, ...]. c: [N, n_classes] or None."""
        t = (time.flatten() * self.n_timesteps).round().long() - 1 + self.first
        return predict(self.network, self.n_inputs, x, t, c)
