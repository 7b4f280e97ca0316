"""The figures that show what a model has learnt: what it draws, and what else it can be asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Sequence

import numpy as np
import torch

from datasets.image_set import ImageSet, to_float
from ddpm import DDPM
from diffusion.inpainting import JUMP_LENGTH, mask_named
from reporting.log_files import FEW, MOST_COLUMNS, shown_classes
from utils import new_figure, plain_axes, plot_animation, plot_groups, plot_image, write_figure

if TYPE_CHECKING:
    pass

HIDDEN = ["bottom"] * 3 + ["top"] * 3  # of the exercise's test images
# How the figure of a run completes images: what completes most of them to their true class (see README.md), in 491
# steps, where plain sampling takes 400.
COMPLETION = {"method": "input", "n_resample": 10, "jump_length": 5}
COMPLETION_STEPS = 50
MARKS = (0, 0.25, 0.5, 0.75, 0.99)  # of T: the times of the figures of the two processes
# Classes between which there is something to see: by data set, and otherwise as among digits.
MIXTURES = {"fashion_mnist": [(0, 3), (7, 9)], "cifar10": [(3, 5), (1, 9)], "cifar100": [(42, 43), (47, 52)]}
DIGIT_MIXTURES = [(3, 8), (4, 9)]
N_EXAMPLES = 6  # of each class in data.png; a third of it where there are many classes
N_PROCESS = 10  # images in the figures of the two processes


def draw_samples(
    log_dir: Path,
    ddpm: DDPM,
    real_set: ImageSet,
    mark: str,
    g_weights: Sequence[float],
    n_samples: int,
    seed: int,
    animate: bool = True,
    progress: Callable[[str, int], None] | None = None,
    classes: Sequence[int] | None = None,
) -> None:
    """A grid and, with `animate`, a GIF for each guidance weight: n_samples of each class, above real images of these.

    mark: the moment of training, such as 'epoch 3'. progress: called with (what is drawn, t) after each reverse step.
    classes: which classes, as indices; by default those of `shown_classes`.
    """
    n_classes = real_set.n_classes
    classes = shown_classes(n_classes) if classes is None else list(classes)
    names = [real_set.class_names[k] for k in classes]
    real = real_rows(real_set, n_samples, classes)
    for w in g_weights:
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        report = (lambda t, w=w: progress(f"guidance weight {w:g}", t)) if progress else None
        y_0, y_steps = ddpm.sample(n_samples, None, n_classes, w, classes, generator=generator, record=animate,
                                   progress=report)  # fmt: skip
        tail = f"_{mark.replace(' ', '')}_guidance_weight{w:g}"
        plot_image(log_dir / f"generated_images{tail}.png", y_0.cpu(), real, names, f"{mark}, guidance weight {w:g}")
        if animate:
            plot_animation(log_dir / f"animation{tail}.gif", y_steps, ddpm.recorded_times(), len(names), names)


def draw_applications(
    log_dir: Path,
    ddpm: DDPM,
    real_set: ImageSet,
    mark: str,
    seed: int,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """What else a trained model can be asked for: inpainting.png and, with two classes or more, mixture.png.

    seed, progress: see `draw_samples`.
    """
    report = lambda what: (lambda t: progress(what, t)) if progress else None  # noqa: E731
    images = to_float(real_set.images[: len(HIDDEN)]).cpu()
    hidden = HIDDEN[: len(images)]
    masks = torch.cat([mask_named(name, *images.shape[2:]) for name in hidden])
    few = ddpm.respaced(min(COMPLETION_STEPS, ddpm.n_timesteps))
    how = ", ".join(f"{name} {value}" for name, value in COMPLETION.items())
    title = f"{mark}, half images completed ({how}, {few.n_timesteps} steps, no class)"
    inpainting_figure(log_dir / "inpainting.png", few, images, masks,
                      [f"{name} hidden" for name in hidden], seed=seed, title=title, progress=report("completions"),
                      **COMPLETION)  # fmt: skip
    names = list(real_set.class_names)
    mixtures = [pair for pair in MIXTURES.get(real_set.name, DIGIT_MIXTURES) if max(pair) < len(names)] or [(0, 1)]
    if len(names) > 1:
        weights = [{k: 1 / len(mixture) for k in mixture} for mixture in mixtures]
        mixture_figure(log_dir / "mixture.png", ddpm, names, weights, 4, 1.0, seed,
                       f"{mark}, mixtures of classes, guidance weight 1", report("mixtures"))  # fmt: skip


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


def data_figure(path: Path, images: ImageSet) -> None:
    """Write what a data set holds: the first images of each class, under its name, and how many there are.

    More than 20 classes stand in blocks of 10, so that every class of a hundred is there and can be read.
    """
    n_classes = images.n_classes
    counts = images.labels.bincount(minlength=n_classes).tolist()
    title = f"{images.name}: {len(images):,} training images"
    if n_classes == 1:
        first = to_float(images.images[: N_EXAMPLES * FEW]).cpu()
        plot_groups(path, [("", first)], None, f"{title} of class {images.class_names[0]}", min(FEW, len(first)))
        return
    heads = list(images.class_names)
    if min(counts) == max(counts):
        title += f", {counts[0]:,} of each of {n_classes} classes"
    else:
        heads = [f"{name} ({count:,})" for name, count in zip(heads, counts)]
    n_columns, n_rows = (n_classes, N_EXAMPLES) if n_classes <= MOST_COLUMNS else (FEW, N_EXAMPLES // 3)
    groups, heads_of_groups = [], []
    for start in range(
        0, n_classes, n_columns
    ):  # a last block that is not full is filled up with classes without images
        groups.append(("", real_rows(images, n_rows, range(start, start + n_columns))))
        heads_of_groups.append((heads[start : start + n_columns] + [""] * n_columns)[:n_columns])
    plot_groups(path, groups, heads_of_groups, title)


def mixture_figure(
    path: Path,
    ddpm: DDPM,
    class_names: Sequence[str],
    mixtures: Sequence[dict[int, float]],
    n_samples: int,
    g_weight: float,
    seed: int,
    title: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write what lies between classes: for each mixture its classes alone, and the two ways of mixing them.

    mixtures: {class index: weight}. "vector" is DDPM.sample(mixture='vector'), "scores" mixture='scores'. A row has
    the same noise in all columns, from the start to the last step, so that columns differ by their condition alone.
    progress: called with t after each reverse step of each column.
    """

    def column(c: torch.Tensor, mixture: str = "vector") -> torch.Tensor:
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        y, _ = ddpm.sample(n_samples, None, len(class_names), g_weight, c[None], generator=generator, mixture=mixture,
                           record=False, progress=progress)  # fmt: skip
        return y.cpu()

    one_class = torch.eye(len(class_names))
    groups, heads = [], []
    for weights in mixtures:
        c = sum(weight * one_class[k] for k, weight in weights.items())
        columns = [column(one_class[k]) for k in weights]
        blank = [torch.full_like(columns[0], math.nan)] * (max(map(len, mixtures)) - len(weights))
        columns += [*blank, column(c), column(c, "scores")]
        groups.append((mixture_name(weights, class_names), torch.stack(columns, dim=1).flatten(0, 1)))
        heads.append([class_names[k] for k in weights] + [""] * len(blank) + ["vector", "scores"])
    plot_groups(path, groups, heads, title)


