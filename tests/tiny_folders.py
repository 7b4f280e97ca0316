"""Folders of a few random pictures, as image data sets lie on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import imageio.v2 as imageio
import numpy as np


def write_folder(
    root: Path, classes: Sequence[str], n: int, size: int = 32, splits: Sequence[str] = ("train",)
) -> Path:
    """n pictures of size x size for each class and split; returns root."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                imageio.imwrite(folder / f"{i:03}.png", rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
    return root
