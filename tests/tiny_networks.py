"""Small networks for tests."""

from __future__ import annotations

import torch

from networks.Conditional_UNet import UNet


def trained_unet() -> UNet:
    """A small U-Net whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    net = UNet(1, 8, 10, 8).train()
    for _ in range(3):
        net(3 * torch.randn(8, 1, 8, 8) + 1, torch.rand(8, 1, 1, 1), torch.eye(10)[:8])
    return net
