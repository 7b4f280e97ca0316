"""A small classifier that says which class an image shows: the judge of generated images."""

from __future__ import annotations

import torch
import torch.nn as nn


class Judge(nn.Module):
    """[N, in_channels, H, W] in [-1, 1] -> logits [N, n_classes]. H and W at least 4."""

    def __init__(self, in_channels: int = 1, n_classes: int = 10, n_features: int = 32):
        super().__init__()
        F = n_features
        self.layers = nn.Sequential(
            *self._conv(in_channels, F),
            *self._conv(F, F),
            nn.MaxPool2d(2),
            *self._conv(F, 2 * F),
            *self._conv(2 * F, 2 * F),
            nn.MaxPool2d(2),
            *self._conv(2 * F, 4 * F),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4 * F, n_classes),
        )
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
