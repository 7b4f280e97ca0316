"""Image data sets as one uint8 tensor plus labels, kept on the training device.

    train_set = load("mnist", "data", train=True).to("cuda")
    y, c = train_set.batch(torch.randint(len(train_set), (128,)))   # images in [-1, 1], one-hot classes

A small data set fits on the device whole, so a batch is one indexing operation: no loader, no worker processes.

"mnist"     handwritten digits, read by torchvision from <data_dir>/MNIST/raw, downloaded when absent.
"fashion_mnist"  the same for small grey photographs of clothes, shoes and bags, in <data_dir>/FashionMNIST/raw.
"rendered"  digits drawn from matplotlib's own fonts, bent and stretched at random: the same format as MNIST and no
            download, for a first try, for tests, and for machines without network.
"cifar10"   and "cifar100": photographs of 32 x 32 pixels, read by torchvision from its own folder in <data_dir>, or as
            image files from <data_dir>/cifar10/train/<class>/ and .../test/<class>/; downloaded when neither is there.
"afhq"      faces of animals: image files in <data_dir>/afhq/train/<class>/.
"folder"    any image files: <data_dir>/train/<class>/ and, if you have one, <data_dir>/test/<class>/.

`datasets/image_folder.py` tells how image files become images, and in which order; `datasets/torchvision_sets.py` reads the published sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.image_folder import load_folder
from datasets.image_set import ImageSet, to_float, to_uint8
from datasets.rendered_digits import load_rendered
from datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, load_cifar, load_mnist, lossy_copies

# ---- Pixel values and classes ----------------------------------------------------------------------------------------


# ---- The data set in memory ------------------------------------------------------------------------------------------


def load(
    name: str,
    data_dir: str | os.PathLike,
    train: bool,
    *,
    n_classes: int | None = 10,
    data_class: str | None = None,
    im_height: int = 28,
    im_channels: int = 1,
    limit: int | None = None,
    seed: int = 0,
    n_workers: int = 0,
) -> ImageSet:
    """Read (or download, render, or decode) a data set: its training split or its test split.

    n_classes: keep the first so many classes; None keeps all. data_class: of these keep only the one of this name.
    limit: keep the first so many images (of the kept classes). im_height: side length in pixels; another than the
    data's own resizes once, here. im_channels: 3 repeats grey images; colours are never made grey.
    seed: which rendered digits; the other sets ignore it.
    n_workers: processes that decode image files; 0 decodes in this one. The images are the same.
    Raises ValueError for an argument that the data cannot satisfy, DataError for missing or damaged data.
    """
    if name not in SOURCES:
        raise ValueError(f"dataset = {name!r} is unknown; choose one of: {', '.join(sorted(SOURCES))}")
    for argument, value, lowest in (
        ("n_classes", n_classes, 1),
        ("im_height", im_height, 1),
        ("limit", limit, 1),
        ("n_workers", n_workers, 0),
    ):
        if value is not None and value < lowest:
            raise ValueError(f"{argument} = {value}: must be at least {lowest}")

    request = Request(Path(data_dir).expanduser().absolute(), train, im_height, seed, n_workers)
    images, labels, class_names = SOURCES[name](request)
    if n_classes is None:
        n_classes = len(class_names)
    if n_classes > len(class_names):
        raise ValueError(f"n_classes = {n_classes}: {name} has no more than {len(class_names)}")
    channels = [1, 3] if images.shape[1] == 1 else [images.shape[1]]  # grey can be repeated
    if im_channels not in channels:
        raise ValueError(f"im_channels = {im_channels}: {name} gives {' or '.join(map(str, channels))}")

    class_names = class_names[:n_classes]
    if data_class is not None:
        if data_class not in class_names:
            raise ValueError(f"there is no class {data_class!r}; the classes are {', '.join(class_names)}")
        labels = torch.where(labels == class_names.index(data_class), 0, 1)
        class_names, n_classes = [data_class], 1
    keep = (labels < n_classes).nonzero()[:limit, 0]
    if len(keep) < len(images):  # else the images would stand in memory twice for nothing
        images, labels = images[keep], labels[keep]
    if images.shape[2:] != (im_height, im_height):
        images = _resize(images, im_height)
    if images.shape[1] < im_channels:
        images = images.repeat(1, im_channels, 1, 1)
    lossy = name in CIFAR and lossy_copies(CIFAR[name], request.data_dir)
    return ImageSet(images, labels, class_names, name, lossy=lossy)


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, C, size, size], antialiased; in parts, because floats take four times the memory."""
    resized = images.new_empty(*images.shape[:2], size, size)
    for part, place in zip(images.split(4096), resized.split(4096)):
        place.copy_(to_uint8(F.interpolate(to_float(part), (size, size), mode="bilinear", antialias=True)))
    return resized


class Request(NamedTuple):
    """What a source of images is asked for: arguments of `load`, the folder as an absolute path."""

    data_dir: Path
    train: bool
    im_height: int
    seed: int
    n_workers: int


# ---- All sources -----------------------------------------------------------------------------------------------------

# Each gives images uint8 [N, C, H, W], labels int64 [N] and class names. Only image files come in the size asked for;
# `load` resizes the others.
SOURCES: dict[str, Callable[[Request], tuple[Tensor, Tensor, list[str]]]] = {
    "mnist": lambda request: load_mnist(MNIST, request.data_dir, request.train),
    "fashion_mnist": lambda request: load_mnist(FashionMNIST, request.data_dir, request.train),
    "rendered": lambda request: load_rendered(request.train, request.seed),
    "cifar10": lambda request: load_cifar(
        CIFAR10, request.data_dir, request.train, request.im_height, request.n_workers
    ),
    "cifar100": lambda request: load_cifar(
        CIFAR100, request.data_dir, request.train, request.im_height, request.n_workers
    ),
    "afhq": lambda request: load_folder(request.data_dir / "afhq", request.train, request.im_height, request.n_workers),
    "folder": lambda request: load_folder(request.data_dir, request.train, request.im_height, request.n_workers),
}
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
GREY = ("mnist", "fashion_mnist", "rendered")  # of one channel, unless `load` is asked to repeat it; the others: colour
