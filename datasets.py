"""Image data sets as one uint8 tensor plus labels, kept on the training device.

    train_set = load("mnist", "data", train=True).to("cuda")
    y, c = train_set.batch(torch.randint(len(train_set), (128,)))   # images in [-1, 1], one-hot classes

A small data set fits on the device whole, so a batch is one indexing operation: no loader, no worker processes.

"mnist"     handwritten digits, read by torchvision from <data_dir>/MNIST/raw, downloaded when absent.
"rendered"  digits drawn from matplotlib's own fonts, bent and stretched at random: the same format as MNIST and no
            download, for a first try, for tests, and for machines without network. Kept in <data_dir>/rendered_digits.
"cifar10"   and "cifar100": photographs of 32 x 32 pixels, read by torchvision from its own folder in <data_dir>, or as
            image files from <data_dir>/cifar10/train/<class>/ and .../test/<class>/; downloaded when neither is there.
"afhq"      faces of animals: image files in <data_dir>/afhq/train/<class>/.
"folder"    any image files: <data_dir>/train/<class>/ and, if you have one, <data_dir>/test/<class>/.

`image_folder.py` tells how image files become images, and in which order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_error import DataError, one_line
from image_folder import load_folder
from points import Chequerboard, TwoGaussians
from rendered_digits import DIGITS, load_rendered, render_digits

try:
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST
    from torchvision.datasets.utils import check_integrity
except RuntimeError as error:  # such as "operator torchvision::nms does not exist"
    raise SystemExit(
        f"torch {torch.__version__} and torchvision are not of one build ({str(error).splitlines()[0]}): "
        "install both anew, by `pip install --force-reinstall torch torchvision`"
    ) from None

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
    name: what `load` was asked for; device: where `batch` puts its result.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    name: str
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

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

    def only(self, class_name: str) -> ImageSet:
        """The images of one class. Raises ValueError if there is no such class."""
        if class_name not in self.class_names:
            raise ValueError(f"there is no class {class_name!r}; the classes are {', '.join(self.class_names)}")
        keep = (self.labels == self.class_names.index(class_name)).nonzero()[:, 0]
        images = self.images if len(keep) == len(self) else self.images[keep]
        return dataclasses.replace(self, images=images, labels=torch.zeros_like(keep), class_names=[class_name])

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
    im_height: int = 28,
    im_channels: int = 1,
    limit: int | None = None,
    seed: int = 0,
    n_workers: int = 0,
) -> ImageSet:
    """Read (or download, render, or decode) a data set: its training split or its test split.

    n_classes: keep the first so many classes; None keeps all. im_height: side length in pixels; another than the
    data's own resizes once, here. im_channels: 3 repeats grey images; colours are never made grey.
    limit: keep the first so many images (of the kept classes). seed: which rendered digits; the other sets ignore it.
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

    keep = (labels < n_classes).nonzero()[:limit, 0]
    if len(keep) < len(images):  # else the images would stand in memory twice for nothing
        images, labels = images[keep], labels[keep]
    if images.shape[2:] != (im_height, im_height):
        images = _resize(images, im_height)
    if images.shape[1] < im_channels:
        images = images.repeat(1, im_channels, 1, 1)
    return ImageSet(images, labels, class_names[:n_classes], name)


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


# ---- Downloads -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _scratch_folder(data_dir: Path, what: str, place: Path, advice: str) -> Iterator[Path]:
    """A scratch folder in data_dir, to download `what` into and to move it from to its `place`.

    An interrupted download thus leaves nothing behind that a later run, or another process, takes for data. An error
    in the block becomes a DataError that ends with `advice`.
    """
    print(f"{what} is not in {place}: downloading it ...", flush=True)
    timeout = socket.getdefaulttimeout()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as scratch:
            socket.setdefaulttimeout(20)  # seconds; a compute node without network would wait for minutes
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield Path(scratch)  # without the progress bars of torchvision, which would fill a batch log
    except Exception as error:  # no network, permission or space, a wrong checksum: the advice is the same
        raise DataError(f"{what} is not in {place}, and downloading fails ({one_line(error)}). {advice}") from error
    finally:
        socket.setdefaulttimeout(timeout)


# ---- MNIST -----------------------------------------------------------------------------------------------------------


def _load_mnist(data_dir: Path, train: bool) -> tuple[Tensor, Tensor, list[str]]:
    raw = data_dir / "MNIST" / "raw"
    files = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        _download_mnist(data_dir, missing)
    image_file, label_file = files[:2] if train else files[2:]
    try:
        _check_idx(image_file, [28, 28])
        _check_idx(label_file, [])
        data = MNIST(str(data_dir), train=train)
    except OSError as error:
        raise DataError(f"MNIST in {raw} cannot be read ({one_line(error)}). Check the files' permissions") from error
    if len(data.data) != len(data.targets):
        raise _damaged(label_file, f"{len(data.targets):,} labels for {len(data.data):,} images")
    if data.targets.max() > 9:
        raise _damaged(label_file, f"a label is {int(data.targets.max())}")
    return data.data[:, None], data.targets, list(DIGITS)


