"""The figures of evaluation/metrics.py against closed forms, other ways to compute them, and sets whose answer is known."""

from __future__ import annotations

import io
import json
import sys
import urllib.error
import urllib.request

import pytest
import torch

from common.console import RunError
from evaluation import clean_fid, metrics
from evaluation.clean_fid import fid_by_cleanfid
from evaluation.metrics import compare, frechet_distance, moments, precision_recall


def covariance(d, seed, rank=None):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(d, rank or 2 * d, generator=generator, dtype=torch.float64)
    return a @ a.T


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ Frechet distance


def test_distance_of_equal_gaussians_is_zero():
    for cov in (torch.eye(5), covariance(64, 0), covariance(64, 0, rank=3), torch.zeros(5, 5)):
        mean = normal(len(cov))
        assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-11 * (1 + cov.trace())


def test_distance_of_commuting_covariances():
    """With common eigenvectors the roots of the eigenvalues are compared one by one; diagonal ones are such a pair."""
    s1, s2 = normal(40, seed=1).double().abs(), normal(40, seed=2).double().abs()
    m1, m2 = normal(40, seed=3).double(), normal(40, seed=4).double()
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(m1, torch.diag(s1**2), m2, torch.diag(s2**2)) == pytest.approx(expected.item(), rel=1e-12)
    q, _ = torch.linalg.qr(normal(40, 40, seed=5).double())
    c1, c2 = q @ torch.diag(s1**2) @ q.T, q @ torch.diag(s2**2) @ q.T
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected.item(), rel=1e-12)


def test_distance_of_a_random_pair_by_the_eigenvalues_of_the_product():
    m1, m2, c1, c2 = normal(30, seed=1), normal(30, seed=2), covariance(30, 3), covariance(30, 4)
    root = torch.linalg.eigvals(c1 @ c2).real.sqrt().sum()
    expected = (m1.double() - m2.double()).square().sum() + (c1 + c2).trace() - 2 * root
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected.item(), rel=1e-9)


def test_distance_of_singular_covariances():
    """Of rank 1 each, C1 = u u^T and C2 = v v^T: |u|^2 + |v|^2 - 2 |u . v|."""
    u, v, zero = normal(200, seed=1).double(), normal(200, seed=2).double(), torch.zeros(200)
    expected = (u @ u + v @ v - 2 * (u @ v).abs()).item()
    found = frechet_distance(zero, torch.outer(u, u), zero, torch.outer(v, v))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(zero, torch.outer(u, u), zero, torch.zeros(200, 200)) == pytest.approx((u @ u).item())


def test_distance_refuses_what_is_not_finite():
    mean, cov = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(mean, cov, mean * float("nan"), cov)


