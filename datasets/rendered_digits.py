"""Digits drawn from matplotlib's own fonts, bent and stretched at random: MNIST's format without a download.

images, labels = render_digits(1000, seed=0)    # uint8 [1000, 1, 28, 28], int64 [1000]
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Polygon
from matplotlib.textpath import TextPath
from torch import Tensor

from common.console import DataError, one_line
from common.files import atomic_write

DIGITS = [str(digit) for digit in range(10)]

# Named one by one, so that the digits stay the same when matplotlib adds a font.
FACES = [
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10"),
]
RENDERED_SIZES = {"train": 60_000, "test": 10_000}
RENDERED_VERSION = 1  # part of the cache file's name: raise it when the drawing changes
ATLAS_CELLS = 96  # the atlas has so many cells along a side ...
ATLAS_REACH = 1.3  # ... and covers [-reach, reach]; the longer side of a glyph covers [-1, 1]


class Atlas(NamedTuple):
    """Every digit in every face: G = n_faces * 10 glyphs, in the order face, digit. Lengths in glyph units.

    A glyph is kept as its pen line, the middle of its strokes: any pen can follow it, and it looks like handwriting.
    distance: float32 [G, 1, cells, cells], distance to the pen line;
    line: float32 [G, 128, 2], points (x, y) on it, y downwards.
    """

    distance: Tensor
    line: Tensor


def load_rendered(data_dir: Path, train: bool, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """One split of 60,000 + 10,000 digits: images uint8 [N, 1, 28, 28], labels int64 [N], class names.

    Drawn once for every seed and kept in <data_dir>/rendered_digits.
    """
    file = data_dir / "rendered_digits" / f"version{RENDERED_VERSION}_seed{seed}.npz"
    splits = _read_rendered(file)
    if splits is None:
        print(f"rendering {sum(RENDERED_SIZES.values()):,} digits ...", flush=True)
        splits = {}
        for number, (split, n) in enumerate(RENDERED_SIZES.items()):  # no two splits or seeds share a number
            images, labels = render_digits(n, seed=2 * seed + number)
            splits[f"{split}_images"], splits[f"{split}_labels"] = images.numpy(), labels.numpy()
        _write_rendered(file, splits)
    split = "train" if train else "test"
    return torch.from_numpy(splits[f"{split}_images"]), torch.from_numpy(splits[f"{split}_labels"]), list(DIGITS)


def _read_rendered(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays in the cache file, or None if it is absent or of no use."""
    if not os.path.isfile(file):
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:  # the format has checksums: a changed byte is an error
            splits = {key: archive[key] for key in archive.files}
        for split, n in RENDERED_SIZES.items():
            if splits[f"{split}_images"].shape != (n, 1, 28, 28) or splits[f"{split}_labels"].shape != (n,):
                raise ValueError(f"it does not hold {n:,} {split} digits")
    except Exception as error:
        print(f"{file} is damaged ({one_line(error)}): rendering it again", flush=True)
        return None
    return splits


def _write_rendered(file: Path, splits: dict[str, np.ndarray]) -> None:
    try:
        with atomic_write(file) as temporary:
            np.savez(temporary, **splits)
    except OSError as error:
        print(f"{file} cannot be written ({one_line(error)}): the digits are rendered anew next time", flush=True)


@functools.lru_cache(maxsize=1)
def _glyph_atlas() -> Atlas:
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    glyphs = []
    for face in FACES:
        file = folder / f"{face}.ttf"
        if not file.is_file():
            raise DataError(f"{file} is missing: it is part of matplotlib, so install matplotlib again")
        font = FontProperties(fname=str(file), size=100)
        glyphs += [_trace_glyph(TextPath((0, 0), digit, prop=font).to_polygons()) for digit in DIGITS]
    return Atlas(*(torch.stack(field) for field in zip(*glyphs)))