def _check_idx(file: Path, image_shape: list[int]) -> None:
    """Raise DataError if the header or the length of an IDX file of bytes is wrong.

    Header: bytes 0, 0, 8 and the number of dimensions; then each dimension as a big-endian 32-bit integer.
    """
    n_dims = 1 + len(image_shape)
    with open(file, "rb") as stream:
        header = stream.read(4 + 4 * n_dims)
    if len(header) < 4 + 4 * n_dims or header[:4] != bytes([0, 0, 8, n_dims]):
        raise _damaged(file, "it does not begin like an MNIST file")
    n, *shape = struct.unpack(f">{n_dims}I", header[4:])
    size, expected = file.stat().st_size, len(header) + n * math.prod(shape)
    if n == 0 or shape != image_shape or size != expected:
        raise _damaged(file, f"{size:,} bytes, but its header announces {[n, *shape]}, so {expected:,}")


def _download_mnist(data_dir: Path, missing: list[Path]) -> None:
    """Let torchvision download, then move the missing files into place whole."""
    raw = missing[0].parent
    with _scratch_folder(data_dir, "MNIST", raw, _advice(raw)) as scratch:
        raw.mkdir(parents=True, exist_ok=True)
        scratch_raw = scratch / "MNIST" / "raw"
        scratch_raw.mkdir(parents=True)
        for packed in raw.glob("*-ubyte.gz"):  # put there by hand: torchvision then only unpacks them
            shutil.copy(packed, scratch_raw)
        MNIST(str(scratch), download=True)
        for file in missing:
            os.replace(scratch_raw / file.name, file)


def _damaged(file: Path, why: str) -> DataError:
    return DataError(f"{file} is damaged ({why}). Delete it. {_advice(file.parent)}")


def _advice(raw: Path) -> str:
    command = f"from torchvision.datasets import MNIST; MNIST('{raw.parent.parent}', download=True)"
    remedy = f'On a machine with network, such as a login node, run: python -c "{command}"; or copy the four *-ubyte'
    return f"{remedy} files to {raw}; or use --dataset rendered, which needs no download"


# ---- CIFAR -----------------------------------------------------------------------------------------------------------


def _load_cifar(source: type[CIFAR10], request: Request) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10 or CIFAR-100 (`source`) in whichever form is there: torchvision's own, or image files."""
    batches = request.data_dir / source.base_folder
    image_files = request.data_dir / source.__name__.lower()
    if not batches.is_dir():
        if (image_files / "train").is_dir():
            return load_folder(image_files, request.train, request.im_height, request.n_workers)
        _download_cifar(source, request.data_dir)
    try:
        # These files are pickles, and unpickling runs whatever a pickle says. torchvision first compares every file's
        # MD5 sum with the published one, and raises RuntimeError if one differs: that is what makes this safe.
        data = source(str(request.data_dir), train=request.train)
    except OSError as error:
        raise DataError(f"{batches} cannot be read ({one_line(error)}). Check the files' permissions") from error
    except RuntimeError as error:
        sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        bad = [file for file, md5 in sums if not check_integrity(str(batches / file), md5)]
        raise DataError(
            f"{batches} is damaged (missing, or not as published: {', '.join(bad) or one_line(error)}). Delete it. "
            + _cifar_advice(source, request.data_dir)
        ) from error
    images = data.data.transpose(0, 3, 1, 2)  # torchvision turned [N, 3, 32, 32] to channels last: this turns it back
    return torch.from_numpy(images), torch.tensor(data.targets), list(data.classes)


def _download_cifar(source: type[CIFAR10], data_dir: Path) -> None:
    """Let torchvision download and unpack, then move the folder into place whole."""
    batches = data_dir / source.base_folder
    with _scratch_folder(data_dir, source.__name__, batches, _cifar_advice(source, data_dir)) as scratch:
        if (data_dir / source.filename).is_file():  # put there by hand: torchvision then only unpacks it
            shutil.copy(data_dir / source.filename, scratch)
        source(str(scratch), download=True)
        try:
            os.rename(scratch / source.base_folder, batches)
        except OSError:
            if not batches.is_dir():  # if it is, another process was faster
                raise


def _cifar_advice(source: type[CIFAR10], data_dir: Path) -> str:
    name = source.__name__
    command = f"from torchvision.datasets import {name}; {name}('{data_dir}', download=True)"
    return (
        f'On a machine with network, such as a login node, run: python -c "{command}"; or copy {source.filename} to '
        f"{data_dir}; or put image files into {data_dir / name.lower()}/train/<class>/ and .../test/<class>/"
    )


# ---- All sources -----------------------------------------------------------------------------------------------------

# Each gives images uint8 [N, C, H, W], labels int64 [N] and class names. Only image files come in the size asked for;
# `load` resizes the others.
SOURCES: dict[str, Callable[[Request], tuple[Tensor, Tensor, list[str]]]] = {
    "mnist": lambda request: _load_mnist(request.data_dir, request.train),
    "rendered": lambda request: load_rendered(request.data_dir, request.train, request.seed),
    "cifar10": lambda request: _load_cifar(CIFAR10, request),
    "cifar100": lambda request: _load_cifar(CIFAR100, request),
    "afhq": lambda request: load_folder(request.data_dir / "afhq", request.train, request.im_height, request.n_workers),
    "folder": lambda request: load_folder(request.data_dir, request.train, request.im_height, request.n_workers),
}
