"""The loss curves, the distance curve, and the empty figures that other pictures of this folder begin with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from common.files import atomic_write
from figures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUARTERS = {
    "loss_q1": "t in the lowest quarter (1 .. T/4)",
    "loss_q2": "t in the second quarter (T/4 .. T/2)",
    "loss_q3": "t in the third quarter (T/2 .. 3T/4)",
    "loss_q4": "t in the highest quarter (3T/4 .. T)",
}


def new_figure(width: float, height: float, dpi: int = 110) -> Figure:
    """An empty figure, in inches, that needs no display and that no one has to close."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(path: str | os.PathLike, figure: Figure) -> Picture:
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return Picture(path)


def plot_curves(path: str | os.PathLike, history: Sequence[dict], unit: str = "epoch") -> Picture:
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
        raise ValueError("plot_curves needs at least one epoch")

    def column(key: str) -> np.ndarray:
        return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in history])

    quarters = {label: column(key) for key, label in QUARTERS.items() if np.isfinite(column(key)).any()}
    figure = new_figure(11 if quarters else 6.5, 4.4)
    left, *others = figure.subplots(1, 2 if quarters else 1, squeeze=False)[0]
    colours = ["#440154", "#31688e", "#35a06b", "#d9a400"]  # dark to light with t, told apart by the colour-blind too
    style = {"marker": "o", "markersize": 4 if len(history) <= 50 else 0, "linewidth": 1.6}
    left.plot(column(unit), column("train_loss"), color="#1f5fa8", label="training", **style)
    known = np.isfinite(column("val_loss"))
    if known.any():
        left.plot(column(unit)[known], column("val_loss")[known], color="#d1495b", label="validation", **style)
    for right in others:
        for (label, values), colour in zip(quarters.items(), colours):
            values[~(values > 0)] = np.nan  # the axis is logarithmic
            right.plot(column(unit), values, color=colour, label=label, **style)
        right.set_yscale("log")
        low, high = right.get_ylim()
        right.set_ylim(low, high * (high / low) ** 0.4)  # room for the legend
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_locator(NullLocator())
    what = "of each epoch" if unit == "epoch" else "since the point before"
    for axes, title in zip((left, *others), (f"Mean loss {what}", "Training loss by timestep (log scale)")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        plain_axes(axes)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
    left.set_ylabel("loss: error of the predicted noise")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    watch = "the quarters and the samples" if quarters else "the samples"
    note = f"The mean goes flat long before training is done: watch {watch}."
    figure.text(0.5, 0.02, note, ha="center", fontsize=9, style="italic", color="#666666")
    return write_figure(path, figure)


def plot_distances(path: str | os.PathLike, rows: Sequence[dict]) -> Picture:
    """Write the distance of samples to the training images over steps, from rows of metrics.json: the FID if every row
    has one, or else the Frechet distance in the features that it names.
    """
    official = all("fid" in row for row in rows)
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    values = [row["fid" if official else "frechet_distance"] for row in rows]
    axes.plot([row["step"] for row in rows], values, marker="o", markersize=4, linewidth=1.6, color="#1f5fa8")
    axes.set_title(f"{'FID' if official else 'Frechet distance'} of {rows[-1]['n_images']:,} samples", fontsize=11)
    features = "Inception v3" if official else rows[-1]["features"]
    figure.text(0.5, 0.02, f"features: {features}", ha="center", fontsize=8, style="italic", color="#666666")
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0)
    plain_axes(axes)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return write_figure(path, figure)
