"""Pictures that show what a model of images has learnt: its samples, the two processes, completions and mixtures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np
import torch

from datasets.image_set import ImageSet, to_float
from ddpm import DDPM
from diffusion import inpainting
from diffusion.inpainting import mask_named
from diffusion.noise import SharedNoise
from figures.curves import new_figure, plain_axes, write_figure
from figures.grids import plot_gif, plot_grid, plot_groups
from figures.picture import Picture
from reporting.log_files import FEW, MOST_COLUMNS, animation_name, grid_name

Report = Optional[Callable[[int], None]]  # called with t after each reverse step

FEW_STEPS = 50  # for figures that need not show how the model samples with all its steps
HIDDEN = ["bottom"] * 3 + ["top"] * 3  # of the test images that a run completes
MARKS = (0, 0.25, 0.5, 0.75, 0.99)  # of T: the times of the figures of the two processes
# Similar classes, of which a mixture looks like something: by data set, and the digits for all others.
MIXTURES = {"fashion_mnist": [(0, 3), (7, 9)], "cifar10": [(3, 5), (1, 9)], "cifar100": [(42, 43), (47, 52)]}
DIGIT_MIXTURES = [(3, 8), (4, 9)]
N_EXAMPLES = 6  # of each class in data.png; a third of it where there are many classes
N_PROCESS = 10  # images in the figures of the two processes


# ------------------------------------------------------------------------------------------------ samples


def same_noise(
    ddpm: DDPM,
    c: torch.Tensor,
    n: int,
    seed: int,
    g_weight: float | Sequence[float] = 0.0,
    mixture: str = "vector",
    record: bool = False,
    progress: Report = None,
) -> tuple[torch.Tensor, np.ndarray]:
    """Samples in groups of n, drawn in one batch: image i of every group has the same noise, at the start and in all steps.

    Groups so differ by their conditions alone, and each is what DDPM.sample draws with a generator of this seed.

    c: class vectors, float [G * n, n_classes], group after group. g_weight: one for all images, or one for each.
    Returns the images, float32 [G * n, *size] on the CPU, and with `record` the steps, as DDPM.sample does.
    """
    noise = SharedNoise(torch.Generator(ddpm.device).manual_seed(seed), n)
    y, steps = ddpm.sample(1, None, c.shape[1], g_weight, c, None, None, noise, mixture, record, progress)
    return y.cpu(), steps


def sample_weights(
    ddpm: DDPM,
    n_samples: int,
    n_classes: int,
    classes: Sequence[int] | torch.Tensor,
    g_weights: Sequence[float],
    seed: int,
    record: bool = False,
    progress: Report = None,
) -> dict[float, tuple[torch.Tensor, np.ndarray]]:
    """n_samples of each of these classes for every guidance weight, all weights from the same noise and in one batch.

    classes: indices below n_classes, or class or context vectors, float [K, n_classes].
    Returns for each weight what DDPM.sample does, on the CPU: images, float32 [N, C, H, W], class-fastest, and the steps
    to them, numpy float32 [S, N, C, H, W], S = 0 without `record`.
    """
    n = n_samples * len(classes)
    vectors = classes if isinstance(classes, torch.Tensor) else torch.eye(n_classes)[list(classes)]
    c = vectors.repeat(n_samples * len(g_weights), 1)
    weight_of_each = [w for w in g_weights for _ in range(n)]
    y, steps = same_noise(ddpm, c, n, seed, weight_of_each, record=record, progress=progress)
    return dict(zip(g_weights, zip(y.split(n), np.split(steps, len(g_weights), axis=1))))


def draw_grids(
    log_dir: Path, samples: Mapping[float, torch.Tensor], real: torch.Tensor, names: Sequence[str], mark: str
) -> None:
    """A grid of the samples for each guidance weight {w: [N, C, H, W]}, above real images of the same classes.

    mark: the moment of training, such as 'epoch 3'. names: of the classes.
    """
    for w, y in samples.items():
        unit, number = mark.split()
        plot_grid(log_dir / grid_name(unit, int(number), w), y, real, names, f"{mark}, guidance weight {w:g}")


def draw_animations(
    log_dir: Path, steps: Mapping[float, np.ndarray], times: Sequence[int], names: Sequence[str], mark: str
) -> None:
    """A GIF of the steps to the samples for each guidance weight {w: [S, N, C, H, W]}, at the S times. Else: `draw_grids`."""
    for w, frames in steps.items():
        unit, number = mark.split()
        plot_gif(log_dir / animation_name(unit, int(number), w), frames, times, len(names), names)


# ------------------------------------------------------------------------------------------------ completions, mixtures


def draw_completions(
    log_dir: Path, ddpm: DDPM, real_set: ImageSet, mark: str, seed: int, progress: Report = None
) -> None:
    """inpainting.png: the first images of a set, one half of each hidden and completed, without a class."""
    images = to_float(real_set.images[: len(HIDDEN)]).cpu()
    hidden = HIDDEN[: len(images)]
    masks = torch.cat([mask_named(name, *images.shape[2:]) for name in hidden])
    few = ddpm.respaced(min(FEW_STEPS, ddpm.n_timesteps))
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    completed = few.complete_image(images, masks, n_sample=5, **inpainting.BEST, generator=generator, progress=progress)
    how = ", ".join(f"{name} {value}" for name, value in inpainting.BEST.items())
    how += f", {few.n_timesteps} steps, no class"
    inpainting_figure(
        log_dir / "inpainting.png",
        images,
        masks,
        completed,
        [f"{name} hidden" for name in hidden],
        f"{mark}, half images completed ({how})",
    )


def inpainting_figure(
    path: Path,
    images: torch.Tensor,
    masks: torch.Tensor,
    completed: torch.Tensor,
    heads: Sequence[str],
    title: str | None = None,
) -> Picture:
    """Write images, what is left of them under their masks (hidden pixels mid-grey), and their completions.

    images: float [N, C, H, W] in [-1, 1]. masks: float [N, 1, H, W], 1 where the image is known. completed: float
    [n * N, C, H, W], as of DDPM.complete_image. heads: one per image.
    """
    groups = [("original", images), ("visible", images * masks), ("completed", completed)]
    return plot_groups(path, groups, heads, title)


def draw_mixtures(log_dir: Path, ddpm: DDPM, real_set: ImageSet, mark: str, seed: int, progress: Report = None) -> None:
    """mixture.png: two pairs of classes that look alike, mixed half and half; nothing for a set of one class."""
    names = real_set.class_names
    if len(names) < 2:
        return
    pairs = [pair for pair in MIXTURES.get(real_set.name, DIGIT_MIXTURES) if max(pair) < len(names)] or [(0, 1)]
    few = ddpm.respaced(min(FEW_STEPS, ddpm.n_timesteps))
    title = f"{mark}, mixtures of classes, guidance weight 1, {few.n_timesteps} steps"
    mixture_figure(
        log_dir / "mixture.png", few, names, [{a: 0.5, b: 0.5} for a, b in pairs], 4, 1.0, seed, title, progress
    )


def mixture_figure(
    path: Path,
    ddpm: DDPM,
    class_names: Sequence[str],
    mixtures: Sequence[dict[int, float]],
    n_samples: int,
    g_weight: float,
    seed: int,
    title: str | None = None,
    progress: Report = None,
) -> Picture:
    """Write what lies between classes: for each mixture its classes alone, and the two ways of mixing them.

    mixtures: {class index: weight}. "vector" and "scores" are those of diffusion/condition.py. A row has the same noise
    in all columns (see `same_noise`). There are two batches, one for all columns but "scores".
    """
    mixed = torch.zeros(len(mixtures), len(class_names))
    for row, weights in zip(mixed, mixtures):
        row[list(weights)] = torch.tensor(list(weights.values()))
    one_class = torch.eye(len(class_names))[[k for weights in mixtures for k in weights]]

    def columns(c: torch.Tensor, mixture: str) -> list[torch.Tensor]:
        c = c.repeat_interleave(n_samples, dim=0)
        y, _ = same_noise(ddpm, c, n_samples, seed, g_weight, mixture, progress=progress)
        return list(y.split(n_samples))

    by_vector = columns(torch.cat([one_class, mixed]), "vector")
    alone, vector = iter(by_vector), by_vector[len(one_class) :]
    groups, heads = [], []
    for weights, *both in zip(mixtures, vector, columns(mixed, "scores")):
        n_blank = max(map(len, mixtures)) - len(weights)
        row_of = [next(alone) for _ in weights] + [torch.full_like(both[0], math.nan)] * n_blank + both
        groups.append((mixture_name(weights, class_names), torch.stack(row_of, dim=1).flatten(0, 1)))
        heads.append([class_names[k] for k in weights] + [""] * n_blank + ["vector", "scores"])
    return plot_groups(path, groups, heads, title)


def mixture_name(weights: dict[int, float], class_names: Sequence[str]) -> str:
    """{3: 0.5, 8: 0.5} as '3 + 8', other weights as '3*0.7 + 8*0.3'."""
    equal = all(math.isclose(weight, 1 / len(weights)) for weight in weights.values())
    return " + ".join(class_names[k] if equal else f"{class_names[k]}*{weight:g}" for k, weight in weights.items())


# ------------------------------------------------------------------------------------------------ the data


def real_rows(images: ImageSet, n_rows: int, classes: Sequence[int] | None = None) -> torch.Tensor:
    """The first n_rows images of each of these classes, class-fastest, float32 [n_rows * K, C, H, W] on the CPU.

    classes: as indices; by default all. A class with fewer images leaves NaN in its places, which a picture shows blank.
    """
    classes = range(images.n_classes) if classes is None else classes
    rows = torch.full((n_rows, len(classes), *images.images.shape[1:]), math.nan)
    for column, k in enumerate(classes):
        index = (images.labels == k).nonzero().flatten()[:n_rows].to(images.images.device)
        rows[: len(index), column] = to_float(images.images[index]).cpu()
    return rows.flatten(0, 1)


def first_of_each(images: ImageSet, classes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The first image of each of these classes (of those that have any), its class vector and its class's name."""
    index = torch.cat([(images.labels == k).nonzero()[:1, 0] for k in classes])
    return (*images.batch(index), [images.class_names[k] for k in images.labels[index].tolist()])


