"""Folders of image files, decoded once into one uint8 array and cached.

    <root>/train/cat/0001.jpg ...      the folders' sorted names are the classes
    <root>/test/cat/0001.jpg ...       the same classes; "val" instead of "test" will do

    images, labels, class_names = load_folder(Path("data/afhq"), train=True, size=64)

What becomes of a file: see `datasets/image_files.py`.

Order: files are sorted by a hash of "class/file name". That shuffles them, so that the first N images are a fair sample
of the classes, and it is the same order on every machine, whatever other files are added.

Without a test folder, the first 10 % of each class in that order are held out as the test split, but no more than 500
images altogether (and no fewer than one of each class that has two).

The cache is a file <root>/<split>_<size>px.npz, or, where that cannot be written, one below ~/.cache/ddpm_images. It
holds a fingerprint of the classes and of the files' names, sizes and times, and is made again when they change.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.console import DataError, one_line
from common.files import atomic_write
from datasets.image_files import decode

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
TEST_FOLDERS = ["test", "val"]
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 500  # one in 10, at most 500
BAD_SHARE = 100  # more than one undecodable file in 100 is no accident
CHUNK = 64  # files per task: few enough that Ctrl-C need not wait long for the tasks under way
VERSION = 3  # part of the fingerprint: raise it when decoding, the order, or what the cache holds changes
# The numbers of an OSError that are the fault of the file: None (Pillow); a link to nowhere, or to itself; a damaged
# file that points to before its beginning. Others (a permission, a disk or a network that fails) may pass.
OWN_FAULTS = {None, errno.ENOENT, errno.ELOOP, errno.EINVAL}


class ImageFile(NamedTuple):
    """A file of a split. Sorting these gives the order of the split."""

    order: str  # hash of `name`
    name: str  # "class/file name"
    label: int
    size: int  # bytes
    time: int  # of the last change of the content, nanoseconds; tar and `cp -p` set it back
    changed: int  # of the last change of anything, `time` included, which nobody sets back (Windows: of its creation)


class Decoded(NamedTuple):
    """A split without the files that cannot be decoded: all that the cache holds, but for the fingerprint."""

    images: np.ndarray  # uint8 [N, 3, size, size]
    labels: np.ndarray  # int64 [N]
    left_out: np.ndarray  # str [number of files left out], each "class/file name" and why


def load_folder(root: Path, train: bool, size: int, n_workers: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """One split of the images below `root`: uint8 [N, 3, size, size], labels int64 [N], class names.

    n_workers: processes that decode; 0 decodes in this one.
    A file that cannot be decoded is named on stderr and left out. Raises DataError if that happens to more than 1 % of
    the files, if one cannot be read at all, and if the folders are not as they should be.
    """
    folder, class_names, files = list_split(root, train)
    split = "train" if train else "test"
    fingerprint = _fingerprint(class_names, files, size)
    caches = _cache_files(root, f"{split}_{size}px.npz")
    decoded = _read_cache(caches, fingerprint, size)
    if decoded is None:
        processes = f" with {n_workers} processes" if n_workers else ""
        print(f"decoding {len(files):,} {split} images in {folder}{processes} ...", flush=True)
        decoded = _decode_split(folder, files, size, n_workers)
        _write_cache(caches, fingerprint=np.array(fingerprint), **decoded._asdict())
    for line in decoded.left_out:
        print(os.path.join(folder, line), file=sys.stderr, flush=True)
    return torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels), class_names


# ---- Which files -----------------------------------------------------------------------------------------------------


def list_split(root: Path, train: bool) -> tuple[Path, list[str], list[ImageFile]]:
    """The folder that a split lies in, the class names, and the split's files in their final order."""
    folder = root / "train"
    class_names = _class_folders(folder)
    test_folder = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test_folder and not train:
        folder = test_folder
        odd = sorted(set(_class_folders(folder)) ^ set(class_names))
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


def _class_folders(folder: Path) -> list[str]:
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} is not there: put images into {folder}/<class>/") from None
    if not names:
        raise DataError(f"{folder} holds no class folders: put images into {folder}/<class>/, even if it is one class")
    return names


