"""Models of the same images side by side: samples of each from the same noise, above real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Sequence

import torch

from common.console import CallError, Progress, values_from_call
from datasets import sources
from datasets.image_set import ImageSet
from ddpm import DDPM
from figures.grids import plot_groups
from figures.images import real_rows
from networks import count_parameters
from training import checkpoint
from training.losses import validation_loss


class Model(NamedTuple):
    """What `checkpoint.load_model` reads from a file, and the DDPM that draws samples: the same one, or with fewer steps."""

    file: Path
    ddpm: DDPM
    content: dict[str, Any]
    sampler: DDPM


def images_of(model: Model, data_dir: Path, limit: int | None = None) -> ImageSet:
    """The test set of the data that a model was trained on, or its first `limit` images."""
    name, which = checkpoint.data_of(model.ddpm, model.content)
    with values_from_call():
        return sources.load(name, data_dir, train=False, limit=limit, **which)


def loss_of(ddpm: DDPM) -> tuple[str, str, str]:
    return ddpm.loss, ddpm.predict, ddpm.weighting


def check_comparable(models: Sequence[Model]) -> None:
    """CallError if models differ in images, classes, noise schedule or loss: then pictures and losses do not compare."""
    about = [
        (checkpoint.data_of(ddpm, content), content["class_names"], ddpm.alpha_bar_t.tolist(), loss_of(ddpm))
        for _, ddpm, content, _ in models
    ]
    for model, one in zip(models, about):
        if one != about[0]:
            first = models[0].file
            raise CallError(f"{model.file} has other images or classes, or another T, schedule or loss than {first}")
    if not models[0].content["class_names"]:
        raise CallError(f"{models[0].file} has no classes")


def comparison_figure(
    path: Path,
    models: Sequence[Model],
    test_set: ImageSet,
    classes: Sequence[int],
    n_samples: int,
    g_weight: float,
    seed: int,
    title: str | None = None,
) -> None:
    """Draw n_samples of each class from every model. The figure also shows, and this prints, each model's size and loss.

    models: see `check_comparable`. test_set: with batches on their device. classes: as indices. The loss is that of
    training on the first 2,000 test images, for all t, with the same noise for every model.
    """
    class_names, n_images = test_set.class_names, n_samples * len(classes)
    groups = []
    for file, ddpm, content, sampler in models:
        loss = validation_loss(ddpm, test_set, True, seed)
        lines = [
            content["spec"]["network"],
            "/".join(file.resolve().parts[-2:]),
            f"{count_parameters(ddpm.nn_model):,} parameters",
            f"validation loss {loss:.4f}",
        ]
        print(f"{file}: {lines[0]}, {lines[2]}, {lines[3]}", flush=True)
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        with Progress(n_images) as progress:
            after_step = progress.steps(sampler.n_timesteps)
            how: dict[str, Any] = {"generator": generator, "record": False, "progress": after_step}
            y, _ = sampler.sample(n_samples, None, len(class_names), g_weight, classes, **how)
        groups.append(("\n".join(lines), y.cpu()))
    groups.append(("real", real_rows(test_set, n_samples, classes)))
    plot_groups(path, groups, [class_names[k] for k in classes], title)
