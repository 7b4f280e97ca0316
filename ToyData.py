"""The distributions of the sheet on points and likelihood, under its names: points in [0, 1] x [0, 1].

    import ToyData

    toy = ToyData.Chequerboard()
    x = toy().sample((5000,))        # float32 [5000, 2]
    toy().log_prob(x)                # float32 [5000]

`datasets/points.py` has the same ones in [-1, 1], under the names 'tg' and 'cb' of `train_toy.py --data`.
"""

from __future__ import annotations

import torch
from torch import distributions as td


def _mixture(weights: list[float], parts: td.Distribution) -> td.Distribution:
    parts = td.Independent(parts, 1, validate_args=False)  # outside of a square the density is 0, no error
    return td.MixtureSameFamily(td.Categorical(torch.tensor(weights)), parts, validate_args=False)


class TwoGaussians:
    """1/5 around (0.75, 0.75) and 4/5 around (0.25, 0.25), with standard deviation 0.1."""

    xlim, ylim = (0, 1), (0, 1)

    def __init__(self) -> None:
        self.distribution = _mixture([1 / 5, 4 / 5], td.Normal(torch.tensor([[0.75, 0.75], [0.25, 0.25]]), 0.1))

    def __call__(self) -> td.Distribution:
        return self.distribution


class Chequerboard:
    """Uniform on every second one of grid_size x grid_size squares, the lower left one included."""

    def __init__(self, grid_size: int = 3, bounds: tuple[float, float] = (0.0, 1.0)):
        self.xlim, self.ylim = bounds, bounds
        low, side = bounds[0], (bounds[1] - bounds[0]) / grid_size
        squares = [(i, j) for i in range(grid_size) for j in range(grid_size) if (i + j) % 2 == 0]
        corners = low + side * torch.tensor(squares, dtype=torch.float32)  # [K, 2]
        parts = td.Uniform(corners, corners + side, validate_args=False)
        self.distribution = _mixture([1.0] * len(squares), parts)

    def __call__(self) -> td.Distribution:
        return self.distribution
