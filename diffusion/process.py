"""What the annexes of `DDPM` use of it, written down as a type: so they need not import ddpm.py, which imports them."""

from __future__ import annotations

from typing import Protocol, Sequence, Union

import torch
import torch.nn as nn

from diffusion.condition import Condition
from diffusion.noise import Generator

Time = Union[int, torch.Tensor]  # one t for all samples, or int64 [N]
Asked = Union[torch.Tensor, Condition, None]  # class vectors [N, n_classes], a guided condition, or no class


class Process(Protocol):
    """A noise schedule of T = n_timesteps steps and the network that predicts the noise; see `DDPM` for each name."""

    nn_model: nn.Module
    n_timesteps: int
    variance: str
    clip_x0: bool
    alpha_bar_t: torch.Tensor
    sqrt_beta_t: torch.Tensor
    sqrt_alpha_bar_t: torch.Tensor
    sqrt_one_minus_alpha_bar_t: torch.Tensor
    one_over_sqrt_alpha_t: torch.Tensor
    one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t: torch.Tensor

    @property
    def device(self) -> torch.device: ...

    def draw(
        self, y: torch.Tensor, c: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]: ...

    def q_sample(self, x0: torch.Tensor, t: Time, noise: torch.Tensor) -> torch.Tensor: ...

    def q_posterior(self, x0: torch.Tensor, x_t: torch.Tensor, t: Time) -> tuple[torch.Tensor, torch.Tensor]: ...

    def predict_x0(self, x_t: torch.Tensor, t: Time, eps: torch.Tensor) -> torch.Tensor: ...

    def eps(self, x_t: torch.Tensor, t: Time, c: Asked = None) -> torch.Tensor: ...

    def p_sample(
        self,
        x_t: torch.Tensor,
        t: int,
        c: Asked = None,
        clip_x0: bool | None = None,
        variance: str | None = None,
        generator: Generator = None,
    ) -> torch.Tensor: ...

    def fast_copy(self, gradients: bool = False) -> Process: ...

    def sample_size(self, size: Sequence[int] | None = None) -> tuple[int, ...]: ...