def _trace_glyph(polygons: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The entries of an Atlas for one glyph, given as closed polygons, each float64 [P, 2], y upwards."""
    corners = np.concatenate(polygons)
    low, high = corners.min(0), corners.max(0)
    polygons = [(p - (low + high) / 2) * [2, -2] / (high - low).max() for p in polygons]
    outline = torch.from_numpy(np.concatenate([_walk(p) for p in polygons]))

    cell = 2 * ATLAS_REACH / ATLAS_CELLS
    axis = (torch.arange(ATLAS_CELLS, dtype=torch.float64) + 0.5) * cell - ATLAS_REACH  # exact: same line everywhere
    cells = torch.cartesian_prod(axis, axis).flip(1)  # [cells^2, 2] as (x, y), row by row
    within = torch.stack([torch.from_numpy(Polygon(p).contains_points(cells.numpy())) for p in polygons])
    inside = within.sum(0) % 2 == 1  # within the outer polygon but not within a hole's
    depth = torch.zeros_like(cells[:, 0])
    depth[inside] = torch.cdist(cells[inside], outline).amin(1)

    # The depth rises with slope 1 from the edges of a stroke to its middle, where it turns: the slope is near 0.
    # (From a corner, too, a ridge runs inwards, but it climbs: by 0.7 where the corner is square.)
    slope = torch.stack(torch.gradient(depth.view(ATLAS_CELLS, ATLAS_CELLS), spacing=cell)).norm(dim=0)
    line = cells[(depth > cell) & (slope.flatten() < 0.6)]
    distance = torch.cdist(cells, line).amin(1)
    distance = distance.view(1, ATLAS_CELLS, ATLAS_CELLS)
    line = line[torch.linspace(0, len(line) - 1, 128).long()]
    return distance.float(), line.float()


def _walk(polygon: np.ndarray, step: float = 0.02) -> np.ndarray:
    """Points [Q, 2] at equal steps along a closed polygon [P, 2]."""
    reached = np.concatenate([[0.0], np.linalg.norm(np.diff(polygon, axis=0), axis=1).cumsum()])
    stops = np.arange(0, reached[-1], step)
    return np.stack([np.interp(stops, reached, polygon[:, i]) for i in (0, 1)], axis=1)


def render_digits(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n digits: images uint8 [n, 1, 28, 28], white on black, and labels int64 [n].

    Shuffled; equally many of each digit if n is a multiple of 10; the same seed gives the same. Like MNIST's, a digit
    is about 20 pixels along its longer side and stands near the centre.
    """
    atlas = _glyph_atlas()
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 10)[torch.randperm(n, generator=generator)]
    images = [_draw(chunk, atlas, generator) for chunk in labels.split(1000)]
    return torch.cat(images), labels


def _draw(labels: Tensor, atlas: Atlas, generator: torch.Generator) -> Tensor:
    """Labels int64 [B] -> images uint8 [B, 1, 28, 28], each in a random face, shape and pen width."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(labels), *shape, generator=generator) * (high - low) + low

    glyph = torch.randint(len(FACES), labels.shape, generator=generator) * 10 + labels
    pen = uniform(1.5, 3.4)  # width in pixels; a wider one fills holes

    # Glyph -> image: stretch, lean, turn, then the size that fits.
    turn, lean, stretch = uniform(-0.2, 0.2), uniform(-0.3, 0.4), uniform(0.75, 1.25)
    cos, sin = turn.cos(), turn.sin()
    matrix = torch.stack([cos * stretch, -cos * lean - sin, sin * stretch, cos - sin * lean], dim=1).view(-1, 2, 2)
    line = atlas.line[glyph] @ matrix.mT  # [B, 128, 2]
    low, high = line.amin(1), line.amax(1)
    size = (uniform(18, 20) - pen) / (high - low).amax(1)  # pixels per glyph unit
    matrix = matrix * size[:, None, None]
    origin = uniform(-1.2, 1.2, 2) - (low + high) / 2 * size[:, None]  # pixels; puts the digit's middle near (0, 0)

    # For every pixel of the image, where in the glyph it looks: the inverse map plus a smooth random shift.
    pixels = torch.cartesian_prod(torch.arange(28), torch.arange(28)).flip(1) - 13.5  # [784, 2] as (x, y), row by row
    shift = torch.randn(len(labels), 2, 4, 4, generator=generator).clamp(-2, 2) * uniform(0.03, 0.18, 1, 1, 1)
    shift = F.interpolate(shift, size=(28, 28), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    where = (pixels - origin[:, None]) @ matrix.inverse().mT  # [B, 784, 2], glyph units
    where = (where.view(-1, 28, 28, 2) + shift) / ATLAS_REACH
    distance = F.grid_sample(atlas.distance[glyph], where, padding_mode="border", align_corners=False)  # [B, 1, 28, 28]

    pixel = size * stretch.sqrt()  # pixels per glyph unit, over all directions
    ink = pen.view(-1, 1, 1, 1) / 2 - distance * pixel.view(-1, 1, 1, 1) + 0.5  # edges one pixel wide
    return (ink.clamp(0, 1) * 255).round().to(torch.uint8)
