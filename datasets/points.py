"""Points of the plane with a known density: what a diffusion model can be compared with exactly.

distribution = Chequerboard()
x = distribution.sample(5000)        # float32 [5000, 2]
distribution.log_prob(x)             # float32 [5000], exact
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor


class TwoGaussians:
    """Two round Gaussians, around (-0.5, -0.5), with this share of the points, and around (0.5, 0.5)."""

    bounded = False
    means = ((-0.5, -0.5), (0.5, 0.5))

    def __init__(self, share: float = 0.5, std: float = 0.15):
        self.share, self.std = share, std

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points, float32 [n, 2], on the CPU."""
        if self.share == 0.5:
            which = torch.randint(2, (n,), generator=generator)
        else:
            which = (torch.rand(n, generator=generator) >= self.share).long()
        return torch.tensor(self.means)[which] + self.std * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """The natural logarithm of the density at x, [N, 2] -> [N]."""
        _check_points(x)
        means = torch.tensor(self.means, dtype=x.dtype, device=x.device)
        shares = torch.tensor([self.share, 1 - self.share], dtype=x.dtype, device=x.device)
        squares = (x[:, None] - means).square().sum(dim=2) / self.std**2  # [N, 2]
        return torch.logsumexp(shares.log() - squares / 2, dim=1) - math.log(2 * math.pi * self.std**2)


class Chequerboard:
    """Uniform on every second one of the n x n squares that make up [-1, 1] x [-1, 1], the lower left one included."""

    bounded = True

    def __init__(self, n_squares: int = 4):
        self.n_squares, self.side = n_squares, 2 / n_squares
        columns_and_rows = [(k, j) for j in range(n_squares) for k in range(n_squares) if (k + j) % 2 == 0]
        self.corners = torch.tensor(columns_and_rows)  # [K, 2], in sides

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points, float32 [n, 2], on the CPU."""
        square = torch.randint(len(self.corners), (n,), generator=generator)
        return (self.corners[square] + torch.rand(n, 2, generator=generator)) * self.side - 1

    def permitted(self, x: Tensor) -> Tensor:
        """Which points lie on a square that has probability, [N, 2] -> bool [N]."""
        _check_points(x)
        # The last squares have their upper edges too: a sampler that clamps to [-1, 1] puts points there.
        squares = ((x + 1) / self.side).floor().clamp(max=self.n_squares - 1)  # column and row
        return (x.abs() <= 1).all(dim=1) & (squares.sum(dim=1) % 2 == 0)

    def log_prob(self, x: Tensor) -> Tensor:
        """The natural logarithm of the density at x, [N, 2] -> [N]; minus infinity where there is no probability."""
        density = 1 / (self.side**2 * len(self.corners))  # 1 over the permitted area
        return torch.where(self.permitted(x), math.log(density), -math.inf).to(x.dtype)


DISTRIBUTIONS: dict[str, TwoGaussians | Chequerboard] = {
    "tg": TwoGaussians(share=0.8, std=0.2),  # those of ToyData.py, the sheet's, mapped from [0, 1] to [-1, 1]
    "cb": Chequerboard(3),
    "two_gaussians": TwoGaussians(),  # sharper ones
    "chequerboard": Chequerboard(),
}


@dataclasses.dataclass(eq=False)
class PointSet:
    """Points in memory, with the interface of `datasets.ImageSet` and without classes.

    images: float32 [N, 2], the points, under the name that the trainer knows; name: of their distribution.
    """

    images: Tensor
    name: str
    class_names: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> PointSet:
        return dataclasses.replace(self, images=self.images.to(device))

    def batch(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, None]:
        """The points at `index`, int64 [B]: float32 [B, 2]; and None, for there are no classes. Points have no flip."""
        return self.images.index_select(0, index.to(self.images.device)), None


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs of the points x [N, D] and y [M, D] (Szekely, Rizzo 2013,
    "Energy statistics"). 0 for the same points; two samples of one distribution have a little more.
    """

    def mean_distance(a: Tensor, b: Tensor) -> float:
        # In parts, for 5,000 x 5,000 distances; not by the matrix product, which is inexact for points that are close.
        parts = [torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist") for part in a.split(500)]
        return sum(part.sum(dtype=torch.float64).item() for part in parts) / (len(a) * len(b))

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def _check_points(x: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] != 2 or not x.is_floating_point():
        raise ValueError(f"x must be float [N, 2], not {x.dtype} {list(x.shape)}")
