"""Any picture file as an image, or as a mask, of the size that a network wants."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import imageio.v3 as imageio
import numpy as np
import torch
import torch.nn.functional as F

from cli import RunError

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey picture (ITU-R BT.601)


def read_images(files: Sequence[Path], size: Sequence[int]) -> torch.Tensor:
    """The pictures as float32 [N, C, H, W] in [-1, 1], `size` being (C, H, W) with C = 1 or 3.

    What is transparent lies on black; of what is no square the middle is taken. RunError if a file is no picture.
    """
    channels, height, width = size
    images = []
    for file in files:
        picture = _square(_grey(read_picture(file)) if channels == 1 else read_picture(file))
        images.append(F.interpolate(picture, (height, width), mode="bilinear", antialias=True))
    return torch.cat(images) * 2 - 1


def read_mask(file: Path, height: int, width: int) -> torch.Tensor:
    """A picture as a mask, float32 [1, 1, height, width]: 1 where it is bright (known), 0 where it is dark (hidden).

    The middle square is taken, as of the pictures, so that a mask painted over a picture fits it. RunError as above.
    """
    mask = F.interpolate(_square(_grey(read_picture(file))), (height, width), mode="nearest-exact")
    return (mask > 0.5).float()


def read_picture(file: Path) -> torch.Tensor:
    """A picture file as float32 [1, 3, H, W] in [0, 1], upright, what is transparent on black. RunError if it is none."""
    if not file.is_file():
        raise RunError(f"there is no file {file}")
    options = {"index": 0, "plugin": "pillow"}
    try:
        if imageio.improps(file, **options).dtype in (np.uint16, np.int32):  # 16 bits: grey, as Pillow knows no other
            grey = imageio.imread(file, rotate=True, **options).astype(np.float32) / 65535
            pixels = np.repeat(grey[..., None], 3, axis=-1)
        else:
            pixels = imageio.imread(file, rotate=True, mode="RGBA", **options).astype(np.float32) / 255
            pixels = pixels[..., :3] * pixels[..., 3:]
    except Exception as error:  # decoders raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{file} cannot be read as a picture ({reason[:120]})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _grey(picture: torch.Tensor) -> torch.Tensor:
    return (picture * picture.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _square(picture: torch.Tensor) -> torch.Tensor:
    height, width = picture.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[..., top : top + side, left : left + side]
