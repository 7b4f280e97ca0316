"""The training loop, run for real on a tiny data set: resuming, signals, refusals, the log folder."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from started_script import run_started, start
from tiny_networks import trained_unet
from tiny_run import STEPS, TINY

from common.machine import pick_amp
from datasets.image_set import ImageSet
from datasets.sources import load
from ddpm import DDPM
from figures.grids import plot_grid
from figures.images import real_rows
from training import checkpoint, pictures, trainer
from training.ema import MovingAverage
from training.log_folder import LogFolder
from training.seeds import DROPOUT, PICTURES, seed_for
from training.signals import Stop


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(step, signal) sends this process a signal in the midst of that training step."""

    def arrange(step: int, number: int) -> None:
        original = MovingAverage.update

        def with_signal(self, steps_before):
            original(self, steps_before)
            if steps_before + 1 == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(MovingAverage, "update", with_signal)

    return arrange


def assert_same_training(a: Path, b: Path) -> None:
    """Weights, moving average, optimiser and losses of two runs are the same, bit for bit."""
    first, second = (checkpoint.load(folder / "checkpoint.pt") for folder in (a, b))
    assert first["step"] == second["step"]
    for part in ("model", "average"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items()), part
    for key, state in first["optimizer"]["state"].items():
        assert all(torch.equal(value, second["optimizer"]["state"][key][name]) for name, value in state.items())
    timings = ("images_per_second", "seconds")
    for row, other in itertools.zip_longest(first["history"], second["history"]):
        assert {k: v for k, v in row.items() if k not in timings} == {
            k: v for k, v in other.items() if k not in timings
        }


def last_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# ------------------------------------------------------------ the log folder


def test_log_folder_is_complete(whole_run):
    pictures = {
        f"{kind}_epoch{epoch}_guidance_weight{w}.{ending}"
        for kind, ending in (("generated_images", "png"), ("animation", "gif"))
        for epoch in (2, 3)  # every 2nd, and the last
        for w in (0, 1)
    }
    files = {"config.json", "metrics.csv", "train.log", "loss.png", "report.html", "checkpoint.pt"}
    files |= {"inpainting.png", "mixture.png", "data.png", "forward_process.png", "backward_process.png"}
    assert {file.name for file in whole_run.iterdir()} == files | pictures | {"model_epoch2.pt", "model_epoch3.pt"}


def test_metrics_and_config_tell_the_run(whole_run):
    rows = list(csv.DictReader(open(whole_run / "metrics.csv")))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("3", "12")]
    assert list(rows[0]) == [
        *("epoch", "step", "train_loss", "val_loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4"),
        *("learning_rate", "images_per_second", "seconds"),
    ]
    assert all(float(value) > 0 for row in rows for value in row.values())
    config = json.loads((whole_run / "config.json").read_text())
    assert config["arguments"]["n_timesteps"] == 8 and config["defaults"]["n_timesteps"] == 400
    assert config["dataset"] == {
        "name": "mnist",
        "train_images": 70,
        "val_images": 20,
        "classes": list("0123456789"),
        "dequantised": False,
    }
    assert config["command"].startswith("python train_mnist.py --n_features 8")
    assert config["versions"]["torch"] == torch.__version__ and config["seed"] == 0


def test_animation_shows_the_recorded_steps(whole_run):
    frames = imageio.mimread(whole_run / "animation_epoch3_guidance_weight1.gif")
    assert len(frames) == 8  # T = 8: t = 8 and 6 .. 0


def test_saved_model_makes_the_pictures_again(whole_run, data_dir, tmp_path):
    """The file alone rebuilds network and schedule; with the noise of the pictures it gives the last frame's pixels."""
    content = checkpoint.load(whole_run / "model_epoch3.pt")
    cpu = torch.device("cpu")
    ddpm = checkpoint.build(content["spec"], cpu, pick_amp("auto", cpu))  # bfloat16 too, where the run had it
    ddpm.nn_model.load_state_dict(content["model"])
    assert ddpm.n_timesteps == 8 and content["class_names"] == list("0123456789")
    noise = torch.Generator().manual_seed(seed_for(0, PICTURES))
    y, _ = ddpm.sample(1, n_classes=10, g_weight=1, generator=noise)
    real = real_rows(load("mnist", data_dir, train=False), 1)
    plot_grid(tmp_path / "again.png", y, real, content["class_names"], "epoch 3, guidance weight 1")
    grid = whole_run / "generated_images_epoch3_guidance_weight1.png"
    assert (tmp_path / "again.png").read_bytes() == grid.read_bytes()


