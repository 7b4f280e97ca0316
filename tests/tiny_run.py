"""Running train_mnist.py in this process, on a data set of 70 images."""

from __future__ import annotations

from pathlib import Path

from tiny_script import run_here

import train_mnist

TINY = "--n_features 8 --n_timesteps 8 --batch_size 16 --n_samples 1 --g_weight 0 1 --n_epochs 3 --save_every 2"
STEPS = 4  # of an epoch: 70 images in batches of 16


def run_train_mnist(data_dir: Path, log_dir: Path, more: str = "") -> int:
    """`python train_mnist.py` with the tiny arguments and `more`; returns the exit status."""
    words = [*TINY.split(), "--data_dir", str(data_dir), "--log_dir", str(log_dir), "--device", "cpu", *more.split()]
    return run_here(train_mnist, words)
