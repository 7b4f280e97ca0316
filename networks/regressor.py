"""A network that rates images: numbers such as attributes of a face, by which samples of prompts are measured."""

from __future__ import annotations

import torch
import torch.nn as nn


class Regressor(nn.Module):
    """Images [N, in_channels, height, height] in [-1, 1] -> [N, n_outputs]. height: divisible by 8.

    Unlike the classifiers, its last layer knows where in the image something is, as in faces that are all in one place.
    """

    def __init__(self, in_channels: int, height: int, n_outputs: int, n_features: int = 24):
        super().__init__()
        if height % 8:
            raise ValueError(f"height must be divisible by 8, not {height}")
        F = n_features

        def conv(before: int, after: int) -> list[nn.Module]:
            layer = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
            return [layer, nn.BatchNorm2d(after), nn.ReLU()]

        self.layers = nn.Sequential(
            *(*conv(in_channels, F), nn.MaxPool2d(2), *conv(F, 2 * F), nn.MaxPool2d(2), *conv(2 * F, 4 * F)),
            *(nn.MaxPool2d(2), *conv(4 * F, 4 * F), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3)),
            nn.Linear(4 * F * 16, n_outputs),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