# ------------------------------------------------------------ resuming


@pytest.mark.parametrize("step", [3, STEPS, STEPS + 2])  # in the first epoch, at its end, in the second
def test_resumed_run_is_the_uninterrupted_run(quick, signal_at, whole_run, tmp_path, step, monkeypatch):
    signal_at(step, signal.SIGUSR1)
    assert quick(tmp_path / "log") == 128 + signal.SIGUSR1
    assert checkpoint.load(tmp_path / "log" / "checkpoint.pt")["step"] == step
    monkeypatch.undo()
    assert quick(tmp_path / "log", "--resume") == 0
    assert_same_training(whole_run, tmp_path / "log")
    assert (tmp_path / "log" / "model_epoch2.pt").exists()


def test_a_resumed_run_with_dropout_is_the_uninterrupted_run(quick, signal_at, tmp_path, monkeypatch):
    more = "--network unet --n_features 8 --dim_mults 1 2 --dropout 0.3 --n_epochs 1"
    assert quick(tmp_path / "whole", more) == 0
    signal_at(2, signal.SIGUSR1)
    assert quick(tmp_path / "log", more) == 128 + signal.SIGUSR1
    monkeypatch.undo()
    torch.manual_seed(99)  # as another process would stand elsewhere
    assert quick(tmp_path / "log", f"{more} --resume") == 0
    assert_same_training(tmp_path / "whole", tmp_path / "log")


def test_the_first_signal_is_the_reason():
    """SLURM announces the end of the time by USR1, and sends SIGTERM when it is there."""
    with Stop() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert stop.number == signal.SIGUSR1


