"""train_toy.py, run for real on a few hundred points."""

from __future__ import annotations

import csv
import json
import os
import signal

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from tiny_script import run_here

import sample
import train_toy
from datasets.points import Chequerboard
from ddpm import DDPM
from figures import points as point_figures
from training import checkpoint, log_folder
from training.seeds import PICTURES, seed_for
from training.trainer import Trainer

TINY = "--recipe sharp --num_hidden 8 --n_timesteps 8 --batch_size 32 --n_points 100 --train_steps 7 --save_and_sample_every 3"
FIGURES = {"samples.png", "forward_process.png", "backward_process.png", "vector_field.png", "loss.png"}


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(point_figures, "N_SAMPLES", 200)
    monkeypatch.setattr(train_toy, "N_SAMPLES", 200)


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of the training: drawing takes most of the time."""
    for module, name in ((train_toy, "plot_processes"), (train_toy, "plot_field"), (log_folder, "plot_curves")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)


def run(script, words):
    return run_here(script, [*words.split(), "--device", "cpu"])


def toy(log_dir, more=""):
    return run(train_toy, f"{TINY} --log_dir {log_dir} {more}")


def names(folder):
    return {file.name for file in folder.iterdir()}


def same_training(a, b):
    a, b = (checkpoint.load(folder / "checkpoint.pt") for folder in (a, b))
    return a["step"] == b["step"] and all(torch.equal(a["average"][name], b["average"][name]) for name in a["average"])


@pytest.mark.parametrize("data", ["chequerboard", "two_gaussians"])
def test_leaves_a_complete_folder(tmp_path, data):
    log_dir = tmp_path / "log"
    assert toy(log_dir, f"--data {data}") == 0
    expected = FIGURES | {"config.json", "metrics.csv", "metrics.json", "report.html", "train.log", "checkpoint.pt"}
    assert expected | {"model_step3.pt", "model_step6.pt", "model_step7.pt"} == names(log_dir)
    assert all(imageio.imread(log_dir / name).std() > 10 for name in FIGURES)
    assert [row["step"] for row in csv.DictReader(open(log_dir / "metrics.csv"))] == [str(s) for s in range(1, 8)]
    entries = json.loads((log_dir / "metrics.json").read_text())
    assert [entry["model"] for entry in entries] == ["model_step3.pt", "model_step6.pt", "model_step7.pt"]
    for entry in entries:
        of_model, of_data = entry["results"]
        assert of_model["points"] == "fourier network" and of_model["n_points"] == 200
        assert 0 < of_data["energy_distance"] < of_model["energy_distance"]
        assert of_data.get("on_permitted_squares") == (1 if data == "chequerboard" else None)
        assert ("clip_x0 True" in entry["sampler"]) == (data == "chequerboard")  # only there are the data bounded
    page = (log_dir / "report.html").read_text()
    assert "vector_field.png" in page and "Points of the plane" in page and "finished 7 of 7 steps" in page
    ddpm, content = checkpoint.load_model(log_dir / "model_step7.pt", torch.device("cpu"))
    assert ddpm.nn_model.size == (2,) and content["class_names"] == [] and content["arguments"]["dataset"] == data


def test_resumes_exactly(tmp_path, no_figures):
    assert toy(tmp_path / "whole") == 0
    assert toy(tmp_path / "parts", "--train_steps 5") == 0  # in the middle of an epoch of 3 steps
    assert toy(tmp_path / "parts", "--resume") == 0
    assert same_training(tmp_path / "whole", tmp_path / "parts")
    before = json.loads((tmp_path / "parts" / "metrics.json").read_text())
    assert toy(tmp_path / "parts", "--resume") == 0  # finished: it draws its last pictures again
    after = json.loads((tmp_path / "parts" / "metrics.json").read_text())
    assert len(after) == len(before) and [e["results"] for e in after] == [e["results"] for e in before]


def test_all_networks_stopped_by_a_signal_and_resumed(tmp_path, monkeypatch, capsys, no_figures):
    """SIGTERM in the second of the three trainings; the same command with --resume gives what one go would have."""
    assert toy(tmp_path / "whole", "--network all") == 0
    whole = tmp_path / "whole"
    assert "networks.png" in names(whole) and "networks.png" in (whole / "report.html").read_text()
    folders = [".", "network_residual", "network_plain"]
    kinds = [json.loads((whole / f / "config.json").read_text())["arguments"]["network"] for f in folders]
    assert kinds == ["fourier", "residual", "plain"]
    rows = {e["model"]: e["results"][0]["points"] for e in json.loads((whole / "metrics.json").read_text())}
    assert rows["network_plain/model_step7.pt"] == "plain network" and len(rows) == 5

    original = Trainer.train_step

    def stopped(self):
        original(self)
        if self.about.arguments["network"] == "residual" and self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        assert toy(parts, "--network all") == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 4" in capsys.readouterr().out
    assert "network_plain" not in names(parts)
    assert toy(parts, "--network all --resume") == 0
    assert all(same_training(whole / folder, parts / folder) for folder in folders)
    assert (whole / "networks.png").read_bytes() == (parts / "networks.png").read_bytes()


@pytest.mark.parametrize(
    "more, words",
    [
        ("--data circles", "invalid choice"),
        ("--network deep", "invalid choice"),
        ("--n_points 0", "must be at least 1"),
        ("--num_hidden 0", "must be at least 1"),
        ("--placement fitted", "--placement needs a number of steps"),
        ("--flip on", "unrecognized arguments"),
        ("--network plain --n_blocks 2", "--n_blocks does nothing for --network plain"),
        ("--network residual --n_frequencies 2", "leave it out, or take fourier or all"),
    ],
)
def test_wrong_calls_are_one_line_and_leave_nothing(tmp_path, capsys, more, words):
    assert toy(tmp_path / "log", more) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "log").exists()


def test_resuming_with_other_arguments_is_refused(tmp_path, capsys, no_figures):
    assert toy(tmp_path / "log", "--train_steps 2") == 0
    before = (tmp_path / "log" / "checkpoint.pt").read_bytes()
    for more, words in (
        ("--network plain", "--network was fourier, is plain"),
        ("--data two_gaussians", "--dataset was chequerboard, is two_gaussians"),
        ("--n_points 50", "--n_points was 100, is 50"),
    ):
        assert toy(tmp_path / "log", f"{more} --resume") == 2 and words in capsys.readouterr().err
    assert (tmp_path / "log" / "checkpoint.pt").read_bytes() == before


SHEET = "--num_hidden 8 --n_timesteps 8 --batch-size 32 --n_points 100 --train_steps 7 --lr 1e-3"


def test_the_defaults_are_the_sheets(tmp_path, no_figures):
    """Its data, plain network, linear schedule, sigma^2 = beta, no clipping, no moving average, one epoch of 1000 steps."""
    args = train_toy.parser().parse_args([])
    assert (args.dataset, args.network, args.num_hidden, args.n_timesteps) == ("tg", "plain", 64, 1000)
    assert (args.schedule, args.beta1, args.beta2, args.ema, args.l_rate) == ("linear", 1e-4, 0.02, 0, 1e-3)
    assert args.n_points == args.train_steps * args.batch_size == 10_000_000
    for data in ("tg", "cb"):
        folder = tmp_path / data
        assert run(train_toy, f"{SHEET} --data {data} --log_dir {folder}") == 0
        ddpm, content = checkpoint.load_model(folder / "model_step7.pt", torch.device("cpu"))
        assert (ddpm.variance, ddpm.clip_x0) == ("beta", False)
        assert content["spec"]["network_arguments"]["kind"] == "plain"
        assert "Points of the plane" in (folder / "report.html").read_text()


def test_epochs_are_passes_over_the_points(tmp_path, no_figures):
    assert run(train_toy, f"{SHEET} --epochs 2 --log_dir {tmp_path}") == 0
    assert "model_step6.pt" in names(tmp_path)  # 100 points are 3 batches of 32


def test_a_run_from_before_the_recipes_goes_on(tmp_path, no_figures):
    """Its checkpoint knows no recipe, variance or beta: they were those of the recipe sharp."""
    assert toy(tmp_path / "whole") == 0
    assert toy(tmp_path / "parts", "--train_steps 5") == 0
    path = tmp_path / "parts" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    for name in ("recipe", "variance", "clip_x0", "beta1", "beta2", "epochs", "sampler", "sample_steps", "placement"):
        del content["arguments"][name]
    torch.save(content, path)
    assert toy(tmp_path / "parts", "--resume") == 0
    assert same_training(tmp_path / "whole", tmp_path / "parts")


def test_sample_py_has_no_pictures_of_points(tmp_path, capsys, no_figures):
    assert toy(tmp_path / "log", "--train_steps 1") == 0
    assert run(sample, f"{tmp_path / 'log' / 'model_step1.pt'} --out {tmp_path / 'out'}") == 2
    assert "draws no images" in capsys.readouterr().err and not (tmp_path / "out").exists()


class OnePoint(torch.nn.Module):
    """The exact noise for data that are all at `point`."""

    size = (2,)

    def __init__(self, alpha_bar, point):
        super().__init__()
        self.alpha_bar, self.point = alpha_bar, point

    def forward(self, x, t, c=None):
        a = self.alpha_bar[(t * (len(self.alpha_bar) - 1)).round().long()]
        return (x - a.sqrt() * self.point) / (1 - a).sqrt()


def test_the_field_points_to_the_data_and_the_processes_begin_and_end_there(tmp_path, monkeypatch):
    """A model that knows only one point: every arrow points to it (times sqrt(alpha_bar)), and every path ends there."""
    point, T = torch.tensor([0.5, -0.25]), 20
    ddpm = DDPM(OnePoint(DDPM.ddpm_schedule(1e-4, 0.02, T)["alpha_bar_t"], point), n_timesteps=T, device="cpu")
    drawn, arrows = [], []
    monkeypatch.setattr(point_figures, "_scatter", lambda axes, points, *_, **__: drawn.append(points))
    monkeypatch.setattr(Axes, "quiver", lambda self, *parts, **_: arrows.append(torch.tensor(np.stack(parts))))
    point_figures.plot_field(tmp_path / "field.png", ddpm, Chequerboard(), seed=0)
    assert len(arrows) == len(point_figures.FIELD_MARKS)
    for (x, y, u, v), part in zip(arrows, point_figures.FIELD_MARKS):
        bar = ddpm.alpha_bar_t[max(1, round(part * T))]
        way = bar.sqrt() * point - torch.stack([x, y], dim=1)  # from x_t to the mean of q(x_t | x_0)
        torch.testing.assert_close(torch.stack([u, v], dim=1) * (1 - bar).sqrt(), way, rtol=1e-4, atol=1e-5)

    drawn.clear()
    point_figures.plot_processes(tmp_path, ddpm, Chequerboard(), seed=0)
    forward, backward = drawn[:5], drawn[5:]
    assert Chequerboard().permitted(forward[0]).all() and len(forward[0]) == 200
    torch.testing.assert_close(backward[0], forward[-1])  # from that noise ...
    torch.testing.assert_close(backward[-1], point.expand(200, 2), rtol=0, atol=1e-4)  # ... to the data
    spread = [(x_t - x_t.mean(dim=0)).square().mean().item() for x_t in backward]
    assert spread == sorted(spread, reverse=True)


def test_two_marks_that_are_one_time_make_one_panel_under_its_name(tmp_path, monkeypatch):
    """T = 3: 25 % of it is t = 0 again, and 99 % is t = 2."""
    point, T = torch.tensor([0.5, -0.25]), 3
    ddpm = DDPM(OnePoint(DDPM.ddpm_schedule(1e-4, 0.02, T)["alpha_bar_t"], point), n_timesteps=T, device="cpu")
    titles = []
    monkeypatch.setattr(point_figures, "_panel", lambda axes, title, limit: titles.append(title.split(" (")[0]))
    point_figures.plot_processes(tmp_path, ddpm, Chequerboard(), seed=0)
    assert titles == ["t = 0", "t = 1", "t = 2", "t = 2", "t = 1", "t = 0"]


def test_measuring_counts_permitted_squares():
    board = Chequerboard()
    true = board.sample(300, torch.Generator().manual_seed(0))
    measured = train_toy.measure(torch.cat([true, true + torch.tensor([0.5, 0.0])]), board, seed=0)
    assert measured["n_points"] == 600 and measured["on_permitted_squares"] == pytest.approx(0.5)
    assert measured["energy_distance"] > 0.01 > train_toy.measure(true, board, seed=0)["energy_distance"]
    assert train_toy.in_words(measured).startswith("50.0% on permitted squares, energy distance ")


def test_points_by_another_sampler_in_few_steps(tmp_path, no_figures):
    """samples.png and metrics.json are of the sampler that was asked for; the model is that of the same training."""
    more = "--network all --sampler dpm++2m --sample_steps 3 --placement fitted"
    assert toy(tmp_path / "few", more) == 0 and toy(tmp_path / "all") == 0
    assert same_training(tmp_path / "few", tmp_path / "all")
    measured = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("few", "all")]
    samplers = [{entry["sampler"].rpartition(" steps")[0] for entry in entries} for entries in measured]
    assert samplers == [{"dpm++2m, 3"}, {"ddpm, 8"}]
    few, every = (next(entry for entry in entries if entry["model"] == "model_step7.pt") for entries in measured)
    ddpm, _ = checkpoint.load_model(tmp_path / "few" / "model_step7.pt", torch.device("cpu"))
    seed = seed_for(0, PICTURES)
    points = train_toy.draw_points(ddpm.respaced(3, "dpm++2m", "fitted"), seed)
    of_points = train_toy.measure(points, Chequerboard(), seed)
    assert few["results"][0]["energy_distance"] == pytest.approx(of_points["energy_distance"])
    assert few["results"][0]["energy_distance"] != pytest.approx(every["results"][0]["energy_distance"])