def data_figure(path: Path, images: ImageSet) -> Picture:
    """Write what a data set holds: the first images of each class, under its name, and how many there are.

    More than 20 classes stand in blocks of 10, so that every class of a hundred is there and can be read.
    """
    n_classes = images.n_classes
    counts = images.labels.bincount(minlength=n_classes).tolist()
    title = f"{images.name}: {len(images):,} training images"
    if n_classes == 1:
        first = to_float(images.images[: N_EXAMPLES * FEW]).cpu()
        title += f" of class {images.class_names[0]}"
        return plot_groups(path, [("", first)], None, title, min(FEW, len(first)))
    heads = list(images.class_names)
    if min(counts) == max(counts):
        title += f", {counts[0]:,} of each of {n_classes} classes"
    else:
        heads = [f"{name} ({count:,})" for name, count in zip(heads, counts)]
    n_columns, n_rows = (n_classes, N_EXAMPLES) if n_classes <= MOST_COLUMNS else (FEW, N_EXAMPLES // 3)
    groups, heads_of_groups = [], []
    for start in range(0, n_classes, n_columns):  # the last block is filled up with classes that have no images
        groups.append(("", real_rows(images, n_rows, range(start, start + n_columns))))
        heads_of_groups.append((heads[start : start + n_columns] + [""] * n_columns)[:n_columns])
    return plot_groups(path, groups, heads_of_groups, title)


# ------------------------------------------------------------------------------------------------ processes, bits


def both_processes(
    ddpm: DDPM,
    x_0: torch.Tensor,
    seed: int,
    progress: Report = None,
    c: torch.Tensor | None = None,
) -> tuple[dict[int, float], list[torch.Tensor], torch.Tensor]:
    """Samples on their way to noise, with one draw of noise each, and what the model makes of the last of these.

    x_0: float [N, *size] on the model's device. c: class vectors [N, n_classes] or None.
    Returns the times as {t: part of T}, rising, of 0, 25, 50, 75 and 99 % of T; x at these, [N, *size] each, on the
    device; and on the way back, float32 [S, N, *size] on the CPU, from the last time to the first.
    """
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    marks = {int(part * ddpm.n_timesteps): part for part in MARKS}  # of very few steps two marks are one
    times = list(marks)
    noise = torch.randn(x_0.shape, generator=generator, device=ddpm.device)
    forward = [ddpm.q_sample(x_0, t, noise) for t in times]
    _, backward = ddpm.reverse_process(forward[-1], times[-1], times[::-1], c, generator=generator, progress=progress)
    return marks, forward, backward


def process_figures(
    log_dir: Path,
    ddpm: DDPM,
    images: torch.Tensor,
    seed: int,
    c: torch.Tensor | None = None,
    heads: Sequence[str] | None = None,
    progress: Report = None,
) -> None:
    """forward_process.png: images on their way to noise, at 0, 25, 50, 75 and 99 % of T, with one draw of noise each.
    backward_process.png: what the model makes of the last of these, at the same times.

    images: float [N, C, H, W] in [-1, 1]. c: their class vectors or None. heads: what stands above them.
    """
    marks, forward, backward = both_processes(ddpm, images.to(ddpm.device), seed, progress, c)
    rows = [f"t = {t} ({part:.0%})" for t, part in marks.items()]
    title = f"q(x_t | x_0), {ddpm.n_timesteps} steps: from images to noise"
    plot_groups(log_dir / "forward_process.png", list(zip(rows, (x.cpu() for x in forward))), heads, title, len(images))
    title = f"p(x_t | x_{max(marks)}): from the noise of forward_process.png to images"
    title += "" if c is None else " of the same classes"
    plot_groups(log_dir / "backward_process.png", list(zip(rows[::-1], backward)), heads, title, len(images))


def bits_figure(path: Path, terms: np.ndarray, title: str) -> Picture:
    """Write where the bits of a variational bound go: its terms over t, and their sum from t = 1 up to each t.

    terms: float [T + 1], in bits per dimension: L_0, .., L_T (see diffusion/likelihood.py). L_{t-1} stands at t; L_0, the
    decoder's, and L_T, for which no network is asked, have marks of their own.
    """
    T = len(terms) - 1
    t = np.arange(1, T + 1)
    positive = np.where(terms > 0, terms, np.nan)  # the axis is logarithmic
    figure = new_figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    left.semilogy(t[1:], positive[1:T], color="#1f5fa8", linewidth=1.4, label="steps, $L_{t-1}$")
    left.semilogy(1, positive[0], "s", color="#d1495b", markersize=6, label="decoder, $L_0$")
    left.semilogy(T, positive[T], "^", color="#35a06b", markersize=7, label="prior, $L_T$")
    right.semilogx(t, terms[:T].cumsum(), color="#1f5fa8", linewidth=1.6)
    right.set_ylim(bottom=0)
    left.set_title("Each term (log scale)", fontsize=11)
    right.set_title("$L_0 + L_1 + .. + L_{t-1}$", fontsize=11)
    for axes in (left, right):
        axes.set_xlabel("t")
        axes.set_ylabel("bits per dimension")
        plain_axes(axes)
    left.legend(frameon=False, fontsize=9)
    right.xaxis.set_major_formatter("{x:g}")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.tight_layout()
    return write_figure(path, figure)
