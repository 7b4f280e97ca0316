"""Completing images, against the conditional distribution of a Gaussian.

The data: images of 2 x 2 pixels, N(0, S). The exact conditional of the hidden pixels h given the known ones k is
N(S_hk S_kk^-1 k, S_hh - S_hk S_kk^-1 S_kh). Pixels have a deviation of 0.25, so that the clamp of x0_hat at +-1 does
not act.
"""

from __future__ import annotations

import pytest
import torch
from gaussian import gaussian_ddpm
from tiny_networks import trained_unet

from ddpm import DDPM
from diffusion import inpainting

SIZE = (1, 2, 2)
CORRELATION = torch.tensor(
    [
        [1.0, 0.5, 0.8, 0.3],
        [0.5, 1.0, 0.3, 0.8],
        [0.8, 0.3, 1.0, 0.5],
        [0.3, 0.8, 0.5, 1.0],
    ]
)
S = 0.25**2 * CORRELATION
KNOWN = torch.tensor([0.3, -0.2])  # the upper row; the lower one is hidden
# The known block's eigenvectors are (1, 1) and (1, -1); its other directions are in between.
DIRECTIONS = [(0.3, 0.3), (0.3, -0.2), (0.4, 0.0)]
REGRESSION = S[2:, :2] @ torch.linalg.inv(S[:2, :2])  # mean of the hidden pixels = REGRESSION @ known
COVARIANCE = S[2:, 2:] - REGRESSION @ S[:2, 2:]
MASK = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def image(known=KNOWN, n=1):
    return torch.cat([known, torch.zeros(2)]).view(1, *SIZE).repeat(n, 1, 1, 1)


@pytest.fixture(scope="module")
def ddpm():
    return gaussian_ddpm(torch.zeros(4), S, SIZE)


@pytest.fixture(scope="module")
def unet_ddpm():
    return DDPM(trained_unet(), n_timesteps=6, beta2=0.5, device="cpu")


def moments(ddpm, n=20_000, known=KNOWN, **arguments):
    """Mean [4] and covariance [4, 4] of n completions of the one image."""
    x = ddpm.complete_image(image(known), MASK, n_sample=n, generator=seeded(), **arguments).flatten(1)
    return x.mean(dim=0), torch.cov(x.T)


def far_from_the_truth(found, truth):
    """Largest distance of the means, as a part of the largest one."""
    return ((found - truth).abs().max() / truth.abs().max()).item()


# ------------------------------------------------------------------------------------------ the exact conditional


@pytest.mark.parametrize("known", DIRECTIONS)
def test_repaint_approaches_the_exact_conditional(known):
    """More resampling brings mean and covariance to the exact ones. Tolerances: 6 % of the mean, 12 % of the variance.

    Of these, 1 and 2 % are noise of 5,000 samples; the rest is that T = 400 steps are not infinitely many.
    """
    ddpm = gaussian_ddpm(torch.zeros(4), S, SIZE, n_timesteps=400, beta2=0.025)
    known, far = torch.tensor(known), []
    for n_resample in (1, 3, 10):
        mean, covariance = moments(ddpm, 5000, known, method="repaint", n_resample=n_resample)
        far.append(far_from_the_truth(mean[2:], REGRESSION @ known))
    assert far[0] > 0.08 and far[0] > far[1] > far[2] and far[2] < 0.06, far
    torch.testing.assert_close(covariance[2:, 2:], COVARIANCE, rtol=0, atol=0.12 * COVARIANCE.max().item())


@pytest.mark.parametrize("known", DIRECTIONS)
def test_gradient_through_the_network_has_the_conditional_mean(ddpm, known):
    """Exact where the error is an eigenvector of the known block, near it elsewhere. Tolerances: 5 % of the mean, 20 %
    of the variance (8 % of it are that 200 steps are not infinitely many).
    """
    known = torch.tensor(known)
    mean, covariance = moments(ddpm, known=known, method="input")
    assert far_from_the_truth(mean[2:], REGRESSION @ known) < 0.05
    torch.testing.assert_close(covariance[2:, 2:], COVARIANCE, rtol=0, atol=0.2 * COVARIANCE.max().item())


