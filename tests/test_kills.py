"""Runs that are killed (-9) at random moments, also while they write: in the end they are as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import torch

ROOT = Path(__file__).resolve().parents[1]
# Most of the time of this run goes into files: a checkpoint at every step, pictures at every tenth.
RUN = (
    "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --network plain --amp off --device cpu "
    "--train_steps 40 --save_and_sample_every 10 --checkpoint_every 0 --resume auto"
)


def start(folder: Path, n: int = 1) -> subprocess.Popen:
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"] if n > 1 else []
    call = [sys.executable, *run, str(ROOT / "train_toy.py"), *RUN.split(), "--log_dir", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, **quiet)


def workers(parent: int) -> list[int]:
    """The processes that torchrun started, or this one itself."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def kill_at_random(folder: Path, kills: int, seconds: float, n: int = 1, seed: int = 0) -> int:
    """Start the run, kill it, and again, `kills` times, each at most so many seconds after it has begun to write; then
    let it end. With several processes the kill hits one of them, or all at once. Returns how many kills hit."""
    rng, hits = random.Random(seed), 0
    for _ in range(kills):
        log = folder / "train.log"
        before = log.stat().st_size if log.exists() else 0
        process = start(folder, n)
        while process.poll() is None and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        alive, ranks = process.poll() is None, workers(process.pid)
        if n > 1 and ranks and rng.random() < 0.7:
            os.kill(rng.choice(ranks), signal.SIGKILL)
        elif alive:
            os.killpg(process.pid, signal.SIGKILL)
            for rank in ranks if n > 1 else []:  # torchrun gives each of them a session of its own
                os.kill(rank, signal.SIGKILL)
        hits += alive
        process.communicate(timeout=100)
    process = start(folder, n)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    return hits


def state(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {**content["model"], **{f"average {name}": value for name, value in content["average"].items()}}


def losses(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(open(folder / "metrics.csv")))
    return [{key: row[key] for key in row if key not in ("images_per_second", "seconds")} for row in rows]


def assert_as_undisturbed(folder: Path, whole: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {file.name for file in whole.iterdir()}
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(folder).items())
    assert losses(folder) == losses(whole)
    for file in folder.iterdir():  # each opens, and shows the same
        if file.suffix in (".png", ".gif"):
            assert imageio.imread(file).size
            assert file.name == "loss.png" or file.read_bytes() == (whole / file.name).read_bytes(), file.name
        elif file.suffix == ".pt":
            torch.load(file, weights_only=True)
    measured = [json.loads((f / "metrics.json").read_text()) for f in (folder, whole)]
    rows = [[row for entry in entries for row in entry["results"]] for entries in measured]
    assert rows[0] == rows[1]
    json.loads((folder / "config.json").read_text())


def test_a_killed_run_ends_like_one_that_nobody_disturbed(tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    assert kill_at_random(tmp_path / "killed", kills=3, seconds=2) > 0
    assert_as_undisturbed(tmp_path / "killed", tmp_path / "whole")
