"""Samplers against the exact solution of the probability-flow ODE, against each other, and against diffusers.

For data N(m, v) everything is known. With a_t = sqrt(alpha_bar_t) and s_t = sqrt(1 - alpha_bar_t) the probability-flow
ODE moves every x_t so that (x_t - a_t m) / sqrt(a_t^2 v + s_t^2) stays the same.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from tiny_networks import trained_unet

from ddpm import DDPM
from diffusion.condition import Condition
from diffusion.fitted_times import cheapest_way
from diffusion.samplers import SAMPLERS, ddim
from diffusion.schedules import PLACEMENTS

MEANS = torch.tensor([[0.5, -0.25], [-0.1, 0.75]])  # of two classes
VARIANCE = torch.tensor([0.3, 0.02])
ETA_1 = functools.partial(ddim, eta=1.0)


class Exact(torch.nn.Module):
    """E[noise | x_t] of data N(c @ MEANS, VARIANCE); without a class c = (1/2, 1/2)."""

    size, n_classes = (2,), 2

    def __init__(self, alpha_bar):
        super().__init__()
        self.alpha_bar = alpha_bar.double()

    def forward(self, x, t, c=None):
        a = self.alpha_bar[(t * (len(self.alpha_bar) - 1)).round().long()]
        c = torch.zeros(len(x), 2) if c is None else c
        mean = torch.where((c == 0).all(dim=1, keepdim=True), MEANS.mean(dim=0), c @ MEANS)
        return ((1 - a).sqrt() * (x - a.sqrt() * mean) / (a * VARIANCE + 1 - a)).to(x.dtype)


def exact_ddpm(n_timesteps=4000):
    """A perfectly trained model in float64. Its steps are so short that a few of them can be placed anywhere."""
    betas = 1e-5, 16 / n_timesteps
    return DDPM(Exact(DDPM.ddpm_schedule(*betas, n_timesteps)["alpha_bar_t"]), *betas, n_timesteps, "cpu").double()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n):
    return torch.randn(n, 2, dtype=torch.float64, generator=seeded())


def end_of_flow(ddpm, x, mean):
    """Where the probability-flow ODE takes x from t = T to t = 0."""
    a, s = ddpm.sqrt_alpha_bar_t[-1], ddpm.sqrt_one_minus_alpha_bar_t[-1]
    return mean + VARIANCE.sqrt() * (x - a * mean) / (a**2 * VARIANCE + s**2).sqrt()


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpm++2m", 2)])
def test_the_error_falls_with_the_order_of_the_method(name, order):
    ddpm, x, errors = exact_ddpm(), noise(64), []
    for n_steps in (20, 40, 80):
        y, _ = ddpm.respaced(n_steps, name, "log-snr").reverse_process(x, n_steps)
        errors.append((y - end_of_flow(ddpm, x, MEANS.mean(dim=0))).abs().mean().item())
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:])]
    assert orders == pytest.approx([order] * 2, abs=0.2), errors


def test_the_solver_of_order_2_keeps_the_variance_of_the_data_in_fewer_steps():
    off = {}
    for name in ("ddpm", "sde-dpm++2m"):
        few = exact_ddpm().respaced(40, name, "log-snr")
        y, _ = few.reverse_process(noise(20_000), 40, generator=seeded(1))
        off[name] = (y.var(dim=0) / VARIANCE - 1).abs().max().item()
    assert off["sde-dpm++2m"] < 0.06 < 0.15 < off["ddpm"]


def test_ddim_at_eta_1_is_algorithm_2():
    ddpm = DDPM(trained_unet(), n_timesteps=50, device="cpu")
    drawn = [ddpm.sample(1, generator=seeded(), sampler=sampler, n_steps=7)[0] for sampler in ("ddpm", ETA_1)]
    torch.testing.assert_close(*drawn, rtol=1e-3, atol=1e-4)


def test_eta_is_the_share_of_the_noise():
    few, x = exact_ddpm().respaced(10), noise(20_000)
    sigma = few.q_posterior(x, x, 6)[1].sqrt().item()
    for eta in (0.0, 0.5, 1.0):
        one, other = (ddim(few, x, 6, None, None, seeded(seed), eta)[0] for seed in (1, 2))
        assert (one - other).std().item() == pytest.approx(math.sqrt(2) * eta * sigma, rel=0.03)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("sampler", [*SAMPLERS, ETA_1])
def test_every_sampler_goes_with_guidance_mixtures_and_no_class(sampler, placement):
    """Guidance and mixtures of Gaussians with one variance are such Gaussians, with known means."""
    few, n = exact_ddpm().respaced(20, sampler, placement), 4000
    one, mixed = torch.eye(2)[:1].expand(n, 2), torch.tensor([[0.25, 0.75]]).expand(n, 2)
    none = MEANS.mean(dim=0)
    for c, mean in (
        (None, none),
        (one, MEANS[0]),
        (Condition(one, 1.0), 2 * MEANS[0] - none),
        (Condition(mixed, 0.0), mixed[0] @ MEANS),
        (Condition(mixed, 0.0, "scores"), mixed[0] @ MEANS),
    ):
        y, _ = few.reverse_process(noise(n), 20, c=c, generator=seeded(1))
        a = few.sqrt_alpha_bar_t[-1]  # x_T does not know of the mean, so that a trace of it is missing
        assert y.mean(dim=0).tolist() == pytest.approx(mean.tolist(), abs=0.03 + a.item()), c


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clamped_predictions_end_inside_the_range_of_images(sampler):
    ddpm = exact_ddpm(200)
    y, _ = ddpm.sample(500, n_classes=2, g_weight=3.0, clip_x0=True, generator=seeded(), sampler=sampler, n_steps=5)
    assert y.abs().max() <= 1 + 1e-6
    assert (
        ddpm.sample(500, n_classes=2, g_weight=3.0, generator=seeded(), sampler=sampler, n_steps=5)[0].abs().max() > 1
    )


def test_sampling_without_a_sampler_is_algorithm_2_to_the_bit():
    ddpm = DDPM(trained_unet(), n_timesteps=4, device="cpu")
    fast, generator = ddpm.fast_copy(), seeded()
    x = torch.randn(10, 1, 8, 8, generator=generator)
    with torch.inference_mode():
        for t in (4, 3, 2, 1):
            x = fast.p_sample(x, t, torch.eye(10), generator=generator)
    for arguments in ({}, {"sampler": "ddpm"}, {"n_steps": 4}):
        assert torch.equal(ddpm.sample(1, generator=seeded(), **arguments)[0], x)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sample_in_few_steps_is_a_respaced_model(sampler):
    ddpm = DDPM(trained_unet(), n_timesteps=50, device="cpu")
    few = ddpm.respaced(5, sampler, "quadratic")
    y, steps = few.sample(1, generator=seeded())
    found = ddpm.sample(1, generator=seeded(), sampler=sampler, n_steps=5, placement="quadratic")
    assert torch.equal(found[0], y) and (found[1] == steps).all() and len(steps) == len(few.recorded_times()) == 5
    chosen = ddpm.sample(1, generator=seeded(), sampler=sampler, n_steps=[50, 3, 20, 1])[0]
    assert torch.equal(chosen, ddpm.respaced([1, 3, 20, 50], sampler).sample(1, generator=seeded())[0])


@pytest.mark.parametrize("n_steps", [1, 2, 5, 30, 399, 400])
def test_where_the_times_are(n_steps):
    ddpm = DDPM(torch.nn.Identity(), n_timesteps=400, device="cpu")
    for placement in ("uniform", "quadratic", "log-snr"):
        times = (ddpm.respaced(n_steps, None, placement).time_t[1:] * 400).round().long()
        assert len(times) == n_steps and times[-1] == 400 and (n_steps == 1 or times[0] == 1)
        assert (times.diff() > 0).all()
        if n_steps == 5:  # evenly in their own measure, up to rounding to whole times
            log_snr = (ddpm.sqrt_alpha_bar_t / ddpm.sqrt_one_minus_alpha_bar_t).log()
            measure = {"uniform": times, "quadratic": times.sqrt(), "log-snr": log_snr[times]}[placement].float()
            assert measure.diff().abs().max() / measure.diff().abs().min() < 1.25, placement


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sampler": "euler"}, "sampler must be 'ddpm' or 'ddim' or"),
        ({"n_steps": 4, "placement": "random"}, "placement must be 'uniform' or"),
        ({"n_steps": 0}, "n_steps must be a whole number from 1 to T = 30, not 0"),
        ({"n_steps": [1, 20]}, "from 1 to T = 30, with T"),
        ({"n_steps": [0, 30]}, "not [0, 30]"),
        ({"n_steps": [5, 5, 30]}, "must be different"),
    ],
)
def test_impossible_samplers_are_refused(arguments, words):
    with pytest.raises(ValueError) as error:
        exact_ddpm(30).sample(1, n_classes=2, **arguments)
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------------ fitted times


@pytest.mark.parametrize("n_steps", [2, 3, 5])
def test_times_that_fit_the_model_make_a_smaller_error(n_steps):
    ddpm, x, before = exact_ddpm(400), noise(64), torch.random.get_rng_state()
    error = {}
    for placement in PLACEMENTS:
        few = ddpm.respaced(n_steps, "ddim", placement)
        y, _ = few.reverse_process(x, n_steps)
        error[placement] = (y - end_of_flow(ddpm, x, MEANS.mean(dim=0))).square().mean().item()
    assert error["fitted"] < 0.8 * min(error[placement] for placement in PLACEMENTS[:3]), error
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_cheapest_way_is_that_of_trying_all():
    errors = torch.rand(8, 8, generator=seeded()).double()
    errors[torch.ones(8, 8).triu().bool()] = math.inf
    for n_steps in (1, 2, 3, 7):
        ways = [(7, *reversed(way)) for way in itertools.combinations(range(1, 7), n_steps - 1)]
        cost = {way: sum(errors[i, j].item() for i, j in zip(way, (*way[1:], 0))) for way in ways}
        assert tuple(cheapest_way(errors, n_steps)) == min(cost, key=cost.get)


def test_fitted_times_of_a_network_with_classes_and_of_one_without():
    ddpm = DDPM(trained_unet(), n_timesteps=60, device="cpu")
    few = ddpm.respaced(4, placement="fitted")
    assert len(few.time_t) == 5 and few.time_t[-1] == 1
    assert torch.equal(few.time_t, ddpm.respaced(4, placement="fitted").time_t)
    ddpm.nn_model.n_classes = None  # as networks have it that know no classes
    ddpm.nn_model._checked_class = lambda x, t, c, images: torch.zeros(len(x), 10) if c is None else 1 / 0
    assert ddpm.respaced(4, placement="fitted").n_timesteps == 4
    assert ddpm.respaced(60, placement="fitted").n_timesteps == 60
    with pytest.raises(ValueError, match="from 1 to T = 60, not 61"):
        ddpm.respaced(61, placement="fitted")


# ------------------------------------------------------------------------------------------------ beside diffusers


def scheduler_of(name, ddpm, times):
    """The scheduler of diffusers for a sampler, which counts t from 0."""
    diffusers = pytest.importorskip("diffusers", reason="compares with the package diffusers")
    betas = (ddpm.sqrt_beta_t[1:].double() ** 2).numpy()
    if "dim" in name:
        scheduler = diffusers.DDIMScheduler(
            len(betas), trained_betas=betas, clip_sample=False, timestep_spacing="trailing"
        )
        scheduler.set_timesteps(len(times))
        assert (scheduler.timesteps + 1).tolist() == times
        return scheduler
    kind = "sde-dpmsolver++" if name.startswith("sde") else "dpmsolver++"
    scheduler = diffusers.DPMSolverMultistepScheduler(
        len(betas), trained_betas=betas, algorithm_type=kind, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=[t - 1 for t in times])
    return scheduler


@pytest.mark.parametrize("name", ["ddim", "ddim, eta 1", "dpm++2m", "sde-dpm++2m"])
def test_diffusers_takes_the_same_steps(name):
    times = [400, 320, 240, 160, 80]
    ddpm = DDPM(trained_unet(), n_timesteps=400, device="cpu").eval()
    scheduler = scheduler_of(name, ddpm, times)
    few = ddpm.respaced(times, ETA_1 if "eta" in name else name)
    x = torch.randn(4, 1, 8, 8, generator=seeded())
    _, ours = few.reverse_process(x, 5, range(5, -1, -1), generator=seeded(1))
    theirs, generator = [x], seeded(1)
    for t in times:
        with torch.no_grad():
            eps = ddpm.eps(theirs[-1], t)
        more = {"eta": 1.0} if "eta" in name else {}
        theirs.append(scheduler.step(eps, t - 1, theirs[-1], generator=generator, **more).prev_sample)
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-3, atol=1e-3)
