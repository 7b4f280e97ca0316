"""Denoising diffusion probabilistic models: the equations only.

    [Ho]   Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239
    [CFG]  Ho, Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598

Time t runs over 1..T and t = 0 is clean data. Every schedule tensor has T + 1 entries, is indexed by t, and holds the
identity at entry 0 (alpha_bar_0 = 1), so that "the step before t" is always t - 1 and needs no special case.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Sequence, cast

import torch
import torch.nn as nn
from torch import Tensor

from diffusion import few_steps, inpainting, likelihood, objective, schedules
from diffusion.checks import check_choice, check_class_vectors, check_count, check_finite, one_time
from diffusion.condition import Condition, class_vectors
from diffusion.fast_network import for_inference
from diffusion.network_call import explain, inputs_of, predict
from diffusion.noise import Generator, noise_like
from diffusion.process import ConditionLike, Progress, Time
from diffusion.samplers import SAMPLERS, Sampler
from networks import layout_on

if TYPE_CHECKING:
    import numpy as np

RECORD_EVERY, RECORD_LAST = 20, 7  # which intermediate pictures `DDPM.sample` keeps


class DDPM(nn.Module):
    """A noise schedule and the network that predicts the noise.

    Args:
        nn_model: eps(x_t, t / T, c): x [N, *size], t [N, 1, ...] (as many axes as x), c [N, n_classes] or None. A network
            without classes may have forward(x, t); one that wants whole numbers t goes into `sheets.IntegerTime`.
        beta1, beta2: beta_1 and beta_T of the linear schedule, 0 < beta1 < beta2 < 1 (the cosine one has none).
        n_timesteps: T, at least 1.
        device: where model and schedule go.
        drop_prob: probability that a sample's class vector is zeroed in training ([CFG] Algorithm 1, p_uncond).
        schedule: 'linear' or 'cosine' (see diffusion/schedules.py).
        loss: 'mse' ([Ho] equation 14) or 'l1'.
        variance, clip_x0: defaults of the sampling methods; see `p_sample`. With 'cosine' take clip_x0=True for images: the
            step from T makes an error of the network 30 times larger, and the next steps do not mend it.
        predict, weighting: 'eps' or 'v', 'constant' or 'min-snr'; see diffusion/objective.py.
        amp_dtype: None, or torch.bfloat16 to run the network (only it) under autocast.

    Raises ValueError that names the argument and its value.
    """

    # The schedule's tensors, each float32 [T + 1] (see schedules.py), under the exercise's names.
    time_t: Tensor
    sqrt_beta_t: Tensor
    alpha_t: Tensor
    alpha_bar_t: Tensor
    one_over_sqrt_alpha_t: Tensor
    sqrt_alpha_bar_t: Tensor
    sqrt_one_minus_alpha_bar_t: Tensor
    one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t: Tensor

    def __init__(
        self,
        nn_model: nn.Module,
        beta1: float = 1e-4,
        beta2: float = 0.02,
        n_timesteps: int = 400,
        device: str | torch.device = "cuda",
        drop_prob: float = 0.1,
        schedule: str = "linear",
        loss: str = "mse",
        variance: str = "beta",
        clip_x0: bool = False,
        amp_dtype: torch.dtype | None = None,
        predict: str = "eps",
        weighting: str = "constant",
        **others: object,
    ):
        super().__init__()
        if others:
            names = ", ".join(others)
            raise TypeError(f"DDPM has no argument {names}; with network, beta_1, beta_T, T: sheets.likelihood.DDPM")
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"drop_prob must be in [0, 1], not {drop_prob}")
        check_choice("loss", loss, ("mse", "l1"))
        check_choice("variance", variance, likelihood.VARIANCES)
        check_choice("predict", predict, objective.PREDICTIONS)
        check_choice("weighting", weighting, objective.WEIGHTINGS)
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {str(device)!r}, but torch sees no CUDA GPU: pass device='cpu'")
        for name, values in self.ddpm_schedule(beta1, beta2, n_timesteps, schedule).items():
            self.register_buffer(name, values)
        self.nn_model = nn_model
        self.n_inputs = inputs_of(nn_model)  # of (x, t, c, images)
        self.n_timesteps = int(n_timesteps)
        self.drop_prob = drop_prob
        self.loss, self.predict, self.weighting = loss, predict, weighting
        self.variance = variance
        self.clip_x0 = clip_x0
        self.sampler: Sampler = "ddpm"  # how `sample` takes a step: see `respaced`
        self.amp_dtype = amp_dtype
        self.to(device).to(memory_format=layout_on(device))

    @property
    def device(self) -> torch.device:
        return self.alpha_t.device

    @device.setter
    def device(self, device: str | torch.device) -> None:
        self.to(device)

    # ------------------------------------------------------------ noise schedule

    ddpm_schedule = staticmethod(schedules.ddpm_schedule)

    def _at(self, values: Tensor, t: Time, x: Tensor) -> Tensor:
        """values[t], shaped to multiply x: a scalar for an int; [N, 1, ..., 1] for N numbers, in a tensor or an array."""
        if isinstance(t, int):
            return values[t]
        return values[torch.as_tensor(t, device=values.device)].view(-1, *[1] * (x.ndim - 1))

    # ------------------------------------------------------------ q: the noise process

    def q_sample(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) for the given standard normal noise ([Ho] equation 4). t: int, or int64 [N], in 0..T.

        The factor is sqrt(alpha_bar_t); an exercise sheet that prints sqrt(alpha_t) there has a misprint.
        """
        return self._at(self.sqrt_alpha_bar_t, t, x0) * x0 + self._at(self.sqrt_one_minus_alpha_bar_t, t, x0) * noise

    def predict_x0(self, x_t: Tensor, t: Time, eps: Tensor) -> Tensor:
        """The x_0 that gives x_t with noise eps: `q_sample` solved for x_0 ([Ho] equation 15)."""
        return (x_t - self._at(self.sqrt_one_minus_alpha_bar_t, t, x_t) * eps) / self._at(self.sqrt_alpha_bar_t, t, x_t)

    def q_posterior(self, x0: Tensor, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean (shaped like x_t) and variance (to broadcast) of q(x_{t-1} | x_t, x_0) ([Ho] equations 6, 7).

        t: int, or int64 [N], in 1..T. At t = 1 the mean is x_0 and the variance 0.
        """
        # Squares of stored roots, not 1 - alpha: the subtraction would lose most digits of a small beta in float32.
        beta = self._at(self.sqrt_beta_t, t, x_t) ** 2
        one_minus_alpha_bar = self._at(self.sqrt_one_minus_alpha_bar_t, t, x_t) ** 2
        one_minus_alpha_bar_before = self._at(self.sqrt_one_minus_alpha_bar_t, t - 1, x_t) ** 2
        weight_x0 = self._at(self.sqrt_alpha_bar_t, t - 1, x_t) * beta / one_minus_alpha_bar
        weight_xt = self._at(self.alpha_t, t, x_t).sqrt() * one_minus_alpha_bar_before / one_minus_alpha_bar
        return weight_x0 * x0 + weight_xt * x_t, beta * one_minus_alpha_bar_before / one_minus_alpha_bar

    # ------------------------------------------------------------ training

    def forward(self, y: Tensor, c: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The training loss of a batch, a scalar ([Ho] Algorithm 1, [CFG] Algorithm 1).

        y: [N, *size] float in [-1, 1]. c: [N, n_classes] float or None. Non-finite input is a ValueError.
        """
        check_finite("y", y)
        if c is not None:
            check_finite("c", c)
        t, noise, c = self.draw(y, c, generator)
        try:
            return self.training_losses(y, c, t, noise).mean()
        except (IndexError, RuntimeError) as error:
            explain(error)
            raise

    def draw(
        self, y: Tensor, c: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The random part of a training step: t int64 [N] uniform on 1..T, noise like y, and c with dropped rows.

        Raises ValueError if y is not float or c is not [N, n_classes].
        """
        n = len(y)
        if not y.is_floating_point():
            raise ValueError(f"y must be float in [-1, 1], not {y.dtype}")
        t = torch.randint(1, self.n_timesteps + 1, (n,), device=y.device, generator=generator)
        noise = torch.randn(y.shape, device=y.device, dtype=y.dtype, generator=generator)
        if c is not None:
            check_class_vectors(c, n)
            keep = torch.rand(n, 1, device=y.device, generator=generator) >= self.drop_prob
            c = c.to(y.dtype) * keep
        return t, noise, c

    def training_losses(self, y: Tensor, c: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """Loss of each sample, [N] float32, averaged over its pixels ([Ho] equation 14, or diffusion/objective.py)."""
        error = self.output(self.q_sample(y, t, noise), t, c) - objective.target(self, y, t, noise)
        error = error.abs() if self.loss == "l1" else error.square()
        return objective.weighted(self, error.flatten(1).mean(dim=1), t)

    def eps(self, x_t: Tensor, t: Time, c: ConditionLike = None) -> Tensor:
        """The predicted noise, float32, shaped like x_t.

        c: class (or context) vectors, float [N, n_classes]; None: no class; or a `Condition` (diffusion/condition.py),
            for guidance and mixtures of classes.
        """
        return objective.noise_from(self, self.output(x_t, t, c), x_t, t)

    def output(self, x_t: Tensor, t: Time, c: ConditionLike = None) -> Tensor:
        """What the network says, float32, shaped like x_t: the noise, or v (`predict`). Arguments as of `eps`."""
        if isinstance(t, int):
            t = torch.full((len(x_t),), t, device=x_t.device)
        time = self._at(self.time_t, t, x_t).to(x_t.dtype)
        time = time.expand(len(x_t), *time.shape[1:])
        if isinstance(c, Condition):
            return c.eps(self._network, x_t, time)
        return self._network(x_t, time, c)

    def _network(self, x_t: Tensor, time: Tensor, c: Tensor | None, images: Tensor | None = None) -> Tensor:
        if self.amp_dtype is None:
            return predict(self.nn_model, self.n_inputs, x_t, time, c, images)
        with torch.autocast(x_t.device.type, dtype=self.amp_dtype):
            return predict(self.nn_model, self.n_inputs, x_t, time, c, images).float()

    # ------------------------------------------------------------ methods that have files of their own, in diffusion/

    negative_elbo = likelihood.negative_elbo
    variational_bound = likelihood.variational_bound
    complete_image = inpainting.complete_image
    respaced = few_steps.respaced  # fewer steps, other samplers

    # ------------------------------------------------------------ sampling

    def p_sample(
        self,
        x_t: Tensor,
        t: Time,
        c: ConditionLike = None,
        clip_x0: bool | None = None,
        variance: str | None = None,
        generator: Generator = None,
    ) -> Tensor:
        """One reverse step, x_{t-1} ~ p(x_{t-1} | x_t) ([Ho] Algorithm 2, lines 3 and 4). c: see `eps`.

        t: in 1..T, one for all samples; an int, or a tensor or array of one value.

        clip_x0: whether the mean is that of q(x_{t-1} | x_t, x_0) at the predicted x_0, clamped to [-1, 1]. Without the
            clamp this equals Algorithm 2's mean ([Ho] equations 10, 11).
        variance: sigma_t^2 = 'beta' (beta_t) or 'posterior' (that of q(x_{t-1} | x_t, x_0)), [Ho] section 3.2.
            None for either: as in the constructor, or in `respaced`.
        generator: source of the noise; None: torch's own.
        """
        t = one_time(t, self.n_timesteps)
        eps = self.eps(x_t, t, c)
        if self.clip_x0 if clip_x0 is None else clip_x0:
            x0 = self.predict_x0(x_t, t, eps).clamp(-1, 1)
            mean, _ = self.q_posterior(x0, x_t, t)
        else:
            mean = self.one_over_sqrt_alpha_t[t] * (x_t - self.one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t[t] * eps)
        if t == 1:
            return mean  # the last step adds no noise (Algorithm 2: z = 0)
        variance = self.variance if variance is None else variance
        sigma = self.sqrt_beta_t[t] if variance == "beta" else self.q_posterior(x_t, x_t, t)[1].sqrt()
        return mean + sigma * noise_like(x_t, generator)

    def sample(
        self,
        n_sample: int = 4,
        size: Sequence[int] | None = None,
        n_classes: int | None = 10,
        g_weight: float | Sequence[float] = 0.0,
        classes: str | Sequence[int] | Tensor | None = "all",
        clip_x0: bool | None = None,
        variance: str | None = None,
        generator: Generator = None,
        mixture: str = "vector",
        record: bool = True,
        progress: Progress = None,
        sampler: Sampler | None = None,
        n_steps: int | Sequence[int] | None = None,
        placement: str = "uniform",
    ) -> tuple[Tensor, np.ndarray]:
        """Draw samples ([Ho] Algorithm 2) with guidance weight w = g_weight ([CFG] equation 6, see `Condition`).

        Args:
            n_sample: samples per class; altogether when there is no class.
            size: shape of one sample, (C, H, W) or (D,); by default the network's own (`nn_model.size`).
            n_classes: length of the class (or context) vector; None or 0: no class.
            classes: 'all'; a list of class indices; a float matrix [K, n_classes] of class vectors (rows may be
                mixtures); None: no class.
            clip_x0, variance: see `p_sample`. mixture: see `Condition`.
            generator: source of all noise, on this object's device; the same state gives the same samples.
            record: keep intermediate pictures. progress: called with t after each step.
            sampler, n_steps, placement: another sampler and fewer steps, see `respaced`. None: as this object does.

        Returns:
            y_0: [N, *size] float32 on the device, N = n_sample * K, class-fastest: sample j of class k stands at
                k + j * K.
            y_steps: numpy float32 [S, N, *size]: x_t at the S times that `recorded_times()` lists, from x_{T-1} to y_0, as
                the exercise has it. S = 0 without `record`.

        Raises ValueError for wrong arguments. A faster copy of the network runs, in eval mode (see
        diffusion/fast_network.py); the network itself, its mode and its weights do not change.
        """
        check_count("n_sample", n_sample)
        vectors = class_vectors(classes, n_classes, self.device)
        n = n_sample if vectors is None else n_sample * len(vectors)
        c = None if vectors is None else Condition(vectors.repeat(n_sample, 1), g_weight, mixture)  # class-fastest
        x = noise_like(torch.empty(n, *self.sample_size(size), device=self.device), generator)
        few = self.respaced(self.n_timesteps if n_steps is None else n_steps, sampler, placement)
        times = few.recorded_times() if record else []
        y_0, y_steps = few.reverse_process(x, few.n_timesteps, times, c, clip_x0, variance, generator, progress)
        return y_0, y_steps.numpy()

    def reverse_process(
        self,
        x_t: Tensor,
        t_start: int,
        times: Sequence[int] = (),
        c: ConditionLike = None,
        clip_x0: bool | None = None,
        variance: str | None = None,
        generator: Generator = None,
        progress: Progress = None,
    ) -> tuple[Tensor, Tensor]:
        """Reverse steps from x_t, [N, *size] float, at time t_start down to 0. c: see `eps`; the others: see `p_sample`.

        Returns y_0, float32 [N, *size] on the device, and float32 [S, N, *size] on the CPU: x at each of the S `times`
        (falling, in 0..t_start). progress: called with t after each step.
        """
        if variance is not None:
            check_choice("variance", variance, likelihood.VARIANCES)
        x, wanted, x0 = x_t, set(times), None
        steps = [x] if t_start in wanted else []
        with torch.inference_mode():
            fast = self.fast_copy()
            fast.clip_x0 = self.clip_x0 if clip_x0 is None else clip_x0
            fast.variance = variance or self.variance
            take_step = SAMPLERS[self.sampler] if isinstance(self.sampler, str) else self.sampler
            for t in range(t_start, 0, -1):
                x, x0 = take_step(fast, x, t, c, x0, generator)
                if t - 1 in wanted:
                    steps.append(x)
                if progress is not None:
                    progress(t)
        # One copy to the CPU at the end, since a copy inside the loop makes a GPU wait. `clone` gives an ordinary tensor:
        # one made in inference mode cannot be used in training.
        return x.clone(), torch.stack(steps).cpu() if steps else torch.empty(0, *x.shape)

    # ------------------------------------------------------------ parts of the above

    def fast_copy(self, gradients: bool = False) -> DDPM:
        """A copy with a faster network in eval mode. gradients: whether this network must pass gradients to its input."""
        fast = copy.copy(self)
        fast._modules = {"nn_model": for_inference(self.nn_model, self.amp_dtype or torch.float32, gradients)}
        return fast

    def sample_size(self, size: Sequence[int] | None = None) -> tuple[int, ...]:
        """The shape of one sample: as given, or the network's own `size`. ValueError if there is neither."""
        size = size if size is not None else cast("Sequence[int] | None", getattr(self.nn_model, "size", None))
        if size is None or len(size) == 0 or min(size) < 1:
            raise ValueError(f"size must be the shape of one sample, such as (1, 28, 28), not {size}")
        return tuple(size)

    def recorded_times(self) -> list[int]:
        """The t whose x_t `sample` records, falling: those that the first step, every 20th and the last 7 steps reach."""
        T = self.n_timesteps
        return [t - 1 for t in range(T, 0, -1) if t == T or t % RECORD_EVERY == 0 or t <= RECORD_LAST]
