"""Many samples as one .npz for the tools that measure FID, drawn in parts that outlive any interruption.

Each part is drawn from a generator of its own, seeded by (seed, index of the part), and stands in a file of its own once
it is complete. What is missing after an interruption is drawn by the next call, and the whole has the same bits as if
nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch

from cli import CallError, Progress
from datasets import one_hot, to_uint8
from ddpm import DDPM
from trainer import seed_for
from utils import atomic_write, write_json

PARTS = "samples_npz_parts"  # the folder of the parts
EXPORT = 4  # the stream of random numbers; trainer.py has 0 to 3


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


def draw_parts(folder: Path, ddpm: DDPM, settings: dict[str, Any]) -> list[Path]:
    """Draw the parts that `folder` does not hold yet, and return the files of all of them in order.

    settings: n_images, batch_size (images in a part), classes (list of indices, empty: no class), g_weight and seed;
    whatever else stands in it has to be the same in the call that goes on. CallError if the folder holds other parts.
    """
    _claim(folder, settings)
    height, width = ddpm.nn_model.size[1:]
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


def write_npz(path: Path, files: Sequence[Path], labels: torch.Tensor) -> None:
    """Join the parts: arr_0 uint8 [N, H, W, 3], arr_1 int64 [N]. Only one part at a time is in memory."""
    shape = (len(labels), *np.load(files[0], mmap_mode="r").shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for file in files:
                member.write(np.load(file).tobytes())
        with archive.open("arr_1.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, labels.numpy())


def remove_parts(folder: Path) -> None:
    """Remove the folder of the parts; killed in the middle, it leaves none that looks as if it could be continued."""
    done = folder.with_name(f".{folder.name}_done")
    shutil.rmtree(done, ignore_errors=True)
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


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or make sure that what it holds are parts of this same export."""
    file, advice = folder / "settings.json", f"remove {folder} to begin anew, or choose another --out"
    if not file.exists():
        if any(folder.glob("part_*.npy")):
            raise CallError(f"{folder} holds parts, but no settings.json that says of what: {advice}")
        write_json(file, settings)
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
