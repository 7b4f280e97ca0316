"""The table of image data sets, and `load`, which reads one of them into memory.

    train_set = load("mnist", "data", train=True).to("cuda")
    y, c = train_set.batch(torch.randint(len(train_set), (128,)))   # images in [-1, 1], one-hot classes

A small data set fits on the device as a whole, so a batch is one indexing operation: no loader, no worker processes.

name            what                                    where it is, or is downloaded to
"mnist"         handwritten digits                      <data_dir>/MNIST/raw
"fashion_mnist" small grey photographs of clothes       <data_dir>/FashionMNIST/raw
"rendered"      digits drawn from matplotlib's fonts    nowhere: drawn at every start, without a download
"cifar10"       colour photographs, 32 x 32, 10 classes <data_dir>/cifar-10-batches-py, or image files in
                                                        <data_dir>/cifar10/{train,test}/<class>/
"cifar100"      the same, 100 classes                   <data_dir>/cifar-100-python, or <data_dir>/cifar100/...
"afhq"          animal faces (no download)              <data_dir>/afhq/train/<class>/
"celeba"        faces (no download; datasets/celeba.py) <data_dir>/celeba/img_align_celeba
"folder"        your own image files                    <data_dir>/train/<class>/ and, if there is one, test/<class>/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.console import DataError
from common.limits import wrong_name
from datasets.celeba import list_celeba
from datasets.image_folder import load_files, load_folder
from datasets.image_set import ImageSet, to_float, to_uint8
from datasets.rendered_digits import load_rendered
from datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, load_cifar, load_mnist, lossy_copies


class Request(NamedTuple):
    """What a reader is asked for: arguments of `load`, with the folder as an absolute path."""

    data_dir: Path
    train: bool
    im_height: int
    seed: int
    n_workers: int
    enough: int | None  # more images are not needed; None: all are


# Each reader returns images uint8 [N, C, H, W], labels int64 [N] and class names. `load` resizes the images; only those
# from image files already have the size asked for.
SOURCES: dict[str, Callable[[Request], tuple[Tensor, Tensor, list[str]]]] = {
    "mnist": lambda r: load_mnist(MNIST, r.data_dir, r.train),
    "fashion_mnist": lambda r: load_mnist(FashionMNIST, r.data_dir, r.train),
    "rendered": lambda r: load_rendered(r.train, r.seed, r.enough),
    "cifar10": lambda r: load_cifar(CIFAR10, r.data_dir, r.train, r.im_height, r.n_workers),
    "cifar100": lambda r: load_cifar(CIFAR100, r.data_dir, r.train, r.im_height, r.n_workers),
    "afhq": lambda r: load_folder(r.data_dir / "afhq", r.train, r.im_height, r.n_workers),
    "celeba": lambda r: load_files(r.data_dir / "celeba", r.train, r.im_height, r.n_workers, list_celeba)[:3],
    "folder": lambda r: load_folder(r.data_dir, r.train, r.im_height, r.n_workers),
}
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
GREY = ("mnist", "fashion_mnist", "rendered")  # one channel, which `load` can repeat; the other sets are in colour


def load(
    name: str,
    data_dir: str | os.PathLike,
    train: bool,
    *,
    n_classes: int | None = 10,
    class_names: Sequence[str] | None = None,
    data_class: str | None = None,
    im_height: int = 28,
    im_channels: int = 1,
    limit: int | None = None,
    seed: int = 0,
    n_workers: int = 0,
) -> ImageSet:
    """The training split or the test split of a data set, in memory.

    n_classes: keep the first n classes; None keeps all. class_names: keep the classes of these names, in this order,
    whatever others there are. data_class: keep only the class of this name, one of these.
    limit: keep the first so many images of the kept classes. im_height: side length in pixels; images of another size
    are resized. im_channels: 3 repeats grey images; colour images are never made grey.
    seed: which rendered digits; the other sets ignore it.
    n_workers: threads that decode image files; the images do not depend on it.
    Raises ValueError for an argument that does not fit the data, DataError for missing or damaged data.
    """
    if name not in SOURCES:
        raise ValueError(f"dataset = {name!r} is unknown; choose one of: {', '.join(sorted(SOURCES))}")
    least_of = {"n_classes": 1, "im_height": 1, "limit": 1, "n_workers": 0}
    for (argument, least), value in zip(least_of.items(), (n_classes, im_height, limit, n_workers)):
        if value is not None and value < least:
            raise ValueError(f"{argument} = {value}: must be at least {least}")

    enough = limit if n_classes in (None, 10) and class_names is None and data_class is None else None
    request = Request(Path(os.path.expanduser(data_dir)).absolute(), train, im_height, seed, n_workers, enough)
    images, labels, names = SOURCES[name](request)
    n_classes = len(names) if class_names or not n_classes else n_classes
    if n_classes > len(names):
        raise ValueError(f"n_classes = {n_classes}: {name} has no more than {len(names)}")
    channels = [1, 3] if images.shape[1] == 1 else [images.shape[1]]  # grey can be repeated
    if im_channels not in channels:
        raise ValueError(f"im_channels = {im_channels}: {name} gives {' or '.join(map(str, channels))}")

    known = names[:n_classes]
    kept = [data_class] if data_class is not None else list(known if class_names is None else class_names)
    absent = [kind for kind in kept if kind not in known]
    if absent:
        raise ValueError(f"there is no class {absent[0]!r}; the classes are {', '.join(names)}")
    for kind in kept:
        if wrong_name(kind):
            raise DataError(f"the class {kind!r:.120} {wrong_name(kind)}: rename its folder")
    images, labels = _only(images, labels, [names.index(kind) for kind in kept], len(names), limit)
    if images.shape[2:] != (im_height, im_height):
        images = _resize(images, im_height)
    if images.shape[1] < im_channels:
        images = images.repeat(1, im_channels, 1, 1)
    lossy = name in CIFAR and lossy_copies(CIFAR[name], request.data_dir)
    return ImageSet(images, labels, kept, name, lossy=lossy)


def _only(images: Tensor, labels: Tensor, kept: list[int], n: int, limit: int | None) -> tuple[Tensor, Tensor]:
    """The images of some of n classes, at most `limit` of them, and their labels, counted anew from 0 in this order."""
    if kept != list(range(len(kept))):
        places = torch.full((n,), len(kept))
        places[kept] = torch.arange(len(kept))
        labels = places[labels]
    keep = (labels < len(kept)).nonzero()[:limit, 0]
    # Indexing with all images would copy them for nothing.
    return (images[keep], labels[keep]) if len(keep) < len(images) else (images, labels)


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, C, size, size], antialiased; in parts, because floats take four times the memory."""
    resized = images.new_empty(*images.shape[:2], size, size)
    for part, place in zip(images.split(4096), resized.split(4096)):
        place.copy_(to_uint8(F.interpolate(to_float(part), (size, size), mode="bilinear", antialias=True)))
    return resized
