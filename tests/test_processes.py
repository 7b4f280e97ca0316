"""Training, sampling and measuring by several processes (gloo, on the CPU)."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from started_script import ROOT, start_ranks
from tiny_folders import write_folder

from ddpm import DDPM
from diffusion.condition import Condition
from networks.Conditional_UNet import UNet
from training import processes

QUIET = "tests/tiny_fault.py none 0 0"
TOY = "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain --amp off"
ANIMALS = (
    "--im_height 16 --unet_dim 8 --unet_dim_mults 1 2 --batch_size 16 --n_timesteps 4 --n_samples 4 --device cpu "
    "--amp off --save_and_sample_every 20 --l_rate 1e-4"
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")


def run(n: int, words: str, folder: Path) -> tuple[list[int | None], str]:
    """`python WORDS` in n processes, which cost no import of torch: their exit statuses, and what they printed.

    When rank 0 has failed, the others are ended, as a launcher does it.
    """
    script, *arguments = words.split()
    ranks = start_ranks(n, script, arguments, folder)
    for rank in ranks:
        rank.join(1 if ranks[0].exitcode else 300)
        rank.terminate()
        rank.join()
    return [rank.exitcode for rank in ranks], "".join((folder / f"rank{k}.txt").read_text() for k in range(n))


def torchrun(n: int, words: str, options: str = "") -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc_per_node=n OPTIONS WORDS`: some 4 seconds for each process, and for torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", *options.split()]
    script, *arguments = words.split()
    call = [sys.executable, *launcher, str(ROOT / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(open(folder / "metrics.csv")))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def ours(error: str) -> list[str]:
    """The lines with errors that our processes printed, not torchrun."""
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


def test_several_processes_train_the_unet_of_one(animals, tmp_path):
    words = f"train_afhq.py {ANIMALS} --data_path {animals} --train_steps 20 --flip on"
    one, several = tmp_path / "one", tmp_path / "several"
    assert run(1, f"{words} --save_folder {one}", tmp_path)[0] == [0]
    statuses, printed = run(4, f"{words} --save_folder {several} --accumulate 2", tmp_path)
    assert statuses == [0] * 4, printed
    assert_same_run(one, several)
    assert "Warning" not in printed and printed.count("done: ") == 1  # only rank 0 prints
    assert {file.name for file in one.iterdir()} == {file.name for file in several.iterdir()}


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    words = f"{QUIET} train_toy.py {TOY} --save_and_sample_every 10"
    assert run(1, f"{words} --train_steps 30 --log_dir {tmp_path / 'one'}", tmp_path)[0] == [0]
    for n, steps in ((2, 10), (1, 20), (4, 30)):
        more = f"--train_steps {steps} --log_dir {tmp_path / 'parts'} --resume auto"
        statuses, printed = run(n, f"{words} {more}", tmp_path)
        assert statuses == [0] * n, printed
    assert "resuming at step 20" in printed
    assert_same_run(tmp_path / "one", tmp_path / "parts")


def test_guidance_of_rows_that_are_shared(monkeypatch):
    """Rank 0 sends a row for each output of the network, also of several outputs for one image."""
    torch.manual_seed(0)
    alone = DDPM(UNet(in_channels=1, n_features=8, n_classes=3, height=8).eval(), n_timesteps=10, device="cpu")
    shared, sent = copy.copy(alone), []
    shared.__class__, shared.helped = processes.SharedDDPM, True
    monkeypatch.setattr(processes, "_broadcast", lambda tensor: sent.append(len(tensor)))
    monkeypatch.setattr(processes, "_rows_of", DDPM._network)
    x, c = torch.randn(3, 1, 8, 8), Condition(torch.eye(3), [0.0, 1.0, 3.0])
    with torch.no_grad():
        torch.testing.assert_close(shared.eps(x, 5, c), alone.eps(x, 5, c), atol=1e-5, rtol=1e-4)
    assert sent[1] == 5


# ------------------------------------------------------------ failures


def test_a_killed_process_ends_the_others_or_all_begin_again(tmp_path):
    toy = f"train_toy.py {TOY} --train_steps 20 --save_and_sample_every 10 --log_dir"
    began = time.monotonic()
    (status, killed), printed = run(2, f"tests/tiny_fault.py kill 1 13 {toy} {tmp_path / 'killed'}", tmp_path)
    (line,) = ours(printed)
    assert status == 1 and killed == -signal.SIGKILL and time.monotonic() - began < 100
    assert "rank 0: another process of this run has ended" in line and "Traceback" not in printed
    again = torchrun(2, f"tests/tiny_fault.py kill 1 13 {toy} {tmp_path / 'again'}", "--max-restarts=3")
    assert again.returncode == 0 and "resuming at step 10" in again.stdout, again.stderr
    assert run(2, f"{QUIET} {toy} {tmp_path / 'whole'}", tmp_path)[0] == [0, 0]
    first, second = state(tmp_path / "again"), state(tmp_path / "whole")
    assert all(torch.equal(weights, second[name]) for name, weights in first.items())


def test_what_fails_in_one_process_ends_all_with_its_message(tmp_path):
    words = f"train_toy.py {TOY} --train_steps 20 --save_and_sample_every 10 --log_dir {tmp_path / 'log'}"
    statuses, printed = run(2, f"tests/tiny_fault.py full_disk 0 10 {words}", tmp_path)
    (line,) = ours(printed)
    assert all(statuses) and "rank 0: No space left on device" in line and "checkpoint.pt" in line
    assert "failed: " in (tmp_path / "log" / "train.log").read_text().splitlines()[-1]
    statuses, printed = run(2, f"tests/tiny_fault.py mistake 1 13 {words}", tmp_path)
    assert all(statuses) and "KeyError: 'a mistake in the code'" in printed
    (line,) = ours(printed)
    assert "rank 0: another process of this run has ended" in line


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("--batch_sise 64", "unrecognized arguments: --batch_sise 64"),
        ("--batch_size 63", "--batch_size 63 cannot be shared equally by 2 processes"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, wrong, words):
    statuses, printed = run(2, f"train_toy.py {TOY} --train_steps 1 {wrong} --log_dir {tmp_path / 'log'}", tmp_path)
    (line,) = ours(printed)
    assert all(statuses) and words in line and printed.count("usage: ") <= 1
    assert not (tmp_path / "log").exists()


def test_what_all_processes_miss_is_one_line(tmp_path):
    statuses, printed = run(2, f"sample.py {tmp_path / 'nothing.pt'}", tmp_path)
    (line,) = ours(printed)
    assert all(statuses) and "there is no file" in line


# ------------------------------------------------------------ sampling and measuring


def test_samples_and_measurements_are_those_of_one_process(whole_run, data_dir, tmp_path):
    model = whole_run / "model_epoch3.pt"
    measured = []
    for n in (1, 2):
        out = tmp_path / str(n)
        statuses, printed = run(n, f"sample.py {model} --npz 15 --batch_size 10 --out {out} --device cpu", tmp_path)
        assert statuses == [0] * n, printed
        assert [file.name for file in sorted(out.iterdir())] == ["samples.log", "samples.npz"]
        words = f"--bits_per_dim 5 --data_dir {data_dir} --out {out} --device cpu"
        statuses, printed = run(n, f"evaluate.py {model} {words}", tmp_path)
        assert statuses == [0] * n and printed.count("added to ") == 1, printed
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
