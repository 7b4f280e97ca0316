"""Pictures and files: image grids, animations of the reverse process, loss curves, and files that are never half written.

Everything here takes images in [-1, 1], the range of the diffusion process, and `min_max_scale` is the one place where
they leave it. Grids are class-fastest: sample j of class k stands at index k + j * n_classes, and is drawn in row j,
column k.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v2 as imageio  # 2.28.1 or newer: older versions take the frame durations of a GIF in seconds, not in ms
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

from page_layout import animation_layout, groups_layout

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

WHITE = 255
INK = "#222222"
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


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file completely or not at all: `with atomic_write("a.pt") as temporary: torch.save(state, temporary)`.

    Yields a hidden path in the same folder with the same suffix. When the block ends, the file is forced to disk and
    takes the place of `path` in one step. When the block raises, the temporary file is removed and `path` stays as it
    was. Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its files are readable by their owner only, and a log folder is there to be read by others.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # Windows and some network disks cannot force a folder to disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON. Paths become strings, scalar tensors and numpy scalars become numbers.

    Raises TypeError for any other object that JSON does not know.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "item"):
            return value.item()
        raise TypeError(f"cannot write a {type(value).__name__} as JSON")

    text = json.dumps(obj, indent=2, ensure_ascii=False, default=plain) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Write dicts as a CSV table, the columns in the order of the first row's keys.

    Floats have 6 significant digits, None becomes an empty cell. Raises ValueError if there is no row, or if a later row
    has a key that the first row lacks.
    """
    if not rows:
        raise ValueError("write_csv needs at least one row, to know the columns")

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return f"{value:.6g}" if isinstance(value, float) else value

    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)


def finite(value: Any) -> float | None:
    """A finite number, or None for anything that is not one."""
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def format_duration(seconds: float) -> str:
    """A duration in seconds as text: "1 h 02 min", "3 min 05 s" or "12 s"; "unknown" if not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    total = max(0, round(seconds))
    if total >= 3600:
        minutes = round(total / 60)
        return f"{minutes // 60} h {minutes % 60:02d} min"
    if total >= 60:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total} s"


# --------------------------------------------------------------------------------------------------------------- images


def min_max_scale(x: torch.Tensor | np.ndarray, low: float = -1.0, high: float = 1.0) -> torch.Tensor | np.ndarray:
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
    if not heads or isinstance(heads[0], str):
        heads = [heads or ()] + [()] * (len(groups) - 1)
    if len(heads) != len(groups):
        raise ValueError(f"{len(heads)} lists of heads do not fit {len(groups)} groups")
    n_columns = _columns(n_columns, heads[0], len(arrays[0]))
    for names in heads:
        _columns(n_columns, names, 1)  # raises if they do not fit
    rows = [math.ceil(len(array) / n_columns) for array in arrays]
    layout = groups_layout(shapes[0][1:], n_columns, rows, [label for label, _ in groups], heads, title)
    page = _draw_texts(layout.height, layout.width, layout.texts)
    for array, top in zip(arrays, layout.tops):
        tile = _tile(array, n_columns, layout.scale, layout.gap)
        page[top : top + tile.shape[0], layout.left : layout.left + tile.shape[1]] = tile
    if (page == page[..., :1]).all():  # no colour: a third of the file
        page = page[..., 0]
    with atomic_write(path) as temporary:
        imageio.imwrite(temporary, page)


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
    durations = [duration] * (len(pages) - 1) + [max(duration, round(hold * 1000))]
    if len(pages) == 1:
        durations = durations[0]  # Pillow takes a list for several frames only
    with atomic_write(path) as temporary:
        imageio.mimwrite(temporary, pages, duration=durations, loop=0)


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