@pytest.mark.parametrize("known, part", list(zip(DIRECTIONS, (0.58, 0.93, 0.81))))
def test_gradient_at_the_mean_goes_part_of_the_way(ddpm, known, part):
    """It hears of the known pixels only through their noisy values, so that its mean falls short. How far it comes
    depends on the direction; what it must be exactly says the next test.
    """
    known = torch.tensor(known)
    mean, _ = moments(ddpm, known=known, method="mean")
    truth = REGRESSION @ known
    assert (mean[2:] @ truth / (truth @ truth)).item() == pytest.approx(part, abs=0.03)


@pytest.mark.parametrize("known", DIRECTIONS)
def test_resampling_brings_the_gradient_methods_to_the_exact_mean(ddpm, known):
    """Tolerances with n_resample = 8: 12 % of the mean for 'mean', 2 % for 'input'; 1 % is noise of 8,000 samples."""
    known = torch.tensor(known)
    far = {}
    for method in ("mean", "input"):
        for n in (1, 3, 8):
            mean, _ = moments(ddpm, 8000, known, method=method, n_resample=n)
            far[method, n] = far_from_the_truth(mean[2:], REGRESSION @ known)
    assert far["mean", 1] > far["mean", 3] > far["mean", 8] and far["mean", 8] < 0.12, far
    assert far["input", 3] < 0.03 and far["input", 8] < 0.02, far


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_gradient_at_the_mean_is_its_affine_recursion(ddpm, scale):
    """With this network every step is affine in x, so that the moments of the method follow by recursion, exactly."""
    eye, M = torch.eye(4).double(), torch.diag(MASK.flatten()).double()
    y, cov, mean, S64 = image().flatten().double(), eye.clone(), torch.zeros(4).double(), S.double()
    bar = ddpm.alpha_bar_t.double()
    for t in range(ddpm.n_timesteps, 0, -1):
        beta = 1 - bar[t] / bar[t - 1]
        J = bar[t].sqrt() * S64 @ torch.linalg.inv(bar[t] * S64 + (1 - bar[t]) * eye)  # x0_hat = J x_t
        to_x0 = bar[t - 1].sqrt() * beta / (1 - bar[t])
        A = to_x0 * (eye - scale * M) @ J + (bar[t] / bar[t - 1]).sqrt() * (1 - bar[t - 1]) / (1 - bar[t]) * eye
        mean = A @ mean + to_x0 * scale * M @ y
        cov = A @ cov @ A.T + beta * (1 - bar[t - 1]) / (1 - bar[t]) * eye
    found_mean, found_cov = moments(ddpm, method="mean", scale=scale)
    error = (cov.diagonal() / 20_000).sqrt()
    assert ((found_mean - mean).abs() < 4 * error + 1e-4).all(), (found_mean, mean)
    torch.testing.assert_close(found_cov.double(), cov, rtol=0, atol=0.04 * cov.max().item())


# ------------------------------------------------------------------------------------------ the known pixels


@pytest.mark.parametrize("method, far", [("mean", 1e-5), ("repaint", 0.0), ("input", 0.02)])
def test_known_pixels_are_reproduced(ddpm, method, far):
    x = ddpm.complete_image(image(), MASK, n_sample=50, method=method, generator=seeded())
    assert (x[..., 0, :] - KNOWN).abs().max() <= far
    assert x[..., 1, :].std(dim=0).min() > 0.05  # the others are drawn anew each time


@pytest.mark.parametrize("method", inpainting.METHODS)
@pytest.mark.parametrize("junk", [5.0, -0.4, float("nan")])
def test_hidden_pixels_are_not_looked_at(ddpm, method, junk):
    y = torch.where(MASK == 1, image(), junk)
    found = ddpm.complete_image(y, MASK, method=method, n_resample=2, generator=seeded())
    assert torch.equal(found, ddpm.complete_image(image(), MASK, method=method, n_resample=2, generator=seeded()))
    y = image(KNOWN + 0.1)
    assert not torch.equal(found, ddpm.complete_image(y, MASK, method=method, n_resample=2, generator=seeded()))


