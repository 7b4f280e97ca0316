"""Grids and animations are read back from disk, and looked at pixel by pixel."""

from __future__ import annotations

import math
import os

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from read_pictures import cell_at, flat_images, read_gif, read_rgb

from figures import grids
from figures.grids import plot_gif, plot_grid, plot_groups, to_unit


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_min_max_scale(kind):
    x = kind([-3.0, -1.0, 0.0, 0.5, 1.0, 9.0])
    y = to_unit(x)
    assert type(y) is type(x)
    assert y.tolist() == [0, 0, 0.5, 0.75, 1, 1]
    assert to_unit(kind([0.0, 5.0, 10.0]), 0, 10).tolist() == [0, 0.5, 1]
    assert x.tolist() == [-3, -1, 0, 0.5, 1, 9]
    with pytest.raises(ValueError, match="smaller"):
        to_unit(x, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [["0", "1", "2"], ["a very long name", "b", "$c_"], None])
def test_grid_has_sample_j_of_class_k_in_row_j_and_column_k(tmp_path, channels, names):
    generated = flat_images(6, channels)
    real = flat_images(6, channels, low=150)
    plot_grid(tmp_path / "a.png", torch.tensor(generated), torch.tensor(real), names, "title", n_columns=3)
    page = read_rgb(tmp_path / "a.png")
    boxes = np.array([[cell_at(page, images[i]) for i in range(6)] for images in (generated, real)])
    assert len(np.unique(boxes[..., 2:])) == 1  # square cells, all of one size
    assert boxes[0, 0, 2] % 8 == 0  # and a whole number of pixels to an image pixel
    boxes = boxes.reshape(2, 2, 3, 4)  # group, row j, column k, box
    lefts, tops = boxes[..., 1], boxes[..., 0]
    assert (lefts == lefts[0, 0]).all() and (np.diff(lefts[0, 0]) > 0).all()
    assert (tops == tops[..., :1]).all() and (np.diff(tops[..., 0].ravel()) > 0).all()
    row_step = tops[0, 1, 0] - tops[0, 0, 0]
    assert tops[1, 0, 0] - tops[0, 1, 0] > row_step  # the groups stand further apart than the rows


def test_pixels_are_exact_and_not_blurred(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    plot_grid(tmp_path / "a.png", image / 127.5 - 1)
    page = read_rgb(tmp_path / "a.png")
    rows, columns = np.nonzero((page != 255).any(-1))
    page = page[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = len(page) // 8
    expected = image[0].transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(page, expected)


def test_values_outside_are_clamped(tmp_path):
    for name, factor in (("a.png", 1), ("b.png", 7)):
        plot_grid(tmp_path / name, factor * torch.tensor([-1.0, 1.0]).repeat(32).reshape(1, 1, 8, 8))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_missing_images_are_blank(tmp_path):
    generated, real = flat_images(6), flat_images(6, low=150)
    real[4] = np.nan
    plot_grid(tmp_path / "a.png", generated, real, ["a", "b", "c"])
    page = read_rgb(tmp_path / "a.png")
    (top, _, height, width), (_, left, _, _) = cell_at(page, real[3]), cell_at(page, real[1])
    assert (page[top : top + height, left : left + width] == 255).all()
    plot_grid(tmp_path / "b.png", flat_images(5), n_columns=3)  # a last row that is not full
    page = read_rgb(tmp_path / "b.png")
    (top, _, height, width), (_, left, _, _) = cell_at(page, flat_images(5)[4]), cell_at(page, flat_images(5)[2])
    assert (page[top : top + height, left : left + width] == 255).all()


def test_texts_are_drawn(tmp_path):
    """Class names, title and group labels each put ink on the page, outside the cells, and fit on it."""
    images = flat_images(4, low=0)
    pages = {}
    for key, settings in {
        "bare": {},
        "names": {"class_names": ["aa", "bb"]},
        "title": {"title": "a title that is much wider than two small columns of pictures are, so the page grows"},
        "real": {"real": flat_images(4, low=150)},
    }.items():
        plot_grid(tmp_path / "a.png", images, n_columns=2, **settings)
        pages[key] = read_rgb(tmp_path / "a.png")
        assert (pages[key][[0, -1]] == 255).all() and (pages[key][:, [0, -1]] == 255).all()  # nothing is cut off
    top, _, _, _ = cell_at(pages["bare"], images[1])
    assert (pages["bare"][:top] == 255).all()
    for key in ("names", "title"):
        top, _, _, _ = cell_at(pages[key], images[1])
        assert (pages[key][:top] < 128).any()
    _, left, _, _ = cell_at(pages["bare"], images[0])
    assert (pages["bare"][:, :left] == 255).all()
    _, left, _, _ = cell_at(pages["real"], images[0])
    assert (pages["real"][:, :left] < 128).any()


@pytest.mark.parametrize(
    "n_columns, n, size", [(1, 1, 28), (1, 4, 28), (50, 500, 28), (3, 6, 64), (2, 2, 256), (5, 5, 2)]
)
def test_any_shape_of_grid(tmp_path, n_columns, n, size):
    plot_grid(tmp_path / "a.png", torch.zeros(n, 1, size, size), torch.zeros(n, 1, size, size), n_columns=n_columns)
    height, width = read_rgb(tmp_path / "a.png").shape[:2]
    assert width >= n_columns * size and height >= 2 * math.ceil(n / n_columns) * size


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"generated": np.zeros((4, 8, 8))}, "N, C, H, W"),
        ({"generated": np.zeros((4, 2, 8, 8))}, "1 or 3 channels"),
        ({"generated": np.zeros((0, 1, 8, 8))}, "empty"),
        ({"real": np.zeros((4, 1, 9, 9))}, "differ in size"),
        ({"class_names": ["a", "b"], "n_columns": 3}, "columns"),
        ({"n_columns": 0}, "n_columns"),
    ],
)
def test_wrong_calls_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_grid(tmp_path / "a.png", **{"generated": np.zeros((4, 1, 8, 8)), **settings})
    assert os.listdir(tmp_path) == []


