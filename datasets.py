"""Image data sets as one uint8 tensor plus labels, kept on the training device.

    train_set = load("mnist", "data", train=True).to("cuda")
    y, c = train_set.batch(torch.randint(len(train_set), (128,)))   # images in [-1, 1], one-hot classes

A small data set fits on the device whole, so a batch is one indexing operation: no loader, no worker processes.

"mnist"     handwritten digits, read by torchvision from <data_dir>/MNIST/raw, downloaded when absent.
"fashion_mnist"  the same for small grey photographs of clothes, shoes and bags, in <data_dir>/FashionMNIST/raw.
"rendered"  digits drawn from matplotlib's own fonts, bent and stretched at random: the same format as MNIST and no
            download, for a first try, for tests, and for machines without network. Kept in <data_dir>/rendered_digits.
"cifar10"   and "cifar100": photographs of 32 x 32 pixels, read by torchvision from its own folder in <data_dir>, or as
            image files from <data_dir>/cifar10/train/<class>/ and .../test/<class>/; downloaded when neither is there.
"afhq"      faces of animals: image files in <data_dir>/afhq/train/<class>/.
"folder"    any image files: <data_dir>/train/<class>/ and, if you have one, <data_dir>/test/<class>/.

`image_folder.py` tells how image files become images, and in which order; `torchvision_sets.py` reads the published sets.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_error import DataError
from image_folder import load_folder
from points import Chequerboard, TwoGaussians
from rendered_digits import load_rendered, render_digits
from torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, load_cifar, load_mnist, lossy_copies

__all__ = [
    "Chequerboard",
    "DataError",
    "ImageSet",
    "TwoGaussians",
    "dequantise",
    "load",
    "one_hot",
    "render_digits",
    "to_float",
    "to_uint8",
]


# ---- Pixel values and classes ----------------------------------------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """Pixels for the network: uint8 0..255, any shape -> float32 in [-1, 1]. The only place that converts this way."""
    return images.to(torch.float32) / 127.5 - 1.0


def dequantise(y: Tensor, u: Tensor) -> Tensor:
    """8-bit images as continuous ones: the level k becomes (k + u) / 256, scaled to [-1, 1).

    y: float images of `to_float`; u: like y, uniform on [0, 1). A density of the result bounds the probabilities of the
    levels (Theis et al. 2016, arXiv:1511.01844, section 3.1), where one of the levels themselves could grow for ever.
    """
    return ((y + 1.0) * 127.5 + u) / 128.0 - 1.0


def to_uint8(x: Tensor) -> Tensor:
    """Inverse of `to_float`: float, any shape -> uint8 0..255. Values outside [-1, 1] are clamped."""
    return ((x.to(torch.float32).clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Labels int64 [N] -> float32 [N, n_classes]. Raises RuntimeError for a label outside 0..n_classes - 1."""
    rows = torch.zeros(len(labels), n_classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0)  # unlike F.one_hot this does not make a GPU wait


# ---- The data set in memory ------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class ImageSet:
    """Labelled images in memory.

    images: uint8 [N, C, H, W]; labels: int64 [N], values 0..n_classes - 1; class_names: one per class;
    name: what `load` was asked for; device: where `batch` puts its result; lossy: are these JPEG copies of images that
    were published without loss?
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    name: str
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    lossy: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its batches on `device`.

        The images move there too, unless they would take more than half of a GPU's free memory, which the network
        needs. They then stay in main memory and each batch is pinned and copied over (what indexing takes out of a
        pinned tensor is not pinned itself); the caller sees no difference.
        """
        device = torch.device(device)
        arrives = device.type == "cuda" and self.images.device.type != "cuda"
        if arrives and self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:  # [0]: free bytes
            return dataclasses.replace(self, device=device)
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device), device=device)

    def batch(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images and classes at `index`, int64 [B], on the device that was given to `to`.

        flip: bool [B] on that device; True mirrors an image, left to right. None mirrors none.
        Returns y, float32 [B, C, H, W] in [-1, 1], and c, one-hot float32 [B, n_classes].
        Raises IndexError or RuntimeError for an index outside 0..N - 1 (on a GPU: a device-side assertion).
        """
        device = self.device
        index = index.to(self.images.device)
        images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        if device.type == "cuda" and images.device.type == "cpu":
            images, labels = images.pin_memory(), labels.pin_memory()  # only pinned memory is copied asynchronously
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if flip is not None:
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return to_float(images), one_hot(labels, self.n_classes)


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
    "rendered": lambda request: load_rendered(request.data_dir, request.train, request.seed),
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
