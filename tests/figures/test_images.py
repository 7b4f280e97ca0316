"""What a run shows beside samples: its data, the classes that stand for all, completions and mixtures, the processes."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_networks import trained_unet

from datasets.image_set import ImageSet
from ddpm import DDPM
from figures import images as image_figures
from figures.grids import plot_gif, plot_grid
from networks.Conditional_UNet import UNet
from reporting import log_files
from training import class_conditional


@pytest.fixture
def pages(monkeypatch):
    """The calls of plot_groups, instead of pictures, with all that they were given."""
    calls = []

    def plot_groups(path, groups, heads=None, title=None, n_columns=None):
        calls.append(SimpleNamespace(name=path.name, groups=groups, heads=heads, title=title, n_columns=n_columns))

    monkeypatch.setattr(image_figures, "plot_groups", plot_groups)
    return calls


def small_set(n_classes, n=20):
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(n) % n_classes, [f"c{k}" for k in range(n_classes)], "small")


@pytest.fixture(scope="module")
def ddpm():
    return DDPM(trained_unet().eval(), n_timesteps=4, beta2=0.5, device="cpu")


# ------------------------------------------------------------------------------------------------ completions, mixtures


@pytest.mark.parametrize("n_timesteps, steps", [(4, 4), (20, 8)])
def test_the_exercise_figure(pages, tmp_path, monkeypatch, n_timesteps, steps):
    """Six test images, the lower half hidden of three and the upper half of three, five completions of each; in at most
    FEW_STEPS steps, and the title says so."""
    monkeypatch.setattr(image_figures, "FEW_STEPS", 8)
    ddpm = DDPM(trained_unet().eval(), n_timesteps=n_timesteps, beta2=0.5, device="cpu")
    data = small_set(10)
    image_figures.draw_completions(tmp_path, ddpm, data, "epoch 2", seed=0)
    (page,) = pages
    assert page.name == "inpainting.png" and page.heads == ["bottom hidden"] * 3 + ["top hidden"] * 3
    assert page.title.startswith("epoch 2, ") and f" {steps} steps" in page.title
    (_, original), (_, visible), (_, completed) = page.groups
    torch.testing.assert_close(original, data.images[:6].float() / 127.5 - 1)
    known = torch.ones(6, 1, 8, 8)
    known[:3, :, 4:] = 0
    known[3:, :, :4] = 0
    assert torch.equal(visible, torch.where(known == 1, original, 0.0))
    how = {"method": "input", "n_resample": 10, "jump_length": 5}
    few = ddpm.respaced(steps)
    found = few.complete_image(original, known, n_sample=5, generator=torch.Generator().manual_seed(0), **how)
    torch.testing.assert_close(completed, found)


def test_mixtures_of_the_classes_there_are(pages, tmp_path):
    for n_classes, mixtures in ((10, ["c3 + c8", "c4 + c9"]), (9, ["c3 + c8"]), (5, ["c0 + c1"]), (1, [])):
        pages.clear()
        ddpm = DDPM(UNet(1, 8, n_classes, 8).eval(), n_timesteps=2, device="cpu")
        image_figures.draw_mixtures(tmp_path, ddpm, small_set(n_classes), "epoch 1", seed=0)
        assert [[label for label, _ in page.groups] for page in pages] == ([mixtures] if mixtures else [])


def test_columns_of_a_mixture_differ_by_their_condition_alone(ddpm, pages, tmp_path):
    """All of a row start from the same noise: each column is what `sample` draws with its condition and that seed."""
    mixtures = [{3: 0.5, 8: 0.5}, {1: 0.75, 2: 0.5, 0: -0.25}]
    image_figures.mixture_figure(tmp_path / "a.png", ddpm, [f"c{k}" for k in range(10)], mixtures, 2, 2.0, seed=5)
    (page,) = pages
    assert page.heads == [["c3", "c8", "", "vector", "scores"], ["c1", "c2", "c0", "vector", "scores"]]
    for (_, images), weights in zip(page.groups, mixtures):
        mixed = torch.zeros(10)
        for k, weight in weights.items():
            mixed[k] = weight
        asked = [(torch.eye(10)[k], "vector") for k in weights] + [None] * (3 - len(weights))
        for column, condition in enumerate([*asked, (mixed, "vector"), (mixed, "scores")]):
            if condition is None:
                assert images[column::5].isnan().all()
                continue
            c, mixture = condition
            generator = torch.Generator().manual_seed(5)
            expected, _ = ddpm.sample(2, g_weight=2.0, classes=c[None], generator=generator, mixture=mixture)
            torch.testing.assert_close(images[column::5], expected, rtol=1e-4, atol=1e-4)


def test_few_test_images_make_a_small_figure(ddpm, pages, tmp_path):
    image_figures.draw_completions(tmp_path, ddpm, small_set(10, n=2), "epoch 1", seed=0)
    assert [len(images) for _, images in pages[0].groups] == [2, 2, 10]


def test_a_finished_run_shows_them_and_its_report_too(whole_run):
    report = (whole_run / "report.html").read_text()
    for name in ("inpainting.png", "mixture.png"):
        assert f'src="./{name}"' in report
        page = imageio.imread(whole_run / name)
        assert page.min() == 0 and page.max() == 255 and math.prod(page.shape[:2]) > 100_000


def test_a_signal_while_they_are_drawn(train, whole_run, tmp_path, monkeypatch):
    """All epochs are done by then: resuming only draws."""
    original = class_conditional.draw_completions

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(class_conditional, "draw_completions", interrupted)
        assert train(tmp_path / "log") == 128 + signal.SIGTERM
    assert not (tmp_path / "log" / "inpainting.png").exists()
    assert (tmp_path / "log" / "model_epoch3.pt").exists()
    assert train(tmp_path / "log", "--resume") == 0
    found, expected = (imageio.imread(folder / "inpainting.png") for folder in (tmp_path / "log", whole_run))
    assert (found == expected).all()


# ------------------------------------------------------------------------------------------------ many classes


def test_twenty_classes_are_all_shown_and_of_more_some_that_are_spread():
    for n in range(21):
        assert log_files.shown_classes(n) == list(range(n))
    assert log_files.shown_classes(100) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert log_files.shown_classes(100, 100) == log_files.shown_classes(100, 1000) == list(range(100))
    for n, most in ((21, None), (37, 5), (100, 7), (200, None), (3, 2), (3, 1)):
        classes = log_files.shown_classes(n, most)
        gaps = [b - a for a, b in zip(classes, [*classes[1:], n])]
        assert len(classes) == (most or 10) and classes[0] == 0
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1  # different, and as even as can be


def test_weights_are_drawn_from_the_same_noise_and_each_as_sample_draws_it(ddpm):
    """Of the classes that were asked for; with the steps if these are recorded."""
    classes, weights = [7, 2, 4], (0.0, 3.0, -1.0)
    for record in (True, False):
        found = image_figures.sample_weights(ddpm, 2, 10, classes, weights, seed=5, record=record)
        assert list(found) == list(weights)
        for w, (y, steps) in found.items():
            generator = torch.Generator().manual_seed(5)
            expected = ddpm.sample(2, None, 10, w, classes, generator=generator, record=record)
            torch.testing.assert_close(y, expected[0], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(steps, expected[1], rtol=1e-4, atol=1e-4)


def test_a_grid_and_an_animation_for_each_weight(tmp_path):
    y, real = torch.rand(2, 4, 1, 8, 8), torch.rand(2, 1, 8, 8)
    image_figures.draw_grids(tmp_path, {0: y[0], 2.5: y[1]}, real, ["a", "b"], "epoch 3")
    image_figures.draw_animations(tmp_path, {0: y[:, :2].numpy(), 2.5: y[:, 2:].numpy()}, [1, 0], ["a", "b"], "epoch 3")
    plot_grid(tmp_path / "expected.png", y[1], real, ["a", "b"], "epoch 3, guidance weight 2.5")
    plot_gif(tmp_path / "expected.gif", y[:, 2:], [1, 0], 2, ["a", "b"])
    for kind, suffix in (("generated_images", ".png"), ("animation", ".gif")):
        assert (tmp_path / f"{kind}_epoch3_guidance_weight0{suffix}").exists()
        found = tmp_path / f"{kind}_epoch3_guidance_weight2.5{suffix}"
        assert found.read_bytes() == (tmp_path / f"expected{suffix}").read_bytes()


# ------------------------------------------------------------------------------------------------ the data


def test_the_data_sheet_shows_the_first_images_of_every_class(pages, tmp_path):
    data = small_set(3, n=60)
    image_figures.data_figure(tmp_path / "data.png", data)
    (page,) = pages
    assert page.name == "data.png" and page.title == "small: 60 training images, 20 of each of 3 classes"
    assert page.heads == [["c0", "c1", "c2"]]
    torch.testing.assert_close(
        page.groups[0][1], data.images[:18].float() / 127.5 - 1
    )  # the labels are 0 1 2 0 1 2 ...


def test_the_data_sheet_counts_the_images_of_unequal_classes(pages, tmp_path):
    data = small_set(3, n=1502)
    data.labels[data.labels == 2] = 0
    image_figures.data_figure(tmp_path / "data.png", data)
    assert pages[0].title == "small: 1,502 training images"
    assert pages[0].heads == [["c0 (1,001)", "c1 (501)", "c2 (0)"]]
    images = pages[0].groups[0][1]
    assert images[2::3].isnan().all() and not images[::3].isnan().any()  # a class without images is blank


def test_the_data_sheet_of_many_classes_has_blocks_in_which_none_is_missing(pages, tmp_path):
    data = small_set(23, n=46)
    image_figures.data_figure(tmp_path / "data.png", data)
    names = [f"c{k}" for k in range(23)]
    assert pages[0].heads == [names[:10], names[10:20], names[20:] + [""] * 7]
    scaled = data.images.float() / 127.5 - 1
    for start, (_, images) in zip((0, 10, 20), pages[0].groups):
        assert len(images) == 20
        for row in range(2):
            for column in range(10):
                image, k = images[10 * row + column], start + column
                assert torch.equal(image, scaled[k + 23 * row]) if k < 23 else image.isnan().all()


def test_the_data_sheet_of_one_class_is_a_plain_grid(pages, tmp_path):
    data = small_set(1, n=500)
    image_figures.data_figure(tmp_path / "data.png", data)
    assert pages[0].title == "small: 500 training images of class c0"
    assert pages[0].n_columns == 10 and not pages[0].heads
    torch.testing.assert_close(pages[0].groups[0][1], data.images[:60].float() / 127.5 - 1)


@pytest.mark.parametrize("n_classes, channels", [(1, 3), (2, 1), (20, 1), (100, 3)])
def test_every_data_sheet_can_be_drawn_and_read(tmp_path, n_classes, channels):
    """No page is wider than a screen, and drawing it twice gives the same picture."""
    images = torch.randint(0, 256, (2 * n_classes + 3, channels, 32, 32), dtype=torch.uint8)
    names = [f"class number {k}" for k in range(n_classes)]
    data = ImageSet(images, torch.arange(len(images)) % n_classes, names, "small")
    image_figures.data_figure(tmp_path / "a.png", data)
    state = torch.get_rng_state()
    image_figures.data_figure(tmp_path / "b.png", data)
    assert torch.equal(torch.get_rng_state(), state)  # it takes no random numbers from anything that follows
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    height, width = imageio.imread(tmp_path / "a.png").shape[:2]
    assert 200 < width < 1000 and height < 4000


# ------------------------------------------------------------------------------------------------ the two processes


@pytest.mark.parametrize("n_timesteps, times", [(8, [0, 2, 4, 6, 7]), (4, [0, 1, 2, 3])])
def test_the_processes_of_classes(pages, tmp_path, n_timesteps, times):
    """Rows at 0, 25, 50, 75 and 99 % of T (of few steps the last two are one). Columns under the
    names of their classes; backwards the model is told these classes, and starts from the last row.
    """
    ddpm = DDPM(trained_unet().eval(), n_timesteps=n_timesteps, beta2=0.5, device="cpu")
    data = small_set(10)
    images, c, names = image_figures.first_of_each(data, [7, 2])
    torch.testing.assert_close(images, data.images[[7, 2]].float() / 127.5 - 1)
    assert c.argmax(1).tolist() == [7, 2] and c.sum() == 2 and names == ["c7", "c2"]

    image_figures.process_figures(tmp_path, ddpm, images, 3, c, names)
    forward, backward = pages
    assert (forward.name, backward.name) == ("forward_process.png", "backward_process.png")
    assert forward.heads == backward.heads == names
    labels = [[label.split(" (")[0] for label, _ in page.groups] for page in pages]
    assert labels == [[f"t = {t}" for t in times], [f"t = {t}" for t in times[::-1]]]
    assert [forward.groups[i][0].split(" ")[-1] for i in (0, 1, 2, -1)] == ["(0%)", "(25%)", "(50%)", "(99%)"]
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(images.shape, generator=generator)
    alpha_bar = torch.cat([torch.ones(1), (1 - torch.linspace(1e-4, 0.5, n_timesteps)).cumprod(0)])
    for t, (_, x_t) in zip(times, forward.groups):
        torch.testing.assert_close(x_t, alpha_bar[t].sqrt() * images + (1 - alpha_bar[t]).sqrt() * noise)
    x = forward.groups[-1][1]
    assert torch.equal(backward.groups[0][1], x)
    for t in range(times[-1], 0, -1):
        with torch.no_grad():
            x = ddpm.p_sample(x, t, c, generator=generator)
    torch.testing.assert_close(backward.groups[-1][1], x, atol=1e-4, rtol=1e-4)


def test_a_class_without_images_has_no_column_in_the_processes():
    data = small_set(3)
    data.labels[data.labels == 1] = 2
    images, c, names = image_figures.first_of_each(data, [0, 1, 2])
    assert len(images) == 2 and c.argmax(1).tolist() == [0, 2] and names == ["c0", "c2"]