def test_groups_stand_one_above_the_other_each_with_its_label_and_heads(tmp_path):
    groups = [("first", flat_images(4, low=0)), ("", flat_images(2, low=100)), ("third $x$", flat_images(3, low=150))]
    boxes = {}
    for key, heads in (("one", ["a", "b"]), ("each", [["a", "b"], [], ["c", ""]]), ("none", None)):
        plot_groups(tmp_path / "a.png", groups, heads, "title", n_columns=2)
        page = read_rgb(tmp_path / "a.png")
        assert (page[[0, -1]] == 255).all() and (page[:, [0, -1]] == 255).all()  # nothing is cut off
        boxes[key] = [[cell_at(page, image) for image in images] for _, images in groups]
        for rows in boxes[key]:
            assert [box[1] for box in rows] == ([rows[0][1], rows[1][1]] * 2)[: len(rows)]  # row by row, 2 columns
            top, left, height, _ = rows[0]
            labelled = (page[top : top + height, :left] < 128).any() or (
                page[top + height :, :left][:height] < 128
            ).any()
            assert labelled == (rows is not boxes[key][1])
        tops, bottoms = [rows[0][0] for rows in boxes[key]], [rows[-1][0] + rows[-1][2] for rows in boxes[key]]
        assert tops[0] < bottoms[0] < tops[1] < bottoms[1] < tops[2]
        between = [(page[bottom:top, boxes[key][0][0][1] :] < 128).any() for bottom, top in zip(bottoms, tops[1:])]
        assert between == ([False, True] if key == "each" else [False, False])  # ink only where there are heads


def test_an_image_grid_is_one_or_two_groups(tmp_path):
    a, b = flat_images(4, low=0), flat_images(2, low=100)
    for name, draw in (
        ("one.png", lambda path: plot_grid(path, a, None, ["x", "y"], "t")),
        ("one_group.png", lambda path: plot_groups(path, [("", a)], ["x", "y"], "t")),
        ("two.png", lambda path: plot_grid(path, a, b, n_columns=4, labels=("k", "l"))),
        ("two_groups.png", lambda path: plot_groups(path, [("k", a), ("l", b)], n_columns=4)),
    ):
        draw(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "one_group.png").read_bytes()
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "two_groups.png").read_bytes()


