"""Many samples as one .npz for the tools that measure FID, drawn in parts that outlive any interruption.

Each part is drawn from a generator of its own, seeded by (seed, index of the part), and stands in a file of its own once
it is complete. What is missing after an interruption is drawn by the next call, and the whole has the same bits as if
nothing had happened. The finished file tells in a member of its own what it was made from (SETTINGS).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any, Sequence

import numpy as np
import torch
from torch import Tensor

from common.console import CallError, Progress, RunError, one_line
from common.files import atomic_write, try_lock, write_json
from datasets.image_set import one_hot, to_uint8
from ddpm import DDPM
from training.seeds import EXPORT, seed_for

PARTS = "samples_npz_parts"  # the folder of the parts
SETTINGS = "settings.json"  # what the parts, or a finished file, were made from


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def labels_of(n_images: int, classes: Sequence[int]) -> torch.Tensor:
    """Class-fastest labels, int64 [n_images]: image i is of class i % K of the K `classes`; -1 if there is none."""
    return torch.tensor(list(classes) or [-1]).repeat(-(-n_images // max(1, len(classes))))[:n_images]


def alone(out: Path) -> IO[str]:
    """A context in which no other process exports into the folder `out`, which is made. RunError if one does already.

    What is held is samples.log, which stays: a lock that is removed with the parts could be held by two.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = try_lock(out / "samples.log")
    if log is None:
        raise RunError(f"another process is exporting into {out}: wait for it, or choose another --out")
    return log


def finished(out: Path, settings: dict[str, Any]) -> Path | None:
    """The file in `out` that an export with these settings has written, if there is one."""
    for file in sorted(out.glob("samples*.npz")):
        try:
            with zipfile.ZipFile(file) as archive:
                if json.loads(archive.read(SETTINGS)) == settings and archive.testzip() is None:
                    return file
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
            continue  # damaged, or not of this suite
    return None


def draw_parts(folder: Path, ddpm: DDPM, settings: dict[str, Any]) -> list[Path]:
    """Draw the parts that `folder` does not hold yet, and return the files of all of them in order.

    settings: n_images, batch_size (images in a part), classes (list of indices, empty: no class), g_weight and seed;
    whatever else stands in it has to be the same in the call that goes on. CallError if the folder holds other parts,
    RunError if the disk has too little room.
    """
    height, width = ddpm.nn_model.size[1:]
    for left in folder.glob(".samples*"):  # of a process that was killed while it joined the parts
        left.unlink()
    _check_room(folder, settings["n_images"] * height * width * 3)
    _claim(folder, settings)
    labels = labels_of(settings["n_images"], settings["classes"]).split(settings["batch_size"])
    files = [folder / f"part_{index:05d}.npy" for index in range(len(labels))]
    missing = [index for index, file in enumerate(files) if not _is_part(file, (len(labels[index]), height, width, 3))]
    done = settings["n_images"] - sum(len(labels[index]) for index in missing)
    print(f"{settings['n_images']:,} images in {len(files):,} parts, of which {len(files) - len(missing):,} are there; "
          "after an interruption the same command goes on with the rest", flush=True)  # fmt: skip

    with Progress(settings["n_images"], done=done) as progress:
        for index in missing:
            generator = torch.Generator(ddpm.device).manual_seed(seed_for(settings["seed"], EXPORT, index))
            y = _draw(ddpm, labels[index], settings["g_weight"], generator, progress)
            pixels = to_uint8(y).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)  # grey three times: such tools read RGB
            with atomic_write(files[index]) as temporary:
                np.save(temporary, pixels.cpu().numpy())
    return files


def write_npz(path: Path, files: Sequence[Path], labels: torch.Tensor, settings: dict[str, Any]) -> None:
    """Join the parts: arr_0 uint8 [N, H, W, 3], arr_1 int64 [N]. Only one part at a time is in memory.

    The settings go in as a text, which tools that read arrays do not look at.
    """
    shape = (len(labels), *np.load(files[0], mmap_mode="r").shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for file in files:
                member.write(np.load(file).tobytes())
        with archive.open("arr_1.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, labels.numpy())
        with archive.open(SETTINGS, "w") as member:
            member.write(json.dumps(settings, indent=2).encode())


def remove_parts(folder: Path, settings: dict[str, Any]) -> None:
    """Remove the folder of the parts of a finished export, if it is there; that of another one stays.

    Killed in the middle, this leaves none that looks as if it could be continued.
    """
    done = folder.with_name(f".{folder.name}_done")
    shutil.rmtree(done, ignore_errors=True)
    try:
        if json.loads((folder / SETTINGS).read_text(encoding="utf-8")) != settings:
            return
    except (OSError, ValueError):
        return
    folder.rename(done)
    shutil.rmtree(done)


def _draw(
    ddpm: DDPM, labels: torch.Tensor, g_weight: float, generator: torch.Generator, progress: Progress
) -> torch.Tensor:
    """One image for each label, float32 [N, C, H, W]."""
    n, n_classes = len(labels), getattr(ddpm.nn_model, "n_classes", None)
    rows = one_hot(labels, n_classes) if labels[0] >= 0 else None
    advance = lambda t: progress.advance(n / ddpm.n_timesteps)  # noqa: E731
    return ddpm.sample(
        n if rows is None else 1, None, n_classes, g_weight, rows, generator=generator, record=False, progress=advance
    )[0]


def _check_room(folder: Path, n_bytes: int) -> None:
    """RunError if the disk has no room for the rest of the parts, n_bytes with those that stand, and for the whole."""
    needed = 2 * n_bytes - sum(part.stat().st_size for part in folder.glob("part_*.npy"))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise RunError(
            f"the parts and the file they are joined to need {needed / 1e9:,.1f} GB more, but {folder.parent} has "
            f"{free / 1e9:,.1f} GB free: ask for fewer images, or choose another --out"
        )


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or make sure that what it holds are parts of this same export."""
    file, advice = folder / SETTINGS, f"remove {folder} to begin anew, or choose another --out"
    if not any(folder.glob("part_*.npy")):
        write_json(file, settings)
    elif not file.exists():
        raise CallError(f"{folder} holds parts, but no {SETTINGS} that says of what: {advice}")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name in settings if before.get(name) != settings[name]]
    except (ValueError, AttributeError):
        raise CallError(f"{file} is damaged: {advice}") from None
    if differing:
        lines = [f"{name} was {before.get(name)}, is {settings[name]}" for name in differing]
        raise CallError(f"{folder} holds parts of another export ({'; '.join(lines)}): finish that one, {advice}")
    for leftover in folder.glob(".part_*.npy"):  # of a process that was killed while it wrote (utils.atomic_write)
        if re.fullmatch(r"\.part_\d+\.[0-9a-f]{8}\.npy", leftover.name):
            leftover.unlink()


def _is_part(file: Path, shape: tuple[int, ...]) -> bool:
    """Is this a complete part? A damaged one is drawn again."""
    try:
        pixels = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped: the length is checked, nothing is read
    except (OSError, ValueError, EOFError):
        return False
    return pixels.shape == shape and pixels.dtype == np.uint8


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
