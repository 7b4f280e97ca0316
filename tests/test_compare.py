"""compare.py on tiny models: what it draws and says of each, and what it refuses."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from tiny_script import run_here

import compare
from common.machine import pick_amp
from datasets.sources import load
from training import checkpoint
from training.losses import validation_loss


@pytest.fixture
def compared(data_dir, tmp_path, monkeypatch):
    def run(*words):
        more = ["--data_dir", str(data_dir), "--device", "cpu", "--n_samples", "1"]
        return run_here(compare, [*map(str, words), *more])

    return run


def test_two_networks_from_the_same_noise(compared, model, train, tmp_path, monkeypatch, capsys, data_dir):
    assert train(tmp_path / "fc", "--network fc --num_hidden 8 --n_features 32 --n_epochs 1") == 0
    shutil.copy(model, tmp_path / "unet.pt")
    drawn, groups, sample = [], [], checkpoint.DDPM.sample
    monkeypatch.setattr(checkpoint.DDPM, "sample", lambda self, *a, **k: drawn.append(
        (a, k["generator"].get_state())) or sample(self, *a, **k))  # fmt: skip
    plot = compare.plot_groups
    monkeypatch.setattr(compare, "plot_groups", lambda path, g, *a: groups.extend(g) or plot(path, g, *a))
    assert compared(tmp_path / "unet.pt", tmp_path / "fc" / "model_epoch1.pt", "--g_weight", "2") == 0
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    assert drawn[0][0] == drawn[1][0] == (1, None, 10, 2.0, list(range(10))) and torch.equal(drawn[0][1], drawn[1][1])
    labels = [label.splitlines() for label, _ in groups]
    assert [label[0] for label in labels] == ["conditional_unet", "fc", "real"]
    assert labels[0][1:2] == ["unet.pt"] and "validation loss" in capsys.readouterr().out
    for file, label in zip((tmp_path / "unet.pt", tmp_path / "fc" / "model_epoch1.pt"), labels):
        ddpm, _ = checkpoint.load_model(file, torch.device("cpu"), pick_amp("auto", torch.device("cpu")))
        assert label[2] == f"{sum(p.numel() for p in ddpm.nn_model.parameters()):,} parameters"
    assert compared(tmp_path / "unet.pt") == 0 and (tmp_path / "comparison_2.png").exists()
    assert compared(tmp_path / "unet.pt", "--out", tmp_path / "mine.png") == 0 and (tmp_path / "mine.png").exists()


def test_the_loss_is_that_of_training(model, whole_run, data_dir):
    ddpm, _ = checkpoint.load_model(model, torch.device("cpu"), pick_amp("auto", torch.device("cpu")))
    with open(whole_run / "metrics.csv") as file:
        last = list(csv.DictReader(file))[-1]
    found = validation_loss(ddpm, load("mnist", data_dir, train=False), True, 0, 16)
    assert found == pytest.approx(float(last["val_loss"]), rel=1e-5)


def test_refusals(compared, model, train, tmp_path, capsys):
    assert train(tmp_path / "other", "--network fc --num_hidden 8 --n_features 32 --n_epochs 1 --n_timesteps 5") == 0
    for name in ("--schedule cosine", "--loss l1"):
        assert train(tmp_path / name, f"--network fc --num_hidden 8 --n_features 32 --n_epochs 1 {name}") == 0
    for words, status, reason in [
        ([model, tmp_path / "other" / "model_epoch1.pt"], 2, "another T, schedule or loss than"),
        ([model, tmp_path / "--schedule cosine" / "model_epoch1.pt"], 2, "another T, schedule or loss than"),
        ([model, tmp_path / "--loss l1" / "model_epoch1.pt"], 2, "another T, schedule or loss than"),
        ([model, "--out", tmp_path / "mine.jpg"], 2, "the picture is a .png"),
        ([tmp_path / "nothing.pt"], 1, "there is no file"),
    ]:
        assert compared(*words) == status
        assert reason in capsys.readouterr().err
