"""How good completions of half-hidden test images are: what a judge sees in them, what became of known pixels."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Iterator, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from datasets import ImageSet, to_float
from ddpm import DDPM
from inpainting import JUMP_LENGTH, METHODS, N_RESAMPLE
from judging import classify

AT_ONCE = 100  # images


def masked(image_set: ImageSet, mask: Tensor) -> ImageSet:
    """The same images with nothing (black) where the mask, [1, 1, H, W], is 0."""
    images = image_set.images
    return dataclasses.replace(image_set, images=images * mask.to(images.device, torch.uint8))


def judge_completions(
    ddpm: DDPM,
    judge: nn.Module,
    test_set: ImageSet,
    mask: Tensor,
    seed: int,
    methods: Sequence[str] = METHODS,
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
) -> Iterator[dict[str, Any]]:
    """Each of these methods of `DDPM.complete_image` completes the test images without a class; a result for each, for JSON:

    n_resample   how often each stretch of jump_length steps was walked; None takes the method's own default
    true_class   the share of completions in which the judge sees the class of the original
    known_error  how far the known pixels ended from what they were: mean distance, in [-1, 1]
    seconds      that it took

    mask: float [1, 1, H, W], 1 where the images are known. seed: decides the noise, the same for every method.
    """
    y, labels = to_float(test_set.images).to(ddpm.device), test_set.labels.to(ddpm.device)
    mask = mask.to(ddpm.device)
    for method in methods:
        walks = N_RESAMPLE[method] if n_resample is None else n_resample
        how = {"method": method, "n_resample": walks, "jump_length": jump_length}
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        began = time.perf_counter()
        found = torch.cat([
            ddpm.complete_image(part, mask, generator=generator, **how) for part in y.split(AT_ONCE)
        ])  # fmt: skip
        seconds = time.perf_counter() - began
        true_class = (classify(judge, found) == labels).float().mean().item()
        off = ((found - y).abs() * mask).sum().item() / mask.expand_as(y).sum().item()
        print(
            f"{method}, n_resample {walks}: {true_class:.1%} show the true class; known pixels off by {off:.4f}; {seconds:.0f} s",
            flush=True,
        )
        yield {**how, "true_class": true_class, "known_error": off, "seconds": seconds}
