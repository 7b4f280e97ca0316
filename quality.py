"""How good generated images are, as numbers: two sets of images, compared by features of both.

    real, fake = features_of(judge, train_set.images), features_of(judge, samples)      # judging.py, float32 [N, D]
    compare(real, fake, features=features_name(judge, train_set), reference="cifar10, training images")

Frechet distance   of the two Gaussians with the means and covariances of the features: 0 is best.
precision          the share of generated images that lie where real ones are: are they realistic?
recall             the share of real images that lie where generated ones are: is anything left out?

Only the Frechet distance of the features of one particular network (Inception v3, `fid_by_cleanfid`) is the FID of the
literature. Every other network gives other values, and fewer images give larger ones: compare figures of the same
features, reference and number of images, and set beside them what real test images get.
"""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from cli import Progress, RunError
from data_error import one_line
from utils import atomic_write

NEIGHBOURS = 3  # k of precision and recall, by default
AT_ONCE = 1_000  # rows of a distance matrix, or of features in float64
INCEPTION = "inception-2015-12-05.pt"  # the name that clean-fid gives the weights


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
    some = [points[torch.randperm(len(points), generator=generator)[:n]] for points in (real, fake)]
    precision, recall = precision_recall(*some, k)
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

Images = Union[Tensor, str, "os.PathLike[str]"]


def fid_by_cleanfid(
    real: Images,
    reference: str,
    feature_extractor: Callable[[Tensor], Tensor] | None = None,
    weights_dir: Path = Path("./data"),
    device: torch.device | str = "cpu",
    batch: int = 64,
) -> Callable[[Images], dict[str, Any]]:
    """The FID as the package clean-fid measures it (Parmar et al. 2022, arXiv:2104.11222), its mode "clean".

        fid = fid_by_cleanfid(train_set.images, "cifar10, training images")      # the features of these, once
        fid(samples)["fid"]

    Returns a function of generated images, whose result can be written as JSON.
    Images: uint8 [N, C, H, W] (grey is repeated), or a folder of image files. reference: which images `real` are.
    feature_extractor: float32 [B, 3, 299, 299] in 0..255 -> [B, D]; None is Inception v3, whose weights are read from
    weights_dir/inception-2015-12-05.pt and downloaded there once. With another extractor the result is no FID, and is
    not called so. RunError in one line if the package, the weights or the images are missing.
    """
    try:
        import cleanfid.fid
    except ImportError as error:
        reason = one_line(error)
        raise RunError(f"the FID needs clean-fid ({reason}): pip install -r requirements-fid.txt") from None
    official = feature_extractor is None
    model = _inception(weights_dir, device) if official else feature_extractor
    real_features = _cleanfid_features(real, model, device, batch)

    def measure(fake: Images) -> dict[str, Any]:
        features = _cleanfid_features(fake, model, device, batch)
        return {
            "features": "Inception v3 (clean-fid, mode clean)"
            if official
            else "of an extractor of your own (clean-fid)",
            "reference": reference,
            "n_reference": len(real_features),
            "n_images": len(features),
            "fid" if official else "frechet_distance": float(cleanfid.fid.fid_from_feats(real_features, features)),
        }

    return measure


def _cleanfid_features(
    images: Images, model: Callable[[Tensor], Tensor], device: torch.device | str, batch: int
) -> Any:
    """Features as a numpy array [N, D], of images resized to 299 x 299 as clean-fid does it."""
    from cleanfid.fid import get_batch_features, get_folder_features
    from cleanfid.resize import build_resizer

    if not isinstance(images, Tensor):
        try:
            return get_folder_features(
                os.fspath(images), model, num_workers=0, batch_size=batch, device=device, verbose=False
            )
        except (ValueError, OSError) as error:  # ValueError: no image at all
            raise RunError(f"{images} holds no images that clean-fid can read ({one_line(error)})") from None
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are uint8 [N, C, H, W], not {images.dtype} {list(images.shape)}")
    resize, found = build_resizer("clean"), []
    with ThreadPoolExecutor() as pool, Progress(len(images), "images for the FID") as progress:
        for part in images.split(batch):
            pixels = part.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
            resized = np.stack(list(pool.map(resize, pixels)))  # Pillow resizes outside of Python's lock
            found.append(get_batch_features(torch.from_numpy(resized).permute(0, 3, 1, 2), model, device))
            progress.advance(len(part))
    return np.concatenate(found)


def _inception(folder: Path, device: torch.device | str) -> torch.nn.Module:
    """Inception v3 with the weights of the FID, from `folder`, downloaded into it if they are not there."""
    from cleanfid.downloads_helper import inception_url
    from cleanfid.inception_torchscript import InceptionV3W

    file = Path(folder) / INCEPTION
    try:
        if not file.is_file():  # clean-fid's own download would leave half a file behind when it is interrupted
            print(f"downloading {inception_url} to {file} ...", flush=True)
            with urllib.request.urlopen(inception_url, timeout=20) as response, atomic_write(file) as temporary:
                with open(temporary, "wb") as stream:
                    shutil.copyfileobj(response, stream)
        inception = InceptionV3W(str(folder), download=False)
    except (OSError, HTTPException, RuntimeError) as error:  # no network; a damaged file
        raise RunError(
            f"the FID needs the weights of Inception v3 in {file} ({one_line(error)}): download {inception_url} on a "
            "machine with network and put it there"
        ) from None
    return inception.to(device).eval()
