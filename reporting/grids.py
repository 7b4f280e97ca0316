"""Do the pictures of a log folder show what they should? Grids and animations are cut into their images again.

Each file says where its images stand: figures/grids.py writes this into its metadata (`Layout.geometry`).
"""

from __future__ import annotations

import json
from typing import Iterator, NamedTuple

import numpy as np

CONSTANT = 2.0  # standard deviation, in grey levels of 255: an image below this shows nothing
NOISE = 0.15  # correlation of neighbouring pixels: a picture below this is noise (digits and photographs: above 0.6)
# Mean difference in grey levels between an image of a GIF's last frame and of the grid: of colours a GIF has only 256.
SAME_END, SAME_GREY = 8.0, 0.05
FONT_SHIFT = 12  # pixels by which another version of the fonts may move the grid of an older file
MISPLACED = "its images do not stand where a grid as the run asked for has them"


class Grid(NamedTuple):
    """A grid as the arguments of a run ask for it."""

    size: tuple[int, int]  # of an image: height, width
    names: tuple[str, ...]  # of the columns; () for a run without classes
    columns: int
    rows: tuple[int, ...]  # of generated images and, if there are any, of real ones


class Geometry(NamedTuple):
    """Where a picture shows its images. See `reporting.layout.Layout`."""

    size: tuple[int, int]
    columns: int
    rows: tuple[int, ...]
    scale: int
    gap: int
    left: int
    tops: tuple[int, ...]


def what_is_wrong(page: np.ndarray) -> str | None:
    """Of any picture, uint8 [H, W, 3]: is there nothing on it, or nothing but noise?"""
    grey = _grey(page)
    if grey.std() < CONSTANT:
        return "is blank: it shows nothing"
    if _neighbours(grey[None])[0] < NOISE:
        return "shows nothing but noise"
    return None


def _neighbours(images: np.ndarray) -> np.ndarray:
    """The correlation of pixels with those beside and below them: [N, H, W] -> [N], 1 where an image is constant."""
    images = images.astype(np.float32)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    variance = (centred**2).mean(axis=(1, 2))
    beside = (centred[:, :, 1:] * centred[:, :, :-1]).mean(axis=(1, 2))
    below = (centred[:, 1:] * centred[:, :-1]).mean(axis=(1, 2))
    return np.where(variance > CONSTANT**2, (beside + below) / 2 / np.maximum(variance, 1e-9), 1.0)


def flat(images: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns, H, W, 3] -> grey levels float32 [rows * columns, H, W], class-fastest."""
    return _grey(images.reshape(-1, *images.shape[2:]))


def _grey(colours: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> their mean, float32 [...]; several times faster than .mean(axis=-1)."""
    return (colours[..., 0].astype(np.float32) + colours[..., 1] + colours[..., 2]) / 3


# ------------------------------------------------------------------------------------------------ cutting out


