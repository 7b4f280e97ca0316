"""Makes reporting/known_images.npz: python tests/known_images.py DATA_DIR (with MNIST and FashionMNIST below it)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.sources import load
from reporting.known import FILE, NAMES, hashes

N_TEST, N_TRAIN = 10, 1000


def first_images(data_dir: Path, name: str) -> dict[str, np.ndarray]:
    """The hashes of the first test images of each class, and of the first training images."""
    train_set, test_set = (load(name, data_dir, train) for train in (True, False))
    of_class = [test_set.images[test_set.labels == k][:N_TEST, 0].numpy() for k in range(test_set.n_classes)]
    return {
        f"{name}_test": np.stack([hashes(images) for images in of_class]),
        f"{name}_train": hashes(train_set.images[:N_TRAIN, 0].numpy()),
    }


if __name__ == "__main__":
    arrays = {}
    for name in NAMES:
        arrays.update(first_images(Path(sys.argv[1]), name))
    np.savez_compressed(FILE, **arrays)