@pytest.mark.parametrize(
    "sizes, heads, message",
    [
        ([8, 9], None, "a images .1, 8, 8. and b images .1, 9, 9. differ in size"),
        ([8, 8], [["x", "y"]], "1 lists of heads do not fit 2 groups"),
        ([8, 8], [["x", "y"], ["x"]], "1 class names do not fit 2 columns"),
    ],
)
def test_groups_that_do_not_fit_are_named(tmp_path, sizes, heads, message):
    groups = [(label, np.zeros((4, 1, size, size))) for label, size in zip("ab", sizes)]
    with pytest.raises(ValueError, match=message):
        plot_groups(tmp_path / "a.png", groups, heads)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------ animation


@pytest.mark.parametrize("channels", [1, 3])
def test_animation(tmp_path, channels):
    final = flat_images(6, channels, size=16)
    noise = np.random.default_rng(0).standard_normal((3, *final.shape))
    frames = torch.tensor(np.stack([noise[0], noise[1], 0.1 * noise[2] + final, final]), dtype=torch.float32)
    plot_gif(tmp_path / "a.gif", frames, [500, 250, 7, 0], 3, ["a", "b", "c"], fps=8, hold=1.5)
    pages, durations, loop = read_gif(tmp_path / "a.gif")
    assert durations == pytest.approx([0.12, 0.12, 0.12, 1.5])
    assert loop == 0
    boxes = np.array([cell_at(pages[-1], image) for image in final]).reshape(2, 3, 4)
    assert (np.diff(boxes[..., 1], axis=1) > 0).all() and (np.diff(boxes[..., 0], axis=0) > 0).all()
    assert (boxes[..., 2:] % 16 == 0).all()

    # The frames before the last one are the clamped images, up to the levels of the palette.
    tolerance = 20 if channels == 1 else 90
    scale = boxes[0, 0, 2] // 16
    for page, frame in zip(pages[:-1], frames.numpy()):
        for (top, left, height, width), image in zip(boxes.reshape(6, 4), frame):
            cell = page[top : top + height : scale, left : left + width : scale].astype(float)
            error = np.abs(cell - np.clip((image.transpose(1, 2, 0) + 1) * 127.5, 0, 255))
            assert error.mean() < tolerance / 2 and (channels == 3 or error.max() < tolerance)

    # Each timestep has a label of its own, above the class names, and these stay as they are.
    labels = pages[:, :26].reshape(4, -1)
    assert len(np.unique(labels // 64, axis=0)) == 4


def test_small_animation_of_mnist_size(tmp_path):
    """27 frames of 40 digits that are nearly all noise stay below 0.45 MB."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linspace(0, 1, 27).reshape(27, 1, 1, 1, 1)
    digits = torch.full((1, 40, 1, 28, 28), -1.0)
    digits[..., 6:22, 12:16] = 1
    frames = weight.sqrt() * digits + (1 - weight).sqrt() * torch.randn(27, 40, 1, 28, 28, generator=generator)
    plot_gif(tmp_path / "a.gif", frames, list(range(26, -1, -1)), 10)
    assert (tmp_path / "a.gif").stat().st_size < 450_000
    assert len(read_gif(tmp_path / "a.gif")[0]) == 27


def test_animation_scale_and_one_frame(tmp_path):
    frames = torch.zeros(1, 2, 1, 28, 28)
    sizes = []
    for scale in (2, 4):
        plot_gif(tmp_path / "a.gif", frames, [0], 2, scale=scale)
        sizes.append(imageio.mimread(tmp_path / "a.gif")[0].shape)
    assert len(imageio.mimread(tmp_path / "a.gif")) == 1
    assert sizes[1][0] - sizes[0][0] == 2 * 28 and sizes[1][1] - sizes[0][1] == 2 * 2 * 28


def test_wrong_animations_are_named(tmp_path):
    with pytest.raises(ValueError, match="2 frames but 3 timesteps"):
        plot_gif(tmp_path / "a.gif", torch.zeros(2, 4, 1, 8, 8), [3, 2, 1], 2)
    with pytest.raises(ValueError, match="S, N, C, H, W"):
        plot_gif(tmp_path / "a.gif", torch.zeros(4, 1, 8, 8), [1] * 4, 2)
    assert os.listdir(tmp_path) == []


def test_a_failing_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    plot_grid(path, flat_images(4))
    before = path.read_bytes()

    def broken(temporary, page, **_):
        temporary.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(grids.imageio, "imwrite", broken)
    with pytest.raises(OSError, match="disk full"):
        plot_grid(path, flat_images(4, low=100))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["grid.png"]