@pytest.mark.parametrize("method", ["mean", "input"])
def test_scale_zero_is_plain_sampling(ddpm, method):
    found = ddpm.complete_image(image(n=3), MASK, scale=0.0, method=method, generator=seeded())
    plain, _ = ddpm.sample(3, classes=None, clip_x0=True, variance="posterior", generator=seeded())
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("method", inpainting.METHODS)
def test_nothing_known_is_plain_sampling(ddpm, method):
    more = {"n_resample": 1} if method == "repaint" else {}
    found = ddpm.complete_image(n_sample=20_000, method=method, generator=seeded(), **more).flatten(1)
    assert found.mean(dim=0).abs().max() < 0.01
    # The posterior variance of 200 steps is 8 % short: it is the right one for infinitely many.
    torch.testing.assert_close(torch.cov(found.T), S, rtol=0, atol=0.1 * S.max().item())


@pytest.mark.parametrize("method", ["mean", "input"])
def test_scale_means_the_same_for_every_size_mask_and_batch(method, monkeypatch):
    """Pixels that know nothing of each other, and no noise: a pixel must move the same way wherever it stands."""
    monkeypatch.setattr(torch, "randn", lambda shape, *more, **options: torch.zeros(*shape, *more))

    def pixel(n, side, known_part, value=0.5):
        D = side * side
        ddpm = gaussian_ddpm(torch.zeros(D), 0.25**2 * torch.eye(D), (1, side, side), n_timesteps=20)
        mask = torch.zeros(n, 1, side, side)
        mask[..., : int(side * known_part), :] = 1
        y = torch.full((n, 1, side, side), value)
        y[1:] = -0.1  # the other images of the batch have another error
        return ddpm.complete_image(y, mask, scale=0.4, method=method, generator=seeded())[0, 0, 0, 0].item()

    alone = pixel(1, 2, 0.5)
    assert alone == pytest.approx(pixel(7, 2, 0.5)) == pytest.approx(pixel(1, 6, 0.5)) == pytest.approx(pixel(1, 6, 1))
    assert 0.1 < alone < 0.5


def test_scale_means_the_same_for_every_T():
    parts = []
    for n_timesteps, beta2 in ((50, 0.2), (200, 0.05)):
        ddpm = gaussian_ddpm(torch.zeros(4), S, SIZE, n_timesteps, beta2)
        mean, _ = moments(ddpm, n=5000, scale=0.5)
        parts.append((mean[:2] @ KNOWN / (KNOWN @ KNOWN)).item())
    assert parts[0] == pytest.approx(parts[1], rel=0.15) and 0.6 < parts[0] < 1


def test_a_pixel_predicted_beyond_black_is_still_pulled_to_white():
    """The gradient passes the clamp: its slope of 0 there would leave the error for ever."""

    ddpm = gaussian_ddpm(torch.tensor([-1.5]), torch.tensor([[0.01]]), (1, 1, 1))  # x0_hat is near -1.5 at all times
    one = torch.ones(1, 1, 1, 1)
    black, white = (ddpm.complete_image(one, one, s, "input", generator=seeded()).item() for s in (0.0, 1.0))
    assert black == pytest.approx(-1, abs=0.05) and white > 0.9, (black, white)


def test_slope_is_of_each_image_alone():
    """Two images whose errors differ by far: what one does must not depend on the other."""
    gradient, error = torch.tensor([[[[0.3, 0.1]]], [[[40.0, 8.0]]]]), torch.tensor([[[[0.5, 0.0]]], [[[20.0, 10.0]]]])
    found = inpainting.divided_by_slope(gradient, error)
    slopes = [0.3 * 0.5 / 0.25, (40 * 20 + 8 * 10) / 500]  # <error, J^T error> / <error, error>
    torch.testing.assert_close(found, torch.stack([gradient[0] / slopes[0], gradient[1] / slopes[1]]))


def test_a_step_is_not_longer_than_the_least_slope_allows():
    """Where an error hardly depends on x_t, the fitting step would be as long as one likes; and no error is no step."""
    error = torch.ones(1, 1, 1, 2)
    found = inpainting.divided_by_slope(torch.tensor([[[[1e-6, 3e-6]]]]), error)
    torch.testing.assert_close(found, torch.tensor([[[[1e-6, 3e-6]]]]) / inpainting.MIN_SLOPE)
    assert torch.equal(inpainting.divided_by_slope(torch.zeros(1, 1, 1, 2), 0 * error), torch.zeros(1, 1, 1, 2))


