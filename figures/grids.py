"""Grids of images, and animations of the reverse process.

Everything here takes images in [-1, 1], the range of the diffusion process, and `to_unit` is the one place where they
leave it. Grids are class-fastest: sample j of class k stands at index k + j * n_classes, and is drawn in row j, column k.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import imageio.v2 as imageio  # 2.28.1 or newer: older versions take the frame durations of a GIF in seconds, not in ms
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform
from PIL.PngImagePlugin import PngInfo  # Pillow comes with imageio

from common.files import atomic_write
from figures.picture import Picture
from reporting.layout import animation_layout, groups_layout
from reporting.reader import GEOMETRY

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "torch.Tensor", np.ndarray)
WHITE = 255
INK = "#222222"
# Levels per channel in an animation, except for its last frame. Noise does not compress: 8 greys instead of 256 make the
# file a third; colours have a palette of 256 whatever we do, but finding it takes far longer when there are many shades.
ANIMATION_LEVELS = {1: 8, 3: 16}


def to_unit(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """Map [low, high] linearly to [0, 1] and clamp what lies outside; NaN stays NaN. Tensor in, tensor out; array likewise.

    Raises ValueError if `low` is not smaller than `high`.
    """
    if not low < high:
        raise ValueError(f"low must be smaller than high, got {low} and {high}")
    return ((x - low) / (high - low)).clip(0, 1)


def _to_array(images: torch.Tensor | np.ndarray, n_dims: int, name: str) -> np.ndarray:
    """Tensor on any device, or array -> float32 array with `n_dims` dimensions [..., N, C, H, W]."""
    if hasattr(images, "detach"):
        images = images.detach().float().cpu().numpy()
    images = np.asarray(images, dtype=np.float32)
    if images.ndim != n_dims or images.shape[-3] not in (1, 3) or 0 in images.shape:
        shape = "[N, C, H, W]" if n_dims == 4 else "[S, N, C, H, W]"
        raise ValueError(f"{name} must be {shape} with 1 or 3 channels and not empty, got {list(images.shape)}")
    return images


def _columns(n_columns: int | None, class_names: Sequence[str] | None, n_images: int) -> int:
    """The number of columns: one per class name, or as asked, or about as many columns as rows."""
    if class_names and n_columns not in (None, len(class_names)):
        raise ValueError(f"{len(class_names)} class names do not fit {n_columns} columns")
    n_columns = len(class_names) if class_names else n_columns
    if n_columns is None:
        n_columns = math.ceil(math.sqrt(n_images))
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    return n_columns


def _tile(images: np.ndarray, n_columns: int, scale: int, gap: int) -> np.ndarray:
    """float [N, C, H, W] in [-1, 1] -> uint8 [rows, columns, 3], row by row, on white; NaN pixels stay white."""
    n_rows = math.ceil(len(images) / n_columns)
    n_channels, height, width = images.shape[1:]
    missing = np.full((n_rows * n_columns - len(images), n_channels, height, width), np.nan, dtype=np.float32)
    pixels = to_unit(np.concatenate([images, missing])) * 255
    pixels = np.where(np.isnan(pixels), WHITE, np.round(pixels)).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)  # whole pixels only: nothing is interpolated
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=WHITE)
    height, width = pixels.shape[2:]
    pixels = pixels.reshape(n_rows, n_columns, n_channels, height, width)
    pixels = pixels.transpose(0, 3, 1, 4, 2).reshape(n_rows * height, n_columns * width, n_channels)
    return pixels[: n_rows * height - gap, : n_columns * width - gap].repeat(3 // n_channels, axis=2)


def _draw_texts(height: int, width: int, texts: Sequence[dict]) -> np.ndarray:
    """White page, uint8 [height, width, 3], with texts: dicts of x, y (pixels from the top left), s, and text properties."""
    # At 72 dots per inch a point is a pixel. The half pixel keeps 301 / 72 * 72 = 300.99.. from being cut off to 300.
    figure = Figure(figsize=((width + 0.5) / 72, (height + 0.5) / 72), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for text in texts:
        style = {"color": INK, **text, "y": height - text["y"], "s": text["s"].replace("$", r"\$")}
        figure.text(transform=IdentityTransform(), **style)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def plot_grid(
    path: str | os.PathLike,
    generated: torch.Tensor | np.ndarray,
    real: torch.Tensor | np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    n_columns: int | None = None,
    labels: Sequence[str] = ("generated", "real"),
) -> Picture:
    """Write a grid of generated images, and below it real images of the same classes.

    Args:
        path: the PNG to write.
        generated: float [n_rows * n_columns, C, H, W] in [-1, 1], C = 1 or 3, class-fastest: row j, column k shows
            image k + j * n_columns. A last row that is not full is filled up with blanks.
        real: likewise, with any number of rows. NaN pixels are left blank, so a missing image is an image of NaN.
        class_names: the heads of the columns, one per class.
        title: one line above the grid.
        n_columns: for images without classes; by default one column per class name, else a square grid.
        labels: what stands to the left of the two groups when `real` is given.

    Raises ValueError when shapes and columns do not fit each other.
    """
    groups = [("", generated)] if real is None else list(zip(labels, (generated, real)))
    return plot_groups(path, groups, class_names, title, n_columns)


def plot_groups(
    path: str | os.PathLike,
    groups: Sequence[tuple[str, torch.Tensor | np.ndarray]],
    heads: Sequence[str] | Sequence[Sequence[str]] | None = None,
    title: str | None = None,
    n_columns: int | None = None,
) -> Picture:
    """Write groups of rows of images one above the other, each with its label to the left.

    Args:
        path: the PNG to write.
        groups: (label, images) from top to bottom. The images are as in `plot_grid`, of one size in all groups; an
            empty label takes no room, and one of several lines more.
        heads: what stands above the columns of the first group, or a list of such heads for each group.
        title: one line above everything.
        n_columns: by default one column per head, else as many as make the first group square.

    Raises ValueError when shapes, heads and columns do not fit each other.
    """
    arrays = [_to_array(images, 4, label or "images") for label, images in groups]
    shapes = [list(array.shape[1:]) for array in arrays]
    for (label, _), shape in zip(groups, shapes):
        if shape != shapes[0]:
            raise ValueError(f"{groups[0][0]} images {shapes[0]} and {label} images {shape} differ in size")
    alike = not heads or isinstance(heads[0], str)
    heads_of = cast("list[Sequence[str]]", [heads or (), *[()] * (len(groups) - 1)] if alike else heads)
    if len(heads_of) != len(groups):
        raise ValueError(f"{len(heads_of)} lists of heads do not fit {len(groups)} groups")
    n_columns = _columns(n_columns, heads_of[0], len(arrays[0]))
    for names in heads_of:
        _columns(n_columns, names, 1)  # raises if they do not fit
    rows = [math.ceil(len(array) / n_columns) for array in arrays]
    layout = groups_layout(shapes[0][1:], n_columns, rows, [label for label, _ in groups], heads_of, title)
    page = _draw_texts(layout.height, layout.width, layout.texts)
    for array, top in zip(arrays, layout.tops):
        tile = _tile(array, n_columns, layout.scale, layout.gap)
        page[top : top + tile.shape[0], layout.left : layout.left + tile.shape[1]] = tile
    if (page == page[..., :1]).all():  # no colour: a third of the file
        page = page[..., 0]
    info = PngInfo()
    info.add_text(GEOMETRY, layout.geometry(shapes[0][1:], n_columns, rows, title))
    with atomic_write(path) as temporary:
        imageio.imwrite(temporary, page, pnginfo=info)
    return Picture(path)


def plot_gif(
    path: str | os.PathLike,
    frames: torch.Tensor | np.ndarray,
    timesteps: Sequence[int] | None,
    n_columns: int,
    class_names: Sequence[str] | None = None,
    fps: float = 10,
    hold: float = 2.0,
    scale: int | None = None,
) -> Picture:
    """Write the reverse process as a GIF that loops forever: a grid of images, and above it the timestep of each frame.

    To keep the file small, grey frames have few grey levels except for the last one, which is exact, and images are
    drawn pixel by pixel (27 frames of 40 MNIST digits: about 0.4 MB). `scale=2` doubles every pixel and triples the file.

    Args:
        path: the GIF to write.
        frames: float [S, N, C, H, W], C = 1 or 3, class-fastest as in `plot_grid`; clamped to [-1, 1].
        timesteps: the S values of t that the frames belong to, and stand above them; None: nothing stands there.
        n_columns: images per row.
        class_names: the heads of the columns.
        fps: frames per second; GIFs count in hundredths of a second and browsers slow down above 50.
        hold: seconds for which the last frame stays.
        scale: pixels per image pixel; by default as many as fit a width of 320.

    Raises ValueError when shapes, timesteps and columns do not fit each other.
    """
    frames = _to_array(frames, 5, "frames")
    labels = [""] * len(frames) if timesteps is None else [f"t = {int(t)}" for t in timesteps]
    if len(labels) != len(frames):
        raise ValueError(f"{len(frames)} frames but {len(labels)} timesteps")
    n_columns = _columns(n_columns, class_names, frames.shape[1])
    n_rows = math.ceil(frames.shape[1] / n_columns)
    layout = animation_layout(frames.shape[3:], n_columns, n_rows, max(timesteps or [0]), class_names, scale)
    pages = []
    for words, frame in zip(labels, frames):
        tile = _tile(frame, n_columns, layout.scale, layout.gap)
        label = {"x": layout.left, "y": layout.left, "s": words, "va": "top", "fontsize": 11}
        page = _draw_texts(layout.height, layout.width, [label, *layout.texts])
        top = layout.tops[0]
        page[top : top + tile.shape[0], layout.left : layout.left + tile.shape[1]] = tile
        pages.append(page)
    step = 255 / (ANIMATION_LEVELS[frames.shape[2]] - 1)
    pages[:-1] = [np.round(np.round(page / step) * step).astype(np.uint8) for page in pages[:-1]]
    if frames.shape[2] == 1:
        pages = [page[..., 0] for page in pages]
    duration = 10 * max(2, round(100 / fps))  # milliseconds
    last = max(duration, round(hold * 1000))
    durations = [duration] * (len(pages) - 1) + [last] if len(pages) > 1 else last  # Pillow takes no list for one frame
    comment = f"{GEOMETRY} {layout.geometry(frames.shape[3:], n_columns, [n_rows])}"
    with atomic_write(path) as temporary:
        imageio.mimwrite(temporary, cast(Any, pages), duration=durations, loop=0, comment=comment)
    return Picture(path)
