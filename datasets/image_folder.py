"""Folders of image files, decoded once into one uint8 array in a file.

    <root>/train/cat/0001.jpg ...      the sorted names of the folders are the classes
    <root>/test/cat/0001.jpg ...       the same classes; the folder may also be called "val", "valid" or "validation"

    images, labels, class_names = load_folder(Path("data/afhq"), train=True, size=64)

`datasets/image_files.py` says how a file becomes an image.

Order: files are sorted by a hash of "class/file name". That shuffles them, so that the first N images are a fair sample
of the classes. The order is the same on every machine, and other files that are added do not change it.

Without a test folder, the first 10 % of each class in that order are held out as the test split, but no more than 500
images altogether (and no fewer than one of each class that has two).

The cache is the file <root>/<split>_<size>px.npy, or, if <root> is read-only, one below ~/.cache/ddpm_images. It holds
the images, and after them a fingerprint of the classes and of the files' names, sizes and times; it is made again when
these change. The images are mapped, not read: processes of one machine share one copy in memory, and a set may be
larger than memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Callable, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from common.console import DataError, one_line
from common.files import atomic_write
from datasets.image_files import decode

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
UNREAD = {".avif", ".heic", ".heif", ".jp2", ".psd", ".svg", ".tga"}  # pictures too, but not for Pillow alone
TEST_FOLDERS = ("test", "val", "valid", "validation")
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 500  # one in 10, at most 500
BAD_SHARE = 100  # more than one damaged file in 100 stops the run
LEFT_OUT = " cannot be decoded and is left out"
CHUNK = 1024  # files that are decoded before their images are written
VERSION = 5  # part of the fingerprint: raise it when decoding, the order, or what the cache holds changes
# Error numbers of an OSError that is the fault of the file: None (Pillow); a link to nowhere, or to itself; a damaged
# file that points to before its beginning. Others (a permission, a disk or a network that fails) may pass.
FILE_FAULTS = {None, errno.ENOENT, errno.ELOOP, errno.EINVAL}


class ImageFile(NamedTuple):
    """A file of a split. Sorting these gives the order of the split."""

    order: str  # hash of `name`
    name: str  # "class/file name"
    label: int
    state: tuple[int, int, int]  # bytes, mtime, ctime (ns). `cp -p` and tar set mtime back; nobody can set ctime back


class Decoded(NamedTuple):
    """What the cache holds: a split without the files that cannot be decoded."""

    images: np.ndarray  # uint8 [N, 3, size, size]
    labels: np.ndarray  # int64 [N]
    left_out: np.ndarray  # str [number of files left out], each "class/file name" and why


Listing = Callable[[Path, bool], Tuple[Path, List[str], List[ImageFile]]]


def load_folder(root: Path, train: bool, size: int, n_workers: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """One split of the images below `root`: uint8 [N, 3, size, size], labels int64 [N], class names. See `load_files`."""
    return load_files(root, train, size, n_workers)[:3]


def load_files(
    root: Path, train: bool, size: int, n_workers: int = 0, listing: Listing | None = None
) -> tuple[Tensor, Tensor, list[str], list[Path]]:
    """As `load_folder`, and the file of each image.

    n_workers: threads that decode; 0 is the same as 1. listing: says what belongs to a split (`list_split`).
    A damaged file is named on stderr and left out. Raises DataError if more than 1 % of the files are damaged, if one
    cannot be read at all, and if the folders are not as they should be.
    """
    folder, class_names, files = (listing or list_split)(root, train)
    # The files alone are not enough: a class without a test image also counts in the labels of the test split. No
    # absolute path is in it, so that the folder can be moved.
    fingerprint = hashlib.sha256(json.dumps([VERSION, size, class_names, files]).encode()).hexdigest()
    split = "train" if train else "test"
    cache = cache_file(root, f"{split}_{size}px.npy")
    decoded = _read_cache(cache, fingerprint)
    if decoded is None:
        kinds = ", ".join(sorted({Path(file.name).suffix.lower() for file in files}))
        print(f"decoding {len(files):,} {split} images ({kinds}) in {folder} to {cache} ...", flush=True)
        decoded = _write_cache(cache, folder, files, size, max(1, n_workers), fingerprint)
    for line in decoded.left_out:
        print(os.path.join(folder, line), file=sys.stderr, flush=True)
    left_out = {line.partition(LEFT_OUT)[0] for line in decoded.left_out}
    paths = [folder / file.name for file in files if file.name not in left_out]
    return torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels), class_names, paths


def list_split(root: Path, train: bool) -> tuple[Path, list[str], list[ImageFile]]:
    """The folder of a split, the class names, and the files of the split in their final order."""
    folder = root / "train"
    class_names = class_folders(folder)
    test_folder = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test_folder and not train:
        folder = test_folder
        odd = sorted(set(class_folders(folder)) ^ set(class_names))
        if odd:
            raise DataError(f"{folder} and {root / 'train'} must hold the same classes, but only one has {odd[0]!r}")
    classes = [_class_files(folder, name, label) for label, name in enumerate(class_names)]
    if not test_folder:
        most = HELD_OUT_MOST // len(classes)
        n_test = [min(max(1, min(len(files) // HELD_OUT_SHARE, most)), len(files) // 2) for files in classes]
        classes = [files[n:] if train else files[:n] for files, n in zip(classes, n_test)]
    files = sorted(itertools.chain(*classes))
    if not files:
        raise DataError(f"{folder} has too few images to hold some out: add images, or a folder {root / 'test'}")
    return folder, class_names, files


def class_folders(folder: Path) -> list[str]:
    """The names of the classes: the sorted names of the folders in it."""
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "__MACOSX")))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder} is not there: put images into {folder}/<class>/, or tell another folder with --data_dir"
        ) from None
    if not names:
        raise DataError(f"{folder} holds no class folders: put images into {folder}/<class>/, even if it is one class")
    return names


def _class_files(folder: Path, class_name: str, label: int) -> list[ImageFile]:
    """The image files of one class, in order. Hidden files and other suffixes (Thumbs.db, notes.txt) do not count."""
    files, unread = [], []
    for entry in os.scandir(folder / class_name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in UNREAD and not entry.name.startswith("."):
            unread.append(entry.name)
        if entry.name.startswith(".") or suffix not in SUFFIXES or entry.is_dir():
            continue
        name = f"{class_name}/{entry.name}"
        try:
            stat = entry.stat()
            state = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        except OSError:  # such as a link to nowhere: decoding will fail, and say so
            state = 0, 0, 0
        files.append(ImageFile(hashlib.sha256(os.fsencode(name)).hexdigest(), name, label, state))
    if unread:
        left_out = f"{len(unread):,} pictures of other kinds are left out, such as {min(unread)}"
        print(f"{folder / class_name}: {left_out} (convert them to PNG or JPEG)", file=sys.stderr, flush=True)
    if not files:
        raise DataError(f"{folder / class_name} holds no images ({' '.join(sorted(SUFFIXES))}): add some or remove it")
    return sorted(files)


def _decode_files(
    folder: Path, files: list[ImageFile], size: int, n_threads: int, fingerprint: str, out: IO[bytes]
) -> None:
    """Decode files and write what `_read` reads."""
    stopped = threading.Event()

    def decoded(file: ImageFile) -> np.ndarray | str:
        """The image, uint8 [3, size, size], or what is wrong with the file."""
        path = os.path.join(folder, file.name)
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                return "is no plain file"  # opening a pipe would wait for ever
            return "stopped" if stopped.is_set() else decode(path, size, size)
        except MemoryError:
            raise
        except Exception as error:
            # Not the fault of the file: if it were left out, it would be missing for as long as the cache lasts.
            if isinstance(error, OSError) and error.errno not in FILE_FAULTS:
                raise DataError(f"{path} cannot be read ({error.strerror}): make it readable, or remove it") from error
            return one_line(error)

    labels, bad = [], []
    begin = out.tell()
    _write_header(out, len(files), size)
    # Threads suffice, because Pillow's decoding and resizing run without Python's lock.
    with warnings.catch_warnings(), ThreadPoolExecutor(n_threads) as pool:
        warnings.simplefilter("ignore")  # about metadata, which users of the images cannot change
        try:
            for start in range(0, len(files), CHUNK):
                part = files[start : start + CHUNK]
                for file, result in zip(part, pool.map(decoded, part)):
                    if isinstance(result, str):
                        bad.append(f"{file.name}{LEFT_OUT} ({result})")
                    else:
                        out.write(result.tobytes())
                        labels.append(file.label)
        except BaseException:  # also Ctrl-C: the threads then only finish the files that they have begun
            stopped.set()
            raise
    if len(bad) * BAD_SHARE > len(files):
        raise DataError(
            f"{len(bad):,} of {len(files):,} files in {folder} are damaged: repair or remove them. {bad[0]}"
        )
    for array in (np.array(fingerprint), np.array(labels, np.int64), np.array(bad, str)):
        np.save(out, array)
    out.seek(begin)
    _write_header(out, len(labels), size)  # of the same length: numpy pads it to a multiple of 64 bytes


def _write_header(out: IO[bytes], n: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)}
    np.lib.format.write_array_header_1_0(out, header)


def cache_file(root: Path, name: str) -> Path:
    """Beside the images, or in the user's own cache if that folder is read-only."""
    if os.access(root, os.W_OK):
        return root / name
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "ddpm_images", hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16], name)


