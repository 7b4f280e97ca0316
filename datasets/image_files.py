"""From a picture file to pixels: the one place that knows what files of all kinds mean.

What becomes of a file: turned upright by its EXIF orientation; the first frame of an animation; transparent parts laid
on white, as a viewer shows them; 16-bit grey scaled to 8 bits; every other colour mode converted by Pillow (embedded
colour profiles are ignored); the square in its middle cut out; and that resized once, with Pillow's antialiased bilinear
filter. It is the filter that `datasets.load` has for other sources, so that a set looks the same whichever way it came,
and unlike the sharper ones it draws no bright or dark seams along edges.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from common.console import DataError, one_line

FORMATS = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]  # whatever the suffix: Pillow knows others that start programs
BITS, PHOTOMETRIC, BLACK_IS_ZERO = 258, 262, 1  # of the TIFF standard


def read_images(files: Sequence[Path], size: Sequence[int], invert: bool = False) -> torch.Tensor:
    """The pictures as uint8 [N, C, H, W], `size` being (C, H, W) with C = 1 or 3; with `invert`, black is white.

    DataError in one line if a file is no picture.
    """
    channels, height, width = size
    mode = "L" if channels == 1 else "RGB"
    images = torch.from_numpy(np.stack([_decoded(file, height, width, mode) for file in files]))
    return 255 - images if invert else images


def read_mask(file: Path, height: int, width: int) -> torch.Tensor:
    """A picture as a mask, float32 [1, 1, height, width]: 1 where it is bright (known), 0 where it is dark (hidden).

    The middle square is taken, as of the pictures, so that a mask painted over a picture fits it. DataError as above.
    """
    pixels = _decoded(file, height, width, "L", Image.Resampling.NEAREST)
    return torch.from_numpy(pixels > 127).float()[None]


def _decoded(file: Path, *how: int | str) -> np.ndarray:
    """`decode`, for a file that the user named: whatever is wrong with it becomes one line."""
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        return decode(file, *how)
    except Exception as error:
        kinds = ", ".join(FORMATS)
        raise DataError(f"{file} cannot be read as a picture ({one_line(error)}); these can: {kinds}") from None


def decode(
    file: Path | str, height: int, width: int, mode: str = "RGB", resample: int = Image.Resampling.BILINEAR
) -> np.ndarray:
    """A picture file as uint8 [C, height, width], C = 3 for mode "RGB" and 1 for "L" (luminance, ITU-R BT.601).

    Raises some exception if it is none, if nobody knows what its numbers mean, and if it is suspiciously large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata: nothing that a user of the images could mend
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=FORMATS) as image:
            _check_white(image)
            image = _to_rgb(ImageOps.exif_transpose(image))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((width, height), resample).convert(mode)
    return np.asarray(square).reshape(height, width, -1).transpose(2, 0, 1)


def _check_white(image: Image.Image) -> None:
    """ValueError if the pixels have more than 8 bits and the file does not say which number is white."""
    if not image.mode.startswith(("F", "I")):
        return
    if image.format == "TIFF":  # may hold floats, signed numbers, 12 or 32 bits, and white as 0
        tags = image.tag_v2
        known = image.mode.startswith("I;16") and tags.get(BITS) == (16,) and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO
    else:
        known = image.format == "PNG"  # of which some releases of Pillow open 16 bits as "I"
    if not known:
        raise ValueError("its pixels are no whole numbers of 8 or 16 bits, and nobody knows which of them is white")


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B": Pillow itself would clip instead of scale
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
