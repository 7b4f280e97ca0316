"""What `sample.py --inpaint` completes: images of the user or test images, and the masks that hide a part of them."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import torch

from common.console import CallError
from datasets.image_files import read_images, read_mask
from datasets.image_set import to_float
from diffusion import inpainting
from evaluation.comparison import Model, images_of
from figures.images import HIDDEN


def to_complete(
    model: Model, files: Sequence[Path], mask: str | None, invert: bool, data_dir: Path, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images, float32 [N, C, H, W] in [-1, 1], their masks, float32 [N, 1, H, W], and a heading for each.

    files: of the images; without any, the first test images of the model's data. mask: of all images, a name in
    inpainting.MASKS or an image file; None: the lower half (of some test images the upper). seed: of random masks.
    """
    size = model.sampler.sample_size()
    if files:
        images = to_float(read_images(files, size, invert))
        hidden = [mask or "bottom"] * len(images)
    else:
        images = to_float(images_of(model, data_dir, len(HIDDEN)).images)
        hidden = [mask] * len(images) if mask else HIDDEN[: len(images)]
    generator = torch.Generator().manual_seed(seed)
    masks = torch.cat([mask_of(word, size[1], size[2], generator) for word in hidden])
    return images, masks, [f"{word} hidden" if word in inpainting.MASKS else Path(word).name for word in hidden]


def mask_of(word: str, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """The mask [1, 1, height, width] of a name in inpainting.MASKS or of an image file."""
    if word in inpainting.MASKS:
        return inpainting.mask_named(word, height, width, generator)
    if not Path(word).is_file():
        raise CallError(f"--mask {word} is neither a file nor one of {', '.join(inpainting.MASKS)}")
    mask = read_mask(Path(word), height, width)
    if mask.all():
        raise CallError(f"--mask {word} hides nothing: dark parts are hidden, transparent ones count as white")
    return mask
