"""Samples of a model, and the real images that they are compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import Tensor

from common.console import Progress, RunError
from datasets.image_set import ImageSet, to_uint8
from ddpm import DDPM
from diffusion.noise import noise_like
from evaluation.classifier import classify, features_name, features_of, file_name, load_or_train, tells_rotations
from evaluation.clean_fid import fid_by_cleanfid
from evaluation.metrics import compare

AT_ONCE = 300  # samples that are drawn together


class Reference:
    """The features of the training images, computed once, and the classifier that computes them.

    judge_dir: where classifiers are kept. weights_dir: where the weights for the standard FID are kept; None: no FID. If
    something that the FID needs is missing, a line says so, and the FID is left out.
    """

    def __init__(self, train_set: ImageSet, test_set: ImageSet, judge_dir: Path, weights_dir: Path | None):
        self.train_set, self.name = train_set, f"{train_set.name}, training images"
        if train_set.lossy:
            self.name += " (JPEG copies: no figure compares with published ones)"
            print(f"{train_set.name} is read from JPEG files: no figure compares with published ones", flush=True)
        self.fid = self._fid(weights_dir)  # first: what is missing should be told before the long work
        self.classifier, self.judge_accuracy = load_or_train(judge_dir / file_name(train_set), train_set, test_set)
        told = "rotation" if tells_rotations(train_set) else "class"
        print(f"classifier: finds the {told} of {self.judge_accuracy:.2%} of {len(test_set):,} test images", flush=True)
        self.features = features_of(self.classifier, train_set.images)

    def _fid(self, weights_dir: Path | None) -> Callable[[Tensor], float] | None:
        if weights_dir is None:
            return None
        try:
            return fid_by_cleanfid(self.train_set.images, weights_dir, self.train_set.device)
        except RunError as error:
            print(f"no FID: {error}", file=sys.stderr, flush=True)
            return None

    def compare(self, what: str, images: Tensor, labels: Tensor | None, **about: Any) -> dict[str, Any]:
        """Measure images, uint8 [N, C, H, W] with N > 3: a dict for JSON that begins with `what` and `about`.

        labels: int64 [N], the classes that the images should show, or None. A classifier of rotations does not use
        them. The results are printed, too.
        """
        measured: dict[str, Any] = {"images": what, **about}
        if labels is not None and not tells_rotations(self.train_set):
            found = classify(self.classifier, images).cpu()
            measured["judge_accuracy"] = (found == labels.cpu()).sum().item() / len(labels)
        features = features_of(self.classifier, images)
        measured.update(compare(self.features, features, features_name(self.classifier, self.train_set), self.name))
        if self.fid:
            measured["fid"] = self.fid(images)
        print(in_words(measured), flush=True)
        return measured


def draw_samples(
    ddpm: DDPM, n_classes: int, n_samples: int, w: float, seed: int, watch: Callable[[int], None] = lambda t: None
) -> tuple[Tensor, Tensor | None]:
    """n_samples of each class, or altogether if there are none: uint8 [N, C, H, W] and int64 [N] or None, on the CPU.

    Only these bytes are kept, so that 50,000 samples fit into memory. watch: called with t after each step of a batch.
    RunError if the model predicts values that are not finite.
    """
    parts = draw_in_parts(ddpm, n_samples, n_classes, w, seed, watch=watch)
    images = torch.cat([to_uint8(y).cpu() for y in parts])
    return images, torch.arange(n_classes).repeat(n_samples) if n_classes else None


def draw_in_parts(
    ddpm: DDPM,
    n_samples: int,
    n_classes: int,
    w: float,
    seed: int,
    vectors: Tensor | None = None,
    watch: Callable[[int], None] = lambda t: None,
) -> Iterator[Tensor]:
    """Samples for `torch.cat`, class-fastest, about AT_ONCE at a time: float32 [n, C, H, W] on the device.

    vectors: context vectors in place of all classes, [K, n_classes]. Else: see `draw_samples`.
    """
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    n_columns = max(1, n_classes) if vectors is None else len(vectors)
    condition: dict[str, Any] = {} if vectors is None else {"classes": vectors}
    with Progress(n_samples * n_columns, "samples") as progress:
        for rows in torch.ones(n_samples).split(max(1, AT_ONCE // n_columns)):
            advance = progress.steps(ddpm.n_timesteps, len(rows) * n_columns)

            def after_step(t: int, advance: Callable[[int], None] = advance) -> None:
                advance(t)
                watch(t)

            how: dict[str, Any] = {"generator": generator, "record": False, "progress": after_step}
            yield finite(ddpm.sample(len(rows), None, n_classes, w, **condition, **how)[0])


def finite(values: Tensor) -> Tensor:
    """`values`, which a model computed. RunError if they are not finite."""
    if not values.isfinite().all():
        raise RunError("the model predicts values that are not finite: it diverged in training; take an earlier one")
    return values


@torch.inference_mode()
def try_model(ddpm: DDPM) -> None:
    """RunError if the model does not predict finite noise for x_T. Nearly every model that diverged fails at once."""
    x = torch.empty(1, *ddpm.sample_size(), device=ddpm.device)
    noise = noise_like(x, torch.Generator(ddpm.device).manual_seed(0))
    finite(ddpm.fast_copy().eps(noise, ddpm.n_timesteps))


def in_words(measured: dict[str, Any]) -> str:
    """The result of `Reference.compare` as a line, such as 'samples, w = 1: 300, 99.3% show their class, ...'."""
    weight = f", w = {measured['guidance_weight']:g}" if "guidance_weight" in measured else ""
    figures = [f"{measured['n_images']:,}"]
    if "judge_accuracy" in measured:
        figures.append(f"{measured['judge_accuracy']:.1%} show their class")
    figures.append(f"Frechet distance {measured['frechet_distance']:.4g}")
    figures += [f"{name} {measured[name]:.1%}" for name in ("precision", "recall")]
    figures += [f"FID {measured['fid']:.4g}"] if "fid" in measured else []
    return f"{measured['images']}{weight}: {', '.join(figures)}"
