"""A log folder as the template's own script writes it: generated_gif_..., epochs 1, 6, 11, weights 0.0, no config.json."""

from __future__ import annotations

import shutil

import imageio.v2 as imageio
import numpy as np
import pytest

from reporting.reader import Folder
from reporting.verdict import check_folder
from utils import plot_animation, plot_image, plot_loss


@pytest.fixture
def log_mnist(tmp_path):
    """Written with the template's helpers."""
    folder = tmp_path / "log_mnist"
    folder.mkdir()
    x = np.linspace(-1, 1, 28, dtype=np.float32)
    digits = np.stack([np.clip(1 - 3 * np.abs(x[None] - k / 8) - x[:, None] ** 2, 0, 1)[None] for k in range(-4, 4)])
    noise = np.random.default_rng(0).standard_normal((3, *digits.shape)).astype(np.float32)
    for epoch in (0, 5, 10):
        for w in (0.0, 1.0):
            plot_image(digits, 4, folder / f"generated_images_epoch{epoch + 1}_guidance_weight{w}.png")
            plot_animation(np.stack([noise[0], noise[1] + 3 * digits, digits]), 2, 4, folder, epoch, w)
    plot_loss([0.2, 0.1, 0.05], folder / "loss.png")
    (folder / "ddpm_epoch11.pth").write_bytes(b"some model")
    return folder


def problems(folder):
    return [(what, text) for level, what, text in check_folder(Folder(folder)).findings if level == "problem"]


def test_it_is_named_and_what_can_be_checked_passes(log_mnist):
    assert problems(log_mnist) == []
    (log_mnist / "model_epoch11.pt").write_bytes(b"some model")  # our name, and the obvious one
    assert problems(log_mnist) == []
    notes = [text for level, _, text in check_folder(Folder(log_mnist)).findings if level == "note"]
    assert "not written by this suite" in notes[0] and "epochs 1, 6, 11" in notes[0]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda f: (f / "loss.png").unlink(), "loss"),
        (lambda f: (f / "generated_gif_epoch6_guidance_weight1.0.gif").unlink(), "is missing"),
        (lambda f: (f / "generated_images_epoch1_guidance_weight0.0.png").write_bytes(b"no picture"), "is no PNG"),
        (
            lambda f: imageio.mimwrite(
                f / "generated_gif_epoch1_guidance_weight0.0.gif", [np.ones((9, 9), np.uint8)] * 2
            ),
            "does not move",
        ),
    ],
)
def test_spoiled_copies_are_found(log_mnist, tmp_path, spoil, words):
    copy = shutil.copytree(log_mnist, tmp_path / "copy")
    spoil(copy)
    found = problems(copy)
    assert len(found) == 1 and words in " ".join(found[0])
