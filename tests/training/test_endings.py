"""Every ending saves what it can and says so in train.log: signals at any moment, errors, full disks."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal

import pytest
import torch
from tiny_run import STEPS

from training import checkpoint, trainer
from training.settings import Plan
from training.signals import Stop
from training.stopwatch import Stopwatch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="has no such signals")


def weights(log_dir) -> dict:
    return checkpoint.load(log_dir / "model_epoch3.pt")["model"]


def rows(log_dir) -> list[tuple[str, str, str]]:
    return [(row["step"], row["train_loss"], row["val_loss"]) for row in csv.DictReader(open(log_dir / "metrics.csv"))]


def test_a_signal_during_validation_is_heeded_before_its_end(quick, whole_run, tmp_path, monkeypatch):
    log_dir = tmp_path / "log"
    validate, calls = trainer.validation_loss, []

    def interrupted(*arguments):
        calls.append("begun")
        if calls.count("begun") == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = validate(*arguments)
        calls.append("done")
        return loss

    monkeypatch.setattr(trainer, "validation_loss", interrupted)
    assert quick(log_dir) == 128 + signal.SIGTERM
    assert calls == ["begun", "done", "begun"] and len(rows(log_dir)) == 1
    assert checkpoint.load(log_dir / "checkpoint.pt")["step"] == 2 * STEPS
    assert quick(log_dir, "--resume") == 0
    assert rows(log_dir) == rows(whole_run)
    whole = weights(whole_run)
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(log_dir).items())


def test_an_unexpected_error_costs_no_step(quick, whole_run, tmp_path, monkeypatch):
    log_dir = tmp_path / "log"

    def broken(self):
        if self.step == STEPS + 2:
            raise ZeroDivisionError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "look_up", with_first(broken, trainer.Trainer.look_up))
        with pytest.raises(ZeroDivisionError):
            quick(log_dir)
    last = (log_dir / "train.log").read_text().splitlines()[-1]
    assert last.startswith("failed: ZeroDivisionError: a bug") and f"step {STEPS + 2}" in last
    assert quick(log_dir, "--resume") == 0
    whole = weights(whole_run)
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(log_dir).items())


def with_first(first, then):
    return lambda self: (first(self), then(self))


def test_a_full_disk_is_told_in_train_log(quick, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    log_dir = tmp_path / "log"
    assert quick(log_dir, "--n_epochs 1") == 0
    before = (log_dir / "checkpoint.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 2 // 3, hard))
    capsys.readouterr()
    try:
        assert quick(log_dir, "--n_epochs 2 --resume") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "checkpoint.pt" in error
    assert (log_dir / "train.log").read_text().splitlines()[-1].startswith("failed: ")
    assert (log_dir / "checkpoint.pt").read_bytes() == before
    gc.collect()  # the process would have ended, and its lock with it
    assert quick(log_dir, "--n_epochs 2 --resume") == 0


@pytest.mark.usefixtures("in_a_terminal")
def test_a_closed_terminal_and_an_ignored_signal():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
    assert stop.number == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_few_steps_of_the_linear_schedule_are_told(quick, tmp_path, capsys):
    assert quick(tmp_path / "log", "--n_epochs 1 --n_timesteps 20") == 0
    assert "alpha_bar_T = 0.82" in capsys.readouterr().out
    assert quick(tmp_path / "cosine", "--n_epochs 1 --schedule cosine") == 0
    spec = json.loads((tmp_path / "cosine" / "config.json").read_text())["spec"]
    assert spec["ddpm"]["clip_x0"]  # without it samples are noise
    assert "alpha_bar_T" not in capsys.readouterr().out


def test_pictures_are_announced_where_no_live_line_is(quick, tmp_path, capsys):
    assert quick(tmp_path / "log") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "pictures" in line and "epoch 2:" in line]
    assert len(lines) == 2 and "drawing" in lines[0] and "drawn (" in lines[1]


def test_time_left_counts_pictures(monkeypatch):
    plan = Plan("epoch", 20, 5, steps_per_epoch=10)
    assert [plan.sets_after(step) for step in (0, 49, 50, 199, 200)] == [4, 4, 3, 1, 0]
    assert [Plan("step", 25, 10).sets_after(step) for step in (0, 10, 20, 25)] == [3, 2, 1, 0]
    watch = Stopwatch()
    monkeypatch.setattr("training.stopwatch.time.perf_counter", lambda: watch.began + 160)
    assert watch.time_left(done=100, left=100, apart=60, more=180) == "4 min 40 s left"
