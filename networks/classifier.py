"""Small classifiers of images, by which generated images are measured: one for digits, one for photographs.

What a classifier computes just before its last layer, `features(x)`, describes an image by a few hundred numbers;
evaluation/metrics.py compares sets of images by them.
"""

from __future__ import annotations

import torch
import torch.nn as nn


class Classifier(nn.Module):
    """Images [N, in_channels, H, W] in [-1, 1] -> logits [N, n_classes]. A subclass defines `layers`."""

    layers: nn.Sequential  # ends in a dropout and a linear layer
    least: int  # smallest height and width that it takes
    name_in_files: str  # what older versions called the class; files of weights and metrics.json hold this name
    mirrors = False  # whether evaluation.classifier.classify also asks about the mirror image

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the last layer in eval mode: [N, in_channels, H, W] -> [N, 4 * n_features]."""
        return self.layers[:-2](x)  # without the dropout, which does nothing in eval mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class DigitClassifier(Classifier):
    """For digits and clothes: a plain convolutional network. H and W at least 4."""

    least, name_in_files = 4, "Judge"

    def __init__(self, in_channels: int = 1, n_classes: int = 10, n_features: int = 32):
        super().__init__()
        F = n_features
        self.layers = nn.Sequential(
            *_conv(in_channels, F),
            *_conv(F, F),
            nn.MaxPool2d(2),
            *_conv(F, 2 * F),
            *_conv(2 * F, 2 * F),
            nn.MaxPool2d(2),
            *_conv(2 * F, 4 * F),
            *_last_layers(4 * F, n_classes),
        )
        self.to(memory_format=torch.channels_last)


class PhotoClassifier(Classifier):
    """For photographs. H and W at least 9. With 64 n_features it has 2.0 million parameters.

    The layout follows the networks that learn CIFAR-10 fastest (D. Page, "How to train your ResNet", 2018; K. Jordan,
    arXiv:2404.00498): a first layer of 2 x 2 filters for the principal components of the patches and their negatives,
    few layers after it, most of the weights where the image is already small, and convolutions that start as the
    identity.
    """

    least, name_in_files = 9, "PhotographJudge"

    def __init__(self, in_channels: int = 3, n_classes: int = 10, n_features: int = 64):
        super().__init__()
        F, first = n_features, 2 * 4 * in_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            *_conv(first, F, halve=True),
            *_conv(F, F),
            *_conv(F, 4 * F, halve=True),
            *_conv(4 * F, 4 * F),
            *_conv(4 * F, 4 * F, halve=True),
            *_conv(4 * F, 4 * F),
            *_last_layers(4 * F, n_classes),
        )
        for conv in [layer for layer in self.layers[1:] if isinstance(layer, nn.Conv2d)]:
            nn.init.dirac_(conv.weight.data[: conv.in_channels])  # the filters beyond these stay random
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) / 8  # the features are maxima, and large: without this the last layer learns too fast


def _conv(in_channels: int, out_channels: int, halve: bool = False) -> list[nn.Module]:
    """halve: a max pooling right after the convolution, so that the layers after it have a quarter of the work."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    return [conv, *([nn.MaxPool2d(2)] if halve else []), nn.BatchNorm2d(out_channels), nn.ReLU()]


def _last_layers(channels: int, n_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, n_classes)]
