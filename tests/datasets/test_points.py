"""The distributions of points: exact densities, samples that follow them, and the distance between sets."""

from __future__ import annotations

import math

import pytest
import torch

from datasets import points
from datasets.points import DISTRIBUTIONS, Chequerboard, PointSet, TwoGaussians, energy_distance
from reporting.log_files import POINT_DATA

BOTH = pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(n, limit):
    """Centres of n x n cells of [-limit, limit]^2, [n * n, 2], and the area of one."""
    centres = ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1) * limit
    return torch.cartesian_prod(centres, centres), (2 * limit / n) ** 2


def test_report_and_check_know_them_by_name():
    assert set(POINT_DATA) == set(DISTRIBUTIONS)


def test_datasets_has_them_too():
    assert points.TwoGaussians is TwoGaussians and points.Chequerboard is Chequerboard


@BOTH
def test_the_density_integrates_to_one(distribution):
    grid, area = cells(480, 2)
    assert distribution.log_prob(grid).exp().sum().item() * area == pytest.approx(1, abs=1e-6)


@BOTH
def test_samples_follow_the_density(distribution):
    """The fraction in each of 12 x 12 cells (a third of a square wide) is the density's integral, within 5 errors."""
    x = distribution.sample(N, generator())
    assert x.shape == (N, 2) and x.dtype == torch.float32
    fine, area = cells(360, 1)
    place = lambda points: ((points + 1) * 6).floor().clamp(0, 11) @ torch.tensor([12.0, 1.0], dtype=points.dtype)  # noqa: E731
    inside = x[(x.abs() < 1).all(dim=1)]
    counts = torch.bincount(place(inside).long(), minlength=144)
    expected = torch.bincount(place(fine).long(), weights=distribution.log_prob(fine).exp() * area, minlength=144)
    errors = (expected * (1 - expected) / N).sqrt()
    assert ((counts / N - expected).abs() <= 5 * errors + 1e-5).all()
    assert (counts[expected == 0] == 0).all()


@BOTH
def test_samples_have_the_moments_of_the_density(distribution):
    x = distribution.sample(N, generator(1)).double()
    grid, area = cells(960, 2)
    weights = distribution.log_prob(grid).exp() * area
    for power in (lambda p: p, lambda p: p**2, lambda p: p[:, :1] * p[:, 1:]):
        expected = (weights[:, None] * power(grid)).sum(dim=0)
        error = power(x).std(dim=0) / math.sqrt(N)
        assert ((power(x).mean(dim=0) - expected).abs() < 5 * error).all()


def test_two_gaussians_against_torch():
    distribution = TwoGaussians()
    normals = torch.distributions.MultivariateNormal(
        torch.tensor(distribution.means), distribution.std**2 * torch.eye(2)
    )
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(2)), normals)
    x = torch.cat([distribution.sample(50, generator()), 3 * torch.randn(50, 2, generator=generator())])
    torch.testing.assert_close(distribution.log_prob(x), mixture.log_prob(x))


def test_the_chequerboard_square_by_square():
    board = Chequerboard()
    expected = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]] * 2).bool()  # from the lower left; row by row
    centres = torch.tensor([[-0.75 + 0.5 * column, -0.75 + 0.5 * row] for row in range(4) for column in range(4)])
    assert board.permitted(centres).equal(expected.flatten())
    torch.testing.assert_close(board.log_prob(centres[:2]), torch.tensor([-math.log(2), -math.inf]))
    assert board.permitted(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -0.25]])).all()  # edges belong to the board
    outside = torch.tensor([[-1.25, -1.25], [1.25, 1.25], [0.25, 2.25]])
    assert not board.permitted(outside).any()
    assert board.permitted(board.sample(N, generator())).all()


@BOTH
def test_only_points_have_a_density(distribution):
    for wrong in (torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"x must be float \[N, 2\]"):
            distribution.log_prob(wrong)


def test_energy_distance_of_points_on_a_line():
    # |X - Y| has mean (1 + 3 + 1 + 1) / 4, |X - X'| (0 + 2 + 2 + 0) / 4, |Y - Y'| (0 + 2 + 2 + 0) / 4.
    x, y = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert energy_distance(x, y) == pytest.approx(2 * 1.5 - 1 - 1)
    assert energy_distance(x, x) == pytest.approx(0)


def test_energy_distance_tells_distributions_apart():
    board, gaussians = Chequerboard(), TwoGaussians()
    x = board.sample(1500, generator())
    same, other = energy_distance(x, board.sample(1500, generator(1))), energy_distance(x, gaussians.sample(1500))
    assert 0 < same < 0.003 and other > 10 * same


def test_a_set_of_points_serves_batches():
    points = PointSet(Chequerboard().sample(10, generator()), "chequerboard").to("cpu")
    y, c = points.batch(torch.tensor([3, 0]))
    assert y.equal(points.images[[3, 0]]) and c is None and len(points) == 10 and points.class_names == []
