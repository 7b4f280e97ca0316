"""Pictures that show what a model of points in the plane has learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence, Union, cast

import imageio.v2 as imageio
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import atomic_write
from datasets.points import Chequerboard, TwoGaussians
from ddpm import DDPM
from figures.curves import new_figure, write_figure
from figures.images import Report, both_processes
from figures.picture import Picture

Distribution = Union[TwoGaussians, Chequerboard]

N_SAMPLES = 5_000  # in the figures, and of the measurements
FIELD_MARKS = (0.02, 0.1, 0.25, 0.5)  # of T: beyond these the arrows hardly change any more
BLUE, RED = "#1f5fa8", "#c0392b"


def _page(n_panels: int, size: float = 3.6, top: float = 0.55) -> tuple[Figure, list[Axes]]:
    figure = new_figure(size * n_panels, size + top, dpi=100)
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def _write(figure: Figure, path: Path) -> Picture:
    figure.tight_layout()
    return write_figure(path, figure)


def _panel(axes: Axes, title: str, limit: float) -> None:
    axes.set_title(title, fontsize=10)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.tick_params(labelsize=8)


def _scatter(axes: Axes, points: torch.Tensor, colour: str = BLUE, alpha: float = 0.5) -> None:
    # Rasterised points of one colour: 5,000 of them, small enough that the edges of a square can be seen.
    x, y = points.cpu().numpy().T
    axes.scatter(x, y, s=2.5, color=colour, alpha=alpha, linewidths=0)


def _density(axes: Axes, distribution: Distribution, limit: float, n: int = 240) -> None:
    """The true density: shades of grey under the points, and lines over them at 1, 10 and 50 % of its maximum."""
    centres = ((torch.arange(n) + 0.5) / n * 2 - 1) * limit
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    density = distribution.log_prob(torch.stack([x.flatten(), y.flatten()], dim=1)).exp().view(n, n)
    extent = (-limit, limit, -limit, limit)
    axes.imshow(density.numpy(), extent=extent, origin="lower", cmap="Greys", vmax=2.5 * density.max().item())
    if not distribution.bounded:  # its points cover the grey; the squares' edges can be seen without lines
        levels = [part * density.max().item() for part in (0.01, 0.1, 0.5)]
        axes.contour(x.numpy(), y.numpy(), density.numpy(), levels, colors="black", linewidths=0.8, zorder=3)


def plot_samples(path: Path, distribution: Distribution, panels: Sequence[tuple[str, torch.Tensor]]) -> Picture:
    """Write samples [N, 2] over the true density, (title, samples) side by side."""
    figure, all_axes = _page(len(panels), size=4.4)
    for axes, (title, samples) in zip(all_axes, panels):
        _density(axes, distribution, 1.25)
        _scatter(axes, samples)
        _panel(axes, title, 1.25)
    return _write(figure, path)


def animate_samples(path: Path, panels: Sequence[tuple[str, torch.Tensor]], times: Sequence[int]) -> Picture:
    """Write a GIF of reverse processes side by side: panels of (title, points [S, N, 2]) at S times, falling."""
    figure, all_axes = _page(len(panels), size=3)
    pages = []
    for k, t in enumerate(times):
        for axes, (title, points) in zip(all_axes, panels):
            axes.clear()
            _scatter(axes, points[k])
            _panel(axes, f"{title}, t = {t}", 2)
        figure.tight_layout()
        figure.canvas.draw()
        pages.append(np.array(cast(Any, figure.canvas).buffer_rgba())[..., :3])
    durations = [100] * (len(pages) - 1) + [2000]  # milliseconds
    with atomic_write(path) as temporary:
        imageio.mimwrite(temporary, cast(Any, pages), duration=durations, loop=0)
    return Picture(path)


def plot_processes(log_dir: Path, ddpm: DDPM, distribution: Distribution, seed: int, progress: Report = None) -> None:
    """forward_process.png: points of the data at 0, 25, 50, 75 and 99 % of T, with one draw of noise.
    backward_process.png: what the model makes of the last of these, at the same times.
    """
    x_0 = distribution.sample(N_SAMPLES, torch.Generator().manual_seed(seed)).to(ddpm.device)
    marks, forward, backward = both_processes(ddpm, x_0, seed, progress)
    times = list(marks)
    for name, points, order, colour in (
        ("forward_process.png", forward, times, BLUE),
        ("backward_process.png", backward, times[::-1], RED),
    ):
        figure, all_axes = _page(len(times), size=2.9)
        for axes, x_t, t in zip(all_axes, points, order):
            _scatter(axes, x_t, colour)
            _panel(axes, f"t = {t} ({t / ddpm.n_timesteps:.0%} of T)", 3)
        _write(figure, log_dir / name)


def plot_field(path: Path, ddpm: DDPM, distribution: Distribution, seed: int) -> Picture:
    """Write where the model sends x_t: arrows -eps(x_t, t), the direction of the score, over points of q(x_t).

    -eps is the score times sqrt(1 - alpha_bar_t) (Ho et al. 2020, section 3.2), so that lengths compare between times.
    """
    generator = torch.Generator().manual_seed(seed)
    x_0 = distribution.sample(N_SAMPLES, generator)
    x_0, noise = x_0.to(ddpm.device), torch.randn(x_0.shape, generator=generator).to(ddpm.device)
    side, limit = torch.linspace(-1.4, 1.4, 29), 1.5
    grid = torch.cartesian_prod(side, side).to(ddpm.device)
    figure, all_axes = _page(len(FIELD_MARKS), size=4.4)
    for axes, part in zip(all_axes, FIELD_MARKS):
        t = max(1, round(part * ddpm.n_timesteps))
        with torch.inference_mode():
            arrows = -ddpm.eps(grid, t).cpu()
        _scatter(axes, ddpm.q_sample(x_0, t, noise), "#9db8d6", alpha=0.6)
        axes.quiver(*grid.cpu().numpy().T, *arrows.numpy().T, color=RED, angles="xy", scale=45, width=0.003)
        _panel(axes, f"t = {t} ({t / ddpm.n_timesteps:.0%} of T): $-\\epsilon(x_t, t)$ over $q(x_t)$", limit)
    return _write(figure, path)
