"""Are the real images of a run those of its data set? The first images of each known data set are in known_images.npz, as
hashes of their pixels; tests/known_images.py makes that file.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np

from reporting.run import Settings

FILE = Path(__file__).with_name("known_images.npz")
DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CLASSES = {"mnist": DIGITS, "rendered": DIGITS, "fashion_mnist": CLOTHES, "cifar10": CIFAR}
SIZES = {"mnist": (60_000, 10_000), "fashion_mnist": (60_000, 10_000)}  # training and test images as published
VALIDATION = 2000  # training.losses.VALIDATION_IMAGES
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "rendered": "the rendered digits"}
MOST_KNOWN = 0.2  # of the real images: so many of another data set show that it was that one


def hashes(images: np.ndarray) -> np.ndarray:
    """Grey images uint8 [N, H, W] -> uint64 [N]."""
    digests = (hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()[:8] for image in images)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


@functools.lru_cache(maxsize=1)
def table() -> dict[str, np.ndarray]:
    """ "<name>_test": uint64 [classes, n], the first n test images of each class. "<name>_train": uint64 [n]."""
    with np.load(FILE, allow_pickle=False) as arrays:
        return dict(arrays)


def what_is_wrong(settings: Settings, real: np.ndarray, generated: np.ndarray) -> str | None:
    """Of the real and the generated images of a grid, uint8 [rows, columns, H, W, 3], in words; None if nothing is."""
    lists, name = table(), settings.dataset
    grey = (images[..., 0].reshape(-1, *images.shape[2:4]) for images in (real, generated))
    found, drawn = (hashes(images) for images in grey)
    if f"{name}_train" in lists:
        copies = int(np.isin(drawn, lists[f"{name}_train"]).sum() + np.isin(drawn, lists[f"{name}_test"]).sum())
        if copies:
            return f"{copies} of its {len(drawn)} generated images are images of {NAMES[name]}"
    for other in NAMES:
        if other != name and np.isin(found, lists[f"{other}_test"]).mean() > MOST_KNOWN:
            return f"its real images are test images of {NAMES[other]}, not of {name}"
    dataset, names = settings.config.get("dataset", {}), [settings.class_names[k] for k in settings.shown]
    n_test = SIZES.get(name, (0, 0))[1]
    if (
        settings.height != 28
        or dataset.get("val_images") != min(VALIDATION, n_test)
        or not set(names) <= set(CLASSES[name])
    ):
        return None
    expected = lists[f"{name}_test"][[CLASSES[name].index(k) for k in names], : len(real)].T  # [rows, columns]
    found = found.reshape(real.shape[:2])[: expected.shape[0]]
    n = int((found != expected).sum())
    if n and np.isin(found, expected).mean() > MOST_KNOWN:
        return f"{n} of its real images stand in other places than the first test images of {NAMES[name]} have"
    return f"{n} of its real images are not the first test images of {NAMES[name]}" if n else None
