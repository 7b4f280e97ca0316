"""The figure of `benchmark.py --growth`: how time grows with the number of images, their size and the steps."""

from __future__ import annotations

import os
from statistics import median
from typing import Any, Mapping

import numpy as np

from figures.curves import new_figure, plain_axes, write_figure
from figures.picture import Picture


def medians(rounds: Mapping[int, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The sizes, and the median of the seconds of each."""
    return np.array([float(size) for size in rounds]), np.array([median(times) for times in rounds.values()])


def exponent(rounds: Mapping[int, list[float]]) -> float:
    """The power of the size with which the seconds grow: the slope of the least-squares line of their logarithms."""
    sizes, times = medians(rounds)
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def growth_lines(found: Mapping[str, Any]) -> list[str]:
    """The same in words: the machine, and for each curve its ends and its power."""
    lines = [f"{found['machine']}; {found['clock']}, sampling in {found['sampling_steps']} steps unless they vary"]
    for axis, curves in found["seconds"].items():
        for what, rounds in curves.items():
            sizes, times = medians(rounds)
            ends = f"{sizes[0]:g} to {sizes[-1]:g} {axis}: {times[0]:.3g} to {times[-1]:.3g} s"
            lines.append(f"{what}, {ends}, grows with the power {exponent(rounds):.2f}")
    return lines


def plot_growth(path: str | os.PathLike, found: Mapping[str, Any]) -> Picture:
    """Write a panel for each quantity that grew: the time of each size on logarithmic axes, beside proportional growth.

    found: what `benchmark.py --growth --json` writes: "machine", "clock", and "seconds" as {what grows: {curve: {size:
    [seconds of each round]}}}.
    """
    panels = found["seconds"]
    figure = new_figure(4 * len(panels), 4)
    for axes, (axis, curves) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
        for (what, rounds), colour in zip(curves.items(), ("#1f5fa8", "#d1495b")):
            sizes, times = medians(rounds)
            label = f"{what}: power {exponent(rounds):.2f}"
            axes.plot(sizes, times, marker="o", markersize=4, linewidth=1.6, color=colour, label=label)
            axes.plot(sizes, times[-1] * sizes / sizes[-1], linestyle=":", linewidth=1.2, color=colour)
        axes.set(xscale="log", yscale="log", xlabel=axis)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        plain_axes(axes)
        axes.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel(f"seconds ({found['clock']})")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    note = f"Dotted: proportional growth, through the largest. {found['machine']}"
    figure.text(0.5, 0.02, note, ha="center", fontsize=9, style="italic", color="#666666")
    return write_figure(path, figure)
