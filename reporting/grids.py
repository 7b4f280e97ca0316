"""Do the pictures of a log folder show what they should? Grids and animations are cut into their images again, at the
places where utils.plot_image and utils.plot_animation drew them (utils.py).
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence

import numpy as np

from utils import Layout, animation_layout, groups_layout

CONSTANT = 2.0  # standard deviation, in grey levels of 255: below this an image shows nothing
NOISE = 0.15  # correlation of neighbouring pixels: below this a picture is noise (digits and photographs: above 0.6)
SAME_END = 12.0  # mean difference in grey levels between an image of a GIF's last frame and of the grid
FONT_SHIFT = 12  # pixels by which another version of the fonts may move a grid


class Grid(NamedTuple):
    """What the arguments of a run say about its grids."""

    size: tuple[int, int]  # of an image: height, width
    names: tuple[str, ...]  # of the columns; () for a run without classes
    n_columns: int
    n_rows: int  # generated
    n_real_rows: int  # 0: there are no real images in the grid


def what_is_wrong(page: np.ndarray) -> str | None:
    """Of any picture, uint8 [H, W, 3]: is there nothing on it, or nothing but noise?"""
    grey = page.mean(axis=2)
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
    return images.reshape(-1, *images.shape[2:]).astype(np.float32).mean(axis=3)


# ------------------------------------------------------------------------------------------------ cutting out


def _cut(page: np.ndarray, layout: Layout, top: int, left: int, n_rows: int, grid: Grid) -> np.ndarray | None:
    """The images of one group, uint8 [n_rows, n_columns, H, W, 3]; None if they do not stand there.

    They do if the gaps between them are white and every image pixel is a square of one colour.
    """
    (height, width), scale, gap = grid.size, layout.scale, layout.gap
    bottom, right = top + n_rows * (height * scale + gap), left + grid.n_columns * (width * scale + gap)
    if top < 0 or left < 0 or bottom > len(page) or right > page.shape[1]:
        return None  # the margin is wider than a gap, so that the last gap is on the page as well
    tile = page[top:bottom, left:right]
    tile = tile.reshape(n_rows, height * scale + gap, grid.n_columns, width * scale + gap, 3).transpose(0, 2, 1, 3, 4)
    images = tile[:, :, : height * scale, : width * scale]
    images = images.reshape(n_rows, grid.n_columns, height, scale, width, scale, 3)
    pixels = images[:, :, :, 0, :, 0]
    white = (tile[:, :, height * scale :] == 255).all() and (tile[:, :, :, width * scale :] == 255).all()
    return pixels if white and (images == pixels[:, :, :, None, :, None]).all() else None


def _shifts(n: int) -> Iterator[int]:
    """0, then what other fonts would make of it: first the whole difference n, then what lies around it."""
    yield from dict.fromkeys([0, n, *range(-abs(n), abs(n) + 1)])


def read_grid(page: np.ndarray, grid: Grid, title: str) -> list[np.ndarray] | str:
    """The generated and, if there are any, the real images of a grid, each uint8 [rows, columns, H, W, 3]; or what is
    wrong with it, in words.
    """
    asked = [grid.n_rows, grid.n_real_rows][: 2 if grid.n_real_rows else 1]
    found = _read_rows(page, grid, title, asked)
    if found is not None:
        return found
    expected = _layout(grid, title, asked)
    # Which other numbers of rows would it be? The height of the page tells how many there are altogether.
    pitch = grid.size[0] * expected.scale + expected.gap
    likely = sum(asked) + round((len(page) - expected.height) / pitch)
    for total in range(max(1, likely - 1), min(likely + 2, 100)):
        for first in range(total, 0, -1) if grid.n_real_rows else [total]:
            rows = [first, total - first][: 2 if total > first else 1]
            if rows != asked and _read_rows(page, grid, title, rows) is not None:
                return _wrong_rows(rows, asked)
    here, there = f"{page.shape[1]} x {page.shape[0]}", f"{expected.width} x {expected.height}"
    classes = f" of {len(grid.names)} classes" if grid.names else ""
    if here == there:
        return f"its images do not stand where a grid of {' + '.join(map(str, asked))} rows{classes} has them"
    return (
        f"has {here} pixels, and no grid as the run asked for: {' + '.join(map(str, asked))} rows{classes} "
        f"have {there} pixels"
    )


def _wrong_rows(rows: list[int], asked: list[int]) -> str:
    for kind, n, wanted in zip(("generated", "real"), [*rows, 0], asked):
        if n != wanted:
            return f"shows {n} row{'s' * (n != 1)} of {kind} images, the run asked for {wanted}"
    return f"shows {len(rows)} groups of rows, the run asked for {len(asked)}"


def _layout(grid: Grid, title: str, rows: Sequence[int]) -> Layout:
    labels, heads = (["generated", "real"] if grid.n_real_rows else [""])[: len(rows)], [list(grid.names), []]
    return groups_layout(grid.size, grid.n_columns, rows, labels, heads[: len(rows)], title)


def _read_rows(page: np.ndarray, grid: Grid, title: str, rows: Sequence[int]) -> list[np.ndarray] | None:
    layout = _layout(grid, title, rows)
    down, right = page.shape[0] - layout.height, page.shape[1] - layout.width
    if max(abs(down), abs(right)) > FONT_SHIFT:
        return None
    for dy in _shifts(down):
        for dx in _shifts(right):
            groups = []
            for n, top in zip(rows, layout.tops):
                cut = _cut(page, layout, top + dy, layout.left + dx, n, grid)
                if cut is None:
                    break
                groups.append(cut)
            if len(groups) == len(rows):
                return groups
    return None


def read_frame(frame: np.ndarray, grid: Grid, most_t: int) -> np.ndarray | None:
    """The images of one frame of an animation, uint8 [rows, columns, H, W, 3]; None if they do not stand there."""
    layout = animation_layout(grid.size, grid.n_columns, grid.n_rows, most_t, list(grid.names))
    down = frame.shape[0] - layout.height
    if abs(down) > FONT_SHIFT or abs(frame.shape[1] - layout.width) > FONT_SHIFT:
        return None
    # The palette of a colour GIF moves colours a little, so that neither white nor squares are exact.
    height, width = (side * layout.scale + layout.gap for side in grid.size)
    top, left = layout.tops[0] + down, layout.left
    tile = frame[top : top + grid.n_rows * height, left : left + grid.n_columns * width]
    if tile.shape[:2] != (grid.n_rows * height, grid.n_columns * width):
        return None
    tile = tile.reshape(grid.n_rows, height, grid.n_columns, width, 3).transpose(0, 2, 1, 3, 4)
    half = layout.scale // 2
    return tile[:, :, half : height - layout.gap : layout.scale, half : width - layout.gap : layout.scale]


# ------------------------------------------------------------------------------------------------ judging


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
    n = int((distance > SAME_END).sum())
    return f"ends in other images than its grid shows: {n} of {len(distance)} differ" if n else None
