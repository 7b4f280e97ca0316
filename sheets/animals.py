"""The names of the sheet on faces of animals (its file diffusion.py), thin over the class `DDPM` of this suite.

    from sheets.animals import Diffusion

    diffusion = Diffusion(model, image_size=32, channels=3, timesteps=50).to(device)
    loss = diffusion(x, torch.randn_like(x))      # x [N, 3, 32, 32] in [-1, 1]
    images = diffusion.sample(16)                 # in [0, 1]

Here t counts from 0 to T - 1, as the sheet has it: its t is the suite's minus 1.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from ddpm import DDPM
from diffusion.network_call import IntegerTime
from networks import Conditional_UNet, unet


class Diffusion(nn.Module):
    """Cosine schedule, L1 loss, x_0 clamped to [-1, 1], posterior variance. `diffusion.ddpm` is the suite's DDPM.

    model: forward(x, t) with t int64 [N] in 0..T - 1, as the sheet's Unet; or a U-Net of this suite.
    """

    def __init__(self, model: nn.Module, *, image_size: int, channels: int = 3, timesteps: int = 1000):
        super().__init__()
        self.channels, self.image_size, self.num_timesteps = channels, image_size, int(timesteps)
        ours = isinstance(model, (unet.UNet, Conditional_UNet.UNet))
        self.ddpm = DDPM(
            model if ours else IntegerTime(model, self.num_timesteps),
            n_timesteps=self.num_timesteps,
            device="cpu",
            schedule="cosine",
            loss="l1",
            variance="posterior",
            clip_x0=True,
        )

    @property
    def model(self) -> nn.Module:
        network = self.ddpm.nn_model
        return network.network if isinstance(network, IntegerTime) else network

    @property
    def device(self) -> torch.device:
        return self.ddpm.device

    @property
    def alphas(self) -> Tensor:
        return self.ddpm.alpha_t[1:]

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.ddpm.alpha_bar_t[1:]

    def noise_like(self, shape: tuple[int, ...], device: str | torch.device) -> Tensor:
        return torch.randn(shape, device=device)

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t for this noise (None: drawn here). t: int64 [N], or one number, in 0..T - 1."""
        return self.ddpm.q_sample(x_0, self._ours(t), torch.randn_like(x_0) if noise is None else noise)

    def p_losses(self, x_0: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """The L1 loss at these t (int64 [N] in 0..T - 1) and this noise (None: drawn here), a scalar."""
        noise = torch.randn_like(x_0) if noise is None else noise
        return self.ddpm.training_losses(x_0, None, self._ours(t), noise).mean()

    p_loss = p_losses

    def forward(self, x_0: Tensor, noise: Tensor | None = None) -> Tensor:
        """`p_losses` at t drawn for each image."""
        if x_0.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(f"images must be {self.image_size} x {self.image_size}, not {list(x_0.shape[2:])}")
        return self.p_losses(x_0, torch.randint(self.num_timesteps, (len(x_0),), device=x_0.device), noise)

    @torch.no_grad()
    def p_sample(self, x: Tensor, t: Tensor, t_index: int | None = None) -> Tensor:
        """One reverse step from x at t_index in 0..T - 1; all of t must be t_index."""
        t = torch.as_tensor(t)
        if t_index is not None and not (t == t_index).all():
            raise ValueError(f"t must be t_index = {t_index} for all images")
        return self.ddpm.p_sample(x, self._ours(t))

    @torch.no_grad()
    def p_sample_loop(self, img: Tensor) -> Tensor:
        """All reverse steps from noise; images in [0, 1]."""
        return (self.ddpm.reverse_process(img, self.num_timesteps)[0].clamp(-1, 1) + 1) / 2

    def sample(self, batch_size: int) -> Tensor:
        """batch_size images in [0, 1], [N, channels, image_size, image_size]."""
        shape = (batch_size, self.channels, self.image_size, self.image_size)
        return self.p_sample_loop(self.noise_like(shape, self.ddpm.device))

    def _ours(self, t: int | Tensor) -> Tensor:
        t = torch.as_tensor(t, device=self.device)
        if t.min() < 0 or t.max() >= self.num_timesteps:
            raise ValueError(f"t must be in 0..{self.num_timesteps - 1}, not {t.min().item()}..{t.max().item()}")
        return t + 1
