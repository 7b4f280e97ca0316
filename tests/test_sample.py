"""sample.py: every mode runs for real, and what it wrote is compared with what the model gives when it is asked directly."""

from __future__ import annotations

import csv
import math
import shutil
import signal
import sys

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import torch.nn as nn
from started_script import run_code
from tiny_sample import loaded, seeded
from tiny_script import run_here

import sample
from common import console
from common.console import Progress
from datasets.class_names import parse_mixture
from datasets.image_files import read_images
from datasets.image_set import to_float, to_uint8
from datasets.sources import load
from diffusion import inpainting
from diffusion.inpainting import mask_named
from figures.grids import plot_groups
from figures.images import mixture_name, real_rows
from training import checkpoint
from training.losses import validation_loss

NAMES = [str(k) for k in range(10)]
WATCHED = (signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def same(tmp_path):
    """same(name, groups, heads, title, n_columns) asserts that sample.py has drawn the picture that these make."""

    def check(name, *arguments):
        plot_groups(tmp_path / "expected.png", *arguments)
        found, expected = (imageio.imread(tmp_path / file) for file in (f"out/{name}", "expected.png"))
        np.testing.assert_array_equal(found, expected)

    return check


# ---------------------------------------------------------------------------------------------------------------- grid


def test_grid_of_all_classes(run, ddpm, tmp_path, same, capsys):
    assert run() == 0
    y, _ = ddpm.sample(4, g_weight=1, generator=seeded())
    title = "model_epoch3.pt, guidance weight 1, seed 0"
    same("samples.png", [("", y)], NAMES, title)
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'samples.png'}\n"


def test_grid_of_some_classes_and_its_animation(run, ddpm, tmp_path, same):
    assert run("--classes 8 3 --n_samples 2 --g_weight 0.5 --seed 7 --animate") == 0
    y, steps = ddpm.sample(2, g_weight=0.5, classes=[8, 3], generator=seeded(7))
    same("samples.png", [("", y)], ["8", "3"], "model_epoch3.pt, guidance weight 0.5, seed 7")
    frames = imageio.mimread(tmp_path / "out" / "samples.gif")
    assert len(frames) == len(ddpm.recorded_times()) == len(steps)
    last = np.asarray(frames[-1])
    last = last[..., 0] if last.ndim == 3 else last
    expected = to_uint8(y[1, 0]).numpy().repeat(5, 0).repeat(5, 1)  # sample 0 of class 3, in the first row
    rows = [r for r in range(len(last)) if (last[r] == 255).mean() < 0.9]  # where pictures or letters are
    cells = [last[r : r + 140] for r in rows]
    assert any(
        cell.shape[0] == 140 and any((cell[:, x : x + 140] == expected).all() for x in range(last.shape[1] - 139))
        for cell in cells
    )


def test_grid_by_another_sampler(run, ddpm, same):
    assert run("--sampler dpm++2m --n_steps 3 --placement log-snr") == 0
    y, _ = ddpm.sample(4, g_weight=1, generator=seeded(), sampler="dpm++2m", n_steps=3, placement="log-snr")
    title = "model_epoch3.pt, dpm++2m, 3 steps, placed by log-snr, guidance weight 1, seed 0"
    same("samples.png", [("", y)], NAMES, title)


def test_a_seed_is_a_picture(run, tmp_path):
    for more in ("", "", "--seed 1"):
        assert run(f"--classes 1 --n_samples 1 {more}") == 0
    first, again, other = (imageio.imread(tmp_path / "out" / f"samples{n}.png") for n in ("", "_2", "_3"))
    assert (first == again).all() and not (first[60:] == other[60:]).all()


