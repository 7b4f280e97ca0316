"""Code written against the exercise's own utils.py: its calls, with its arguments, in its ranges."""

from __future__ import annotations

import warnings

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from read_pictures import cell_at, read_rgb

from ddpm import DDPM
from networks.Conditional_UNet import UNet
from utils import min_max_scale, norm_all, plot_animation, plot_image, plot_loss


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_min_max_scale_is_the_exercises(kind):
    y = kind([0.0, 0.25, 1.0, 2.0])
    assert min_max_scale(y, 0, 1, -1, 1).tolist() == [-1, -0.5, 1, 3]  # as the training loop calls it
    assert min_max_scale(y, 0, 1).tolist() == [-1, -0.5, 1, 3]  # to [-1, 1] by default
    assert min_max_scale(kind([-1.0, 1.0]), -1, 1, 0, 1).tolist() == [0, 1]  # as its sampling does
    assert type(min_max_scale(y, 0, 1)) is type(y)


def test_plot_image_takes_0_to_1_and_draws_black_on_white(tmp_path, capsys):
    grey = (torch.arange(6) * 30 + 20) / 255
    y_all = grey.view(6, 1, 1, 1).expand(6, 1, 8, 8)
    plot_image(y_all, 3, tmp_path / "a.png")
    assert "saved image to" in capsys.readouterr().out
    page = read_rgb(tmp_path / "a.png")
    boxes = [cell_at(page, (1 - 2 * image).numpy()) for image in y_all]
    assert boxes[0][0] == boxes[2][0] < boxes[3][0] and boxes[0][1] == boxes[3][1] < boxes[1][1]  # 3 columns
    plot_image(y_all, 3, tmp_path / "a.png", inverse=False)
    cell_at(read_rgb(tmp_path / "a.png"), (2 * y_all[0] - 1).numpy())
    for other_range in (2 * y_all - 1, 255 * y_all):
        with pytest.warns(UserWarning, match="takes images in .0, 1"):
            plot_image(other_range, 3, tmp_path / "a.png")
    few_outside = y_all.repeat(4, 1, 1, 1)
    few_outside[0] = -1.5  # samples are not clamped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_image(few_outside.requires_grad_(), 3, tmp_path / "a.png")


def test_whole_numbers_do_not_overflow():
    for kind in (torch.uint8, torch.int64):
        assert min_max_scale(torch.tensor([0, 51, 255], dtype=kind), 0, 255).tolist() == pytest.approx([-1, -0.6, 1])
    assert min_max_scale(np.array([0, 51, 255], np.uint8), 0, 255, 0, 1).tolist() == pytest.approx([0, 0.2, 1])


def norm_by_hand(steps):
    low, high = (f(steps, axis=(3, 4), keepdims=True) for f in (np.min, np.max))
    return (steps - low) / (high - low)


def test_the_exercises_way_from_a_model_to_a_gif(tmp_path):
    """Its sampling and its animation, line by line; then its helper on the same steps."""
    torch.manual_seed(0)
    ddpm = DDPM(nn_model=UNet(in_channels=1, n_features=8, n_classes=3, height=8), n_timesteps=5, device="cpu")
    y_sampled, y_sampled_steps = ddpm.sample(2, (1, 8, 8), 3, g_weight=1.0)
    assert isinstance(y_sampled_steps, np.ndarray) and y_sampled_steps.shape == (5, 6, 1, 8, 8)
    np.testing.assert_array_equal(y_sampled_steps[-1], y_sampled.numpy())
    np.testing.assert_allclose(norm_all(y_sampled_steps, 5, 6), norm_by_hand(y_sampled_steps), atol=1e-6)
    assert y_sampled_steps[0, (1 * 3) + 2, 0].shape == (8, 8)  # as its imshow takes them
    plot_animation(y_sampled_steps, 2, 3, tmp_path, 5, 1.0)
    pages = imageio.mimread(tmp_path / "generated_gif_epoch6_guidance_weight1.0.gif")
    assert len(pages) == 5
    as_tensors = [torch.tensor(step, requires_grad=True) for step in y_sampled_steps]
    plot_animation(as_tensors, 2, 3, tmp_path, 6, 1.0)
    same = (tmp_path / f"generated_gif_epoch{epoch}_guidance_weight1.0.gif" for epoch in (6, 7))
    assert next(same).read_bytes() == next(same).read_bytes()
    with pytest.raises(ValueError, match="3 samples of 3 classes are more than the 6 images"):
        plot_animation(y_sampled_steps, 3, 3, tmp_path, 5, 1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", [[0.5, torch.tensor(0.2, requires_grad=True)], torch.tensor([0.5, 0.2]), (0.5, 0.2)])
def test_plot_loss(losses, tmp_path):
    plot_loss(losses, tmp_path / "loss.png")
    assert imageio.imread(tmp_path / "loss.png").std() > 10


def test_a_notebook_shows_what_is_written(tmp_path):
    y = torch.rand(4, 1, 8, 8)
    shown = [
        (plot_image(y, 2, tmp_path / "a.png"), "a.png"),
        (plot_loss([0.5, 0.3], tmp_path / "loss.png"), "loss.png"),
        (plot_animation(y[None], 2, 2, tmp_path, 0, 1.0), "generated_gif_epoch1_guidance_weight1.0.gif"),
    ]
    for picture, name in shown:
        assert picture._repr_png_() == (tmp_path / name).read_bytes()
        assert name in repr(picture) and str(tmp_path) not in repr(picture)  # notebooks keep it: no paths


def test_calls_with_the_file_first_say_where_that_function_is(tmp_path):
    y = torch.zeros(1, 1, 8, 8)
    for call, name in (
        (lambda: plot_image(tmp_path / "a.png", y, y), "grids.plot_grid"),
        (lambda: plot_animation("a.gif", y[None], [0], 1, None, 1), "grids.plot_gif"),
        (lambda: plot_loss("loss.png", []), "curves.plot_curves"),
    ):
        with pytest.raises(TypeError, match=f"figures.{name}"):
            call()