def test_the_input_method_is_plain_autograd():
    """T = 1, a single step: by hand with the network itself, whose layers nobody has merged."""
    ddpm, net = DDPM(trained_unet(), beta1=0.5, beta2=0.6, n_timesteps=1, device="cpu"), trained_unet().eval()
    y, mask = torch.rand(2, 1, 8, 8, generator=seeded(5)) - 0.5, inpainting.mask_named("left", 8, 8)
    x = torch.randn(2, 1, 8, 8, generator=seeded()).requires_grad_()
    bar = ddpm.alpha_bar_t[1]
    x0 = (x - (1 - bar).sqrt() * net(x, torch.ones(2, 1, 1, 1), None)) / bar.sqrt()
    x0_hat = x0.detach().clamp(-1, 1)
    error = mask * (x0_hat - y)
    gradient = torch.autograd.grad(x0, x, error)[0]
    slopes = torch.stack([(g * e).sum() / (e * e).sum() for g, e in zip(gradient, error)]).view(2, 1, 1, 1)
    found = ddpm.complete_image(y, mask, 0.7, "input", generator=seeded())
    torch.testing.assert_close(found, x0_hat - 0.7 * gradient / slopes, rtol=1e-3, atol=1e-4)
    assert slopes.min() > 2 * inpainting.MIN_SLOPE  # or its limit would have to stand above
    assert (gradient * (1 - mask)).abs().max() > 0.01  # the hidden pixels hear of it through the network alone


def test_the_error_is_that_of_the_clamped_prediction():
    ddpm = gaussian_ddpm(torch.tensor([-1.5]), torch.tensor([[1e-9]]), (1, 1, 1), n_timesteps=1)  # predicts -1.5
    one = torch.ones(1, 1, 1, 1)
    found = ddpm.complete_image(0.5 * one, one, scale=0.5, generator=seeded()).item()
    assert found == pytest.approx(-1 + 0.5 * 1.5, abs=0.01)


# ------------------------------------------------------------------------------------------ times of RePaint


def test_repaint_visits():
    assert inpainting.resampling_times(5, 2, 2) == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
    assert inpainting.resampling_times(4, 2, 1) == [4, 3, 2, 1, 0]
    assert inpainting.resampling_times(1, 10, 3) == [1, 0]
    assert inpainting.resampling_times(4, 10, 3) == [4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("T, jump, n", [(50, 10, 4), (101, 10, 3), (7, 3, 2)])
def test_repaint_walks_every_stretch_n_times(T, jump, n):
    times = inpainting.resampling_times(T, jump, n)
    assert times[0] == T and times[-1] == 0
    steps = list(zip(times, times[1:]))
    assert all(after == before - 1 or 0 < after - before <= jump for before, after in steps)
    down = [before for before, after in steps if after < before]
    assert all(down.count(t) == (n if t > 1 else 1) for t in range(1, T + 1))


def test_repaint_denoises_at_the_times_listed(monkeypatch):
    """Trap: an inner loop that overwrites t."""
    seen = []
    ddpm = gaussian_ddpm(torch.zeros(4), S, SIZE, n_timesteps=9)
    monkeypatch.setattr(DDPM, "p_sample", lambda self, x, t, *_, **__: seen.append(t) or x)
    ddpm.complete_image(image(), MASK, method="repaint", n_resample=3, jump_length=4, generator=seeded())
    times = inpainting.resampling_times(9, 4, 3)
    assert seen == [before for before, after in zip(times, times[1:]) if after < before]


def test_a_jump_back_is_the_forward_process(monkeypatch):
    """With steps down that do nothing: each jump from s to t scales by sqrt(bar_t / bar_s) and fills up to variance 1."""
    ddpm = gaussian_ddpm(torch.zeros(1), torch.eye(1), (1, 200, 200), n_timesteps=20, beta2=0.2)
    monkeypatch.setattr(DDPM, "p_sample", lambda self, x, t, *_, **__: x)
    unknown = torch.zeros(1, 1, 200, 200)
    start = torch.randn(1, 1, 200, 200, generator=seeded())
    found = ddpm.complete_image(unknown, unknown, method="repaint", n_resample=2, jump_length=5, generator=seeded())
    bar = ddpm.alpha_bar_t
    kept = (bar[20] / bar[16] * bar[16] / bar[11] * bar[11] / bar[6] * bar[6] / bar[1]).sqrt().item()
    assert found.var().item() == pytest.approx(1, abs=0.03)
    assert (found * start).mean().item() == pytest.approx(kept, abs=0.03) and 0.2 < kept < 0.5


def test_repaint_takes_the_steps_of_the_other_methods(monkeypatch):
    """x_0 clamped, posterior variance. Every draw of noise gives ones, so that it does not matter how many there are."""
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.ones(*shape))
    ddpm = gaussian_ddpm(torch.tensor([-0.5, 0.0, 0.5, 0.95]), S, SIZE, n_timesteps=6, beta2=0.5)
    found = ddpm.complete_image(method="repaint", n_resample=1)
    plain, free, wide = (
        ddpm.sample(1, classes=None, clip_x0=clip, variance=variance)[0]
        for clip, variance in ((True, "posterior"), (False, "posterior"), (True, "beta"))
    )
    torch.testing.assert_close(found, plain)
    assert (plain - free).abs().max() > 0.01 and (plain - wide).abs().max() > 0.01