def read_images(page: np.ndarray, text: str | None, grid: Grid, animated: bool = False) -> list[np.ndarray] | str:
    """The images of each group of rows, uint8 [rows, columns, H, W, 3]; or what is wrong with the grid, in words.

    page: uint8 [H, W, 3], a picture or (`animated`) a frame of a GIF. text: the geometry in the file's metadata; None
    for files of older versions, which have none.
    """
    if text is None:
        found = (_cut(page, geometry, animated) for geometry in _older_geometries(page, grid, animated))
        return next((groups for groups in found if groups), MISPLACED)
    try:
        geometry = _parse(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "has damaged metadata: they do not tell where its images stand"
    asked = {"size": grid.size, "columns": grid.columns, "rows": grid.rows}
    for name, wanted in asked.items():
        if getattr(geometry, name) != wanted:
            return f"is another grid than the run asked for: {name} {getattr(geometry, name)} instead of {wanted}"
    return _cut(page, geometry, animated) or MISPLACED


def title_of(text: str | None) -> str | None:
    """The title that a picture says it has, in its metadata; None if it does not say."""
    try:
        title = json.loads(text or "{}").get("title")
    except (ValueError, AttributeError, RecursionError):
        return None
    return title if isinstance(title, str) else None


def _parse(text: str) -> Geometry:
    """The geometry in a file's metadata. Raises ValueError, KeyError, TypeError or RecursionError if there is none."""
    found = json.loads(text)
    size, rows, tops = (tuple(found[name]) for name in ("size", "rows", "tops"))
    columns, scale, gap, left = (found[name] for name in ("columns", "scale", "gap", "left"))
    for number in (*size, *rows, *tops, columns, scale, gap, left):
        if type(number) is not int or not 0 <= number <= 100_000:
            raise ValueError(f"{number} is no number of pixels or images")
    if len(tops) != len(rows) or scale < 1:
        raise ValueError("the numbers do not fit each other")
    return Geometry(size, columns, rows, scale, gap, left, tops)


def _older_geometries(page: np.ndarray, grid: Grid, animated: bool) -> Iterator[Geometry]:
    """Where a file without metadata must have its images. Other fonts may have moved them by a few pixels."""
    from reporting.layout import animation_layout, groups_layout  # only for older files: matplotlib takes long to load

    if animated:
        layout = animation_layout(grid.size, grid.columns, grid.rows[0], 1000, grid.names)
    else:
        labels = ["generated", "real"] if len(grid.rows) > 1 else [""]
        layout = groups_layout(grid.size, grid.columns, grid.rows, labels, [grid.names, ()], "title")
    down = len(page) - layout.height  # names that stand upright above the columns
    shifts = [0] if animated else sorted(range(-FONT_SHIFT, FONT_SHIFT + 1), key=abs)  # labels to the left of the rows
    for right in shifts if abs(down) <= FONT_SHIFT else []:
        tops = tuple(top + down for top in layout.tops)
        yield Geometry(grid.size, grid.columns, grid.rows, layout.scale, layout.gap, layout.left + right, tops)


def _cut(page: np.ndarray, geometry: Geometry, animated: bool) -> list[np.ndarray] | None:
    """The images of each group of rows; None if they do not stand there.

    In a picture they do if the gaps between them are white and every image pixel is a square of one colour. The palette
    of a GIF changes colours a little, so the frames of an animation are only cut.
    """
    (height, width), scale, gap = geometry.size, geometry.scale, geometry.gap
    groups = []
    for top, n_rows in zip(geometry.tops, geometry.rows):
        left, shape = geometry.left, (n_rows, height * scale + gap, geometry.columns, width * scale + gap, 3)
        bottom, right = top + shape[0] * shape[1], left + shape[2] * shape[3]
        if min(top, left) < 0 or bottom > len(page) or right > page.shape[1]:
            return None  # the margin is wider than a gap, so that the last gap is on the page as well
        tile = page[top:bottom, left:right].reshape(shape).transpose(0, 2, 1, 3, 4)
        images = tile[:, :, : height * scale, : width * scale]
        images = images.reshape(n_rows, geometry.columns, height, scale, width, scale, 3)
        pixels = images[:, :, :, scale // 2, :, scale // 2]
        white = (tile[:, :, height * scale :] == 255).all() and (tile[:, :, :, width * scale :] == 255).all()
        if not animated and not (white and (images == pixels[:, :, :, None, :, None]).all()):
            return None
        groups.append(pixels)
    return groups


# ------------------------------------------------------------------------------------------------ what they show


def wrong_images(generated: np.ndarray, real: np.ndarray | None) -> str | None:
    """What is wrong with the images of a grid, in words; None if nothing is. real: as `generated`."""
    images = flat(generated)
    n, blank = len(images), images.std(axis=(1, 2)) < CONSTANT
    if blank.any():
        return f"{blank.sum()} of its {n} generated images are blank"
    different = len(np.unique(images.reshape(n, -1), axis=0))
    if different < n:
        return f"{n - different} of its {n} generated images are copies of others among them"
    if real is not None:
        of_real = {image.tobytes() for image in flat(real)}
        copies = sum(image.tobytes() in of_real for image in images)
        if copies:
            return f"{copies} of its {n} generated images are copies of the real ones below"
        like = float(np.median(_neighbours(flat(real))))
        if like < NOISE:  # the data themselves are noise, and so may be what was learnt
            return None
    if np.median(_neighbours(images)) < NOISE:
        return "its generated images are noise"
    return None


def ends_elsewhere(last: np.ndarray, generated: np.ndarray) -> str | None:
    """Do the images of a GIF's last frame differ from those of the grid? Both uint8 [rows, columns, H, W, 3]."""
    distance = np.abs(flat(last) - flat(generated)).mean(axis=(1, 2))
    colour = (generated != generated[..., :1]).any()
    n = int((distance > (SAME_END if colour else SAME_GREY)).sum())
    return f"ends in other images than its grid shows: {n} of {len(distance)} differ" if n else None
