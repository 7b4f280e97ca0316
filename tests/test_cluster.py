"""Training by several processes, started by torchrun. (tests/test_slurm.py has those that SLURM starts.)"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TINY = "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("model_*.pt")
    return torch.load(file, weights_only=True)["model"]


def launch(n: int, words: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """train_toy.py with n processes, writing to a folder."""
    python = [sys.executable] if n == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    python += [] if n == 1 else [f"--nproc_per_node={n}"]
    call = [*python, str(ROOT / "train_toy.py"), *TINY.split(), *words.split(), "--log_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=200)


def test_two_processes_train_the_model_of_one_and_one_goes_on(tmp_path):
    pictures = "--save_and_sample_every 20"
    one = launch(1, f"--train_steps 20 {pictures}", tmp_path / "one")
    two = launch(2, f"--train_steps 20 {pictures}", tmp_path / "two")
    assert one.returncode == 0 and two.returncode == 0, two.stderr
    assert two.stdout.count("done: ") == 1  # only rank 0 prints
    assert {file.name for file in (tmp_path / "two").iterdir()} == {file.name for file in (tmp_path / "one").iterdir()}
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
    rows = [list(csv.DictReader(open(tmp_path / folder / "metrics.csv"))) for folder in ("one", "two")]
    for a, b in zip(*rows):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-5)
    on_one = launch(1, f"--train_steps 40 {pictures} --resume", tmp_path / "two")
    assert on_one.returncode == 0 and "resuming at step 20" in on_one.stdout


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    end = launch(2, "--train_steps 1 --batch_size 63", tmp_path / "log")
    assert end.returncode and "--batch_size 63 cannot be shared equally by 2 processes" in end.stderr
    assert not (tmp_path / "log").exists()


def test_resume_auto_begins_again_after_a_damaged_checkpoint(tmp_path):
    assert launch(1, "--train_steps 1", tmp_path / "log").returncode == 0
    (tmp_path / "log" / "checkpoint.pt").write_bytes(b"damaged")
    refused = launch(1, "--train_steps 1 --resume", tmp_path / "log")
    assert refused.returncode == 1 and "checkpoint.pt is damaged" in refused.stderr
    again = launch(1, "--train_steps 1 --resume auto", tmp_path / "log")
    assert again.returncode == 0 and "checkpoint.pt is damaged" in again.stdout
    assert (tmp_path / "log_old1" / "checkpoint.pt").read_bytes() == b"damaged"
    assert (tmp_path / "log" / "model_step1.pt").exists()