def inpainting_figure(
    path: Path,
    ddpm: DDPM,
    images: torch.Tensor,
    masks: torch.Tensor,
    heads: Sequence[str],
    n_samples: int = 5,
    method: str = "mean",
    scale: float = 1.0,
    c: torch.Tensor | None = None,
    g_weight: float = 0.0,
    seed: int = 0,
    title: str | None = None,
    progress: Callable[[int], None] | None = None,
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
) -> None:
    """Write images, what is left of them under their masks (hidden pixels mid-grey), and n_samples completions of each.

    images: float [N, C, H, W] in [-1, 1]. masks: float [N, 1, H, W], 1 where the image is known. heads: one per image.
    method, scale, c, g_weight, progress, n_resample, jump_length: see DDPM.complete_image.
    """
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    completed = ddpm.complete_image(images, masks, scale, method, c, g_weight, n_samples, n_resample=n_resample,
                                    jump_length=jump_length, generator=generator, progress=progress).cpu()  # fmt: skip
    groups = [("original", images), ("visible", images * masks), ("completed", completed)]
    plot_groups(path, groups, heads, title)


def sweep_figure(
    path: Path,
    ddpm: DDPM,
    class_names: Sequence[str],
    classes: Sequence[int],
    g_weights: Sequence[float],
    seed: int,
    title: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a row of one sample of each class for every guidance weight, all rows from the same noise."""
    groups = []
    for w in g_weights:
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        y, _ = ddpm.sample(1, None, len(class_names), w, list(classes), generator=generator, record=False,
                           progress=progress)  # fmt: skip
        groups.append((f"w = {w:g}", y.cpu()))
    plot_groups(path, groups, [class_names[k] for k in classes], title)


def mixture_name(weights: dict[int, float], class_names: Sequence[str]) -> str:
    """{3: 0.5, 8: 0.5} as '3 + 8', other weights as '3*0.7 + 8*0.3'."""
    equal = all(math.isclose(weight, 1 / len(weights)) for weight in weights.values())
    return " + ".join(class_names[k] if equal else f"{class_names[k]}*{weight:g}" for k, weight in weights.items())


def both_processes(
    ddpm: DDPM,
    x_0: torch.Tensor,
    seed: int,
    progress: Callable[[int], None] | None = None,
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
    progress: Callable[[int], None] | None = None,
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


def bits_figure(path: Path, terms: np.ndarray, title: str) -> None:
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
    write_figure(path, figure)
