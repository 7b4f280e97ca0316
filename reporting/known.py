"""Are the real images of a run those of its data set, and its generated images none of them? known_images.npz has hashes of
the first images of each known data set, and of all of CIFAR-10, whose images stand in folders in any order;
tests/known_images.py makes that file.
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
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "rendered": "the rendered digits", "cifar10": "CIFAR-10"}
MOST_KNOWN = 0.2  # of the real images: so many of another data set show that it was that one


def hashes(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W], or [N, H, W, 3], where a grey image is as good as its first channel -> uint64 [N]."""

    def number(image: np.ndarray) -> int:
        grey = image.ndim == 3 and (image == image[..., :1]).all()
        pixels = np.ascontiguousarray(image[..., 0] if grey else image)
        return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little")

    return np.array([number(image) for image in images], dtype=np.uint64)


@functools.lru_cache(maxsize=1)
def table() -> dict[str, np.ndarray]:
    """ "<name>_test": uint64 [classes, n], the first n test images of each class, or all and then zeros.
    "<name>_train": uint64 [n]."""
    with np.load(FILE, allow_pickle=False) as arrays:
        return dict(arrays)


def what_is_wrong(settings: Settings, real: np.ndarray, generated: np.ndarray) -> str | None:
    """Of the real and the generated images of a grid, uint8 [rows, columns, H, W, 3], in words; None if nothing is."""
    lists, name = table(), settings.dataset
    found, drawn = (hashes(images.reshape(-1, *images.shape[2:])) for images in (real, generated))
    if f"{name}_train" in lists:
        copies = int(np.isin(drawn, lists[f"{name}_train"]).sum() + np.isin(drawn, lists[f"{name}_test"]).sum())
        if copies:
            return f"{copies} of its {len(drawn)} generated images are images of {NAMES[name]}"
    for other in NAMES if name != "folder" else ():  # which may hold any images
        if other != name and np.isin(found, lists[f"{other}_test"]).mean() > MOST_KNOWN:
            return f"its real images are test images of {NAMES[other]}, not of {name}"
    names = [settings.class_names[k] for k in settings.shown]
    if f"{name}_test" not in lists or not set(names) <= set(CLASSES[name]):
        return None
    of_classes = lists[f"{name}_test"][[CLASSES[name].index(k) for k in names]]  # [columns, n]
    found = found.reshape(real.shape[:2])
    if name == "cifar10":
        n = sum(int(np.isin(found[:, k], np.delete(of_classes, k, axis=0)).sum()) for k in range(len(names)))
        return f"{n} of its real images show other classes than their columns say" if n else None
    n_test = SIZES.get(name, (0, 0))[1]
    if settings.height != 28 or settings.config.get("dataset", {}).get("val_images") != min(VALIDATION, n_test):
        return None
    expected = of_classes[:, : len(real)].T  # [rows, columns]
    found = found[: expected.shape[0]]
    n = int((found != expected).sum())
    if n and np.isin(found, expected).mean() > MOST_KNOWN:
        return f"{n} of its real images stand in other places than the first test images of {NAMES[name]} have"
    return f"{n} of its real images are not the first test images of {NAMES[name]}" if n else None
