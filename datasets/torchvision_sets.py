"""The published data sets that torchvision knows: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

torchvision downloads and reads; this file looks first whether what is there is whole, tells what to do when it is not,
and sees to it that a broken download leaves nothing behind. Every reader gives images uint8 [N, C, H, W], labels
int64 [N] and class names, and raises DataError.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.console import DataError, one_line
from datasets.image_folder import load_folder

try:
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
    from torchvision.datasets.utils import check_integrity
except RuntimeError as error:  # such as "operator torchvision::nms does not exist"
    raise SystemExit(
        f"torch {torch.__version__} and torchvision are not of one build ({str(error).splitlines()[0]}): "
        "install both anew, by `pip install --force-reinstall torch torchvision`"
    ) from None

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "load_cifar", "load_mnist"]


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


# ---- MNIST and Fashion-MNIST, which comes in the same four files -------------------------------------------------------


def load_mnist(source: type[MNIST], data_dir: Path, train: bool) -> tuple[Tensor, Tensor, list[str]]:
    """MNIST or FashionMNIST (`source`) from its four files in <data_dir>/<name of the source>/raw."""
    name = source.__name__
    raw = data_dir / name / "raw"
    files = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        _download_mnist(source, data_dir, missing)
    image_file, label_file = files[:2] if train else files[2:]
    try:
        _check_idx(image_file, [28, 28])
        _check_idx(label_file, [])
        data = source(str(data_dir), train=train)
    except OSError as error:
        raise DataError(f"{name} in {raw} cannot be read ({one_line(error)}). Check the files' permissions") from error
    if len(data.data) != len(data.targets):
        raise _damaged(label_file, f"{len(data.targets):,} labels for {len(data.data):,} images")
    if data.targets.max() > 9:
        raise _damaged(label_file, f"a label is {int(data.targets.max())}")
    # torchvision calls the digits "0 - zero" and so on.
    class_names = [str(digit) for digit in range(10)] if source is MNIST else list(source.classes)
    return data.data[:, None], data.targets, class_names


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


def _download_mnist(source: type[MNIST], data_dir: Path, missing: list[Path]) -> None:
    """Let torchvision download, then move the missing files into place whole."""
    raw = missing[0].parent
    with _scratch_folder(data_dir, source.__name__, raw, _advice(raw)) as scratch:
        raw.mkdir(parents=True, exist_ok=True)
        scratch_raw = scratch / source.__name__ / "raw"
        scratch_raw.mkdir(parents=True)
        for packed in raw.glob("*-ubyte.gz"):  # put there by hand: torchvision then only unpacks them
            shutil.copy(packed, scratch_raw)
        source(str(scratch), download=True)
        for file in missing:
            os.replace(scratch_raw / file.name, file)


def _damaged(file: Path, why: str) -> DataError:
    return DataError(f"{file} is damaged ({why}). Delete it. {_advice(file.parent)}")


def _advice(raw: Path) -> str:
    name, data_dir = raw.parent.name, raw.parent.parent
    command = f"from torchvision.datasets import {name}; {name}('{data_dir}', download=True)"
    remedy = f'On a machine with network, such as a login node, run: python -c "{command}"; or copy the four *-ubyte'
    instead = "; or use --dataset rendered, which needs no download" if name == "MNIST" else ""
    return f"{remedy} files to {raw}{instead}"


# ---- CIFAR -----------------------------------------------------------------------------------------------------------


def lossy_copies(source: type[CIFAR10], data_dir: Path) -> bool:
    """Does `load_cifar` read JPEG files, and so no longer quite the published images?"""
    batches, image_files = _cifar_folders(source, data_dir)
    suffixes = (file.suffix.lower() for file in (image_files / "train").glob("*/*"))
    return not batches.is_dir() and any(suffix in (".jpg", ".jpeg") for suffix in suffixes)


def _cifar_folders(source: type[CIFAR10], data_dir: Path) -> tuple[Path, Path]:
    """Where torchvision's own form lies, which is taken if it is there, and where image files do."""
    return data_dir / source.base_folder, data_dir / source.__name__.lower()


def load_cifar(
    source: type[CIFAR10], data_dir: Path, train: bool, im_height: int, n_workers: int
) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10 or CIFAR-100 (`source`) in whichever form is there: torchvision's own, or image files.

    im_height, n_workers: see `load_folder`; torchvision's own images have 32 pixels each way.
    """
    batches, image_files = _cifar_folders(source, data_dir)
    if not batches.is_dir():
        if (image_files / "train").is_dir():
            return load_folder(image_files, train, im_height, n_workers)
        _download_cifar(source, data_dir)
    try:
        # These files are pickles, and unpickling runs whatever a pickle says. torchvision first compares every file's
        # MD5 sum with the published one, and raises RuntimeError if one differs: that is what makes this safe.
        data = source(str(data_dir), train=train)
    except OSError as error:
        raise DataError(f"{batches} cannot be read ({one_line(error)}). Check the files' permissions") from error
    except RuntimeError as error:
        sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        bad = [file for file, md5 in sums if not check_integrity(str(batches / file), md5)]
        raise DataError(
            f"{batches} is damaged (missing, or not as published: {', '.join(bad) or one_line(error)}). Delete it. "
            + _cifar_advice(source, data_dir)
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
