"""Code written against the exercise's own utils.py: its calls, with its arguments, in its ranges."""

from __future__ import annotations

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
    with pytest.warns(UserWarning, match="takes images in .0, 1"):
        plot_image(2 * y_all - 1, 3, tmp_path / "a.png")


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


def test_plot_loss(tmp_path):
    plot_loss([0.5, 0.3, torch.tensor(0.2)], tmp_path / "loss.png")
    assert imageio.imread(tmp_path / "loss.png").std() > 10


def test_calls_with_the_file_first_say_where_that_function_is(tmp_path):
    y = torch.zeros(1, 1, 8, 8)
    for call, name in (
        (lambda: plot_image(tmp_path / "a.png", y, y), "grids.plot_grid"),
        (lambda: plot_animation("a.gif", y[None], [0], 1, None, 1), "grids.plot_gif"),
        (lambda: plot_loss("loss.png", []), "curves.plot_curves"),
    ):
        with pytest.raises(TypeError, match=f"figures.{name}"):
            call()
