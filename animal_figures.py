"""The figures of an unconditional run that is counted in steps: samples, the two processes, and quality over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from figures import process_figures
from utils import plot_animation, plot_image

if TYPE_CHECKING:
    from trainer import Trainer

N_PROCESS = 8  # images in the figures of the forward and the backward process
# The exercise's sampler: x_0 clamped, mean and variance of the posterior.
SAMPLER = {"clip_x0": True, "variance": "posterior"}


def draw_animal_run(run: Trainer) -> None:
    """samples_step{S}.png, the model, forward_process.png and backward_process.png; at the end a GIF of the samples.

    The noise is that of the run's seed at every moment: differences between pictures are differences of models.
    """
    final, seed = run.step == run.last_step, run.seed_for_pictures()
    generator = torch.Generator(run.device).manual_seed(seed)
    progress = lambda what: lambda t: run.sampling_progress(what, t)  # noqa: E731
    y_0, y_steps = run.averaged.sample(run.args.n_samples, classes=None, generator=generator, record=final,
                                       progress=progress("samples"), **SAMPLER)  # fmt: skip
    plot_image(run.log_dir / f"samples_{run.tail()}.png", y_0, title=f"{run.mark()}, samples")
    if final:
        plot_animation(run.log_dir / f"animation_{run.tail()}.gif", y_steps, run.averaged.recorded_times(),
                       math.ceil(math.sqrt(len(y_0))))  # fmt: skip
    run.save_model()

    images, _ = run.train_set.batch(run.order_of_epoch(0)[:N_PROCESS])  # the first of the first training batch
    process_figures(run.log_dir, run.averaged, images, seed, progress=progress("processes"), **SAMPLER)