# ------------------------------------------------------------------------------------------ conditions, order, state


@pytest.mark.parametrize("w", [-1.0, -0.5, 0.0, 2.0])
@pytest.mark.parametrize("method", ["mean", "input"])
def test_class_and_guidance_reach_the_network(unet_ddpm, method, w):
    y, mask = torch.zeros(2, 1, 8, 8), torch.ones(1, 1, 8, 8)
    c = torch.eye(10)[[3, 8]]
    found = unet_ddpm.complete_image(y, mask, 0.0, method, c, g_weight=w, generator=seeded())
    plain, _ = unet_ddpm.sample(1, classes=[3, 8], g_weight=w, clip_x0=True, variance="posterior", generator=seeded())
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixture", ["vector", "scores"])
def test_mixture_reaches_the_network(mixture):
    """Means 0.1 and 0.7, without a class 0.4. Half a class 0: as a vector 0.05, of composed scores (0.1 + 0.4) / 2."""
    ddpm = gaussian_ddpm(torch.tensor([[0.1], [0.7]]).expand(2, 4), 1e-3 * torch.eye(4), SIZE, 50, 0.2)
    found = ddpm.complete_image(image(), MASK, c=torch.tensor([[0.5, 0.0]]), mixture=mixture, generator=seeded())
    assert found[..., 1, :].mean().item() == pytest.approx({"vector": 0.05, "scores": 0.25}[mixture], abs=0.06)


@pytest.mark.parametrize("method", inpainting.METHODS)
def test_inside_of_inference_mode(unet_ddpm, method):
    y, mask = torch.zeros(1, 1, 8, 8), inpainting.mask_named("top", 8, 8)
    expected = unet_ddpm.complete_image(y, mask, method=method, n_resample=1, generator=seeded())
    with torch.inference_mode():
        found = unet_ddpm.complete_image(y.clone(), mask.clone(), method=method, n_resample=1, generator=seeded())
    assert torch.equal(found, expected)


def test_class_moves_what_repaint_draws():
    means = torch.tensor([[-0.4], [0.4]]).expand(2, 4)
    ddpm = gaussian_ddpm(means, 0.01 * torch.eye(4), SIZE, n_timesteps=50, beta2=0.2)
    c = torch.eye(2)[[0, 1]]
    found = ddpm.complete_image(image(n=2), MASK, method="repaint", c=c, n_sample=100, generator=seeded())
    hidden = found.view(100, 2, 4)[..., 2:].mean(dim=(0, 2))  # completion j of image k stands at k + 2 j
    torch.testing.assert_close(hidden, torch.tensor([-0.4, 0.4]), rtol=0, atol=0.03)


