"""What a finished run shows of its model beside samples: completions and mixtures."""

from __future__ import annotations

import math
import signal

import imageio.v2 as imageio
import pytest
import torch
from tiny_networks import trained_unet

import figures
from datasets import ImageSet
from ddpm import DDPM


@pytest.fixture
def drawn(monkeypatch):
    """The calls of plot_groups, instead of pictures: a list of (file name, {label: images}, heads)."""
    calls = []

    def plot_groups(path, groups, heads=None, title=None, n_columns=None):
        calls.append((path.name, dict(groups), heads))

    monkeypatch.setattr(figures, "plot_groups", plot_groups)
    return calls


def small_set(n_classes, n=20):
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(n) % n_classes, [f"c{k}" for k in range(n_classes)], "small")


@pytest.fixture(scope="module")
def ddpm():
    return DDPM(trained_unet().eval(), n_timesteps=4, beta2=0.5, device="cpu")


def test_the_exercise_figure(ddpm, drawn, tmp_path):
    """Six test images, the lower half hidden of three and the upper half of three, five completions of each."""
    data = small_set(10)
    figures.draw_applications(tmp_path, ddpm, data, 1, seed=0)
    name, groups, heads = drawn[0]
    assert name == "inpainting.png" and heads == ["bottom hidden"] * 3 + ["top hidden"] * 3
    original, visible, completed = groups["original"], groups["visible"], groups["completed"]
    torch.testing.assert_close(original, data.images[:6].float() / 127.5 - 1)
    known = torch.ones(6, 1, 8, 8)
    known[:3, :, 4:] = 0
    known[3:, :, :4] = 0
    assert torch.equal(visible, torch.where(known == 1, original, 0.0))
    how = {"method": "input", "n_resample": 10, "jump_length": 5}
    found = ddpm.complete_image(original, known, n_sample=5, generator=torch.Generator().manual_seed(0), **how)
    torch.testing.assert_close(completed, found, rtol=1e-3, atol=1e-4)  # all of the 4 steps, in a schedule made anew
    for j in range(5):
        five = completed[6 * j : 6 * j + 6]
        assert ((five - completed[:6]).abs().amax(dim=(1, 2, 3)) > 0.01).all() or j == 0


def test_mixtures_of_the_classes_there_are(drawn, tmp_path):
    for n_classes, mixtures in ((10, ["c3 + c8", "c4 + c9"]), (9, ["c3 + c8"]), (5, ["c0 + c1"]), (1, [])):
        drawn.clear()
        torch.manual_seed(0)
        net = type(trained_unet())(1, 8, n_classes, 8).eval()
        figures.draw_applications(tmp_path, DDPM(net, n_timesteps=2, device="cpu"), small_set(n_classes), 1, seed=0)
        found = [groups for name, groups, _ in drawn if name == "mixture.png"]
        assert [list(groups) for groups in found] == ([mixtures] if mixtures else [])


def test_few_test_images_make_a_small_figure(ddpm, drawn, tmp_path):
    figures.draw_applications(tmp_path, ddpm, small_set(10, n=2), 1, seed=0)
    assert drawn[0][1]["original"].shape[0] == 2 and drawn[0][1]["completed"].shape[0] == 10


def test_a_finished_run_shows_them_and_its_report_too(whole_run):
    report = (whole_run / "report.html").read_text()
    for name in ("inpainting.png", "mixture.png"):
        assert f'src="./{name}"' in report
        page = imageio.imread(whole_run / name)
        assert page.min() == 0 and page.max() == 255 and math.prod(page.shape[:2]) > 100_000


def test_a_signal_while_they_are_drawn(train, whole_run, tmp_path, monkeypatch):
    """All epochs are done by then: resuming only draws."""
    original = figures.inpainting_figure

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(figures, "inpainting_figure", interrupted)
        assert train(tmp_path / "log") == 128 + signal.SIGTERM
    assert not (tmp_path / "log" / "inpainting.png").exists()
    assert (tmp_path / "log" / "model_epoch3.pt").exists()
    assert train(tmp_path / "log", "--resume") == 0
    found, expected = (imageio.imread(folder / "inpainting.png") for folder in (tmp_path / "log", whole_run))
    assert (found == expected).all()
