"""Training, sampling and measuring by several processes that torchrun starts (gloo, on the CPU)."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny_folders import write_folder

from training import processes

ROOT = Path(__file__).resolve().parents[1]
TOY = "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain --amp off"
UNET = (
    "--im_height 16 --unet_dim 8 --unet_dim_mults 1 2 --batch_size 16 --n_timesteps 4 --n_samples 4 --device cpu "
    "--amp off --save_and_sample_every 50 --l_rate 1e-4"
)


def launch(n: int, words: str, *, options: str = "") -> subprocess.CompletedProcess[str]:
    """`python WORDS`, or the same with n processes and these options of torchrun."""
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", *options.split()]
    script, *arguments = words.split()
    folder = ROOT / "tests" if script == "tiny_fault.py" else ROOT
    call = [sys.executable, *(run if n > 1 or options else []), str(folder / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(open(folder / "metrics.csv")))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def ours(error: str) -> list[str]:
    """The lines of stderr with errors that our processes printed, not torchrun."""
    return [line for line in error.splitlines() if ".py: error: " in line]


# ------------------------------------------------------------ the same result


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "afhq", ["cat"], 40, size=16)
    return folder


def assert_same_run(a: Path, b: Path) -> None:
    """Losses of two runs within 1e-5 of each other, and weights within 1e-5 of their size."""
    for row, other in zip(rows(a), rows(b)):
        assert row["step"] == other["step"]
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-5)
    assert len(rows(a)) == len(rows(b))
    first, second = (torch.cat([w.flatten().double() for w in state(folder).values()]) for folder in (a, b))
    assert (first - second).norm() <= 1e-5 * first.norm()


@pytest.mark.parametrize("n, accumulate", [(2, 1), (4, 2)])
def test_several_processes_train_the_unet_of_one(animals, tmp_path, n, accumulate):
    words = f"train_afhq.py {UNET} --data_path {animals} --train_steps 50 --flip on"
    for count, parts in ((1, 1), (n, accumulate)):
        end = launch(count, f"{words} --accumulate {parts} --save_folder {tmp_path / str(count)}")
        assert end.returncode == 0, end.stderr
    assert_same_run(tmp_path / "1", tmp_path / str(n))
    assert "Warning" not in end.stderr and end.stdout.count("done: ") == 1  # only rank 0 prints
    assert {f.name for f in (tmp_path / "1").iterdir()} == {f.name for f in (tmp_path / str(n)).iterdir()}


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    words = f"train_toy.py {TOY} --save_and_sample_every 10"
    assert launch(1, f"{words} --train_steps 30 --log_dir {tmp_path / 'one'}").returncode == 0
    for n, steps in ((2, 10), (1, 20), (4, 30)):
        end = launch(n, f"{words} --train_steps {steps} --log_dir {tmp_path / 'parts'} --resume auto")
        assert end.returncode == 0, end.stderr
    assert "resuming at step 20" in end.stdout
    assert_same_run(tmp_path / "one", tmp_path / "parts")


# ------------------------------------------------------------ failures


def test_a_killed_process_ends_the_others_or_all_begin_again(tmp_path):
    words = f"tiny_fault.py kill 1 13 train_toy.py {TOY} --train_steps 20 --save_and_sample_every 10"
    began = time.monotonic()
    end = launch(2, f"{words} --log_dir {tmp_path / 'killed'}")
    assert end.returncode and time.monotonic() - began < 100
    (line,) = ours(end.stderr)
    assert "rank 0: another process of this run has ended" in line and "Traceback" not in end.stderr.split(line)[0]
    again = launch(2, f"{words} --log_dir {tmp_path / 'again'}", options="--max-restarts=3")
    assert again.returncode == 0 and "resuming at step 10" in again.stdout, again.stderr
    whole = launch(2, f"train_toy.py {TOY} --train_steps 20 --save_and_sample_every 10 --log_dir {tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    first, second = state(tmp_path / "again"), state(tmp_path / "whole")
    assert all(torch.equal(weights, second[name]) for name, weights in first.items())


def test_what_fails_in_one_process_ends_all_with_its_message(tmp_path):
    words = f"train_toy.py {TOY} --train_steps 20 --save_and_sample_every 10 --log_dir {tmp_path / 'log'}"
    full = launch(2, f"tiny_fault.py full_disk 0 10 {words}")
    (line,) = ours(full.stderr)
    assert full.returncode and "rank 0: No space left on device" in line and "checkpoint.pt" in line
    assert "failed: " in (tmp_path / "log" / "train.log").read_text().splitlines()[-1]
    mistake = launch(2, f"tiny_fault.py mistake 1 13 {words}")
    assert mistake.returncode and "KeyError: 'a mistake in the code'" in mistake.stderr
    (line,) = ours(mistake.stderr)
    assert "rank 0: another process of this run has ended" in line


@pytest.mark.parametrize(
    "words, message",
    [
        ("--batch_size 63", "--batch_size 63 cannot be shared equally by 2 processes"),
        ("--batch_sise 64", "unrecognized arguments: --batch_sise 64"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, words, message):
    end = launch(2, f"train_toy.py {TOY} --train_steps 1 {words} --log_dir {tmp_path / 'log'}")
    (line,) = ours(end.stderr)
    assert end.returncode and message in line and end.stderr.count("usage: ") <= 1
    assert not (tmp_path / "log").exists()


def test_what_all_processes_miss_is_one_line(tmp_path):
    end = launch(2, f"sample.py {tmp_path / 'nothing.pt'}")
    (line,) = ours(end.stderr)
    assert end.returncode and "there is no file" in line


# ------------------------------------------------------------ sampling and measuring


def test_samples_and_measurements_are_those_of_one_process(whole_run, data_dir, tmp_path):
    model = whole_run / "model_epoch3.pt"
    measured = []
    for n in (1, 2):
        out = tmp_path / str(n)
        end = launch(n, f"sample.py {model} --npz 15 --batch_size 10 --out {out} --device cpu")
        assert end.returncode == 0, end.stderr
        assert [file.name for file in sorted(out.iterdir())] == ["samples.log", "samples.npz"]
        words = f"--bits_per_dim 5 --data_dir {data_dir} --out {out} --device cpu"
        end = launch(n, f"evaluate.py {model} {words}")
        assert end.returncode == 0 and end.stdout.count("added to ") == 1, end.stderr
        (entry,) = json.loads((out / "metrics.json").read_text())
        measured.append(entry["results"][0]["bits_per_dim"])
    one, two = (np.load(tmp_path / str(n) / "samples.npz") for n in (1, 2))
    assert np.array_equal(one["arr_0"], two["arr_0"]) and np.array_equal(one["arr_1"], two["arr_1"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)


@pytest.mark.parametrize("end", [contextlib.nullcontext(), pytest.raises(SystemExit)])
def test_the_end_leaves_no_threads_that_python_would_abort(end):
    """Without it 3 of 40 runs of sample.py with two processes ended with SIGABRT after their last line."""
    with end, processes.together():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        if not isinstance(end, contextlib.nullcontext):
            sys.exit(3)
    assert not dist.is_initialized()
