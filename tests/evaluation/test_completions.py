"""Measuring completions, against completions whose figures are known."""

from __future__ import annotations

import pytest
import torch

from datasets.image_set import ImageSet
from diffusion.inpainting import mask_named
from evaluation.measure import completed, masked


class LastPixel(torch.nn.Module):
    """A classifier that finds the class in the pixel at the bottom right: class k where it is k / 4."""

    mirrors = False

    def __init__(self):
        super().__init__()
        self.any = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.eye(4)[(x[:, 0, -1, -1] * 4).round().long().clamp(0, 3)]


class Completer:
    """A stand-in for a DDPM whose completions are known: the original with some pixels changed."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls = []

    def complete_image(self, y, mask, method, n_resample, jump_length, generator):
        self.calls.append((len(y), method, n_resample, jump_length, torch.rand(1, generator=generator).item()))
        found = y.clone()
        if method == "mean":
            found += 0.1  # known and hidden pixels; the classes stay
        elif method == "input":
            found[:, :, 0, 0] += 0.5  # one known pixel of eight
            found[1::2, :, -1, -1] = 0  # a hidden one: class 0
        return found


def test_completions_are_measured(monkeypatch):
    monkeypatch.setattr("evaluation.measure.COMPLETED_AT_ONCE", 5)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    images = torch.full((8, 1, 4, 4), 100, dtype=torch.uint8)
    images[:, 0, -1, -1] = ((labels / 4 + 1) * 127.5).round().to(torch.uint8)
    ddpm, mask = Completer(), mask_named("bottom", 4, 4)
    test_set = ImageSet(images, labels, list("abcd"), "mnist")
    results = {result["method"]: result for result in completed(ddpm, LastPixel(), test_set, mask, seed=2)}
    assert list(results) == ["mean", "input", "repaint"]
    assert results["mean"]["known_error"] == pytest.approx(0.1, abs=1e-6)
    assert results["input"]["known_error"] == pytest.approx(0.5 / 8, abs=1e-6)
    assert results["repaint"]["known_error"] == 0
    assert results["mean"]["true_class"] == results["repaint"]["true_class"] == 1
    assert results["input"]["true_class"] == 5 / 8  # all but 1, 3 and, in the second part, 6
    times = {"mean": 1, "input": 1, "repaint": 5}  # by default
    assert [call[:4] for call in ddpm.calls] == [(n, method, times[method], 10) for method in results for n in (5, 3)]
    assert {method: result["n_resample"] for method, result in results.items()} == times
    first = [call[-1] for call in ddpm.calls]
    assert first[0] == first[2] == first[4] != first[1]  # the same noise for every method

    ddpm.calls.clear()
    (result,) = completed(ddpm, LastPixel(), test_set, mask, 2, ["repaint"], 7, 3)
    assert [call[:4] for call in ddpm.calls] == [(5, "repaint", 7, 3), (3, "repaint", 7, 3)]
    assert (result["n_resample"], result["jump_length"]) == (7, 3)


def test_what_is_hidden_is_black():
    images = torch.randint(1, 256, (3, 3, 8, 8), dtype=torch.uint8)
    found = masked(ImageSet(images, torch.zeros(3, dtype=torch.int64), ["a"], "folder"), mask_named("left", 8, 8))
    assert (found.images[..., :4] == 0).all() and torch.equal(found.images[..., 4:], images[..., 4:])
