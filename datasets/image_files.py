"""From an image file to pixels, for files of all kinds.

A file is turned upright by its EXIF orientation. Of an animation, the first frame is taken. Transparent parts become
white, as in a viewer. 16-bit grey is scaled to 8 bits; Pillow converts every other colour mode and ignores colour
profiles. The square in the middle is cut out and resized once, with Pillow's antialiased bilinear filter. That is the
filter of `datasets.sources.load`, so that a data set looks the same whether it comes as files or not; sharper filters
would draw bright and dark seams along edges.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from common.console import DataError, one_line

FORMATS = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]  # whatever the suffix; for others Pillow may start programs
BITS, PHOTOMETRIC, BLACK_IS_ZERO = 258, 262, 1  # of the TIFF standard


def read_images(files: Sequence[Path], size: Sequence[int], invert: bool = False) -> torch.Tensor:
    """Image files as uint8 [N, C, H, W]; `size` is (C, H, W) with C = 1 or 3. `invert` exchanges black and white.

    Raises DataError if a file is not an image.
    """
    channels, height, width = size
    mode = "L" if channels == 1 else "RGB"
    images = torch.from_numpy(np.stack([_decode_named(file, height, width, mode) for file in files]))
    return 255 - images if invert else images


def read_mask(file: Path, height: int, width: int) -> torch.Tensor:
    """An image file as a mask, float32 [1, 1, height, width]: 1 where it is bright (known), 0 where dark (hidden).

    The middle square is taken, as in `read_images`, so that a mask painted over an image fits it. Raises DataError.
    """
    pixels = _decode_named(file, height, width, "L", Image.Resampling.NEAREST)
    return torch.from_numpy(pixels > 127).float()[None]


def _decode_named(
    file: Path, height: int, width: int, mode: str, resample: int = Image.Resampling.BILINEAR
) -> np.ndarray:
    """`decode` for a file that the user named: any failure becomes a DataError."""
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, which users of the images cannot change
            return decode(file, height, width, mode, resample)
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as an image ({one_line(error)}); these formats can: {', '.join(FORMATS)}"
        ) from None


def decode(
    file: Path | str, height: int, width: int, mode: str = "RGB", resample: int = Image.Resampling.BILINEAR
) -> np.ndarray:
    """An image file as uint8 [C, height, width], C = 3 for mode "RGB" and 1 for "L" (luminance, ITU-R BT.601).

    Raises an exception of some kind if the file is not an image, if it does not say which number is white, and if it is
    so large that it may be an attack.
    """
    with Image.open(file, formats=FORMATS) as opened:
        # Pillow only warns up to twice this size, and warnings cannot be made errors for one thread alone.
        if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels are suspiciously many")
        _check_white(opened)
        image = _to_rgb(_upright(opened))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((width, height), resample).convert(mode)
    return np.asarray(square).reshape(height, width, -1).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say. Damaged EXIF data say nothing; damaged pixels still raise an exception."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever Pillow makes of junk
        return image


def _check_white(image: Image.Image) -> None:
    """ValueError if the pixels have more than 8 bits and the file does not say which number is white."""
    if not image.mode.startswith(("F", "I")):
        return
    if isinstance(image, TiffImageFile):  # may hold floats, signed numbers, 12 or 32 bits, and white as 0
        tags = image.tag_v2
        known = image.mode.startswith("I;16") and tags.get(BITS) == (16,) and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO
    else:
        known = image.format == "PNG"  # some releases of Pillow open 16-bit PNGs as "I"
    if not known:
        raise ValueError("its pixels are not integers of 8 or 16 bits, and it does not say which number is white")


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B": Pillow itself would clip instead of scale
        grey = np.asarray(image).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