def test_nothing_is_overwritten_and_everything_is_logged(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(sample, "commit", lambda: "abc1234")
    out.mkdir()
    (out / "samples.gif").write_text("an older one")
    assert run("--classes 1 --n_samples 1 --animate") == 0
    assert run("--classes 1 --n_samples 1") == 0
    assert run("--mix 1+2 --n_samples 1") == run("--mix 1+2 --n_samples 1") == 0
    names = ["samples_2.png", "samples_2.gif", "samples_3.png", "mixture.png", "mixture_2.png"]
    assert {path.name for path in out.iterdir()} == {"samples.gif", "samples.log", *names}
    assert (out / "samples.gif").read_text() == "an older one"
    lines = (out / "samples.log").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == names
    assert all("UTC" in line and "python sample.py" in line and "cpu (" in line and "abc1234" in line for line in lines)


def test_a_run_that_fails_frees_its_name(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample, "plot_grid", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert run("--classes 1 --n_samples 1") == 1
    assert "No space left" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_a_run_that_is_told_to_end_frees_its_name(model, tmp_path):
    """In a process of its own, as the signal would otherwise end the tests."""
    code = (
        "import os, signal, sample\n"
        "sample.plot_grid = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sample.run_script(sample.main)\n"
    )
    words = [str(model), "--classes", "1", "--n_samples", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    status, printed = run_code(code, words, tmp_path)
    assert status == 128 + signal.SIGTERM, printed
    assert not list((tmp_path / "out").iterdir())


def test_handlers_of_signals_are_put_back_and_ignored_ones_stay(run, monkeypatch):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    during = []
    monkeypatch.setattr(sample, "plot_grid", lambda *_: during.append(list(map(signal.getsignal, WATCHED))))
    try:
        run("--classes 1 --n_samples 1")
        after = list(map(signal.getsignal, WATCHED))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert callable(during[0][0]) and during[0][1] == signal.SIG_IGN
    assert after == [signal.SIG_DFL, signal.SIG_IGN]


@pytest.mark.parametrize(
    "words", ["", "--mix 1+2", "--guidance_sweep 0 1", "--inpaint {p}", "--inpaint {p} --method input", "--npz 2"]
)
def test_a_model_that_diverged_is_refused(run, model, tmp_path, capsys, words):
    content = checkpoint.load(model)
    for weight in content["model"].values():
        if weight.is_floating_point():
            weight.fill_(1e38)  # finite, as the reader of such files demands, but not for long
    checkpoint.save(tmp_path / "model.pt", content)
    imageio.imwrite(tmp_path / "a.png", np.zeros((9, 9), np.uint8))
    assert run(words.format(p=tmp_path / "a.png"), tmp_path / "model.pt") == 1
    error = capsys.readouterr().err
    assert "not finite: it diverged" in error and len(error.splitlines()) == 1
    assert not [*tmp_path.glob("out/*.png"), *tmp_path.glob("out/*.npz")]


def test_results_go_beside_the_model_and_into_the_report(run, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "log")
    assert run("--classes 1 --n_samples 1", tmp_path / "log" / "model_epoch3.pt", out=None) == 0
    assert "samples.png" in (tmp_path / "log" / "report.html").read_text()
    assert run("--classes 1 --n_samples 1") == 0
    assert not (tmp_path / "out" / "report.html").exists()


def test_raw_weights(run, whole_run, tmp_path, same, capsys):
    assert run("--raw") == 2 and "--raw needs a checkpoint.pt" in capsys.readouterr().err
    assert run("--raw --classes 1 --n_samples 1", whole_run / "checkpoint.pt") == 0
    ddpm = loaded(whole_run / "checkpoint.pt", raw=True)
    y, _ = ddpm.sample(1, g_weight=1, classes=[1], generator=seeded())
    title = "checkpoint.pt, raw weights, guidance weight 1, seed 0"
    same("samples.png", [("", y)], ["1"], title)


class Classless(nn.Module):
    """A network that knows no classes."""

    size, n_classes = (3, 8, 8), None

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t, c=None):
        assert c is None
        return self.conv(x)


def test_a_model_without_classes(run, tmp_path, same, monkeypatch, capsys):
    monkeypatch.setitem(checkpoint.NETWORKS, "classless", Classless)
    spec = {"network": "classless", "network_arguments": {}, "ddpm": {"n_timesteps": 4}}
    file = tmp_path / "model.pt"
    more = {"arguments": {}, "class_names": [], "epoch": 1}
    checkpoint.save(file, {"spec": spec, "model": Classless().state_dict(), **more})
    assert run("--n_samples 3", file) == 0
    ddpm = loaded(file)
    y, _ = ddpm.sample(9, n_classes=0, generator=seeded())
    same("samples.png", [("", y)], None, "model.pt, seed 0", 3)
    assert run("--npz 5 --batch_size 2", file) == 0
    with np.load(tmp_path / "out" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (5, 8, 8, 3) and arrays["arr_1"].tolist() == [-1] * 5
        assert (arrays["arr_0"][..., 0] != arrays["arr_0"][..., 1]).any()  # colours stay
    capsys.readouterr()
    for wrong in ("--mix 1+2", "--guidance_sweep 1", "--classes 1"):
        assert run(wrong, file) == 2 and "the model has no classes" in capsys.readouterr().err
    assert run("--inpaint", file) == 2 and "no data set of this suite" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- mixtures


def test_mixtures_differ_by_their_condition_alone(run, ddpm, tmp_path, same):
    assert run("--mix 3+8 1*0.75+2*0.5+0*-0.25 --n_samples 2 --g_weight 2 --seed 5") == 0
    one = torch.eye(10)

    def column(c, mixture="vector"):
        return ddpm.sample(2, g_weight=2.0, classes=c[None], generator=seeded(5), mixture=mixture)[0]

    def rows(*columns):
        return torch.stack(columns, dim=1).flatten(0, 1)

    half, weighted = (one[3] + one[8]) / 2, 0.75 * one[1] + 0.5 * one[2] - 0.25 * one[0]
    blank = torch.full((2, 1, 28, 28), math.nan)
    first = rows(column(one[3]), column(one[8]), blank, column(half), column(half, "scores"))
    second = rows(*map(column, one[[1, 2, 0]]), column(weighted), column(weighted, "scores"))
    groups = [("3 + 8", first), ("1*0.75 + 2*0.5 + 0*-0.25", second)]
    heads = [["3", "8", "", "vector", "scores"], ["1", "2", "0", "vector", "scores"]]
    same("mixture.png", groups, heads, "model_epoch3.pt, guidance weight 2, seed 5")
    plain, _ = ddpm.sample(2, g_weight=2.0, classes=[8], generator=seeded(5))
    assert torch.equal(first[1::5], plain)  # a class alone is a plain sample from the same noise


def test_mixtures_are_named_by_index_or_name():
    names = ["T-shirt", "dress", "1"]
    assert parse_mixture("T-shirt+dress", names) == {0: 0.5, 1: 0.5}
    assert parse_mixture("0+1", names) == {0: 0.5, 2: 0.5}  # a name comes before an index
    assert parse_mixture(" dress*2 + 0*-1e-1", names) == {1: 2.0, 0: -0.1}
    assert mixture_name({0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, names) == "T-shirt + dress + 1"
    assert mixture_name({0: 1.0, 1: 1.0}, names) == "T-shirt*1 + dress*1"


@pytest.mark.parametrize(
    "text, message",
    [
        ("3", "two or more"),
        ("3*0.5+3*0.5", "two or more"),
        ("3+11", "no class '11'"),
        ("3+", "no class ''"),
        ("3*inf+8*1", "a weight up to a million"),
        ("3*0.5+8", "a weight up to a million"),
        ("3*x+8*1", "a weight up to a million"),
    ],
)
def test_impossible_mixtures(run, tmp_path, text, message, capsys):
    assert run(f"--mix {text}") == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_guidance_sweep(run, ddpm, tmp_path, same):
    assert run("--guidance_sweep 0 2.5 -1 --classes 4 9 --seed 3") == 0
    groups = [(f"w = {w:g}", ddpm.sample(1, None, 10, w, [4, 9], generator=seeded(3))[0]) for w in (0, 2.5, -1)]
    assert not torch.equal(groups[0][1], groups[1][1])
    same("guidance_sweep.png", groups, ["4", "9"], "model_epoch3.pt, seed 3")


# ----------------------------------------------------------------------------------------------------------- inpainting


def test_test_images_are_completed(run, ddpm, data_dir, tmp_path, same):
    assert run(f"--inpaint --data_dir {data_dir}") == 0
    images = load("mnist", data_dir, train=False).images[:6].float() / 127.5 - 1
    masks = torch.ones(6, 1, 28, 28)
    masks[:3, :, 14:] = 0
    masks[3:, :, :14] = 0
    completed = ddpm.complete_image(images, masks, n_sample=5, **inpainting.BEST, generator=seeded())
    groups = [("original", images), ("visible", images * masks), ("completed", completed)]
    heads = ["bottom hidden"] * 3 + ["top hidden"] * 3
    title = f"model_epoch3.pt, method input, scale 1, n_resample 10, jump_length 5, {ddpm.n_timesteps} steps, seed 0"
    same("inpainting.png", groups, heads, title)


def test_images_are_completed_in_fewer_steps_with_resampling(run, ddpm, data_dir, tmp_path, same):
    assert (
        run(f"--inpaint --data_dir {data_dir} --mask left --n_samples 1 --n_steps 4 --n_resample 3 --jump_length 2")
        == 0
    )
    images, mask = load("mnist", data_dir, train=False).images[:6].float() / 127.5 - 1, mask_named("left", 28, 28)
    completed = ddpm.respaced(4).complete_image(
        images, mask, method="input", n_sample=1, n_resample=3, jump_length=2, generator=seeded()
    )
    groups = [("original", images), ("visible", images * mask), ("completed", completed)]
    title = "model_epoch3.pt, method input, scale 1, n_resample 3, jump_length 2, 4 steps, seed 0"
    same("inpainting.png", groups, ["left hidden"] * 6, title)


def test_a_grid_in_fewer_steps(run, ddpm, same):
    assert run("--classes 1 2 --n_samples 2 --n_steps 3") == 0
    y, _ = ddpm.respaced(3).sample(2, g_weight=1.0, classes=[1, 2], generator=seeded(), record=False)
    same("samples.png", [("", y)], ["1", "2"], "model_epoch3.pt, 3 steps, guidance weight 1, seed 0")


@pytest.mark.parametrize("classes", [[3], [1, 2]])
def test_own_images_are_completed(run, ddpm, tmp_path, same, classes):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, file in enumerate(files):
        imageio.imwrite(file, np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    words = (
        f"--method repaint --mask random --n_samples 2 --g_weight 2 --classes {' '.join(map(str, classes))} --seed 4"
    )
    assert run(f"--inpaint {files[0]} {files[1]} {words}") == 0
    images, generator = to_float(read_images(files, (1, 28, 28))), seeded(4)
    masks = torch.cat([mask_named("random", 28, 28, generator) for _ in files])
    c = torch.eye(10)[(classes * 2)[:2]]
    completed = ddpm.complete_image(images, masks, 1.0, "repaint", c, 2.0, 2, generator=seeded(4))
    groups = [("original", images), ("visible", images * masks), ("completed", completed)]
    heads = [f"random hidden, as {k}" for k in (classes * 2)[:2]]
    title = "model_epoch3.pt, method repaint, n_resample 5, jump_length 10, guidance weight 2, seed 4"
    same("inpainting.png", groups, heads, title)


def test_a_mask_from_a_file(run, tmp_path, monkeypatch):
    painted = np.zeros((10, 14), np.uint8)
    painted[:5, :7] = 200  # bright is known: the upper left quarter, also of the middle square
    imageio.imwrite(tmp_path / "mask.png", painted)
    imageio.imwrite(tmp_path / "a.png", np.full((30, 30), 255, np.uint8))
    expected = torch.zeros(1, 1, 28, 28)
    expected[..., :14, :14] = 1
    calls = []
    monkeypatch.setattr(sample, "inpainting_figure", lambda *arguments, **_: calls.append(arguments))
    assert run(f"--inpaint {tmp_path / 'a.png'} --mask {tmp_path / 'mask.png'}") == 0
    _, images, masks, _, heads, _ = calls[0]
    assert torch.equal(masks, expected) and heads == ["mask.png"]
    assert torch.equal(images, torch.ones(1, 1, 28, 28))
    assert run(f"--inpaint {tmp_path / 'a.png'} --mask {tmp_path / 'mask.png'} --invert") == 0
    images, masks = calls[1][1:3]
    assert torch.equal(images, -torch.ones(1, 1, 28, 28)) and torch.equal(masks, expected)  # the mask means the same


def test_a_mask_that_hides_nothing_is_refused(run, tmp_path, capsys):
    """Such as one whose hidden part was erased: transparent is white, and white is known."""
    erased = np.zeros((8, 8, 4), np.uint8)
    erased[:4] = 255
    imageio.imwrite(tmp_path / "mask.png", erased)
    assert run(f"--inpaint {tmp_path / 'mask.png'} --mask {tmp_path / 'mask.png'}") == 2
    assert "hides nothing" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- several models


@pytest.fixture
def fc(train, tmp_path):
    """fc("--more arguments") trains a fully connected network for an epoch; returns its file."""

    def run(more=""):
        assert train(tmp_path / f"fc{more}", f"--network fc --num_hidden 8 --n_features 32 --n_epochs 1 {more}") == 0
        return tmp_path / f"fc{more}" / "model_epoch1.pt"

    return run


def test_models_are_compared_from_the_same_noise(ddpm, model, fc, whole_run, data_dir, tmp_path, same, capsys):
    other = fc()
    words = f"{model} {other} --data_dir {data_dir} --out {tmp_path / 'out'} --device cpu --n_samples 1 --g_weight 2"
    capsys.readouterr()
    assert run_here(sample, words.split()) == 0
    assert "validation loss" in capsys.readouterr().out
    groups, test_set = [], load("mnist", data_dir, train=False)
    for network, file in (("conditional_unet", model), ("fc", other)):
        one = loaded(file)
        n_parameters, loss = sum(p.numel() for p in one.nn_model.parameters()), validation_loss(one, test_set, True, 0)
        label = f"{network}\n{file.parent.name}/{file.name}\n{n_parameters:,} parameters\nvalidation loss {loss:.4f}"
        groups.append((label, one.sample(1, g_weight=2.0, generator=seeded())[0]))
    groups.append(("real", real_rows(test_set, 1)))
    same("comparison.png", groups, NAMES, "the same noise, guidance weight 2, seed 0")
    with open(whole_run / "metrics.csv") as file:
        last = list(csv.DictReader(file))[-1]
    found = validation_loss(ddpm, test_set, True, 0, 16)
    assert found == pytest.approx(float(last["val_loss"]), rel=1e-5)


@pytest.mark.parametrize("more", ["--n_timesteps 5", "--schedule cosine", "--loss l1"])
def test_models_that_do_not_compare(model, fc, capsys, more):
    assert run_here(sample, [str(model), str(fc(more)), "--device", "cpu"]) == 2
    assert "another T, schedule or loss than" in capsys.readouterr().err


def test_other_modes_take_one_model(model, capsys):
    assert run_here(sample, [str(model), str(model), "--npz", "2"]) == 2
    assert "--npz takes one model, not 2" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ the calls


@pytest.mark.parametrize(
    "words, message",
    [
        ("--classes 10", "there is no class '10'; the model's classes are 0, 1"),
        ("--classes -1", "there is no class '-1'"),
        ("--g_weight nan", "must be in"),
        ("--guidance_sweep 0 nan", "must be in"),
        ("--seed -1", "must be at least 0"),
        ("--n_samples 0", "must be at least 1"),
        ("--n_samples 251", "--n_samples: at most 2,500 images are drawn at once, not 2,510"),
        ("--inpaint {picture} --n_samples 2501", "at most 2,500 images are drawn at once, not 2,501"),
        ("--npz 9999 --batch_size 2501", "--batch_size: at most 2,500 images are drawn at once, not 2,501"),
        ("--npz 5e12", "--npz: must be a whole number"),
        ("--npz 4 --mix 1+2", "not allowed with"),
        ("--npz 4 --animate", "--animate has no effect on --npz"),
        ("--mix 1+2 --classes 1", "--classes has no effect on --mix"),
        ("--npz 4 --n_samples 1", "--n_samples has no effect on --npz"),
        ("--guidance_sweep 1 --g_weight 1", "--g_weight has no effect on --guidance_sweep"),
        ("--batch_size 3", "--batch_size has no effect on a plain grid"),
        ("--mask top", "--mask has no effect on a plain grid"),
        ("--n_steps 9", "n_steps must be a whole number from 1 to T = 8, not 9"),
        ("--inpaint {picture} --n_steps 50", "n_steps must be a whole number from 1 to T = 8, not 50"),
        ("--placement quadratic", "--placement needs a number of steps"),
        ("--n_steps 4 --sampler euler", "invalid choice"),
        ("--inpaint --sampler ddim", "--sampler has no effect on --inpaint"),
        ("--inpaint --g_weight 1", "--g_weight has no effect on --inpaint in this call"),
        ("--inpaint --jump_length 2", "--jump_length has no effect on --inpaint in this call"),
        ("--inpaint --method repaint --n_resample 1 --jump_length 2", "--jump_length has no effect on --inpaint"),
        ("--inpaint --method repaint --scale 1", "--scale has no effect on --inpaint in this call"),
        ("--inpaint a.png --data_dir x", "--data_dir has no effect on --inpaint in this call"),
        ("--inpaint --invert", "--invert has no effect on --inpaint in this call"),
        ("--inpaint {picture} --classes 1 2", "2 classes do not fit 1 images"),
        ("--inpaint --method other", "invalid choice"),
        ("--inpaint {picture} --mask botom", "--mask botom is neither a file nor one of bottom, top,"),
        ("--device tpu9", "--device tpu9"),
    ],
)
def test_wrong_calls(run, tmp_path, capsys, words, message):
    imageio.imwrite(tmp_path / "a.png", np.zeros((9, 9), np.uint8))
    assert run(words.format(picture=tmp_path / "a.png")) == 2
    error = capsys.readouterr().err
    assert message in error and "error:" in error.splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ("--inpaint missing.png", "there is no file missing.png"),
        ("--inpaint {text}", "cannot be read as an image"),
        ("--inpaint {picture} --mask {text}", "cannot be read as an image"),
        ("--out {text}", "a.txt"),
        ("--npz 3 --out {text}", "a.txt"),
    ],
)
def test_bad_files(run, tmp_path, capsys, words, message):
    imageio.imwrite(tmp_path / "a.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "a.txt").write_text("hello")
    words = words.format(picture=tmp_path / "a.png", text=tmp_path / "a.txt")
    assert run(words, out=None) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert (tmp_path / "a.txt").read_text() == "hello"


def test_a_file_that_is_no_model(run, tmp_path, capsys):
    (tmp_path / "a.pt").write_text("hello")
    assert run("", tmp_path / "a.pt") == 1 and "damaged" in capsys.readouterr().err
    assert run("", tmp_path / "b.pt") == 1 and "no file" in capsys.readouterr().err


def test_progress(monkeypatch, capsys):
    """On a terminal one line that changes; elsewhere a line every 30 seconds; in both speed and time left."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress(100, done=20) as progress:
        for now[0] in range(1, 71):
            progress.advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "50 of 100 images, 1 images/s, 50 s left",
        "80 of 100 images, 1 images/s, 20 s left",
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Progress(10, "steps") as progress:
        now[0] += 2
        progress.advance(4)
    text = capsys.readouterr().out
    assert "\n" not in text and "4 of 10 steps, 2 steps/s, 3 s left" in text and text.endswith(" \r")
