"""Reading generated images from an .npz, as `sample.py --npz` writes it. The file may come from anywhere."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cli import RunError
from data_error import one_line

SIDES = range(8, 513)  # pixels; the real images are resized to that, and far more of them than the file holds


def read_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """Images uint8 [N, 3, H, H] and labels int64 [N] on the CPU; None if there are no labels, or if they are all -1.

    arr_0: uint8 [N, H, H, 3]. arr_1, which may be missing: whole numbers [N]. RunError in one line if the file is
    missing, damaged, or holds anything else; nothing in it is executed, and no array is larger than the file.
    """
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    labels = None
    try:
        with zipfile.ZipFile(path) as archive:
            images = _read_array(archive, "arr_0.npy", path.stat().st_size)
            if "arr_1.npy" in archive.namelist():
                labels = _read_array(archive, "arr_1.npy", path.stat().st_size)
    except Exception as error:  # a damaged or hostile file can make the readers raise anything
        raise RunError(f"{os.fspath(path)} is damaged, or no .npz of images ({one_line(error)})") from None
    n, height, width, channels = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if images.dtype != np.uint8 or n < 1 or height != width or channels != 3 or height not in SIDES:
        wanted = f"uint8 [N, H, H, 3] with H from {SIDES[0]} to {SIDES[-1]}"
        raise RunError(f"{path} holds no images: arr_0 must be {wanted}, not {images.dtype} {list(images.shape)}")
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return images, None if labels is None else _checked_labels(labels, n, path)


def _read_array(archive: zipfile.ZipFile, name: str, n_bytes: int) -> np.ndarray:
    """One array of the archive. Raises unless it is as large as its header says, and no larger than the whole file."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:  # a few bytes can stand for any number of them
        raise ValueError(f"{name} is compressed; np.savez writes it plainly")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is not of version 1.0 of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size or member.file_size > n_bytes:
            raise ValueError(f"{name} has not the length that its header announces")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _checked_labels(labels: np.ndarray, n: int, path: Path) -> Tensor | None:
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise RunError(f"{path}: arr_1 must be {n} whole numbers, not {labels.dtype} {list(labels.shape)}")
    if (labels == -1).all():
        return None
    if labels.min() < 0 or labels.max() >= 2**31:
        raise RunError(f"{path}: arr_1 holds labels from {labels.min()} to {labels.max()}; classes count from 0")
    return torch.from_numpy(labels.astype(np.int64))
