"""The pictures of a class-conditional run: what the model draws, beside real images, and how it comes out of noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Callable, Sequence

import torch

from datasets import ImageSet, to_float
from ddpm import DDPM
from utils import plot_animation, plot_image


def draw_samples(
    log_dir: Path,
    ddpm: DDPM,
    real_set: ImageSet,
    epoch: int,
    g_weights: Sequence[float],
    n_samples: int,
    seed: int,
    progress: Callable[[float, int], None] | None = None,
) -> None:
    """A grid and a GIF for each guidance weight, n_samples of each class, real images of the same classes below.

    The noise is that of `seed` for every weight and epoch: differences between pictures are differences of models.
    progress: called with (guidance weight, t) after each reverse step.
    """
    names = list(real_set.class_names)
    real = real_rows(real_set, n_samples)
    for w in g_weights:
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        report = (lambda t, w=w: progress(w, t)) if progress else None
        y_0, y_steps = ddpm.sample(n_samples, None, len(names), w, generator=generator, progress=report)
        tail = f"_epoch{epoch}_guidance_weight{w:g}"
        title = f"epoch {epoch}, guidance weight {w:g}"
        plot_image(log_dir / f"generated_images{tail}.png", y_0.cpu(), real, names, title)
        plot_animation(log_dir / f"animation{tail}.gif", y_steps, ddpm.recorded_times(), len(names), names)


def real_rows(images: ImageSet, n_rows: int) -> torch.Tensor:
    """The first n_rows images of each class, class-fastest, float32 [n_rows * n_classes, C, H, W] on the CPU.

    A class with fewer leaves NaN in its places, which a picture shows blank.
    """
    rows = torch.full((n_rows, images.n_classes, *images.images.shape[1:]), math.nan)
    for k in range(images.n_classes):
        index = (images.labels == k).nonzero().flatten()[:n_rows].to(images.images.device)
        rows[: len(index), k] = to_float(images.images[index]).cpu()
    return rows.flatten(0, 1)
