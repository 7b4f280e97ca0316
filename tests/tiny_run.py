"""Running train_mnist.py in this process, on a data set of 70 images."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

from cli import run_script
from train_mnist import main

TINY = "--n_features 8 --n_timesteps 8 --batch_size 16 --n_samples 1 --g_weight 0 1 --n_epochs 3 --save_every 2"
STEPS = 4  # of an epoch: 70 images in batches of 16


def run_train_mnist(data_dir: Path, log_dir: Path, more: str = "") -> int:
    """`python train_mnist.py` with the tiny arguments and `more`; returns the exit status."""
    words = [*TINY.split(), "--data_dir", str(data_dir), "--log_dir", str(log_dir), "--device", "cpu", *more.split()]
    with mock.patch.object(sys, "argv", ["train_mnist.py", *words]):
        try:
            run_script(main)
        except SystemExit as end:
            return end.code
    return 0
