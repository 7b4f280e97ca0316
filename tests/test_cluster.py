"""The job scripts of cluster/, submitted to a real SLURM, and training by several processes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_slurm import local_slurm, missing, search_path

ROOT = Path(__file__).resolve().parents[1]
TINY = "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain"
needs_slurm = pytest.mark.skipif(bool(missing()), reason=missing())


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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with local_slurm(tmp_path_factory.mktemp("slurm") / "s") as started:
        yield started


@pytest.fixture
def suite(tmp_path):
    """A folder with the training scripts, as a user has it, whose python is the one of the tests."""
    for name in ("common", "networks", "diffusion", "datasets", "reporting", "figures", "training", "evaluation"):
        (tmp_path / name).symlink_to(ROOT / name)
    for file in [*ROOT.glob("*.py")]:
        (tmp_path / file.name).symlink_to(file)
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def submit(slurm, suite: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}:{search_path()}"
    return slurm.submit(*words, cwd=suite, PATH=path, OMP_NUM_THREADS="1")


@needs_slurm
@pytest.mark.parametrize("script, n", [("one_gpu", 1), ("several_gpus", 2)])
def test_a_job_trains_to_the_end(slurm, suite, script, n):
    options = [] if n == 1 else ["--ntasks-per-node=2", "--gres=gpu:2"]
    words = f"train_toy.py {TINY} --train_steps 3 --save_and_sample_every 3 --log_dir log".split()
    job = submit(slurm, suite, *options, f"cluster/{script}.slurm", *words)
    facts, output = slurm.wait(job), (suite / f"slurm-{job}.out").read_text()
    assert facts["JobState"] == "COMPLETED", output
    assert (suite / "log" / "report.html").exists() and output.count("done: ") == 1


@needs_slurm
def test_a_wrong_call_is_one_line_in_the_output(slurm, suite):
    for words, message in (
        ([], "no training script given"),
        (["--n_epochs", "3"], "--n_epochs stands where the training script should"),
        (["train_nothing.py"], "no file train_nothing.py in"),
        (["train_toy.py", "--time=02:00:00"], "--time=02:00:00 is an option of sbatch"),
    ):
        job = submit(slurm, suite, "cluster/one_gpu.slurm", *words)
        assert slurm.wait(job)["ExitCode"] == "2:0"
        (line,) = (suite / f"slurm-{job}.out").read_text().splitlines()
        assert message in line
