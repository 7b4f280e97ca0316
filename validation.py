"""The validation loss."""

from __future__ import annotations

import torch

from datasets import ImageSet
from ddpm import DDPM
from seeds import VALIDATION, seed_for

VALIDATION_IMAGES = 2000  # enough for a steady mean, few enough to cost a CPU seconds


@torch.inference_mode()
def validation_loss(ddpm: DDPM, images: ImageSet, classes: bool, seed: int, batch_size: int = 256) -> float:
    """Mean loss on the first VALIDATION_IMAGES images, with the same t and noise for every model that has this seed.

    The t are spread evenly over 1..T, so that few images give a steady mean; no class is dropped. classes: whether the
    network takes any. images: with batches on the device of `ddpm`, which is left in eval mode.
    """
    n = min(VALIDATION_IMAGES, len(images))
    generator = torch.Generator().manual_seed(seed_for(seed, VALIDATION))
    spread = torch.arange(n) * ddpm.n_timesteps // n + 1
    t = spread[torch.randperm(n, generator=generator)].to(ddpm.device)
    noise = torch.randn(n, *images.images.shape[1:], generator=generator).to(ddpm.device)
    ddpm.eval()
    losses = []
    for part in torch.arange(n).split(batch_size):
        y, c = images.batch(part)
        losses.append(ddpm.training_losses(y, c if classes else None, t[part], noise[part]))
    return torch.cat(losses).cpu().double().mean().item()