def test_other_arithmetic_is_told(quick, tmp_path, capsys):
    assert quick(tmp_path / "log", "--n_epochs 1 --amp off") == 0
    content = checkpoint.load(tmp_path / "log" / "checkpoint.pt")
    assert content["arithmetic"] == "float32 on cpu"
    for before in ("float32 on cpu", "bf16 autocast on cuda"):
        checkpoint.save(tmp_path / "log" / "checkpoint.pt", {**content, "arithmetic": before})
        capsys.readouterr()
        assert quick(tmp_path / "log", "--n_epochs 1 --amp off --resume") == 0
        said = f"from step {STEPS} on: float32 on cpu instead of bf16 autocast on cuda" in capsys.readouterr().out
        assert said == (before != "float32 on cpu")


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signals_save_and_tell_how_to_go_on(quick, signal_at, tmp_path, capsys, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    signal_at(2, number)
    assert quick(tmp_path / "log") == 128 + number
    assert checkpoint.load(tmp_path / "log" / "checkpoint.pt")["step"] == 2
    out = capsys.readouterr().out
    assert f"stopped by {name} after step 2" in out and out.rstrip().endswith("--resume")
    assert (tmp_path / "log" / "report.html").exists()
    assert signal.getsignal(number) == before


def test_pictures_that_are_done_stand_for_the_next_start(train, whole_run, tmp_path, monkeypatch):
    """A signal after each grid: a run that never has time for more than one still gets to its end, and to its pictures."""
    log_dir, draw_grids, drawn = tmp_path / "log", pictures.draw_grids, []

    def draw_one(folder, samples, *more):
        draw_grids(folder, samples, *more)
        drawn.append((checkpoint.load(log_dir / "checkpoint.pt")["epoch"], *samples))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("DDPM_STOPPED", str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw_grids", draw_one)
        for _ in range(4):
            assert train(log_dir, "--resume auto") == 128 + signal.SIGTERM
            assert (tmp_path / "stopped").read_text() == "SIGTERM"  # it got on
            (tmp_path / "stopped").unlink()
    assert drawn == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert train(log_dir, "--resume auto") == 0
    assert_same_training(whole_run, log_dir)
    made = [file.name for file in whole_run.iterdir() if file.suffix in (".png", ".gif")]
    for name in set(made) - {"loss.png"}:
        assert (log_dir / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_a_finished_run_stands_as_it_is_with_resume_auto(train, tmp_path, capsys):
    log_dir = tmp_path / "log"
    assert train(log_dir, "--n_epochs 1") == 0
    (log_dir / "mixture.png").unlink()

    def times() -> dict[str, int]:
        names = (grid.name for grid in log_dir.glob("*_epoch1*"))
        return {name: (log_dir / name).stat().st_mtime_ns for name in [*names, "inpainting.png", "checkpoint.pt"]}

    before = times()
    assert train(log_dir, "--n_epochs 1 --resume auto") == 0
    assert "already finished" in capsys.readouterr().out
    assert times() == before and (log_dir / "mixture.png").exists()
    assert train(log_dir, "--n_epochs 1 --resume") == 0
    assert all(now > before[name] for name, now in times().items() if name != "checkpoint.pt")


def test_the_signal_handler_only_sets_a_number():
    calls = []
    before = signal.signal(signal.SIGUSR1, lambda *_: calls.append("outer"))
    try:
        with Stop() as stop:
            assert stop.number == 0
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.number == signal.SIGUSR1 and not calls
            os.kill(os.getpid(), signal.SIGUSR1)  # job managers repeat themselves
            assert not calls
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls == ["outer"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_second_ctrl_c_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us without one
    try:
        with pytest.raises(KeyboardInterrupt), Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.number == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_more_epochs_continue_a_finished_run(quick, whole_run, tmp_path):
    assert quick(tmp_path / "log", "--n_epochs 1") == 0
    assert quick(tmp_path / "log", "--resume") == 0
    assert_same_training(whole_run, tmp_path / "log")


def test_fewer_epochs_than_done_are_refused(quick, signal_at, tmp_path, capsys):
    signal_at(STEPS + 2, signal.SIGUSR1)
    quick(tmp_path / "log")
    capsys.readouterr()
    assert quick(tmp_path / "log", "--resume --n_epochs 1") == 2
    assert f"is over at step {STEPS}" in last_line(capsys)


def test_a_finished_run_says_so_and_makes_its_pictures_again(train, tmp_path, capsys):
    log_dir = tmp_path / "log"
    assert train(log_dir, "--n_epochs 1") == 0
    grid = log_dir / "generated_images_epoch1_guidance_weight1.png"
    before = grid.read_bytes()
    grid.unlink(), (log_dir / "report.html").unlink()
    assert train(log_dir, "--n_epochs 1 --resume") == 0
    assert "already finished" in capsys.readouterr().out
    assert grid.read_bytes() == before and (log_dir / "report.html").exists()


def test_resume_without_a_checkpoint_begins(quick, tmp_path, capsys):
    assert quick(tmp_path / "log", "--resume --n_epochs 1") == 0
    assert "nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, words",
    [
        ("--n_timesteps 9", "--n_timesteps was 8, is 9"),
        ("--n_features 16", "--n_features was 8, is 16"),
        ("--seed 1 --schedule cosine", "--schedule was linear, is cosine; --seed was 0, is 1"),
        ("--limit 60", "--limit was None, is 60; 70 training images were there, now 60"),
    ],
)
def test_a_checkpoint_of_other_arguments_is_refused(quick, signal_at, tmp_path, capsys, more, words):
    signal_at(2, signal.SIGTERM)
    quick(tmp_path / "log")
    before = (tmp_path / "log" / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert quick(tmp_path / "log", f"--resume {more}") == 2
    assert words in last_line(capsys)
    assert (tmp_path / "log" / "checkpoint.pt").read_bytes() == before


def test_a_new_learning_rate_acts_after_resuming(quick, tmp_path, capsys):
    """What a diverged run is told to do must be possible, and must not be undone by the checkpoint."""
    for name, l_rate in (("same", "0.0003"), ("zero", "1e-30")):
        log_dir = tmp_path / name
        assert quick(log_dir, "--n_epochs 1") == 0
        before = checkpoint.load(log_dir / "checkpoint.pt")["model"]
        assert quick(log_dir, f"--resume --n_epochs 2 --l_rate {l_rate}") == 0
        after = checkpoint.load(log_dir / "checkpoint.pt")
        weights = [key for key in before if key.endswith(("weight", "bias"))]
        assert all(torch.equal(before[key], after["model"][key]) for key in weights) == (name == "zero")
        assert after["arguments"]["l_rate"] == float(l_rate)
    assert "from step 4 on: --l_rate was 0.0003, is 1e-30" in capsys.readouterr().out


def test_the_live_line_says_which_picture_of_how_many(train, tmp_path, monkeypatch):
    """Two weights, the processes, and at the end completions and mixtures; those that are there already count too."""
    lines = []
    monkeypatch.setattr(LogFolder, "live", lambda self, line: lines.append(line))
    assert train(tmp_path / "log", "--n_timesteps 20 --n_epochs 2 --save_every 1") == 0
    told = re.findall(r"picture (\d) of (\d), (\w+)", "\n".join(lines))
    assert list(dict.fromkeys(told))[:3] == [("1", "3", "samples"), ("2", "3", "samples"), ("3", "3", "processes")]
    assert {of for _, of, _ in told} == {"3", "5"}
    (tmp_path / "log" / "forward_process.png").unlink()
    del lines[:]
    assert train(tmp_path / "log", "--n_timesteps 20 --n_epochs 2 --save_every 1 --resume auto") == 0
    assert "picture 3 of 5, processes" in next(line for line in lines if "picture " in line)


def test_resuming_makes_pictures_with_the_live_line(train, tmp_path, monkeypatch):
    """T = 20 reaches the live line while pictures are made before the first training step of a process."""
    assert train(tmp_path / "log", "--n_timesteps 20 --n_epochs 1") == 0
    assert train(tmp_path / "log", "--n_timesteps 20 --n_epochs 1 --resume") == 0
    (tmp_path / "log" / "model_epoch1.pt").unlink()
    assert train(tmp_path / "log", "--n_timesteps 20 --n_epochs 2 --resume --save_every 1") == 0
    assert (tmp_path / "log" / "model_epoch1.pt").exists()


def test_unfinished_files_of_a_killed_process_are_removed(quick, tmp_path):
    assert quick(tmp_path / "log", "--n_epochs 1") == 0
    (tmp_path / "log" / ".checkpoint.0a1b2c3d.pt").write_bytes(b"half")
    (tmp_path / "log" / ".mine").write_text("kept")
    assert quick(tmp_path / "log", "--n_epochs 1 --resume") == 0
    assert sorted(file.name for file in (tmp_path / "log").glob(".*")) == [".mine"]


def test_an_earlier_run_is_moved_aside_never_overwritten(quick, tmp_path, capsys):
    for seed in (0, 1, 2):
        assert quick(tmp_path / "log", f"--n_epochs 1 --seed {seed}") == 0
    seeds = {name: json.loads((tmp_path / name / "config.json").read_text())["seed"] for name in os.listdir(tmp_path)}
    assert seeds == {"log": 2, "log_old1": 0, "log_old2": 1}
    assert "it was moved to" in capsys.readouterr().out


# ------------------------------------------------------------ randomness


def test_every_epoch_sees_each_image_at_most_once_in_a_new_order(quick, tmp_path, monkeypatch):
    batches = []
    original = ImageSet.batch

    def batch(self, index, flip=None):
        if len(self) == 70 and len(index) == 16:  # neither of validation nor of a picture
            batches.append(index)
        return original(self, index, flip)

    monkeypatch.setattr(ImageSet, "batch", batch)
    assert quick(tmp_path / "log") == 0
    epochs = [batches[e * STEPS : (e + 1) * STEPS] for e in range(3)]
    orders = [torch.cat(epoch) for epoch in epochs]
    for order in orders:
        assert len(order) == 64 and len(order.unique()) == 64 and order.max() < 70
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    assert set(range(70)) == set(torch.cat(orders).tolist())  # those left out are others each time


def test_pictures_do_not_shift_training(train, whole_run, tmp_path):
    assert train(tmp_path / "log", "--save_every 1 --n_samples 2 --g_weight 3") == 0
    assert_same_training(whole_run, tmp_path / "log")


def test_the_seed_decides(quick, tmp_path):
    weights = []
    for seed in (0, 0, 1):
        log_dir = tmp_path / str(len(weights))
        assert quick(log_dir, f"--n_epochs 1 --seed {seed}") == 0
        weights.append(
            torch.cat([w.flatten().float() for w in checkpoint.load(log_dir / "checkpoint.pt")["model"].values()])
        )
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_seeds_of_streams_and_steps_differ():
    seeds = {seed_for(seed, stream, i) for seed in range(3) for stream in range(DROPOUT + 1) for i in range(1000)}
    assert len(seeds) == 3 * 6 * 1000


# ------------------------------------------------------------ figures of training


def test_losses_are_sorted_into_quarters_of_t(quick, tmp_path, monkeypatch):
    """With a loss of t itself the means are known: T = 8, so that a quarter is two timesteps."""
    drawn = []

    def training_losses(self, y, c, t, noise):
        if torch.is_grad_enabled():
            drawn.append(t)
        return t.float() + 0 * self.eps(y, t, c).flatten(1).sum(1)

    monkeypatch.setattr("ddpm.DDPM.training_losses", training_losses)
    assert quick(tmp_path / "log", "--n_epochs 1") == 0
    t = torch.cat(drawn).double()
    (row,) = csv.DictReader(open(tmp_path / "log" / "metrics.csv"))
    assert float(row["train_loss"]) == pytest.approx(t.mean().item(), rel=1e-5)
    for q in range(4):
        within = t[(t > 2 * q) & (t <= 2 * q + 2)]
        assert float(row[f"loss_q{q + 1}"]) == pytest.approx(within.mean().item(), rel=1e-5)


def test_validation_compares_like_with_like(quick, tmp_path, monkeypatch):
    """Unchanged weights have the same validation loss every epoch, however small the learning rate's effect."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)
    monkeypatch.setattr(MovingAverage, "update", lambda self, step: None)
    assert quick(tmp_path / "log") == 0
    rows = list(csv.DictReader(open(tmp_path / "log" / "metrics.csv")))
    assert len({row["val_loss"] for row in rows}) == 1 and len({row["train_loss"] for row in rows}) == 3


def test_training_learns(quick, tmp_path):
    assert quick(tmp_path / "log", "--n_epochs 5 --l_rate 0.003 --save_every 5 --n_timesteps 100") == 0
    rows = list(csv.DictReader(open(tmp_path / "log" / "metrics.csv")))
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_moving_average(decay):
    """Against the recursion written out, for a weight and for a BatchNorm statistic; the decay warms up."""
    ddpm = DDPM(trained_unet(), n_timesteps=8, device="cpu")
    average = MovingAverage(ddpm, decay)
    now, mean = ddpm.nn_model.state_dict(), average.ddpm.nn_model.state_dict()
    names = ("final.3.weight", "init_conv.conv1.1.running_mean")
    expected = {name: now[name].clone().double() for name in names}
    for step in range(20):
        for name in names:
            now[name].add_(torch.randn_like(now[name]))
            d = min(decay, (1 + step) / (10 + step))
            expected[name] = d * expected[name] + (1 - d) * now[name].double()
        now["init_conv.conv1.1.num_batches_tracked"].add_(1)
        average.update(step)
    for name in names:
        torch.testing.assert_close(mean[name].double(), expected[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(mean[name], now[name]) == (decay == 0)
    assert torch.equal(mean["init_conv.conv1.1.num_batches_tracked"], now["init_conv.conv1.1.num_batches_tracked"])


# ------------------------------------------------------------ what can go wrong


def test_divergence_stops_the_run_and_keeps_the_last_checkpoint(quick, tmp_path, monkeypatch, capsys):
    original = trainer.Trainer.train_step
    log_dir = tmp_path / "log"

    def train_step(self):
        if self.step == STEPS + 1:
            self.before = (log_dir / "checkpoint.pt").read_bytes()
            next(iter(self.ddpm.nn_model.final[3].parameters())).data.fill_(float("inf"))
        train_step.trainer = self
        original(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert quick(log_dir) == 1
    line = last_line(capsys)
    assert f"at step {STEPS + 2} with learning rate 0.0003" in line and "--l_rate" in line
    assert f"checkpoint.pt holds step {STEPS}" in line
    assert (log_dir / "checkpoint.pt").read_bytes() == train_step.trainer.before
    assert "failed: the loss became" in (log_dir / "train.log").read_text()


def test_weights_that_broke_in_the_last_step_are_not_saved(quick, tmp_path, monkeypatch, capsys):
    """Their loss was still finite: only the next one would show it."""
    original = MovingAverage.update

    def update(self, step):
        original(self, step)
        if step + 1 == 2 * STEPS:
            self.floats[0][1].fill_(float("nan"))  # the first of the weights

    monkeypatch.setattr(MovingAverage, "update", update)
    assert quick(tmp_path / "log") == 1
    assert f"infinite or nan by step {2 * STEPS}" in last_line(capsys)
    assert checkpoint.load(tmp_path / "log" / "checkpoint.pt")["step"] == STEPS


def test_a_learning_rate_that_diverges_is_named(quick, tmp_path, capsys):
    assert quick(tmp_path / "log", "--l_rate 1e29") == 1
    assert "with learning rate 1e+29" in last_line(capsys)


@pytest.mark.parametrize(
    "more, words",
    [
        ("--im_height 30", "height must be divisible by 4"),
        ("--n_features 12", "n_features must be a multiple of 8"),
        ("--n_classes 11", "n_classes = 11: mnist has no more than 10"),
        ("--n_epochs 0", "--n_epochs: must be at least 1, not 0"),
        ("--batch_size x", "--batch_size: must be a whole number"),
        ("--l_rate 0", "--l_rate: must be in (0, 1e+30), not 0"),
        ("--g_weight nan", "--g_weight"),
        ("--drop_prob 2", "--drop_prob: must be in [0, 1], not 2"),
        ("--ema 1", "--ema"),
        ("--dataset svhn", "--dataset: invalid choice"),
        ("--device cuda:9", "--device cuda:9 is not available"),
        ("--device nonsense", "--device nonsense"),
        ("--no_such_flag", "--no_such_flag"),
        ("--dropout 0.1", "--dropout does nothing for --network conditional_unet: leave it out, or take unet"),
        ("--network unet --num_hidden 8", "--num_hidden does nothing for --network unet"),
        ("--network fc", "--n_features does nothing for --network fc: leave it out, or take conditional_unet or unet"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(quick, tmp_path, capsys, more, words):
    assert quick(tmp_path / "log", more) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "log").exists()


def test_missing_data_is_one_line_and_status_1(quick, tmp_path, capsys, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    (tmp_path / "empty").mkdir()
    assert quick(tmp_path / "log", f"--data_dir {tmp_path / 'empty'}") == 1
    assert "--dataset rendered" in last_line(capsys)


def test_log_dir_that_is_a_file(quick, tmp_path, capsys):
    (tmp_path / "log").write_text("mine")
    assert quick(tmp_path / "log") == 2
    assert "is a file" in last_line(capsys) and (tmp_path / "log").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(quick, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    assert quick(tmp_path / "log", "--n_epochs 1") == 0
    capsys.readouterr()
    with open(tmp_path / "log" / "train.log", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for more in ("", "--resume"):
            assert quick(tmp_path / "log", more) == 2
            assert "another process is training" in last_line(capsys)
    assert os.listdir(tmp_path) == ["log"]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/ddpm_bomb_exploded",)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "foreign", "hostile", "a model"])
def test_a_bad_checkpoint_is_refused_in_one_line(quick, tmp_path, capsys, whole_run, kind):
    log_dir = tmp_path / "log"
    log_dir.mkdir()
    file = log_dir / "checkpoint.pt"
    good = (whole_run / "checkpoint.pt").read_bytes()
    contents = {"truncated": good[: len(good) // 2], "text": b"hello\n", "empty": b""}
    contents["a model"] = (whole_run / "model_epoch2.pt").read_bytes()
    if kind in contents:
        file.write_bytes(contents[kind])
    else:
        torch.save({"foreign": {"weights": torch.zeros(2)}, "hostile": Bomb()}[kind], file)
    before = file.read_bytes()
    assert quick(log_dir, "--resume") == 1
    assert "checkpoint" in last_line(capsys) and file.read_bytes() == before
    assert not os.path.exists("/tmp/ddpm_bomb_exploded")


def test_a_save_that_fails_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, {"step": 1})

    def half_a_save(content, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(OSError):
        checkpoint.save(file, {"step": 2})
    assert checkpoint.load(file)["step"] == 1 and os.listdir(tmp_path) == ["checkpoint.pt"]


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no C++ compiler\nand many more lines")


@pytest.mark.parametrize("when", ["compiling", "forward", "backward"])
def test_a_compiler_that_fails_costs_one_line(quick, tmp_path, whole_run, monkeypatch, capsys, when):
    def fail(*args):
        raise RuntimeError("no C++ compiler\nand many more lines")

    def compile_badly(function):
        if when == "compiling":
            fail()
        return fail if when == "forward" else lambda *args: FailsBackward.apply(function(*args))

    monkeypatch.setattr(torch, "compile", compile_badly)
    assert quick(tmp_path / "log", "--compile on") == 0
    captured = capsys.readouterr()
    (line,) = (line for line in captured.out.splitlines() if "torch.compile does not work here" in line)
    assert line.endswith("(RuntimeError: no C++ compiler and many more lines): going on without it")
    assert_same_training(whole_run, tmp_path / "log")


def test_a_compiler_that_works_is_used_and_leaves_no_trace(quick, tmp_path, whole_run, monkeypatch):
    """Its trial run must not move the BatchNorm statistics, nor its name get into the files."""
    used = []

    def compile_well(function):
        return lambda *args: used.append(1) or function(*args)

    monkeypatch.setattr(torch, "compile", compile_well)
    assert quick(tmp_path / "log", "--compile on") == 0
    assert len(used) == 1 + 3 * STEPS
    assert_same_training(whole_run, tmp_path / "log")
    names = checkpoint.load(tmp_path / "log" / "model_epoch3.pt")["model"]
    assert names.keys() == checkpoint.load(whole_run / "model_epoch3.pt")["model"].keys()


def test_bf16_trains(quick, tmp_path):
    assert quick(tmp_path / "log", "--amp bf16 --n_epochs 1") == 0
    content = checkpoint.load(tmp_path / "log" / "checkpoint.pt")
    assert all(w.dtype in (torch.float32, torch.int64) for w in content["model"].values())
    assert json.loads((tmp_path / "log" / "config.json").read_text())["precision"] == "bf16 autocast"


def test_fewer_images_than_a_batch_and_missing_classes(train, tmp_path):
    assert train(tmp_path / "log", "--limit 3 --n_epochs 1 --batch_size 256") == 0
    assert train(tmp_path / "few", "--n_classes 2 --n_epochs 1 --im_height 32 --im_channels 3") == 0


def test_real_rows_leave_missing_classes_blank():
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    rows = real_rows(ImageSet(images, torch.tensor([2, 0, 2, 2]), list("abc"), "test"), 2)
    values = ((rows.view(2, 3) + 1) * 127.5).round()
    torch.testing.assert_close(values, torch.tensor([[1, torch.nan, 0], [torch.nan, torch.nan, 2]]), equal_nan=True)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_preempted_from_outside(data_dir, tmp_path):
    """A real process, a real SIGTERM, the printed command, a finished run."""
    words = f"{TINY} --n_timesteps 2 --g_weight 1 --n_epochs 400 --save_every 400 --device cpu --data_dir {data_dir} --log_dir {tmp_path / 'log'}"
    printed = tmp_path / "printed.txt"
    process = start("train_mnist.py", words.split(), tmp_path, printed)
    end = time.monotonic() + 100
    while "epoch 1/400" not in (printed.read_text() if printed.exists() else "") and time.monotonic() < end:
        time.sleep(0.02)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    command = printed.read_text().strip().splitlines()[-1].split()
    assert command[1].endswith("train_mnist.py") and command[-1] == "--resume"
    done = len(list(csv.DictReader(open(tmp_path / "log" / "metrics.csv"))))
    status, text = run_started("train_mnist.py", [*command[2:], "--n_epochs", str(done + 1)], tmp_path)
    assert status == 0, text
    rows = list(csv.DictReader(open(tmp_path / "log" / "metrics.csv")))
    assert [int(row["epoch"]) for row in rows] == list(range(1, done + 2))


def test_a_learning_rate_that_falls_goes_on_where_it_was(quick, tmp_path, signal_at):
    words, whole, log_dir = "--l_rate_schedule cosine --predict v --weighting min-snr", tmp_path / "a", tmp_path / "b"
    assert quick(whole, words) == 0
    rates = [row["learning_rate"] for row in checkpoint.load(whole / "checkpoint.pt")["history"]]
    last = 3 * STEPS
    expected = [3e-4 * (1 + math.cos(math.pi * (epoch * STEPS - 1) / last)) / 2 for epoch in (1, 2, 3)]
    assert rates == pytest.approx(expected, rel=1e-3)
    signal_at(STEPS + 2, signal.SIGTERM)
    assert quick(log_dir, words) == 128 + signal.SIGTERM
    assert quick(log_dir, f"{words} --resume") == 0
    assert_same_training(whole, log_dir)


def test_a_run_begins_with_the_weights_of_another(quick, whole_run, tmp_path, capsys):
    file = whole_run / "model_epoch3.pt"
    more = f"--n_epochs 1 --l_rate 1e-30 --load_path {file}"
    assert quick(tmp_path / "log", f"{more} --predict v") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "was trained with" in line]
    assert told == [f"{file} was trained with predict eps, and this run has v"]
    before, after = (checkpoint.load(path)["model"] for path in (file, tmp_path / "log" / "checkpoint.pt"))
    weights = [name for name in before if name.endswith("weight")]
    assert weights and all(torch.allclose(before[name], after[name]) for name in weights)
    assert quick(tmp_path / "log", f"{more} --predict v --resume") == 0
    assert "was trained with" not in capsys.readouterr().out  # it goes on from its own checkpoint
    assert quick(tmp_path / "other", f"{more} --n_features 16") == 1
    assert "do not fit the network: it was trained with n_features 8, and this run has 16" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_first_weights_are_read_when_they_are_needed_and_only_then(quick, whole_run, tmp_path, capsys):
    file, log_dir = tmp_path / "model.pt", tmp_path / "log"
    shutil.copy(whole_run / "model_epoch3.pt", file)
    more = f"--n_epochs 1 --l_rate 1e-30 --load_path {file}"
    assert quick(log_dir, more) == 0
    before = checkpoint.load(log_dir / "checkpoint.pt")["model"]
    damaged = b"damaged"
    file.write_bytes(damaged)
    assert quick(log_dir, f"{more} --resume auto") == 0  # it goes on from its own checkpoint
    (log_dir / "checkpoint.pt").write_bytes(damaged)
    capsys.readouterr()
    assert quick(log_dir, f"{more} --resume auto") == 1 and f"{file} is damaged" in capsys.readouterr().err
    file.unlink()
    assert quick(log_dir, f"{more} --resume auto") == 1 and f"no file {file}" in capsys.readouterr().err
    assert (log_dir / "checkpoint.pt").read_bytes() == damaged
    shutil.copy(whole_run / "model_epoch3.pt", file)
    assert quick(log_dir, f"{more} --resume auto") == 0  # begins again, as it had begun
    again = checkpoint.load(log_dir / "checkpoint.pt")["model"]
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_a_model_that_a_new_run_would_move_aside_is_refused(quick, whole_run, tmp_path, capsys):
    log_dir = tmp_path / "log"
    shutil.copytree(whole_run, log_dir)
    assert quick(log_dir, f"--load_path {log_dir / 'model_epoch3.pt'}") == 2
    assert "take another --log_dir" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"log"} and (log_dir / "model_epoch3.pt").exists()
