"""Samples of prompts: what a model draws that was trained on context vectors (train_celeba.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from common.console import CallError, Progress, values_from_call
from datasets.context import encode_prompts
from datasets.encoders import Encoder, encoder_from
from datasets.image_files import read_images
from datasets.image_set import to_float
from evaluation.comparison import Model
from figures.grids import plot_groups
from figures.images import sample_weights


def encoder_of(model: Model, clip_weights: str | None = None) -> Encoder:
    """The encoder that a model was trained with. CallError if it was trained without one."""
    recipe = model.content["spec"].get("encoder")
    if recipe is None:
        raise CallError(f"{model.file} was not trained on context vectors, so it understands no prompts")
    if clip_weights and recipe.get("kind") != "clip":
        raise CallError(f"--clip_weights has no effect on {model.file}, whose encoder is not CLIP: leave it out")
    with values_from_call():
        encoder = encoder_from(recipe, model.ddpm.device, clip_weights)
        if encoder.dimension != getattr(model.ddpm.nn_model, "condition_dim", 0):
            raise CallError(f"the encoder of {model.file} has another dimension than its network")
    return encoder


def prompt_figure(
    path: Path,
    model: Model,
    prompts: Sequence[str],
    pictures: Sequence[Path],
    g_weights: Sequence[float],
    n_samples: int,
    seed: int,
    title: str,
    clip_weights: str | None = None,
) -> None:
    """Write rows of samples for each guidance weight, a column for each prompt and for each picture that is a prompt.

    All weights and columns have the same noise. Pictures stand above their column.
    """
    ddpm, encoder = model.sampler, encoder_of(model, clip_weights)
    vectors = [encode_prompts(encoder, list(prompts))] if prompts else []
    if pictures:
        shown = to_float(read_images(pictures, ddpm.sample_size()))  # first: a file that is no picture is refused
        vectors.append(encoder.encode_images(pictures).cpu())
    c = torch.cat(vectors)
    n_images = n_samples * len(c) * len(g_weights)
    with Progress(n_images) as progress:
        after_step = progress.steps(ddpm.n_timesteps)
        drawn = sample_weights(ddpm, n_samples, c.shape[1], c, g_weights, seed, progress=after_step)
    groups: list[tuple[str, Tensor]] = [(f"w = {w:g}", y) for w, (y, _) in drawn.items()]
    if pictures:
        blank = torch.full((len(prompts), *shown.shape[1:]), math.nan)
        groups.insert(0, ("picture", torch.cat([blank, shown])))
    plot_groups(path, groups, [*prompts, *(picture.name for picture in pictures)], title)
