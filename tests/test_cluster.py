"""The job script, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "cluster" / "train_mnist.slurm"


@pytest.mark.parametrize("status, queued", [(0, False), (1, False), (138, True), (143, False)])
def test_job_is_queued_again_only_after_its_time_limit(tmp_path, status, queued):
    for name, body in (
        ("srun", f'echo "srun $*" >> calls; exit {status}'),
        ("scontrol", 'echo "scontrol $*" >> calls'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod((tmp_path / name).stat().st_mode | stat.S_IXUSR)
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="4")
    end = subprocess.run(["bash", str(SCRIPT), "--n_epochs", "3"], cwd=tmp_path, env=environment)
    assert end.returncode == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (
        calls
        == ["srun --cpus-per-task=4 python train_mnist.py --resume --n_epochs 3"] + ["scontrol requeue 7"] * queued
    )
