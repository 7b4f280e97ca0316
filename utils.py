"""Pictures and files: image grids, animations of the reverse process, loss curves, and files that are never half written.

Everything here takes images in [-1, 1], the range of the diffusion process, and `min_max_scale` is the one place where
they leave it. Grids are class-fastest: sample j of class k stands at index k + j * n_classes, and is drawn in row j,
column k.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import imageio.v2 as imageio  # 2.28.1 or newer: older versions take the frame durations of a GIF in seconds, not in ms
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform
from PIL.PngImagePlugin import PngInfo  # Pillow comes with imageio

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
import functools
from typing import NamedTuple

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from common.files import atomic_write

WHITE = 255
Array = TypeVar("Array", "torch.Tensor", np.ndarray)
INK = "#222222"
GEOMETRY = "image grid"  # name of a PNG's text chunk, and first words of a GIF's comment: see Layout.geometry
# Levels per channel in an animation, except for its last frame. Noise does not compress: 8 greys instead of 256 make the
# file a third; colours have a palette of 256 whatever we do, but finding it takes far longer when there are many shades.
ANIMATION_LEVELS = {1: 8, 3: 16}
QUARTERS = {
    "loss_q1": "t in the lowest quarter (1 .. T/4)",
    "loss_q2": "t in the second quarter (T/4 .. T/2)",
    "loss_q3": "t in the third quarter (T/2 .. 3T/4)",
    "loss_q4": "t in the highest quarter (3T/4 .. T)",
}


# ---------------------------------------------------------------------------------------------------------------- files


# --------------------------------------------------------------------------------------------------------------- images


def min_max_scale(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
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
    pixels = min_max_scale(np.concatenate([images, missing])) * 255
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


def plot_image(
    path: str | os.PathLike,
    generated: torch.Tensor | np.ndarray,
    real: torch.Tensor | np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    n_columns: int | None = None,
    labels: Sequence[str] = ("generated", "real"),
) -> None:
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
    if real is None:
        plot_groups(path, [("", generated)], class_names, title, n_columns)
    else:
        plot_groups(path, list(zip(labels, (generated, real))), class_names, title, n_columns)


def plot_groups(
    path: str | os.PathLike,
    groups: Sequence[tuple[str, torch.Tensor | np.ndarray]],
    heads: Sequence[str] | Sequence[Sequence[str]] | None = None,
    title: str | None = None,
    n_columns: int | None = None,
) -> None:
    """Write groups of rows of images one above the other, each with its label to the left.

    Args:
        path: the PNG to write.
        groups: (label, images) from top to bottom. The images are as in `plot_image`, of one size in all groups; an
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
    info.add_text(GEOMETRY, layout.geometry(shapes[0][1:], n_columns, rows))
    with atomic_write(path) as temporary:
        imageio.imwrite(temporary, page, pnginfo=info)


def plot_animation(
    path: str | os.PathLike,
    frames: torch.Tensor | np.ndarray,
    timesteps: Sequence[int],
    n_columns: int,
    class_names: Sequence[str] | None = None,
    fps: float = 10,
    hold: float = 2.0,
    scale: int | None = None,
) -> None:
    """Write the reverse process as a GIF that loops forever: a grid of images, and above it the timestep of each frame.

    To keep the file small, grey frames have few grey levels except for the last one, which is exact, and images are
    drawn pixel by pixel (27 frames of 40 MNIST digits: about 0.4 MB). `scale=2` doubles every pixel and triples the file.

    Args:
        path: the GIF to write.
        frames: float [S, N, C, H, W], C = 1 or 3, class-fastest as in `plot_image`; clamped to [-1, 1].
        timesteps: the S values of t that the frames belong to.
        n_columns: images per row.
        class_names: the heads of the columns.
        fps: frames per second; GIFs count in hundredths of a second and browsers slow down above 50.
        hold: seconds for which the last frame stays.
        scale: pixels per image pixel; by default as many as fit a width of 320.

    Raises ValueError when shapes, timesteps and columns do not fit each other.
    """
    frames = _to_array(frames, 5, "frames")
    timesteps = [int(t) for t in timesteps]
    if len(timesteps) != len(frames):
        raise ValueError(f"{len(frames)} frames but {len(timesteps)} timesteps")
    n_columns = _columns(n_columns, class_names, frames.shape[1])
    n_rows = math.ceil(frames.shape[1] / n_columns)
    layout = animation_layout(frames.shape[3:], n_columns, n_rows, max(timesteps), class_names, scale)
    pages = []
    for t, frame in zip(timesteps, frames):
        tile = _tile(frame, n_columns, layout.scale, layout.gap)
        label = {"x": layout.left, "y": layout.left, "s": f"t = {t}", "va": "top", "fontsize": 11}
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


