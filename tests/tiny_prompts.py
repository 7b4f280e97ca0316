"""Running train_celeba.py in this process, on a folder of 40 random pictures with a table of attributes."""

from __future__ import annotations

from pathlib import Path

from tiny_folders import write_folder
from tiny_script import run_here

import train_celeba

TINY = (
    "--dataset folder --n_features 8 --dim_mults 1 2 --n_blocks 1 --n_timesteps 6 --batch_size 16 --n_samples 2 "
    "--im_height 8 --l_rate 0.01 --n_epochs 2 --save_every 1 --animate_every 2 --g_weight 0 1 7 --device cpu"
)


def write_faces(root: Path) -> Path:
    """40 pictures and attributes.csv with age and happy; returns root."""
    write_folder(root, ["face"], 40, size=8)
    rows = [f"{i},{i % 5},{7 * i % 4}" for i in range(40)]
    (root / "attributes.csv").write_text("\n".join(["file,happy,age", *rows]))
    return root


def run_train_celeba(data_dir: Path, log_dir: Path, *more: str) -> int:
    """`python train_celeba.py` with the tiny arguments and `more`; returns the exit status."""
    return run_here(train_celeba, [*TINY.split(), "--data_dir", str(data_dir), "--log_dir", str(log_dir), *more])
