"""Samples of a model, and what they are compared with: the real training images of a data set, as a judge sees them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor

from common.console import Progress, RunError
from datasets.image_set import ImageSet, to_uint8
from ddpm import DDPM
from evaluation.classifier import classify, features_name, features_of, file_name, load_or_train, tells_rotations
from evaluation.clean_fid import fid_by_cleanfid
from evaluation.metrics import compare

AT_ONCE = 300  # samples that are drawn together


class Reference:
    """The features of the training images, computed once, and the judge that computes them.

    judge_dir: where judges are kept. weights_dir: where the weights of the standard FID are kept; None leaves the FID
    out. So does, with a line that says why, what it needs and what is not there.
    """

    def __init__(self, train_set: ImageSet, test_set: ImageSet, judge_dir: Path, weights_dir: Path | None):
        self.train_set, self.name = train_set, f"{train_set.name}, training images"
        if train_set.lossy:
            self.name += " (JPEG copies: no figure compares with published ones)"
            print(f"{train_set.name} is read from JPEG files: no figure compares with published ones", flush=True)
        self.fid = self._fid(weights_dir)  # first: what is missing should be told before the long work
        self.judge, self.judge_accuracy = load_or_train(judge_dir / file_name(train_set), train_set, test_set)
        told = "rotations" if tells_rotations(train_set) else "classes"
        print(f"judge: tells {told}, {self.judge_accuracy:.2%} right on {len(test_set):,} real test images", flush=True)
        self.features = features_of(self.judge, train_set.images)

    def _fid(self, weights_dir: Path | None) -> Callable[[Tensor], dict[str, Any]] | None:
        if weights_dir is None:
            return None
        try:
            images, device = self.train_set.images, self.train_set.device
            return fid_by_cleanfid(images, self.name, weights_dir=weights_dir, device=device)
        except RunError as error:
            print(f"no FID: {error}", file=sys.stderr, flush=True)
            return None

    def compare(self, what: str, images: Tensor, labels: Tensor | None, **about: Any) -> dict[str, Any]:
        """All figures of images, uint8 [N, C, H, W] with N > 3, as a dict for JSON that begins with `what` and `about`.

        labels: int64 [N], the classes that the images should show, or None. Where the judge tells no classes they do
        not matter. The figures are printed, too.
        """
        measured: dict[str, Any] = {"images": what, **about}
        if labels is not None and not tells_rotations(self.train_set):
            seen = classify(self.judge, images).cpu()
            measured["judge_accuracy"] = (seen == labels.cpu()).sum().item() / len(labels)
        features = features_of(self.judge, images)
        measured.update(compare(self.features, features, features_name(self.judge, self.train_set), self.name))
        if self.fid:
            measured["fid"] = self.fid(images)["fid"]
        print(in_words(measured), flush=True)
        return measured


def draw_samples(
    ddpm: DDPM, n_classes: int, n_samples: int, w: float, seed: int, watch: Callable[[int], None] = lambda t: None
) -> tuple[Tensor, Tensor | None]:
    """n_samples of each class, or altogether if there are none: uint8 [N, C, H, W] and int64 [N] or None, on the CPU.

    Only these bytes are kept, so that 50,000 samples fit into memory. watch: called with t after each step of a batch.
    """
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    n_columns, parts = max(1, n_classes), []
    with Progress(n_samples * n_columns, "samples") as progress:
        for rows in torch.ones(n_samples).split(max(1, AT_ONCE // n_columns)):
            n = len(rows)

            def after_step(t: int, n: int = n) -> None:
                progress.advance(n * n_columns / ddpm.n_timesteps)
                watch(t)

            y, _ = ddpm.sample(n, None, n_classes, w, generator=generator, record=False, progress=after_step)
            parts.append(to_uint8(y).cpu())
    return torch.cat(parts), torch.arange(n_classes).repeat(n_samples) if n_classes else None


def in_words(measured: dict[str, Any]) -> str:
    """The result of `Reference.compare` as a line, such as 'samples, w = 1: 99.3% of 300 show their class, ...'."""
    weight = f", w = {measured['guidance_weight']:g}" if "guidance_weight" in measured else ""
    figures = [f"{measured['n_images']:,}"]
    if "judge_accuracy" in measured:
        figures.append(f"{measured['judge_accuracy']:.1%} show their class")
    figures.append(f"Frechet distance {measured['frechet_distance']:.4g}")
    figures += [f"{name} {measured[name]:.1%}" for name in ("precision", "recall")]
    figures += [f"FID {measured['fid']:.4g}"] if "fid" in measured else []
    return f"{measured['images']}{weight}: {', '.join(figures)}"
