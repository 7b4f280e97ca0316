"""Digits drawn from matplotlib's fonts, bent and stretched at random: MNIST's format without a download.

images, labels = render_digits(1000, seed=0)    # uint8 [1000, 1, 28, 28], int64 [1000]

Of each digit in each font, only the pen line is kept: the middle of its strokes. A pen of any width can follow it, and
the result looks like handwriting.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Polygon
from matplotlib.textpath import TextPath
from torch import Tensor

from common.console import DataError

DIGITS = [str(digit) for digit in range(10)]

# Named one by one, so that the digits stay the same when matplotlib adds a font.
FACES = [
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10"),
]
SIZES = {"train": 60_000, "test": 10_000}
REACH = 1.3  # a map of a glyph covers [-1.3, 1.3] in x and y; the longer side of the glyph covers [-1, 1]
TRACE_CELLS, MAP_CELLS = 96, 64  # cells along a side: to find the pen line; in the map of distances to it


def load_rendered(train: bool, seed: int, limit: int | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """One split of 60,000 + 10,000 digits: images uint8 [N, 1, 28, 28], labels int64 [N], class names.

    limit: draw the first so many of them only.
    """
    n = SIZES["train" if train else "test"]
    print(f"drawing {min(n, limit or n):,} digits ...", flush=True)
    return (*render_digits(n, 2 * seed + (not train), limit), list(DIGITS))  # no two splits or seeds share a number


def render_digits(n: int, seed: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Draw n digits: images uint8 [n, 1, 28, 28], white on black, and labels int64 [n].

    Shuffled; equally many of each digit if n is a multiple of 10; the same seed gives the same digits. As in MNIST, a
    digit is about 20 pixels along its longer side and near the centre. limit: draw and return only the first so many.
    Raises DataError if a font is missing.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 10)[torch.randperm(n, generator=generator)]
    limit = n if limit is None else limit
    drawn = [_draw(part, generator) for i, part in enumerate(labels.split(1000)) if 1000 * i < limit]
    return torch.cat(drawn)[:limit], labels[:limit]


def _draw(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Labels int64 [B] -> images uint8 [B, 1, 28, 28], each in a random face, shape and pen width."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(labels), *shape, generator=generator) * (high - low) + low

    lines, maps = _glyphs()
    glyph = torch.randint(len(FACES), labels.shape, generator=generator) * 10 + labels
    pen = uniform(1.5, 3.4)  # width in pixels; a wider one fills holes

    # From the glyph to the image: stretch, lean, turn; then scale to 18 to 20 pixels and move near the centre.
    turn, lean, stretch = uniform(-0.2, 0.2), uniform(-0.3, 0.4), uniform(0.75, 1.25)
    cos, sin = turn.cos(), turn.sin()
    matrix = torch.stack([cos * stretch, -cos * lean - sin, sin * stretch, cos - sin * lean], dim=1).view(-1, 2, 2)
    line = lines[glyph] @ matrix.mT  # [B, 128, 2]
    low, high = line.amin(1), line.amax(1)
    size = (uniform(18, 20) - pen) / (high - low).amax(1)  # pixels per glyph unit
    origin = uniform(-1.2, 1.2, 2) - (low + high) / 2 * size[:, None]  # pixels from the centre of the image

    # For each pixel, its place in the glyph: the inverse map, plus a smooth random shift.
    inverse = (matrix * size[:, None, None]).inverse()
    places = F.affine_grid(
        torch.cat([14 * inverse, -inverse @ origin[..., None]], dim=2), [len(labels), 1, 28, 28], False
    )
    knots = torch.randn(len(labels), 2, 4, 4, generator=generator).clamp(-2, 2) * uniform(0.03, 0.18, 1, 1, 1)
    cubic = F.interpolate(torch.eye(4).view(4, 1, 1, 4), (1, 28), mode="bicubic", align_corners=True).view(4, 28)
    places = places + (cubic.T @ knots @ cubic).permute(0, 2, 3, 1)
    distance = F.grid_sample(maps[glyph], places / REACH, padding_mode="border", align_corners=False)  # [B, 1, 28, 28]

    pixels = size * stretch.sqrt()  # pixels per glyph unit, mean over all directions
    ink = (pen / 2 + 0.5).view(-1, 1, 1, 1) - distance * pixels.view(-1, 1, 1, 1)  # edges one pixel wide
    return (ink.clamp(0, 1) * 255).round().to(torch.uint8)


@functools.lru_cache(maxsize=1)
def _glyphs() -> tuple[Tensor, Tensor]:
    """Every digit in every face, G = n_faces * 10 glyphs in the order face, digit; y points downwards.

    Returns points (x, y) on the pen lines, float32 [G, 128, 2], and maps of the distance to them, float32
    [G, 1, MAP_CELLS, MAP_CELLS].
    """
    lines, maps = [], []
    for face in FACES:
        file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
        if not file.is_file():
            raise DataError(f"{file} is missing: it is part of matplotlib, so install matplotlib again")
        font = FontProperties(fname=str(file), size=100)
        for digit in DIGITS:
            line = _pen_line([np.asarray(p) for p in TextPath((0, 0), digit, prop=font).to_polygons()]).float()
            maps.append(torch.cdist(_cells(MAP_CELLS).float(), line).amin(1).view(1, MAP_CELLS, MAP_CELLS))
            lines.append(line[torch.linspace(0, len(line) - 1, 128).long()])
    return torch.stack(lines), torch.stack(maps)


def _pen_line(polygons: list[np.ndarray]) -> Tensor:
    """Points (x, y) on the pen line, float64 [P, 2], of a glyph given as closed polygons, float64 [Q, 2], y upwards."""
    corners = np.concatenate(polygons)
    low, high = corners.min(0), corners.max(0)
    polygons = [(p - (low + high) / 2) * [2, -2] / (high - low).max() for p in polygons]
    cells = _cells(TRACE_CELLS)
    inside = sum(Polygon(p).contains_points(cells.numpy()).astype(int) for p in polygons) % 2 == 1  # 2: in a hole

    outline = []  # points at equal steps along the polygons
    for p in polygons:
        length = np.append(0, np.linalg.norm(np.diff(p, axis=0), axis=1).cumsum())
        steps = np.arange(0, length[-1], 0.02)
        outline.append(np.stack([np.interp(steps, length, p[:, i]) for i in (0, 1)], axis=1))
    depth = torch.zeros(len(cells), dtype=cells.dtype)
    depth[inside] = torch.cdist(cells[inside], torch.from_numpy(np.concatenate(outline))).amin(1)

    # The depth rises with slope 1 from the edges of a stroke to its middle, where it turns: the slope is near 0.
    # (From a corner, too, a ridge runs inwards, but it climbs: by 0.7 where the corner is square.)
    cell = 2 * REACH / TRACE_CELLS
    slope = torch.stack(torch.gradient(depth.view(TRACE_CELLS, TRACE_CELLS), spacing=cell)).norm(dim=0)
    return cells[(depth > cell) & (slope.flatten() < 0.6)]


def _cells(n: int) -> Tensor:
    """The centres (x, y) of n x n cells of [-REACH, REACH]^2, float64 [n * n, 2], row by row."""
    axis = ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1) * REACH
    return torch.cartesian_prod(axis, axis).flip(1)
