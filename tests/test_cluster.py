"""Training by several processes, started by torchrun. (tests/test_slurm.py has those that SLURM starts.)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_resume_auto_begins_again_after_a_damaged_checkpoint(tmp_path):
    assert launch(1, "--train_steps 1", tmp_path / "log").returncode == 0
    (tmp_path / "log" / "checkpoint.pt").write_bytes(b"damaged")
    refused = launch(1, "--train_steps 1 --resume", tmp_path / "log")
    assert refused.returncode == 1 and "checkpoint.pt is damaged" in refused.stderr
    again = launch(1, "--train_steps 1 --resume auto", tmp_path / "log")
    assert again.returncode == 0 and "checkpoint.pt is damaged" in again.stdout
    assert (tmp_path / "log_old1" / "checkpoint.pt").read_bytes() == b"damaged"
    assert (tmp_path / "log" / "model_step1.pt").exists()
