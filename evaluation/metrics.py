"""How good generated images are, as numbers: two sets of images, compared by features of both.

    real, fake = features_of(judge, train_set.images), features_of(judge, samples)      # evaluation.classifier.py, float32 [N, D]
    compare(real, fake, features=features_name(judge, train_set), reference="cifar10, training images")

Frechet distance   of the two Gaussians with the means and covariances of the features: 0 is best.
precision          the share of generated images that lie where real ones are: are they realistic?
recall             the share of real images that lie where generated ones are: is anything left out?

Only the Frechet distance of the features of one particular network (Inception v3, `fid_by_cleanfid`) is the FID of the
literature. Every other network gives other values, and fewer images give larger ones: compare figures of the same
features, reference and number of images, and set beside them what real test images get.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEIGHBOURS = 3  # k of precision and recall, by default
AT_ONCE = 1_000  # rows of a distance matrix, or of features in float64


# ------------------------------------------------------------------------------------------------ Frechet distance


def moments(features: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean float64 [D] and covariance float64 [D, D] (divided by N - 1) of features [N, D], given whole or in batches.

    Of batches only one is in memory; each is merged by its own mean and scatter (Chan, Golub, LeVeque 1979), which
    loses no digits where the mean is large. Raises ValueError for fewer than 2 rows.
    """
    n, mean, scatter = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in features.split(AT_ONCE) if isinstance(features, Tensor) else features:
        if len(batch) == 0:
            continue
        batch = batch.detach().cpu().to(torch.float64)  # in this order: Apple GPUs have no float64
        centre = batch.mean(0)
        delta, total = centre - mean, n + len(batch)
        scatter = scatter + (batch - centre).T @ (batch - centre) + torch.outer(delta, delta) * (n * len(batch) / total)
        mean = mean + delta * (len(batch) / total)
        n = total
    if n < 2:
        raise ValueError(f"the covariance of {n} images is not defined: at least 2 are needed")
    return mean, scatter / (n - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): the (squared) Frechet distance of two Gaussians.

    mean: [D], cov: [D, D], computed in float64. Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500), eq. 6.

    With C = A A^T the trace of (C1 C2)^(1/2) is the sum of the singular values of A1^T A2: their squares, the
    eigenvalues of A2^T C1 A2, are those of C1 C2. Neither a product of covariances nor a complex root is ever taken, so
    that singular covariances (fewer images than features) do no harm. Their rounding errors of 1e-16 become 1e-8 by the
    root: below that, relative to the covariances, a distance means nothing. It is never negative.
    Raises ValueError for shapes that do not match and for values that are not finite.
    """
    mean1, cov1, mean2, cov2 = (x.detach().cpu().to(torch.float64) for x in (mean1, cov1, mean2, cov2))
    d = len(mean1)
    if mean1.shape != (d,) or mean2.shape != (d,) or cov1.shape != (d, d) or cov2.shape != (d, d):
        shapes = ", ".join(str(list(x.shape)) for x in (mean1, cov1, mean2, cov2))
        raise ValueError(f"means [D] and covariances [D, D] are needed, not {shapes}")
    if not all(x.isfinite().all() for x in (mean1, cov1, mean2, cov2)):
        raise ValueError("means or covariances are not finite")
    common = torch.linalg.svdvals(_factor(cov1).T @ _factor(cov2)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common
    return max(0.0, distance.item())


def _factor(cov: Tensor) -> Tensor:
    """A matrix A with A A^T = cov, which may be singular; rounding may even have made it slightly indefinite."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors * values.clamp(min=0).sqrt()


# ------------------------------------------------------------------------------------------------ precision and recall


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall of features real [N, D] and fake [M, D] (Kynkaanniemi et al. 2019, arXiv:1904.06991).

    Where a set of points lies is taken to be the union of balls around them, each as large as the distance to the k-th
    nearest other point. Precision is the share of fake points in the balls of the real ones, recall the share of real
    points in the balls of the fake ones. Use as many fake images as real ones: both depend on the numbers.
    Memory: 1,000 rows of the N x M distances at a time. Raises ValueError unless 1 <= k < N, M.
    """
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k = {k} needs more than k images of each kind, not {len(real)} and {len(fake)}")
    radii_real, radii_fake = _radii(real, k), _radii(fake, k)
    realistic, covered = [], torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part, radii in zip(fake.split(AT_ONCE), radii_fake.split(AT_ONCE)):
        distances = _distances(part, real)
        realistic += (distances <= radii_real).any(1).tolist()
        covered |= (distances <= radii[:, None]).any(0)
    return sum(realistic) / len(fake), covered.sum().item() / len(real)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By differences: as |a|^2 + |b|^2 - 2 ab the distance of a point to itself would be anything but 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance [N] of each point to its k-th nearest other one: the nearest of all, at distance 0, is itself."""
    return torch.cat([_distances(part, points).kthvalue(k + 1, dim=1).values for part in points.split(AT_ONCE)])


def compare(
    real: Tensor, fake: Tensor, features: str, reference: str, k: int = NEIGHBOURS, most: int = 10_000
) -> dict[str, Any]:
    """All three numbers, with what one has to know to compare them: a dict that can be written as JSON.

    real [N, D] and fake [M, D]: features. features: of which network they are; reference: which images `real` are.
    most: precision and recall take so many of each kind at random, and equally many, because their cost is N x M.
    """
    n = min(len(real), len(fake), most)
    generator = torch.Generator().manual_seed(0)
    some_real, some_fake = (x[torch.randperm(len(x), generator=generator)[:n]] for x in (real, fake))
    precision, recall = precision_recall(some_real, some_fake, k)
    return {
        "features": features,
        "reference": reference,
        "n_reference": len(real),
        "n_images": len(fake),
        "frechet_distance": frechet_distance(*moments(real), *moments(fake)),
        "precision": precision,
        "recall": recall,
        "precision_recall_images": n,
        "precision_recall_k": k,
    }


# ------------------------------------------------------------------------------------------------ the standard FID