def test_completions_come_image_fastest(ddpm):
    y = torch.cat([image(), image(-KNOWN)])
    found = ddpm.complete_image(y, MASK, n_sample=3, generator=seeded())
    torch.testing.assert_close(found[..., 0, :].flatten(1), torch.stack([KNOWN, -KNOWN]).repeat(3, 1))


def test_a_mask_of_one_channel_serves_all():
    ddpm = gaussian_ddpm(torch.zeros(12), 0.06 * torch.eye(12), (3, 2, 2), n_timesteps=20)
    y = torch.rand(2, 3, 2, 2, generator=seeded()) - 0.5
    found = ddpm.complete_image(y, MASK, generator=seeded())
    torch.testing.assert_close(found[..., 0, :], y[..., 0, :])
    assert (found[..., 1, :] - y[..., 1, :]).abs().min() > 1e-4


@pytest.mark.parametrize("method", inpainting.METHODS)
def test_same_seed_same_completion_and_everything_left_as_found(unet_ddpm, method):
    y, mask = torch.rand(2, 1, 8, 8) - 0.5, inpainting.mask_named("bottom", 8, 8)
    unet_ddpm.train()
    before = {name: value.clone() for name, value in unet_ddpm.state_dict().items()}
    first, second, other = (
        unet_ddpm.complete_image(y, mask, method=method, n_resample=2, generator=seeded(s)) for s in (0, 0, 1)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert unet_ddpm.training and not first.requires_grad and not y.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in unet_ddpm.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in unet_ddpm.nn_model.parameters())
    first.requires_grad_().sum().backward()  # an ordinary tensor, no leftover of inference mode


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"ymask": None}, "needs a ymask"),
        ({"y": None}, "ymask without y"),
        ({"y": torch.zeros(1, 1, 2, 3)}, "N, 1, 2, 2.*1, 1, 2, 3"),
        ({"y": torch.zeros(1, 1, 2, 2, dtype=torch.uint8)}, "float"),
        ({"y": torch.full((1, 1, 2, 2), float("nan"))}, r"be in \[-1, 1\]"),
        ({"y": torch.full((1, 1, 2, 2), 255.0)}, r"be in \[-1, 1\], not 255"),
        ({"y": torch.zeros(0, 1, 2, 2)}, "holds no image"),
        ({"ymask": torch.ones(3, 1, 2, 2)}, "broadcast"),
        ({"ymask": torch.full((1, 1, 2, 2), 0.5)}, "1 where y is known"),
        ({"method": "magic"}, "'mean' or 'input' or 'repaint'"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"n_sample": 0}, "n_sample"),
        ({"n_resample": 0}, "n_resample"),
        ({"jump_length": 0}, "jump_length"),
        ({"c": torch.eye(3)[:1], "g_weight": float("inf")}, "g_weight"),
        ({"c": torch.eye(3)[:1], "mixture": "soup"}, "mixture"),
        ({"c": torch.zeros(2, 10)}, "c must be .1, n_classes."),
        ({"c": torch.full((1, 10), float("nan"))}, "c must be finite"),
    ],
)
def test_refuses_impossible_completions(ddpm, arguments, words):
    with pytest.raises(ValueError, match=words):
        ddpm.complete_image(**{"y": image(), "ymask": MASK, **arguments})


# ------------------------------------------------------------------------------------------ masks


def test_masks_hide_what_their_names_say():
    hidden = {name: (inpainting.mask_named(name, 8, 8, seeded()) == 0)[0, 0] for name in inpainting.MASKS}
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(hidden["bottom"], rows >= 4) and torch.equal(hidden["top"], rows < 4)
    assert torch.equal(hidden["left"], columns < 4) and torch.equal(hidden["right"], columns >= 4)
    assert torch.equal(hidden["center"], (rows >= 2) & (rows < 6) & (columns >= 2) & (columns < 6))
    assert torch.equal(hidden["random"], (inpainting.mask_named("random", 8, 8, seeded()) == 0)[0, 0])
    share = (inpainting.mask_named("random", 100, 100, seeded()) == 0).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.02)
    with pytest.raises(ValueError, match="'bottom' or 'top'"):
        inpainting.mask_named("inside out", 8, 8)
