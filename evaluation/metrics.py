"""How good generated images are, in numbers that compare features of generated and of real images.

    real = features_of(classifier, train_set.images)      # evaluation/classifier.py; float32 [N, D]
    fake = features_of(classifier, samples)
    compare(real, fake, features=features_name(classifier, train_set), reference="cifar10, training images")

Frechet distance   of the two Gaussians with the means and covariances of the features: 0 is best.
precision          the share of generated images that lie where real ones are: are they realistic?
recall             the share of real images that lie where generated ones are: is anything left out?

The FID of the literature is the Frechet distance in the features of one network, Inception v3 (clean_fid.py). Other
networks give other values, and fewer images give larger ones. So compare only numbers with the same features, reference
and number of images, and compare them with those of real test images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEIGHBOURS = 3  # k of precision and recall
AT_ONCE = 1_000  # rows of a distance matrix, or of features in float64


# ------------------------------------------------------------------------------------------------ Frechet distance


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean float64 [D] and covariance float64 [D, D] (divided by N - 1) of features [N, D]."""
    features = features.detach().cpu().to(torch.float64)  # in this order: Apple GPUs have no float64
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): the (squared) Frechet distance of two Gaussians.

    mean: [D], cov: [D, D], computed in float64. Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500), eq. 6.

    With C = A A^T the trace of (C1 C2)^(1/2) is the sum of the singular values of A1^T A2, because their squares are the
    eigenvalues of A2^T C1 A2, and those are the eigenvalues of C1 C2. This needs no root of a matrix that may be
    singular (fewer images than features). The root turns rounding errors of 1e-16 into 1e-8: smaller distances, relative
    to the covariances, mean nothing. The result is never negative. Raises ValueError for values that are not finite.
    """
    mean1, cov1, mean2, cov2 = (x.detach().cpu().to(torch.float64) for x in (mean1, cov1, mean2, cov2))
    if not all(x.isfinite().all() for x in (mean1, cov1, mean2, cov2)):
        raise ValueError("means or covariances are not finite")
    common = torch.linalg.svdvals(_factor(cov1).T @ _factor(cov2)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common
    return max(0.0, distance.item())


def _factor(cov: Tensor) -> Tensor:
    """A matrix A with A A^T = cov. Negative eigenvalues, which only rounding can cause, count as 0."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors * values.clamp(min=0).sqrt()


# ------------------------------------------------------------------------------------------------ precision and recall


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall of features real [N, D] and fake [M, D] (Kynkaanniemi et al. 2019, arXiv:1904.06991).

    Each point has a ball around it whose radius is the distance to its k-th nearest neighbour. Precision is the share of
    fake points that lie in a ball of a real one, recall the share of real points that lie in a ball of a fake one. Both
    depend on N and M: use as many fake images as real ones. Raises ValueError unless 1 <= k < N, M.
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
    # By differences: computed as |a|^2 + |b|^2 - 2 ab, the distance of a point to itself would not be 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance [N] of each point to its k-th nearest neighbour. k + 1, because the nearest point is the point itself."""
    return torch.cat([_distances(part, points).kthvalue(k + 1, dim=1).values for part in points.split(AT_ONCE)])


def compare(real: Tensor, fake: Tensor, features: str, reference: str, most: int = 10_000) -> dict[str, Any]:
    """All three numbers, and what one has to know to compare them, as a dict for JSON.

    real [N, D] and fake [M, D]: features. features: of which network they are; reference: which images `real` are.
    most: precision and recall, whose cost is N x M, use at most so many random images of each kind, and equally many.
    """
    n = min(len(real), len(fake), most)
    generator = torch.Generator().manual_seed(0)
    some_real, some_fake = (x[torch.randperm(len(x), generator=generator)[:n]] for x in (real, fake))
    precision, recall = precision_recall(some_real, some_fake)
    return {
        "features": features,
        "reference": reference,
        "n_reference": len(real),
        "n_images": len(fake),
        "frechet_distance": frechet_distance(*moments(real), *moments(fake)),
        "precision": precision,
        "recall": recall,
        "precision_recall_images": n,
        "precision_recall_k": NEIGHBOURS,
    }