def _read_cache(cache: Path, fingerprint: str) -> Decoded | None:
    """What the cache holds, or None if it is not there, does not fit, or is damaged."""
    try:
        # "c": copy on write, since torch wants arrays that could be written to.
        images = np.load(cache, mmap_mode="c", allow_pickle=False)
        with open(cache, "rb") as file:
            file.seek(images.offset + images.nbytes)
            there, labels, left_out = (np.load(file, allow_pickle=False) for _ in range(3))
        if str(there) == fingerprint:
            return Decoded(images, labels, left_out)
    except FileNotFoundError:
        pass
    except MemoryError:
        raise
    except Exception as error:
        print(f"{cache} is damaged ({one_line(error)}): decoding again", flush=True)
    return None


def _write_cache(
    cache: Path, folder: Path, files: list[ImageFile], size: int, n_threads: int, fingerprint: str
) -> Decoded:
    """Decode files to the cache. Two processes may do so at once: each replaces the file as a whole."""
    work = (folder, files, size, n_threads, fingerprint)
    try:
        with atomic_write(cache) as temporary, open(temporary, "wb") as out:
            _decode_files(*work, out)
        with contextlib.suppress(OSError):
            cache.with_suffix(".npz").unlink()  # of earlier versions
        written = _read_cache(cache, fingerprint)
        if written is not None:
            return written
        reason = "another process has changed it"
    except OSError as error:
        reason = one_line(error)
    print(f"{cache} cannot be written ({reason}): the images are decoded into memory, at every start", flush=True)
    memory = io.BytesIO()
    _decode_files(*work, memory)
    memory.seek(0)
    images, _, labels, left_out = (np.load(memory, allow_pickle=False) for _ in range(4))
    return Decoded(images, labels, left_out)
