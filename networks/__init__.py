"""Networks that predict the noise eps(x_t, t, c) of a DDPM, and classifiers of images."""

from __future__ import annotations

import torch
import torch.nn as nn


def layout_on(device: torch.device | str) -> torch.memory_format:
    """The memory format of a network's weights on a device, for `network.to(device, memory_format=...)`.

    It is the format in which the network was built, channels last, because convolutions are fastest so. On Apple GPUs it
    is the contiguous format, because BatchNorm's gradients and Adam's steps were wrong there with channels last (PyTorch
    issues 175189 and 118115).
    """
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.preserve_format


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
