"""A real tiny run of train_mnist.py on bars whose place tells their class, and what graders and cheaters do with its folder."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import numpy as np
import pytest
import torch
from tiny_mnist import write_idx
from tiny_run import run_train_mnist

import check_log
from common.console import run_script
from common.files import write_json
from figures.grids import plot_grid
from reporting import grids, reader
from training import checkpoint

RUN = "--g_weight 0 1 3 --n_epochs 6 --save_every 2 --animate_every 6 --n_samples 2 --l_rate 5e-3 --ema 0.9 --amp off"
NAMES = [str(k) for k in range(10)]


def run_check(*words: Any) -> int:
    """`python check_log.py` with these words; returns the exit status."""
    with mock.patch.object(check_log.sys, "argv", ["check_log.py", *map(str, words)]), pytest.raises(SystemExit) as end:
        run_script(check_log.main)
    return end.value.code


def write_bars(data_dir: Path, n_train: int = 200, n_test: int = 40, seed: int = 0, folder: str = "MNIST") -> None:
    """A data set in MNIST's files: a bright bar, farther to the right in each class, of any height."""
    rng = np.random.default_rng(seed)
    for split, n in (("train", n_train), ("t10k", n_test)):
        labels = np.arange(n) % 10
        images = np.zeros((n, 28, 28))
        for image, k in zip(images, labels):
            image[rng.integers(2, 8) : rng.integers(18, 26), 2 + 2 * k : 6 + 2 * k] = rng.integers(180, 256)
        write_idx(data_dir / folder / "raw" / f"{split}-images-idx3-ubyte", images)
        write_idx(data_dir / folder / "raw" / f"{split}-labels-idx1-ubyte", labels)


def write_run(data_dir: Path, log_dir: Path, more: str = "") -> Path:
    assert run_train_mnist(data_dir, log_dir, f"{RUN} {more}") == 0
    return log_dir


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    write_json(file, content)


def edit_metrics(file: Path, change: Callable[[list[dict[str, str]]], Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    rows = change(rows) or rows
    with open(file, "w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def edit_model(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = checkpoint.load(file)
    change(content)
    checkpoint.save(file, content)


def read_grid(folder: Path, name: str, rows: tuple[int, int] = (2, 2)) -> list[np.ndarray]:
    """The generated and the real images of a grid of 28 x 28 digits, as float [N, 1, H, W] in [-1, 1]."""
    groups = grids.read_images(*reader.Folder(folder).picture(name), grids.Grid((28, 28), tuple(NAMES), 10, rows))
    assert isinstance(groups, list), groups
    return [group.reshape(-1, *group.shape[2:])[..., :1].transpose(0, 3, 1, 2) / 127.5 - 1 for group in groups]


def draw(folder: Path, epoch: int, w: int, generated: np.ndarray | None = None, real: np.ndarray | None = None) -> None:
    """Draw a grid again as its own epoch and weight would, with other images where they are given."""
    name = grid_of(epoch, w)
    old_generated, old_real = read_grid(folder, name)
    generated, real = old_generated if generated is None else generated, old_real if real is None else real
    plot_grid(folder / name, generated, real, NAMES, f"epoch {epoch}, guidance weight {w}")


def grid_of(epoch: int, w: int) -> str:
    return f"generated_images_epoch{epoch}_guidance_weight{w}.png"


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def noised(content: dict[str, Any], by: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in content["model"].values():
        if weight.is_floating_point():
            weight += by * weight.std(unbiased=False) * torch.randn(weight.shape, generator=generator)


def untrained(content: dict[str, Any]) -> None:
    torch.manual_seed(5)
    content["model"] = checkpoint.build(content["spec"], torch.device("cpu")).nn_model.state_dict()
