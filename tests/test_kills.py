"""Runs that are killed (-9) at random moments, also while they write: in the end they are as if nothing had happened."""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from started_script import start_ranks

# Most of the time of this run goes into files: a checkpoint at every step, and pictures.
RUN = (
    "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --network plain --amp off --device cpu "
    "--train_steps 20 --save_and_sample_every 20 --checkpoint_every 0 --resume auto"
)


def begin(folder: Path, n: int) -> list[BaseProcess]:
    """Start the run in n processes."""
    words = [*RUN.split(), "--log_dir", str(folder)]
    return start_ranks(n, "train_toy.py", words, folder.parent, f"{folder.name}_rank")


def end(ranks: list[BaseProcess]) -> list[int | None]:
    """Wait for the end of the processes, which need not be a good one: their exit codes."""
    for process in ranks:
        process.join(200)  # a busy machine may need long
    return [process.exitcode for process in ranks]


def kill_at_random(folder: Path, n: int, kills: int, seconds: float, seed: int = 0) -> int:
    """Start the run, kill it, and again, `kills` times, each at most so many seconds after it has begun to write; then
    let it end. Of several processes the kill hits all at once, or one: the others must then end. Returns how many hit."""
    rng, hits = random.Random(seed), 0
    log = folder / "train.log"
    for _ in range(kills):
        before = log.stat().st_size if log.exists() else 0
        ranks = begin(folder, n)
        while ranks[0].is_alive() and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        hits += ranks[0].is_alive()
        for process in rng.choice([ranks, *([rank] for rank in ranks)]):
            process.kill()
        assert None not in end(ranks)
    assert end(begin(folder, n)) == [0] * n
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


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("n", [1, 2])
def test_a_killed_run_ends_like_one_that_nobody_disturbed(tmp_path, n):
    assert end(begin(tmp_path / "whole", n)) == [0] * n
    assert kill_at_random(tmp_path / "killed", n, kills=2, seconds=2) > 0
    assert_as_undisturbed(tmp_path / "killed", tmp_path / "whole")
