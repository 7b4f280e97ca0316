"""The type of `DDPM` for the other files of this folder, which cannot import ddpm.py because it imports them."""

from __future__ import annotations

from typing import Any, Callable, Optional, Protocol, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from diffusion.condition import Condition
from diffusion.noise import Generator

Time = Union[int, Tensor]  # one t for all samples, or int64 [N]
ConditionLike = Union[Tensor, Condition, None]  # class vectors [N, n_classes], a guided condition, or no class
Progress = Optional[Callable[[int], None]]  # called with t after each step


class Process(Protocol):
    """A noise schedule of T = n_timesteps steps and the network that predicts the noise; see `DDPM` for each name."""

    nn_model: nn.Module
    n_timesteps: int
    variance: str
    clip_x0: bool
    predict: str
    weighting: str
    sampler: Any  # a `Sampler` of diffusion/samplers.py, which imports this file
    _buffers: Any  # of nn.Module: the tensors of the schedule
    alpha_bar_t: Tensor
    sqrt_beta_t: Tensor
    sqrt_alpha_bar_t: Tensor
    sqrt_one_minus_alpha_bar_t: Tensor
    one_over_sqrt_alpha_t: Tensor
    one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t: Tensor

    @property
    def device(self) -> torch.device: ...
    def draw(self, y: Tensor, c: None, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor | None]: ...
    def q_sample(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor: ...
    def q_posterior(self, x0: Tensor, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor]: ...
    def predict_x0(self, x_t: Tensor, t: Time, eps: Tensor) -> Tensor: ...
    def eps(self, x_t: Tensor, t: Time, c: ConditionLike) -> Tensor: ...
    def p_sample(
        self, x_t: Tensor, t: int, c: ConditionLike, clip_x0: bool, variance: str, generator: Generator
    ) -> Tensor: ...
    def respaced(self, n_steps: int | Sequence[int]) -> Process: ...
    def fast_copy(self, gradients: bool = False) -> Process: ...
    def sample_size(self, size: Sequence[int] | None) -> tuple[int, ...]: ...