def test_moments():
    features = normal(2_345, 7).double() * torch.arange(1, 8) + 1e6  # a mean that would swallow E[x^2] - E[x]^2
    mean, cov = moments(features)
    torch.testing.assert_close(mean, features.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(cov, torch.cov(features.T), rtol=1e-9, atol=1e-9)
    assert moments(features.float() - 1e6)[1].dtype == torch.float64


# ------------------------------------------------------------------------------------------------ precision and recall


def brute_force(real, fake, k):
    def inside(points, centres):
        count = 0
        for p in points.tolist():
            for c in centres.tolist():
                others = sorted(sum((a - b) ** 2 for a, b in zip(c, o)) for o in centres.tolist())
                if sum((a - b) ** 2 for a, b in zip(p, c)) <= others[k]:  # others[0] is the distance to itself
                    count += 1
                    break
        return count / len(points)

    return inside(fake, real), inside(real, fake)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(k, monkeypatch):
    monkeypatch.setattr(metrics, "AT_ONCE", 7)  # several chunks, the last one shorter
    generator = torch.Generator().manual_seed(k)
    real = torch.randint(0, 16, (40, 2), generator=generator).float()  # a grid: points that coincide, equal distances
    fake = torch.randint(6, 24, (25, 2), generator=generator).float()
    expected = brute_force(real, fake, k)
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    assert all(0.1 < share < 0.95 for share in expected)


def test_precision_and_recall_of_an_example_by_hand():
    real, fake = torch.tensor([[0.0], [1.0], [3.0], [10.0]]), torch.tensor([[2.0], [5.0], [5.5], [30.0]])
    # Balls for k = 1: real [-1, 1], [0, 2], [1, 5], [3, 17]; fake [-1, 5], [4.5, 5.5], [5, 6], [5.5, 54.5]
    assert precision_recall(real, fake, k=1) == (3 / 4, 4 / 4)


def test_half_of_the_modes():
    centres = 100 * torch.eye(4, 16)
    real = torch.cat([centre + normal(100, 16, seed=i) for i, centre in enumerate(centres)])
    fake = torch.cat([real[:100], real[100:200]]) + 1e-3  # two modes of four
    assert precision_recall(real, fake) == (1, 1 / 2)
    assert precision_recall(fake, real) == (1 / 2, 1)


def test_k_neighbours_have_to_be_there():
    points = normal(4, 2)
    assert precision_recall(points, points, k=3) == (1, 1)
    for k, real in ((0, points), (4, points), (3, points[:3])):
        with pytest.raises(ValueError, match="needs more than k images"):
            precision_recall(real, points, k)


def test_a_comparison_says_what_it_compared():
    real, fake = normal(50, 4), normal(30, 4, seed=1)
    found = json.loads(json.dumps(compare(real, fake, features="4 numbers", reference="noise", most=20)))
    assert found["features"] == "4 numbers" and found["reference"] == "noise"
    assert (found["n_reference"], found["n_images"], found["precision_recall_images"]) == (50, 30, 20)
    assert found["frechet_distance"] == frechet_distance(*moments(real), *moments(fake))
    generator = torch.Generator().manual_seed(0)
    some = [points[torch.randperm(len(points), generator=generator)[:20]] for points in (real, fake)]
    assert (found["precision"], found["recall"]) == precision_recall(*some)
    assert not any("fid" in name for name in found)


def test_the_order_of_the_images_does_not_matter():
    """Ten classes far apart, sorted: the first tenth would be one class, and its recall a tenth."""
    centres = 100 * torch.arange(10).repeat_interleave(40)[:, None]
    found = compare(normal(400, 2) + centres, normal(400, 2, seed=1) + centres, "2 numbers", "noise", most=40)
    assert found["precision"] > 0.6 and found["recall"] > 0.6


# ------------------------------------------------------------------------------------------------ clean-fid

CPU = torch.device("cpu")


def pictures(n, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, 8, 8), dtype=torch.uint8, generator=generator)


def test_without_the_package_the_file_to_install_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanfid.fid", None)
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    with pytest.raises(RunError, match="pip install -r requirements-fid.txt") as error:
        fid_by_cleanfid(pictures(4), tmp_path, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_cleanfid_and_this_file_agree(tmp_path, monkeypatch):
    pytest.importorskip("cleanfid.fid")
    seen = []

    def corners(x):
        """Some pixels as features, by clean-fid's contract of [B, 3, 299, 299] in 0..255."""
        assert x.shape[1:] == (3, 299, 299) and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 255
        seen.append(len(x))
        return x[:, :, ::200, ::200].flatten(1)

    monkeypatch.setattr(clean_fid, "_inception", lambda folder, device: corners)
    monkeypatch.setattr(clean_fid, "AT_ONCE", 16)
    real, fake = pictures(40), pictures(30, channels=1, seed=1)
    fid = fid_by_cleanfid(real, tmp_path, CPU)
    found = fid(fake)
    assert found == fid(fake) and seen == [16, 16, 8, 16, 14, 16, 14]  # the features of the real ones once
    features = [torch.from_numpy(clean_fid._features(images, corners, CPU)) for images in (real, fake)]
    assert found == pytest.approx(frechet_distance(*moments(features[0]), *moments(features[1])), rel=1e-6)


class SmallInception(torch.nn.Module):
    """With the parts of the real file that clean-fid calls; it has as many features, and nearly all of them are 0."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(100), torch.nn.Flatten(), torch.nn.ConstantPad1d((0, 2048 - 12), 0.0)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_weights_of_inception(tmp_path, monkeypatch):
    pytest.importorskip("cleanfid.fid")

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    def fid():
        return fid_by_cleanfid(pictures(20), tmp_path, CPU)(pictures(20, seed=1))

    file = tmp_path / clean_fid.INCEPTION
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(RunError, match="download https://.*and put it there") as error:
        fid()
    assert "\n" not in str(error.value) and str(file) in str(error.value) and list(tmp_path.iterdir()) == []

    file.write_bytes(b"half a file")
    with pytest.raises(RunError, match="needs the weights of Inception"):
        fid()
    file.unlink()

    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(SmallInception()), stream)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(stream.getvalue()))
    monkeypatch.setattr("cleanfid.fid.fid_from_feats", lambda a, b: float(a.shape[1]))  # a root of 2048 x 2048 is slow
    assert fid() == 2048
    assert [path.name for path in tmp_path.iterdir()] == [clean_fid.INCEPTION]
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert fid() == 2048  # what is there is not downloaded again
