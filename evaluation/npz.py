"""Generated images as .npz files: `export` draws images and writes such a file, `read_npz` reads one.

Tools that measure the FID read this layout: arr_0 uint8 [N, H, W, 3]; arr_1 int64 [N], the classes (-1: no class).
class_names holds the names of the model's classes, in this order; files of earlier versions lack it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor

from common.console import Progress, RunError, one_line
from common.files import atomic_write, free_names, try_lock
from common.limits import MOST_CLASSES, wrong_name
from datasets.image_set import to_uint8
from ddpm import DDPM
from training.seeds import EXPORT, seed_for

PARTS = "samples_npz_parts"  # beginning of the name of the folder of an unfinished export's images
SETTINGS = "settings.json"  # in the finished .npz: what the images were drawn with
SIDES = range(8, 513)  # heights in pixels that `read_npz` accepts: real images are resized to the height of the file


def export(out: Path, ddpm: DDPM, settings: dict[str, Any], class_names: Sequence[str]) -> list[Path]:
    """Draw images and write them to out/samples.npz, or samples_2.npz, ...: a list with this path.

    settings: n_images, batch_size, classes (indices, taken in turn; empty: no class), g_weight, seed; others are stored
    and compared. If `out` has a complete file with the same settings, nothing is drawn and the list is empty. Each batch
    has a random generator of its own and is saved as a part, a file: after an interruption the same call draws only the
    missing parts, and writes the same file. RunError if another process exports to `out`, or if the disk is too small.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = try_lock(out / "samples.log")  # a file that stays: if it were removed, two processes could hold a lock
    if lock is None:
        raise RunError(f"another process is exporting into {out}: wait for it, or choose another --out")
    # The name depends on the settings: parts of an unfinished export with other settings do not get in the way.
    folder = out / f"{PARTS}_{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"
    paths: list[Path] = []
    with lock:
        complete = _finished(out, settings)
        if complete:
            print(f"{complete} is complete: the same command made it (another --seed draws other images)", flush=True)
        else:
            joined = folder / "samples.npz"
            write_npz(joined, *draw_parts(folder, ddpm, settings), settings, class_names)
            with free_names(out, "samples", (".npz",)) as paths:
                joined.replace(paths[0])
        shutil.rmtree(folder, ignore_errors=True)
    return paths


MOST_SETTINGS = 2**20  # bytes; a stranger's file can claim any number


def _finished(out: Path, settings: dict[str, Any]) -> Path | None:
    """A complete file in `out` with these settings."""
    for file in sorted(out.glob("samples*.npz")):
        try:
            with zipfile.ZipFile(file) as archive:
                stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
                small = archive.getinfo(SETTINGS).file_size < MOST_SETTINGS
                if stored and small and json.loads(archive.read(SETTINGS)) == settings and archive.testzip() is None:
                    return file
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
            continue  # damaged, or written by another program
    return None


def draw_parts(folder: Path, ddpm: DDPM, settings: dict[str, Any]) -> tuple[list[Path], Tensor]:
    """Draw the parts that are not in `folder` yet. Returns the files of all parts, and all labels, int64 [N]."""
    n, (_, height, width) = settings["n_images"], ddpm.sample_size()
    needed = 2 * n * height * width * 3 - sum(part.stat().st_size for part in folder.glob("part_*.npy"))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise RunError(
            f"the export needs {needed / 1e9:,.1f} GB more, but {folder.parent} has {free / 1e9:,.1f} GB free: ask for "
            "fewer images, or choose another --out"
        )
    for leftover in folder.glob(".*"):  # unfinished files of a process that was killed
        leftover.unlink()
    for other in folder.parent.glob(f"{PARTS}*"):
        if other != folder:
            print(f"{other} holds parts of another, unfinished export", flush=True)
    classes = settings["classes"]
    labels = torch.tensor(classes or [-1])[torch.arange(n) % max(1, len(classes))]
    parts = [(folder / f"part_{k:05d}.npy", c) for k, c in enumerate(labels.split(settings["batch_size"]))]
    done = [len(c) for file, c in parts if file.exists()]
    print(f"{n:,} images in {len(parts):,} parts, {len(done):,} of them already drawn", flush=True)
    with Progress(n, done=sum(done)) as progress:
        for k, (file, c) in enumerate(parts):
            if file.exists():
                continue
            y, _ = ddpm.sample(
                n_sample=1 if classes else len(c),
                n_classes=getattr(ddpm.nn_model, "n_classes", None),
                g_weight=settings["g_weight"],
                classes=c.tolist() if classes else None,
                generator=torch.Generator(ddpm.device).manual_seed(seed_for(settings["seed"], EXPORT, k)),
                record=False,
                progress=progress.steps(ddpm.n_timesteps, len(c)),
            )
            pixels = to_uint8(y).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)  # grey becomes RGB
            with atomic_write(file) as temporary:
                np.save(temporary, pixels.cpu().numpy())
    return [file for file, _ in parts], labels


def write_npz(
    path: Path, files: Sequence[Path], labels: Tensor, settings: dict[str, Any], class_names: Sequence[str]
) -> None:
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
        if class_names:
            with archive.open("class_names.npy", "w") as member:
                np.lib.format.write_array(member, np.array(class_names))
        archive.writestr(zipfile.ZipInfo(SETTINGS), json.dumps(settings, indent=2))


# ------------------------------------------------------------------------------------------------ reading


def read_npz(path: Path) -> tuple[Tensor, Tensor | None, list[str]]:
    """Read images, uint8 [N, 3, H, H]; labels, int64 [N], or None if there are none, or if all are -1; and the names of
    the classes, empty if the file does not tell them.

    The file must hold arr_0, uint8 [N, H, H, 3], and may hold arr_1, integers [N], and class_names. It need not be
    trusted: nothing in it is executed, and it fills no more memory than its own size. RunError if it is missing, damaged,
    or holds anything else.
    """
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    labels, names = None, None
    try:
        with zipfile.ZipFile(path) as archive:
            pixels = _read_array(archive, "arr_0.npy")
            if "arr_1.npy" in archive.namelist():
                labels = _read_array(archive, "arr_1.npy")
            if "class_names.npy" in archive.namelist():
                names = _read_array(archive, "class_names.npy")
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
        return images, None, []
    fits = labels.shape == (n,) and labels.dtype.kind in "iu"
    if not fits or not ((labels == -1).all() or (labels.min() >= 0 and labels.max() < 2**31)):
        raise RunError(f"{path}: arr_1 must be {n} whole numbers, either classes from 0 on or all -1")
    if labels[0] == -1:
        return images, None, []
    return images, torch.from_numpy(labels.astype(np.int64)), _names(path, names, int(labels.max()))


def _names(path: Path, names: np.ndarray | None, last: int) -> list[str]:
    """The names of the classes 0 to `last` or more. RunError if they are no such names."""
    if names is None:
        return []
    good = names.dtype.kind == "U" and names.ndim == 1 and last < len(names) <= MOST_CLASSES
    found = names.tolist() if good else []
    if not found or any(map(wrong_name, found)) or len(set(found)) < len(found):
        raise RunError(f"{path}: class_names must be a different name for each class that arr_1 counts")
    return found


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:  # a few compressed bytes can stand for gigabytes
        raise ValueError(f"{name} is compressed; np.savez does not compress")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
