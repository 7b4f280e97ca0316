"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: downloaded by torchvision, checked before use.

Each reader returns images uint8 [N, C, H, W], labels int64 [N] and class names. It raises DataError, in one line that
says what to do, when files are missing or damaged.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.console import DataError, one_line
from common.machine import as_command, this_python
from datasets.image_folder import load_folder

try:
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
    from torchvision.datasets.utils import check_integrity
except RuntimeError as error:  # such as "operator torchvision::nms does not exist"
    raise SystemExit(
        f"torch {torch.__version__} and torchvision do not fit together ({one_line(error)}): "
        "install both again with `pip install --force-reinstall torch torchvision`"
    ) from None

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "load_cifar", "load_mnist", "lossy_copies"]

MOST_IMAGES = 1_000_000  # in a file of MNIST's kind


@contextlib.contextmanager
def _advice(problem: str, source: type[MNIST] | type[CIFAR10], data_dir: Path) -> Iterator[None]:
    """Turn any failure in the block into a DataError: the problem, the reason, and how to get the data.

    `run_script` has better advice for a lack of memory, so a MemoryError passes.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        name, copy = source.__name__, f"copy the four *-ubyte files to {data_dir / source.__name__ / 'raw'}"
        if issubclass(source, CIFAR10):
            folders = f"{data_dir / name.lower()}/train/<class>/ and .../test/<class>/"
            copy = f"copy {source.filename} to {data_dir}; or put image files into {folders}"
        rendered = "; or use --dataset rendered, which needs no download" if source is MNIST else ""
        code = f"from torchvision.datasets import {name}; {name}({str(data_dir)!r}, download=True)"
        raise DataError(
            f"{problem} ({one_line(error)}). On a machine with network, such as a login node, run: "
            f"{as_command([this_python(), '-c', code])}; or {copy}{rendered}"
        ) from error


def _download(source: type[MNIST] | type[CIFAR10], data_dir: Path, archives: list[Path], targets: list[Path]) -> None:
    """Let torchvision download and unpack in a scratch folder, then move `targets` from there into data_dir.

    archives: those of the files that the user has already put into data_dir; torchvision then only unpacks them.
    An interrupted download leaves nothing behind that a later run, or another process, could take for the data.
    """
    print(f"{source.__name__} is not in {targets[0].parent}: downloading it ...", flush=True)
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(20)  # seconds; without it, a compute node without network waits for minutes
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as name:
            scratch = Path(name)
            for archive in archives:
                copy = scratch / archive.relative_to(data_dir)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(archive, copy)
            # Progress bars would fill a batch log.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                source(str(scratch), download=True)
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.replace(scratch / target.relative_to(data_dir), target)
                except OSError:
                    if not target.is_dir():  # if it is, another process was faster
                        raise
    finally:
        socket.setdefaulttimeout(timeout)


# SHA-256 of the labels of Fashion-MNIST, whose files have the names of MNIST's.
CLOTHES = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def load_mnist(source: type[MNIST], data_dir: Path, train: bool) -> tuple[Tensor, Tensor, list[str]]:
    """MNIST or FashionMNIST (`source`) from its four files in <data_dir>/<name of the source>/raw.

    A file may also be packed (.gz), and have the name that some archives give it (train-images.idx3-ubyte).
    """
    raw = data_dir / source.__name__ / "raw"
    files = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [file for file in files if _as_people_have_it(file) is None]
    if missing:
        with _advice(f"{source.__name__} is not in {raw}, and the download failed", source, data_dir):
            _download(source, data_dir, list(raw.glob("*-ubyte.gz")), missing)
    image_file, label_file = (_as_people_have_it(file) or file for file in (files[:2] if train else files[2:]))
    with _advice(f"{raw} cannot be read: delete what is damaged", source, data_dir):
        images, labels = _read_idx(image_file, (28, 28)), _read_idx(label_file, ())
        if len(labels) != len(images):
            raise ValueError(f"{label_file.name} has {len(labels):,} labels for {len(images):,} images")
        if labels.max() > 9:
            raise ValueError(f"{label_file.name} has a label {labels.max()}")
    if source is MNIST and hashlib.sha256(labels.numpy().tobytes()).hexdigest() in CLOTHES:
        print(f"{raw} holds the files of Fashion-MNIST, not of MNIST: they show clothes, no digits", flush=True)
    # torchvision calls the digits "0 - zero" and so on.
    class_names = [str(digit) for digit in range(10)] if source is MNIST else list(source.classes)
    return images[:, None], labels.long(), class_names


def _as_people_have_it(file: Path) -> Path | None:
    """This file, or the same under another name that it goes by; None if there is none."""
    names = [file.name, file.name.replace("-idx", ".idx")]
    found = [file.with_name(f"{name}{packed}") for packed in ("", ".gz") for name in names]
    # Some unpackers make a folder for each file.
    found += [file.with_name(folder) / name for folder in names for name in names]
    return next((path for path in found if path.is_file()), None)


def _read_idx(file: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file of bytes as uint8 [N, *shape]. ValueError if it is damaged; torchvision overlooks some damages.

    Header: bytes 0, 0, 8 and the number of dimensions; then each dimension as a big-endian 32-bit integer.
    """
    start, most = 4 + 4 * (1 + len(shape)), MOST_IMAGES * math.prod(shape)
    with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
        content = np.frombuffer(stream.read(start + most + 1), np.uint8)  # a packed file can unpack to any size
    n = max(0, len(content) - start) // math.prod(shape)
    header = bytes([0, 0, 8, 1 + len(shape)]) + struct.pack(f">{1 + len(shape)}I", n, *shape)
    if n == 0 or content[:start].tobytes() != header or len(content) != start + n * math.prod(shape):
        raise ValueError(f"{file.name} is damaged: its header does not fit its length, {len(content):,} bytes")
    return torch.from_numpy(content[start:].copy()).view(n, *shape)


def load_cifar(
    source: type[CIFAR10], data_dir: Path, train: bool, im_height: int, n_workers: int
) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10 or CIFAR-100 (`source`) in whichever form is there: torchvision's own, or image files.

    im_height, n_workers: see `load_folder`; torchvision's own images are 32 x 32.
    """
    batches, image_files = data_dir / source.base_folder, data_dir / source.__name__.lower()
    if not batches.is_dir():
        if (image_files / "train").is_dir():
            return load_folder(image_files, train, im_height, n_workers)
        with _advice(f"{source.__name__} is not in {batches}, and the download failed", source, data_dir):
            _download(source, data_dir, list(data_dir.glob(source.filename)), [batches])
    with _advice(f"{batches} cannot be read: delete it if it is damaged", source, data_dir):
        published = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        bad = [file for file, md5 in published if not check_integrity(str(batches / file), md5)]
        if bad:
            raise ValueError(f"missing, or not as published: {', '.join(bad)}")
        # These files are pickles, and a pickle can run any code when it is read. torchvision reads one only if its MD5
        # sum is the published one.
        data = source(str(data_dir), train=train)
    images = data.data.transpose(0, 3, 1, 2)  # torchvision turned [N, 3, 32, 32] to channels last: this turns it back
    return torch.from_numpy(images), torch.tensor(data.targets), list(data.classes)


def lossy_copies(source: type[CIFAR10], data_dir: Path) -> bool:
    """Does `load_cifar` read JPEG files, which differ a little from the published images?"""
    image_files = (data_dir / source.__name__.lower() / "train").glob("*/*")
    return not (data_dir / source.base_folder).is_dir() and any(
        file.suffix.lower() in (".jpg", ".jpeg") for file in image_files
    )
