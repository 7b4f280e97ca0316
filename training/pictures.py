"""The pictures of samples that a training run draws: at each guidance weight, or without classes."""

from __future__ import annotations

import math
from typing import Sequence

import torch

from datasets.image_set import ImageSet
from ddpm import DDPM
from figures.grids import plot_gif, plot_grid
from figures.images import draw_animations, draw_grids, process_figures, sample_weights
from training.seeds import order_of_epoch
from training.trainer import Trainer

N_PROCESS = 8  # images in the figures of the forward and the backward process


def draw_at_each_weight(
    run: Trainer,
    sampler: DDPM,
    conditions: torch.Tensor,
    g_weights: Sequence[float],
    n_samples: int,
    real: torch.Tensor,
    names: Sequence[str],
    animate: bool,
) -> None:
    """For each guidance weight a grid of samples above real images and, if `animate`, a GIF of these samples.

    sampler: the model as it samples. conditions: class or context vectors, float [K, D], a column each; names: of these.
    real: the real images, class-fastest. All weights have the same noise, that of the run's seed.
    """
    width, times = conditions.shape[1], sampler.recorded_times()
    for w in g_weights:
        if not run.missing(*run.sample_names(w, animate)):
            continue
        progress = run.sampling_progress(f"samples, w = {w:g}")
        drawn = sample_weights(sampler, n_samples, width, conditions, [w], run.seed_for_pictures, animate, progress)
        y, steps = drawn[w]
        draw_grids(run.log_dir, {w: y}, real, names, run.mark())
        run.watch.lap("grids")
        if animate:
            draw_animations(run.log_dir, {w: steps}, times, names, run.mark())
            run.watch.lap("animations")


def draw_without_classes(run: Trainer, sampler: DDPM, train_set: ImageSet, n_samples: int, animate: bool) -> None:
    """samples_{epoch or step}{E}.png, forward_process.png, backward_process.png; if `animate`, also a GIF of the samples.

    sampler: the model as it samples. All have the same noise, that of the run's seed: pictures of two moments differ
    because the models differ.
    """
    names, seed = run.sample_names(None, animate), run.seed_for_pictures
    if run.missing(*names):
        generator = torch.Generator(run.device).manual_seed(seed)
        y_0, y_steps = sampler.sample(
            n_samples, classes=None, generator=generator, record=animate, progress=run.sampling_progress("samples")
        )
        plot_grid(run.log_dir / names[0], y_0, title=f"{run.mark()}, samples")
        run.watch.lap("grids")
        if animate:
            n_columns = math.ceil(math.sqrt(len(y_0)))
            plot_gif(run.log_dir / names[1], y_steps, sampler.recorded_times(), n_columns)
            run.watch.lap("animations")
    if run.missing("forward_process.png", "backward_process.png"):
        first = order_of_epoch(len(train_set), run.settings.seed, 0)[:N_PROCESS]  # of the first training batch
        images, _ = train_set.batch(first)
        process_figures(run.log_dir, run.averaged, images, seed, progress=run.sampling_progress("processes"))
        run.watch.lap("other figures")
