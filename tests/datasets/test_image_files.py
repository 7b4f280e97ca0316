"""Tests of datasets/image_files.py: pictures of all kinds that Pillow writes here, and what must become of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.console import DataError
from datasets import sources
from datasets.image_files import decode, read_images, read_mask


def decoded(image: Image.Image, tmp_path: Path, suffix: str, size: int | None = None, **options) -> np.ndarray:
    """Save an image, decode it: int [size, size, 3]."""
    file = tmp_path / f"image{suffix}"
    image.save(file, **options)
    return decode(file, *[size or image.height] * 2).transpose(1, 2, 0).astype(int)


def gradient(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: red rises to the right, green downwards, so that every pixel tells its place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 40)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("width, height, box", [(20, 8, (6, 0)), (8, 20, (0, 6)), (13, 8, (2, 0)), (8, 8, (0, 0))])
def test_the_square_in_the_middle_is_cut_out(tmp_path, width, height, box):
    pixels = gradient(width, height)
    left, top = box
    result = decoded(Image.fromarray(pixels), tmp_path, ".png", size=8)
    assert np.array_equal(result, pixels[top : top + 8, left : left + 8])


def test_what_is_cut_off_does_not_shine_in(tmp_path):
    pixels = np.full((16, 32, 3), 255, np.uint8)
    pixels[:, 8:24] = 0
    assert decoded(Image.fromarray(pixels), tmp_path, ".png", size=4).max() == 0


def test_shrinking_averages(tmp_path):
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    result = decoded(Image.fromarray(checkers), tmp_path, ".png", size=8)
    assert abs(result - 127.5).max() <= 2  # without antialiasing: 0 or 255


def test_resizing_is_that_of_the_other_sources(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for size in (8, 17, 40):
        expected = sources._resize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], size)[0].numpy()
        found = decoded(Image.fromarray(pixels), tmp_path, ".png", size)
        assert abs(found - expected.transpose(1, 2, 0)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation(tmp_path, suffix, orientation):
    """The table is that of the EXIF standard: how the stored image must be turned to stand upright."""
    upright = gradient(16, 16)
    stored = {  # what a camera stores: the inverse of what a viewer must do
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    result = decoded(image, tmp_path, suffix, exif=exif, **({"quality": 95} if suffix == ".jpg" else {}))
    assert abs(result - upright).max() <= (0 if suffix == ".png" else 16)
    assert abs(result - upright).mean() < 3


COLOURS = {
    "red": (255, 0, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "teal": (0, 128, 128),
    "grey": (99, 99, 99),
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("RGB", ".jpg"),
        ("RGB", ".webp"),
        ("RGB", ".bmp"),
        ("RGB", ".tiff"),
        ("RGBA", ".png"),
        ("CMYK", ".jpg"),
        ("CMYK", ".tif"),
        ("P", ".png"),
        ("P", ".gif"),
        ("YCbCr", ".jpg"),
    ],
)
def test_colour_modes(tmp_path, mode, suffix, colour):
    image = Image.new("RGB", (8, 8), COLOURS[colour])
    image = image.quantize() if mode == "P" else image.convert(mode)
    result = decoded(image, tmp_path, suffix)
    tolerance = 0 if suffix in (".png", ".gif", ".bmp", ".tiff") else 4
    assert abs(result - COLOURS[colour]).max() <= tolerance


@pytest.mark.parametrize("mode, suffix", [("L", ".png"), ("LA", ".png"), ("L", ".jpg"), ("L", ".bmp")])
def test_grey_modes(tmp_path, mode, suffix):
    result = decoded(Image.new("L", (8, 8), 99).convert(mode), tmp_path, suffix)
    assert abs(result - 99).max() <= (1 if suffix == ".jpg" else 0)


def test_one_bit(tmp_path):
    squares = np.kron([[0, 1], [1, 0]], np.ones((4, 4))) > 0
    result = decoded(Image.fromarray(squares), tmp_path, ".png")
    assert Image.open(tmp_path / "image.png").mode == "1"
    assert np.array_equal(result, np.repeat(squares[:, :, None] * 255, 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    """Pillow's own conversion would clip: everything above 255 of 65,535 would be white."""
    grey = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    result = decoded(Image.fromarray(grey), tmp_path, suffix)
    assert Image.open(tmp_path / f"image{suffix}").mode.startswith("I")
    assert abs(result[:, :, 0] - grey / 257).max() <= 0.5 and np.ptp(result, axis=2).max() == 0


@pytest.mark.parametrize("alpha, expected", [(255, [200, 0, 100]), (0, [255, 255, 255]), (51, [244, 204, 224])])
def test_transparency_is_laid_on_white(tmp_path, alpha, expected):
    result = decoded(Image.new("RGBA", (8, 8), (200, 0, 100, alpha)), tmp_path, ".png")
    assert abs(result - expected).max() <= 1


