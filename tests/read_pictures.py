"""Pictures read back from disk, and images that are easy to find in them."""

from __future__ import annotations

import imageio.v2 as imageio
import numpy as np
import pytest


def read_rgb(path) -> np.ndarray:
    """uint8 [H, W, 3]"""
    page = imageio.imread(path)
    return np.stack([page] * 3, -1) if page.ndim == 2 else page[..., :3]


def read_gif(path) -> tuple[np.ndarray, list[float], int]:
    """Frames uint8 [S, H, W, 3], durations in seconds, and the loop counter (0 is forever)."""
    image_module = pytest.importorskip("PIL.Image")
    frames, durations = [], []
    with image_module.open(path) as image:
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"] / 1000)
        return np.stack(frames), durations, image.info.get("loop")


def flat_images(n: int, channels: int = 1, size: int = 8, low: int = 20) -> np.ndarray:
    """n images, each of one grey or colour that no other one has: float [n, C, size, size] in [-1, 1]."""
    values = low + 3 * np.arange(n * channels).reshape(n, channels, 1, 1)
    assert values.max() < 250
    return (np.broadcast_to(values, (n, channels, size, size)) / 127.5 - 1).astype(np.float32)


def cell_at(page: np.ndarray, image: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height, width of the area that has exactly the colour of a flat image; it must be a full rectangle."""
    colour = np.round((image[:, 0, 0] + 1) * 127.5).astype(np.uint8)
    hits = (page == colour).all(-1)
    # Antialiased letters may have a pixel of the same grey: only rows and columns with many hits belong to the cell.
    (rows,), (columns,) = np.nonzero(hits.sum(1) >= 16), np.nonzero(hits.sum(0) >= 16)
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    assert (page[top:bottom, left:right] == colour).all()
    return top, left, bottom - top, right - left
