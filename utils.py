"""The exercise's helpers, under its names and with its arguments. The suite's own scripts use figures/ instead.

    from utils import plot_animation, plot_loss, plot_image, min_max_scale

    y = min_max_scale(y, 0, 1, -1, 1)                       # images of ToTensor() to [-1, 1], the range of the process
    y_i, y_i_steps = ddpm.sample(4, (1, 28, 28), 10, g_weight=1.0)
    plot_image(min_max_scale(y_i, -1, 1, 0, 1), 10, "samples.png")
    plot_animation(y_i_steps, 4, 10, "log_mnist", epoch, 1.0)
    plot_loss(mean_losses, "log_mnist/loss.png")

The three plot functions write a file and return it as a picture, which a notebook shows if the call is the last line of a
cell. Images are class-fastest: sample j of class k stands at index k + j * n_classes, and is drawn in row j, column k.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence, TypeVar

import numpy as np

from figures.curves import plot_curves
from figures.grids import plot_gif, plot_grid
from figures.picture import Picture

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "torch.Tensor", np.ndarray)


def min_max_scale(array: Array, min_array: float, max_array: float, min_new: float = -1, max_new: float = 1) -> Array:
    """Map [min_array, max_array] linearly to [min_new, max_new]. Nothing is clamped. Tensor or numpy array."""
    array = array / 1  # uint8 becomes float: 2 * 200 does not fit into it
    return (max_new - min_new) * (array - min_array) / (max_array - min_array) + min_new


def unorm(x: np.ndarray) -> np.ndarray:
    """One image [C, H, W] with each channel stretched to [0, 1]; a channel of one value becomes 0."""
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def norm_all(x_steps: np.ndarray, n_t: int, n_s: int) -> np.ndarray:
    """`unorm` of the first n_t steps of the first n_s samples; x_steps [S, N, C, H, W]."""
    result = np.zeros_like(x_steps)
    for t in range(n_t):
        for s in range(n_s):
            result[t, s] = unorm(x_steps[t, s])
    return result


def plot_image(y_all: Any, n_classes: int, save_path: str | os.PathLike, inverse: bool = True) -> Picture:
    """Write images as a grid with n_classes columns.

    y_all: [N, C, H, W] in [0, 1], tensor or array. inverse: black on white, as for digits; False for colour images.
    """
    _check_first(y_all, "plot_image(y_all, n_classes, save_path)", "plot_grid")
    y_all = _array(y_all)
    # Samples are not clamped, so some pixels lie outside. Many pixels: another range.
    if ((y_all < -0.5) | (y_all > 1.5)).mean() > 0.1:
        low, high = y_all.min(), y_all.max()
        warnings.warn(f"plot_image takes images in [0, 1], but these are in [{low:.2g}, {high:.2g}]", stacklevel=2)
    y = min_max_scale(y_all, 0, 1, -1, 1)
    picture = plot_grid(save_path, -y if inverse else y, n_columns=n_classes)
    print(f"saved image to {save_path}")
    return picture


def plot_animation(
    y_sampled_steps: Any,
    n_samples: int,
    n_classes: int,
    log_dir: str | os.PathLike,
    epoch: int,
    g_weight: float,
    rgb: bool = False,
) -> Picture:
    """Write generated_gif_epoch{epoch + 1}_guidance_weight{g_weight}.gif, with n_classes columns and n_samples rows.

    y_sampled_steps: [S, N, C, H, W], as `DDPM.sample` returns them. Each image of each step is stretched to the whole
    range of grey levels. rgb: whether the images have colours; otherwise they are drawn black on white.
    """
    _check_first(y_sampled_steps, "plot_animation(y_sampled_steps, n_samples, n_classes, log_dir, ...)", "plot_gif")
    y = _array(y_sampled_steps)[:, : n_samples * n_classes]
    if y.shape[1] < n_samples * n_classes:
        raise ValueError(f"{n_samples} samples of {n_classes} classes are more than the {y.shape[1]} images there are")
    y = min_max_scale(norm_all(y, *y.shape[:2]), 0, 1, -1, 1)
    path = Path(log_dir) / f"generated_gif_epoch{epoch + 1}_guidance_weight{g_weight}.gif"
    picture = plot_gif(path, y if rgb else -y[:, :, :1], None, n_classes, fps=5)
    print(f"saved gif to {path}")
    return picture


def plot_loss(mean_loss_train: Sequence[float], save_path: str | os.PathLike) -> Picture:
    """Write the curve of the mean training loss of each epoch."""
    _check_first(mean_loss_train, "plot_loss(mean_loss_train, save_path)", "plot_curves")
    losses = [float(_array(loss)) for loss in mean_loss_train]
    return plot_curves(save_path, [{"epoch": i + 1, "train_loss": loss} for i, loss in enumerate(losses)])


def _array(values: Any) -> np.ndarray:
    """A tensor, on any device and with or without gradients, as an array; an array, number or list likewise."""
    if isinstance(values, list):
        return np.stack([_array(value) for value in values])
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _check_first(argument: Any, call: str, ours: str) -> None:
    """TypeError for a call with the file first: an earlier version of this suite had other functions of these names."""
    if isinstance(argument, (str, os.PathLike)):
        module = "curves" if ours == "plot_curves" else "grids"
        raise TypeError(f"{call} is the exercise's; the suite's own, with the file first, is figures.{module}.{ours}")