# ----------------------------------------------------------------------------------------------------------------- loss


def new_figure(width: float, height: float, dpi: int = 110) -> Figure:
    """An empty figure, in inches, that needs no display and that no one has to close."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def plot_loss(path: str | os.PathLike, history: Sequence[dict], unit: str = "epoch") -> None:
    """Write the loss curves: the mean loss of each row on the left, its four quarters of the timesteps on the right.

    Args:
        path: the PNG to write.
        history: a dict per epoch, or per stretch of steps, with `unit`, "train_loss" and, where known, "val_loss" and
            "loss_q1" .. "loss_q4": the mean loss for t in the lowest .. highest quarter of 1..T. None, NaN and missing
            values leave a gap; rows may be those of a CSV file, with text for numbers.
        unit: "epoch" or "step": what the horizontal axis counts.

    Raises ValueError if `history` is empty.
    """
    if not history:
        raise ValueError("plot_loss needs at least one epoch")

    def column(key: str) -> np.ndarray:
        return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in history])

    figure = new_figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    colours = ["#440154", "#31688e", "#35a06b", "#d9a400"]  # dark to light with t, told apart by the colour-blind too
    style = {"marker": "o", "markersize": 4 if len(history) <= 50 else 0, "linewidth": 1.6}
    left.plot(column(unit), column("train_loss"), color="#1f5fa8", label="training", **style)
    known = np.isfinite(column("val_loss"))
    if known.any():
        left.plot(column(unit)[known], column("val_loss")[known], color="#d1495b", label="validation", **style)
    for (key, label), colour in zip(QUARTERS.items(), colours):
        values = column(key)
        values[~(values > 0)] = np.nan  # the axis is logarithmic
        if np.isfinite(values).any():
            right.plot(column(unit), values, color=colour, label=label, **style)
    right.set_visible(bool(right.lines))
    if right.lines:
        right.set_yscale("log")
        low, high = right.get_ylim()
        right.set_ylim(low, high * (high / low) ** 0.4)  # room for the legend
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_locator(NullLocator())
    what = "of each epoch" if unit == "epoch" else "since the point before"
    for axes, title in ((left, f"Mean loss {what}"), (right, "Training loss by timestep (log scale)")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        plain_axes(axes)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
    left.set_ylabel("loss: error of the predicted noise")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    note = "The mean goes flat long before training is done: watch the quarters and the samples."
    figure.text(0.5, 0.02, note, ha="center", fontsize=9, style="italic", color="#666666")
    write_figure(path, figure)


class Layout(NamedTuple):
    """Where a page shows its images, in pixels: the image in row j and column k of group g has its upper left corner at
    y = tops[g] + j * (scale * H + gap) and x = left + k * (scale * W + gap), if images are H x W.
    """

    height: int  # of the page
    width: int
    scale: int  # every image pixel becomes scale x scale pixels
    gap: int  # between images
    left: int
    tops: list[int]
    texts: list[dict]

    def geometry(self, size: Sequence[int], n_columns: int, rows: Sequence[int]) -> str:
        """Where images of size (H, W) stand, as JSON. Files keep it as metadata, so that programs can cut them out again."""
        named = {"size": list(size), "columns": n_columns, "rows": list(rows), "scale": self.scale, "gap": self.gap}
        return json.dumps({**named, "left": self.left, "tops": self.tops})


def groups_layout(
    size: Sequence[int],
    n_columns: int,
    rows: Sequence[int],
    labels: Sequence[str],
    heads: Sequence[Sequence[str]],
    title: str | None = None,
) -> Layout:
    """The page of `plot_groups` for images of size (H, W): rows, labels and heads are those of each group."""
    height, width = size
    # Every image pixel becomes `scale` x `scale` pixels: a page at most about 900 wide and, where rows are many, 1,100
    # high; cells of about 24 to 200 pixels.
    most = min(200 // max(height, width), 840 // (n_columns * width), 1100 // (sum(rows) * height))
    scale = max(1, math.ceil(24 / min(height, width)), most)
    gap, margin, font = 3, 14, 14
    label_width = max((_text_width(line, font) for label in labels for line in label.splitlines()), default=0)
    left = margin + label_width + 12 if label_width else margin
    page_width = left + n_columns * (width * scale + gap) - gap + margin
    texts, top = [], margin
    if title:
        style = {"fontsize": font + 2, "weight": "bold"}
        texts.append({"x": left, "y": margin, "s": title, "va": "top", **style})
        page_width = max(page_width, left + _text_width(title, font + 2, "bold") + margin)
        top += font + 14
    tops = []
    for n_rows, label, names in zip(rows, labels, heads):
        head_texts, top = _column_heads(names, width * scale, gap, left, top, range(font, 9, -1))
        texts += head_texts
        tile_height = n_rows * (height * scale + gap) - gap
        if label:
            middle = top + tile_height / 2
            texts.append({"x": left - 12, "y": middle, "s": label, "ha": "right", "va": "center", "fontsize": font})
        tops.append(top)
        top += tile_height + 14
    return Layout(top - 14 + margin, page_width, scale, gap, left, tops, texts)


def animation_layout(
    size: Sequence[int],
    n_columns: int,
    n_rows: int,
    most_t: int,
    class_names: Sequence[str] | None = None,
    scale: int | None = None,
) -> Layout:
    """The pages of `plot_animation` for images of size (H, W), times up to most_t, and its other arguments."""
    height, width = size
    scale = scale or max(1, math.ceil(16 / min(height, width)), min(8, 320 // (n_columns * width)))
    gap, margin, font = 2, 8, 11
    texts, top = _column_heads(class_names, width * scale, gap, margin, margin + font + 8, [font])
    tile_width = n_columns * (width * scale + gap) - gap
    page_width = margin + max(tile_width, _text_width(f"t = {most_t}", font)) + margin
    page_height = top + n_rows * (height * scale + gap) - gap + margin
    return Layout(page_height, page_width, scale, gap, margin, [top], texts)


@functools.lru_cache(maxsize=10_000)  # the heads of a hundred grids are the same
def _text_width(text: str, size: float, weight: str = "normal") -> int:
    """Width of a line of text in pixels, its font `size` in pixels."""
    font = FontProperties(size=size, weight=weight)
    return math.ceil(RendererAgg(1, 1, 72).get_text_width_height_descent(text, font, ismath=False)[0])


def _column_heads(
    names: Sequence[str] | None, cell: int, gap: int, left: int, top: int, sizes: Sequence[int]
) -> tuple[list[dict], int]:
    """Names centred over columns of `cell` pixels, in the first of the font sizes that fits, or else standing upright.

    Returns the texts for `_draw_texts` and the y at which the grid below them begins.
    """
    if not names:
        return [], top
    names = [str(name) for name in names]
    widths = {size: max(_text_width(name, size) for name in names) for size in sizes}
    size = next((size for size in sizes if widths[size] <= cell), None)
    upright = size is None
    size = size or sizes[0]
    bottom = top + (widths[size] if upright else size)
    style = {"y": bottom, "fontsize": size, "rotation": 90 if upright else 0, "ha": "center", "va": "bottom"}
    texts = [{"x": left + k * (cell + gap) + cell / 2, "s": name, **style} for k, name in enumerate(names)]
    return texts, bottom + 5
