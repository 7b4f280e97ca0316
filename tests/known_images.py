"""Makes reporting/known_images.npz: python tests/known_images.py DATA_DIR (with MNIST, FashionMNIST and cifar10 below it;
CIFAR-10 as class folders, cifar10/{train,test}/<class>/*.png, without loss).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.sources import load
from reporting.known import FILE, NAMES, hashes

N_TEST, N_TRAIN = 10, 1000
N_CIFAR10 = 1000  # test images of a class


def first_images(data_dir: Path, name: str) -> dict[str, np.ndarray]:
    """The hashes of the first test images of each class, and of the first training images."""
    train_set, test_set = (load(name, data_dir, train) for train in (True, False))
    of_class = [test_set.images[test_set.labels == k][:N_TEST, 0].numpy() for k in range(test_set.n_classes)]
    return {
        f"{name}_test": np.stack([hashes(images) for images in of_class]),
        f"{name}_train": hashes(train_set.images[:N_TRAIN, 0].numpy()),
    }


def all_images(data_dir: Path) -> dict[str, np.ndarray]:
    """The hashes of all images of CIFAR-10. Places of test images that are missing hold 0."""
    train_set, test_set = (load("cifar10", data_dir, train, im_height=32, im_channels=3) for train in (True, False))
    pixels = test_set.images.permute(0, 2, 3, 1).numpy()
    test = np.zeros((test_set.n_classes, N_CIFAR10), np.uint64)
    for k in range(test_set.n_classes):
        found = np.sort(hashes(pixels[test_set.labels.numpy() == k]))
        test[k, : len(found)] = found
    return {"cifar10_test": test, "cifar10_train": np.sort(hashes(train_set.images.permute(0, 2, 3, 1).numpy()))}


if __name__ == "__main__":
    arrays = all_images(Path(sys.argv[1]))
    for name in [name for name in NAMES if name != "cifar10"]:
        arrays.update(first_images(Path(sys.argv[1]), name))
    np.savez_compressed(FILE, **arrays)
