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


def write_celeba(root: Path, splits: Sequence[int], size: int = 32) -> Path:
    """A CelebA in torchvision's layout: a random picture for each of `splits` (0 training, 1 validation, 2 test), and a
    table of the attributes Smiling and Blond_Hair. Returns root."""
    write_folder(root, ["celeba"], len(splits), size, splits=["."])
    names = [f"{i:06}.png" for i in range(1, len(splits) + 1)]
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir()
    for old, new in zip(sorted((root / "celeba").glob("*.png")), names):
        old.rename(folder / new)
    rows = [f"{name} {split}" for name, split in zip(names, splits)]
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    rows = [f"{name}  {1 if i % 2 else -1} {1 if i % 4 == 3 else -1}" for i, name in enumerate(names)]
    table = [str(len(names)), "Smiling Blond_Hair", *rows]
    (root / "celeba" / "list_attr_celeba.txt").write_text("\n".join(table) + "\n")
    return root