def _class_files(folder: Path, class_name: str, label: int) -> list[ImageFile]:
    """The image files of one class, in order. Hidden files and other suffixes (Thumbs.db, notes.txt) do not count."""
    files = []
    for entry in os.scandir(folder / class_name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or suffix not in SUFFIXES or entry.is_dir():
            continue
        name = f"{class_name}/{entry.name}"
        try:
            stat = entry.stat()
            state = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        except OSError:  # such as a link to nowhere: decoding will fail, and say so
            state = 0, 0, 0
        files.append(ImageFile(hashlib.sha256(os.fsencode(name)).hexdigest(), name, label, *state))
    if not files:
        raise DataError(f"{folder / class_name} holds no images ({' '.join(sorted(SUFFIXES))}): add some or remove it")
    return sorted(files)


# ---- From a file to pixels -------------------------------------------------------------------------------------------


def _decode_files(files: list[str], size: int) -> tuple[np.ndarray, list[str | None]]:
    """uint8 [n, 3, size, size] of those that can be decoded, and for each file None or why it cannot.

    What is no fault of the file stops the run: left out, the file would be missing for as long as the cache lasts.
    """
    images, faults = np.empty((len(files), 3, size, size), np.uint8), []
    for file in files:
        try:
            images[faults.count(None)] = decode(file, size, size)
            faults.append(None)
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in OWN_FAULTS:
                raise DataError(f"{file} cannot be read ({error.strerror}): make it readable, or remove it") from error
            faults.append(one_line(error))
    return images[: faults.count(None)], faults


def _decode_split(folder: Path, files: list[ImageFile], size: int, n_workers: int) -> Decoded:
    images, faults = np.empty((len(files), 3, size, size), np.uint8), []
    paths = [os.path.join(folder, file.name) for file in files]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    n = 0
    with contextlib.closing(_decode_chunks(chunks, size, n_workers)) as results:
        for decoded, chunk_faults in results:
            images[n : n + len(decoded)] = decoded
            n += len(decoded)
            faults += chunk_faults
    bad = [(file.name, fault) for file, fault in zip(files, faults) if fault]
    if len(bad) * BAD_SHARE > len(files):
        (name, fault), n_bad = bad[0], f"{len(bad):,} of {len(files):,}"
        raise DataError(f"{n_bad} files in {folder} cannot be decoded, such as {name} ({fault}). Repair or remove them")
    labels = [file.label for file, fault in zip(files, faults) if not fault]
    left_out = [f"{name} cannot be decoded and is left out ({fault})" for name, fault in bad]
    return Decoded(images[:n], np.array(labels, np.int64), np.array(left_out, str))


# ---- Several processes -----------------------------------------------------------------------------------------------


def _decode_chunks(chunks: list[list[str]], size: int, n_workers: int) -> Iterator[tuple[np.ndarray, list[str | None]]]:
    """`_decode_files` of every chunk, in order. Closing the iterator ends the processes."""
    if n_workers == 0:
        yield from (_decode_files(chunk, size) for chunk in chunks)
        return
    with ProcessPoolExecutor(min(n_workers, len(chunks)), initializer=_start_worker) as pool:
        futures = collections.deque(pool.submit(_decode_files, chunk, size) for chunk in chunks)
        try:
            while futures:
                yield futures.popleft().result()  # out of the queue, so that decoded images are not kept there
        except BrokenProcessPool as error:
            raise DataError("a process that decodes images died, maybe of memory: take fewer --n_workers") from error
        finally:
            for future in futures:
                future.cancel()


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


# ---- The cache -------------------------------------------------------------------------------------------------------


def _fingerprint(class_names: list[str], files: list[ImageFile], size: int) -> str:
    """A hash of all that decides what the cache holds. No absolute path is in it: a folder may be moved.

    The files alone do not tell: a class of one image has none in the test split, and yet counts in the others' labels.
    """
    return hashlib.sha256(json.dumps([VERSION, size, class_names, files]).encode()).hexdigest()


def _cache_files(root: Path, name: str) -> list[Path]:
    """Where the cache may be: beside the images, or in the user's own cache where that cannot be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ddpm_images")
    folder = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return [root / name, home / folder / name]


def _read_cache(caches: list[Path], fingerprint: str, size: int) -> Decoded | None:
    """What the first cache that fits holds, or None."""
    for cache in caches:
        if not os.path.isfile(cache):
            continue
        try:
            with np.load(cache, allow_pickle=False) as archive:  # has checksums: a changed byte is an error
                if str(archive["fingerprint"]) != fingerprint:
                    continue
                images, labels, left_out = (archive[name] for name in Decoded._fields)
            if images.shape != (len(labels), 3, size, size) or images.dtype != np.uint8 or labels.dtype != np.int64:
                raise ValueError("it does not hold what it should")
            return Decoded(images, labels, left_out)
        except Exception as error:
            print(f"{cache} is damaged ({one_line(error)}): decoding again", flush=True)
    return None


def _write_cache(caches: list[Path], **arrays: np.ndarray) -> None:
    """Write to the first place that takes it. Two processes may do so at once: each replaces the file whole."""
    for place, cache in enumerate(caches):
        try:
            with atomic_write(cache) as temporary:
                np.savez(temporary, **arrays)
        except OSError as error:
            fault = one_line(error)
            continue
        if place > 0:
            print(f"{caches[0].parent} cannot be written: the decoded images are kept in {cache}", flush=True)
        return
    print(f"{caches[-1]} cannot be written ({fault}): the images are decoded anew next time", flush=True)
