"""Networks that predict the noise eps(x_t, t, c) of a DDPM, and those that judge images."""

from __future__ import annotations

import torch


def layout_on(device: torch.device | str) -> torch.memory_format:
    """How the weights of a network should lie in memory on a device, for `network.to(device, memory_format=...)`.

    As the network made them, which is with the channels last: so convolutions are fastest. But not on Apple GPUs, where
    gradients of BatchNorm and steps of Adam have been wrong for that layout (pytorch issues 175189 and 118115).
    """
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.preserve_format
