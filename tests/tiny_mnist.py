"""A random MNIST of a few images, in the files that torchvision reads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_idx(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(data_dir: Path, n_train: int = 40, n_test: int = 20, folder: str = "MNIST") -> dict[str, np.ndarray]:
    """A tiny random MNIST, or FashionMNIST, by the name of the folder; returns its four arrays by file name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28))
        arrays[f"{split}-labels-idx1-ubyte"] = np.arange(n)[::-1] % 10
    for name, array in arrays.items():
        write_idx(data_dir / folder / "raw" / name, array)
    return arrays
