"""Generated images as .npz files: `export` draws images and writes such a file, `read_npz` reads one.

The layout is the one that tools for the FID read: arr_0 uint8 [N, H, W, 3]; arr_1 int64 [N], the classes (-1: no class).
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.console import CallError, Progress, RunError, one_line
from common.files import atomic_write, free_names, try_lock, write_json
from datasets.image_set import to_uint8
from ddpm import DDPM
from training.seeds import EXPORT, seed_for

PARTS = "samples_npz_parts"  # a folder with the images that an unfinished export has drawn
SETTINGS = "settings.json"  # in that folder, and in the finished .npz: what the images were drawn with
SIDES = range(8, 513)  # heights in pixels that `read_npz` accepts: real images are resized to the height of the file


def export(out: Path, ddpm: DDPM, settings: dict[str, Any]) -> list[Path]:
    """Draw images and write them to out/samples.npz, or samples_2.npz, ...: a list with this path, or an empty one.

    settings: n_images, batch_size, classes (indices, taken in turn; empty: no class), g_weight, seed; the others are only
    stored and compared. Each batch has a random generator of its own and is saved in a part, a file. After an
    interruption the same call draws only the missing parts, and writes the same file. It draws nothing if `out` has a
    complete file with the same settings. CallError if `out` has parts with other settings. RunError if another process
    exports to `out`, or if the disk is too small.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = try_lock(out / "samples.log")  # a file that stays: if it were removed, two processes could hold a lock
    if lock is None:
        raise RunError(f"another process is exporting into {out}: wait for it, or choose another --out")
    folder, paths = out / PARTS, []
    with lock:
        _check_settings(folder, settings)
        there = _finished(out, settings)
        if there:
            print(f"{there} is there, complete: the same command has made it (another --seed draws others)", flush=True)
        else:
            joined = folder / "samples.npz"
            write_npz(joined, *draw_parts(folder, ddpm, settings), settings)
            with free_names(out, "samples", (".npz",)) as paths:
                joined.replace(paths[0])
        shutil.rmtree(folder, ignore_errors=True)
    return paths


def draw_parts(folder: Path, ddpm: DDPM, settings: dict[str, Any]) -> tuple[list[Path], Tensor]:
    """Draw the parts that are not in `folder` yet. Returns the files of all parts, and all labels, int64 [N]."""
    n, (_, height, width) = settings["n_images"], ddpm.sample_size()
    needed = 2 * n * height * width * 3 - sum(part.stat().st_size for part in folder.glob("part_*.npy"))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise RunError(
            f"the export needs {needed / 1e9:,.1f} GB more, but {folder.parent} has {free / 1e9:,.1f} GB "
            "free: ask for fewer images, or choose another --out"
        )
    write_json(folder / SETTINGS, settings)
    for leftover in folder.glob(".*"):  # unfinished files of a process that was killed
        leftover.unlink()
    classes = settings["classes"] or [-1]
    labels = torch.tensor(classes)[torch.arange(n) % len(classes)]
    batches = labels.split(settings["batch_size"])
    files = [folder / f"part_{k:05d}.npy" for k in range(len(batches))]
    done = [len(c) for file, c in zip(files, batches) if file.exists()]
    print(
        f"{n:,} images in {len(files):,} parts, of which {len(done):,} are there; "
        "after an interruption the same command goes on with the rest",
        flush=True,
    )
    with Progress(n, done=sum(done)) as progress:
        for k, (file, c) in enumerate(zip(files, batches)):
            if file.exists():
                continue

            def after_step(t: int, share: float = len(c) / ddpm.n_timesteps) -> None:
                progress.advance(share)

            y, _ = ddpm.sample(
                n_sample=1 if settings["classes"] else len(c),
                n_classes=getattr(ddpm.nn_model, "n_classes", None),
                g_weight=settings["g_weight"],
                classes=c.tolist() if settings["classes"] else None,
                generator=torch.Generator(ddpm.device).manual_seed(seed_for(settings["seed"], EXPORT, k)),
                record=False,
                progress=after_step,
            )
            pixels = to_uint8(y).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)  # the tools read RGB, so grey is repeated
            with atomic_write(file) as temporary:
                np.save(temporary, pixels.cpu().numpy())
    return files, labels


