"""A log folder as a short run leaves it, and a page taken apart."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from common.files import write_csv, write_json
from figures.grids import plot_gif, plot_grid

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Collects tags with attributes, links and text; fails when tags are not properly nested."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def images(self) -> list[dict]:
        """The pictures, without those that take the place of a paused GIF."""
        return [attributes for tag, attributes in self.tags if tag == "img" and attributes.get("class") != "still"]

    def sources(self) -> list[str]:
        return [unquote(image["src"]) for image in self.images()]


def write_class_run(folder: Path) -> Path:
    """A finished run of 10 epochs: grids of two of them for four guidance weights, two GIFs, three other pictures."""
    image = np.zeros((1, 1, 8, 8))
    for e in (2, 10):
        for w in (0, 0.5, 10, 2):
            plot_grid(folder / f"generated_images_epoch{e}_guidance_weight{w}.png", image)
        plot_gif(folder / f"animation_epoch{e}_guidance_weight0.gif", np.stack([image, -image]), [1, 0], 1)
    for name in ("loss.png", "samples.png", "50% off #1?.png"):
        plot_grid(folder / name, image)
    row = {"val_loss": None, "images_per_second": 2000.0, "seconds": 30.0}
    rows = [{"epoch": e, "step": 5 * e, "train_loss": 1 / e, "loss_q1": 2 / e, **row} for e in range(1, 11)]
    write_csv(folder / "metrics.csv", rows)
    write_json(
        folder / "config.json",
        {
            "command": "python train_mnist.py --n_epochs 10",
            "arguments": {"n_epochs": 10, "batch_size": 64, "g_weight": [0, 0.5]},
            "defaults": {"n_epochs": 20, "batch_size": 64, "g_weight": [0, 0.5]},
            "versions": {"python": "3.11", "torch": "2.1"},
            "device": "cpu (2 threads)",
            "dataset": {"name": "mnist", "train_images": 60000, "val_images": 10000, "classes": list("0123456789")},
            "seed": 0,
            "n_parameters": 655361,
            "commit": "abc123",
            "started": "2026-11-22 06:00:00 UTC",
            "expected": "loss near 0.03",
        },
    )
    return folder


def write_step_run(folder: Path) -> Path:
    """A stopped unconditional run that counts in steps."""
    image = np.zeros((4, 3, 8, 8))
    for s in (500, 1000):
        plot_grid(folder / f"samples_step{s}.png", image)
    plot_gif(folder / "animation_step1000.gif", np.stack([image, -image]), [1, 0], 2)
    for name in ("forward_process", "backward_process", "fid"):
        plot_grid(folder / f"{name}.png", image)
    write_csv(folder / "metrics.csv", [{"epoch": 0, "step": s, "train_loss": 0.5} for s in range(50, 1001, 50)])
    write_json(folder / "config.json", {"arguments": {"train_steps": 2000}, "dataset": {"name": "afhq"}})
    return folder
