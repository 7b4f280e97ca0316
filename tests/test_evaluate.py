"""The judge is kept, and what it says is written down."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

import checkpoint
import evaluate
import judging
from cli import run_script
from networks.judge import Judge


@pytest.fixture
def judged(data_dir, whole_run, tmp_path, monkeypatch):
    """judged("--more arguments") evaluates a copy of the tiny run's model; returns (exit status, what was measured)."""
    monkeypatch.setattr(judging, "DIGITS", judging.DIGITS._replace(epochs=1))
    for name in ("model_epoch3.pt", "checkpoint.pt"):
        shutil.copy(whole_run / name, tmp_path)

    def run(more="", model="model_epoch3.pt"):
        words = f"{tmp_path / model} --data_dir {data_dir} --judge_dir {tmp_path} --n_samples 2 --g_weight 0 1 {more}"
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words.split()])
        status = 0
        try:
            run_script(evaluate.main)
        except SystemExit as end:
            status = end.code
        file = tmp_path / "metrics.json"
        return status, json.loads(file.read_text()) if file.exists() else None

    return run


def test_results_are_added_and_the_judge_is_kept(judged, monkeypatch, capsys):
    status, first = judged()
    assert status == 0 and len(first) == 1
    (measured,) = first
    assert [result["guidance_weight"] for result in measured["results"]] == [0, 1]
    assert all(0 <= result["judge_accuracy"] <= 1 for result in measured["results"])
    assert measured["samples_per_weight"] == 20 and measured["weights"] == "moving average" and measured["epoch"] == 3
    assert measured["sampler"] == "ddpm, 8 steps, seed 0" and "evaluate.py" in measured["command"]
    monkeypatch.setattr(judging, "train_judge", None)  # a second training would fail
    status, second = judged("--seed 1")
    assert status == 0 and second[:1] == first and len(second) == 2
    status, third = judged()
    assert third[2]["results"] == first[0]["results"]  # the same samples, the same figures


def test_accuracy_counts_the_class_asked_for(judged, monkeypatch):
    """A sampler that draws exactly the class asked for has 100 %, one that is a class off has 0 %."""

    class Brightness(Judge):
        def forward(self, x):
            return torch.eye(10)[(x.mean(dim=(1, 2, 3)) * 10).round().long()]

    for shift, accuracy in ((0, 1.0), (1, 0.0)):

        def sample(self, n, size, n_classes, w, generator, record, shift=shift):
            k = (torch.arange(n_classes).repeat(n) + shift) % 10
            return (k / 10).view(-1, 1, 1, 1).expand(-1, 1, 28, 28), None

        monkeypatch.setattr("ddpm.DDPM.sample", sample)
        monkeypatch.setattr(evaluate, "trusted_judge", lambda *_: (Brightness().eval(), 1.0))
        monkeypatch.setattr(judging, "for_inference", lambda judge: judge)
        _, measured = judged()
        assert measured[-1]["results"][0]["judge_accuracy"] == accuracy


def test_raw_weights_only_from_a_checkpoint(judged, capsys):
    assert judged("--raw")[0] == 2
    assert "--raw needs a checkpoint.pt" in capsys.readouterr().err
    status, measured = judged("--raw", "checkpoint.pt")
    assert status == 0 and measured[0]["weights"] == "raw"


def test_a_run_without_moving_average_is_called_raw(judged, tmp_path):
    content = checkpoint.load(tmp_path / "model_epoch3.pt")
    content["arguments"]["ema"] = 0.0
    checkpoint.save(tmp_path / "model_epoch3.pt", content)
    assert judged()[1][0]["weights"] == "raw"


def test_other_kinds_of_files_are_named(judged, tmp_path, capsys):
    assert judged()[0] == 0
    judge = next(tmp_path.glob("judge_*.pt"))
    capsys.readouterr()
    assert judged(model=judge.name)[0] == 1
    assert "holds no 'spec'" in capsys.readouterr().err
    checkpoint.save(judge, {"model": {"weight": torch.zeros(1)}})
    assert judged()[0] == 1
    assert "do not fit" in capsys.readouterr().err


def test_bad_files(judged, tmp_path, capsys):
    assert judged(model="missing.pt")[0] == 1
    (tmp_path / "text.pt").write_text("hello")
    assert judged(model="text.pt")[0] == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    (tmp_path / "metrics.json").write_text('[{"kept": 1}]')
    assert judged()[1][0] == {"kept": 1}
    (tmp_path / "metrics.json").write_text("{}")
    assert judged()[0] == 2 and (tmp_path / "metrics.json").read_text() == "{}"