def write_npz(path: Path, files: list[Path], labels: Tensor, settings: dict[str, Any]) -> None:
    """Join parts, uint8 [B, H, W, 3], labels, int64 [N], and settings, as JSON text, with one part at a time in memory."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            for file in files:
                try:
                    pixels = np.load(file)
                except (ValueError, EOFError):
                    raise RunError(f"{file} is damaged: delete it, and give the same command again") from None
                if file == files[0]:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *pixels.shape[1:])}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(pixels.tobytes())
        with archive.open("arr_1.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, labels.numpy())
        with archive.open(SETTINGS, "w") as member:
            member.write(json.dumps(settings, indent=2).encode())


def _finished(out: Path, settings: dict[str, Any]) -> Path | None:
    """A complete file in `out` with these settings."""
    for file in sorted(out.glob("samples*.npz")):
        try:
            with zipfile.ZipFile(file) as archive:
                if json.loads(archive.read(SETTINGS)) == settings and archive.testzip() is None:
                    return file
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
            continue  # damaged, or written by another program
    return None


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """CallError if `folder` has parts that were drawn with other settings."""
    if not any(folder.glob("part_*.npy")):
        return
    try:
        before = dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        differing = [f"{k} was {before.get(k)}, is {value}" for k, value in settings.items() if before.get(k) != value]
    except (OSError, ValueError, TypeError):
        differing = [f"{SETTINGS} is missing or damaged"]
    if differing:
        raise CallError(
            f"{folder} holds parts of another export ({'; '.join(differing)}): finish that one, remove "
            f"{folder}, or choose another --out"
        )


def read_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """Read images, uint8 [N, 3, H, H], and labels, int64 [N]; None if there are no labels, or if all are -1.

    The file must hold arr_0, uint8 [N, H, H, 3], and may hold arr_1, integers [N]. It need not be trusted: nothing in it
    is executed, and no array is larger than the file. RunError if it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    labels = None
    try:
        with zipfile.ZipFile(path) as archive:
            pixels = _read_array(archive, "arr_0.npy", path.stat().st_size)
            if "arr_1.npy" in archive.namelist():
                labels = _read_array(archive, "arr_1.npy", path.stat().st_size)
    except Exception as error:  # a damaged or hostile file can cause any exception
        raise RunError(f"{path} is damaged, or no .npz of images ({one_line(error)})") from None
    n, height, width, channels = pixels.shape if pixels.ndim == 4 else (0, 0, 0, 0)
    if pixels.dtype != np.uint8 or n < 1 or height != width or channels != 3 or height not in SIDES:
        raise RunError(
            f"{path} holds no images: arr_0 must be uint8 [N, H, H, 3] with H from {SIDES[0]} to {SIDES[-1]}, "
            f"not {pixels.dtype} {list(pixels.shape)}"
        )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if labels is None:
        return images, None
    fits = labels.shape == (n,) and labels.dtype.kind in "iu"
    if not fits or not ((labels == -1).all() or (labels.min() >= 0 and labels.max() < 2**31)):
        raise RunError(f"{path}: arr_1 must be {n} whole numbers, classes from 0 on or -1 throughout")
    return images, None if labels[0] == -1 else torch.from_numpy(labels.astype(np.int64))


def _read_array(archive: zipfile.ZipFile, name: str, n_bytes: int) -> np.ndarray:
    """One array of the archive. Raises an exception unless its size is what its header says, and at most n_bytes."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:  # a few compressed bytes can stand for gigabytes
        raise ValueError(f"{name} is compressed; np.savez does not compress")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is not of version 1.0 of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size or member.file_size > n_bytes:
            raise ValueError(f"{name} has another length than its header says")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