@pytest.mark.parametrize("mode, key", [("P", 5), ("L", 5), ("RGB", (5, 5, 5))])
def test_a_transparent_colour_is_laid_on_white(tmp_path, mode, key):
    pixels = np.full((8, 8), 5, np.uint8)
    pixels[:, 4:] = 9
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (i, i, i)])
    result = decoded(image.convert(mode), tmp_path, ".png", transparency=key)
    assert result[:, :4].min() == 255 and (result[:, 4:] == 9).all()


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), COLOURS[name]) for name in ("red", "teal", "black")]
    result = decoded(frames[0], tmp_path, ".gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "image.gif").n_frames == 3 and (result == COLOURS["red"]).all()


def test_the_content_decides_the_format_but_only_among_images(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "wrong.jpg", format="PNG")
    assert decode(tmp_path / "wrong.jpg", 8, 8)[0].min() == 255
    Image.new("RGB", (8, 8), "red").save(tmp_path / "script.jpg", format="EPS")  # for which Pillow starts Ghostscript
    with pytest.raises(OSError, match="cannot identify"):
        decode(tmp_path / "script.jpg", 8, 8)


def test_a_telephones_picture_of_several_is_its_first(tmp_path):
    """Many cameras write such files (MPO) under the name .jpg."""
    red, teal = (Image.new("RGB", (8, 8), COLOURS[name]) for name in ("red", "teal"))
    red.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[teal])
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    assert abs(decode(tmp_path / "a.jpg", 8, 8)[:, 4, 4].astype(int) - COLOURS["red"]).max() <= 4


# ---- files that are refused ------------------------------------------------------------------------------------------


def refusal(file: Path) -> str:
    """What a user is told who names this file."""
    with pytest.raises(DataError) as error:
        read_images([file], (1, 8, 8))
    text = str(error.value)
    assert str(file) in text and "\n" not in text
    return text


GREYS = np.arange(64).reshape(8, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_known_white_are_refused(tmp_path, dtype):
    Image.fromarray(GREYS.astype(dtype)).save(tmp_path / "a.tif")
    assert "does not say which number is white" in refusal(tmp_path / "a.tif")


def tiff_entry(tag: int, value: int) -> bytes:
    """A 16-bit number in the directory of a TIFF file: tag, type SHORT, count 1, value."""
    return struct.pack("<HHIH", tag, 3, 1, value)


@pytest.mark.parametrize("tag, value, other", [(258, 16, 12), (262, 1, 0)])  # 12 bits; white is 0
def test_sixteen_bits_of_another_meaning_are_refused(tmp_path, tag, value, other):
    file = tmp_path / "a.tif"
    Image.fromarray(GREYS.astype(np.uint16)).save(file)
    content = file.read_bytes()
    assert content.count(tiff_entry(tag, value)) == 1
    file.write_bytes(content.replace(tiff_entry(tag, value), tiff_entry(tag, other)))
    assert "does not say which number is white" in refusal(file)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 144 is above it, but not twice: Pillow itself only warns
    assert "DecompressionBomb" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("format", ["EPS", "PPM", "ICO"])
def test_other_formats_are_refused(tmp_path, format):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=format)
    assert "BMP, GIF, JPEG, PNG, TIFF, WEBP" in refusal(tmp_path / "a.png")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    assert "cannot be read as an image" in refusal(tmp_path / "a.png")
    Image.new("L", (99, 99), 7).save(tmp_path / "half.bmp")
    (tmp_path / "half.bmp").write_bytes((tmp_path / "half.bmp").read_bytes()[:5000])
    assert "truncated" in refusal(tmp_path / "half.bmp")
    assert "there is no file" in refusal(tmp_path / "missing.png") and "there is no file" in refusal(tmp_path)


# ---- images and masks ------------------------------------------------------------------------------------------------


def test_images_are_grey_or_coloured_and_may_be_inverted(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture, file in zip(pixels, files):
        Image.fromarray(picture).save(file)
    images = read_images(files, (3, 8, 8))
    assert images.dtype == torch.uint8 and torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    grey = read_images(files, (1, 8, 8))
    luminance = torch.from_numpy(pixels @ np.array([0.299, 0.587, 0.114]))[:, None]
    assert grey.shape == (2, 1, 8, 8) and (grey - luminance).abs().max() <= 1
    assert torch.equal(read_images(files, (1, 8, 8), invert=True), 255 - grey)


def test_a_mask_is_known_where_it_is_bright(tmp_path):
    painted = np.full((30, 42), 127, np.uint8)
    painted[:15, :21] = 128  # the upper left quarter, also of the middle square
    Image.fromarray(painted).save(tmp_path / "mask.png")
    expected = torch.zeros(1, 1, 10, 10)
    expected[..., :5, :5] = 1
    assert torch.equal(read_mask(tmp_path / "mask.png", 10, 10), expected)


def test_strokes_on_a_clear_layer_hide_what_they_cover(tmp_path):
    layer = np.zeros((8, 8, 4), np.uint8)  # black everywhere, but clear
    layer[4:, :, 3] = 255
    Image.fromarray(layer).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", 8, 8)
    assert (mask[..., :4, :] == 1).all() and (mask[..., 4:, :] == 0).all()
