"""The job scripts of cluster/, submitted to a real SLURM: what happens to a run when its job is ended.

SLURM looks at time limits every 30 seconds only, so the tests send the signal of the time limit themselves, in the same way:
to the training processes, not to the script that started them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Callable

import pytest
import torch
from local_slurm import ENDED, Slurm, local_slurm, missing, search_path

ROOT = Path(__file__).resolve().parents[1]
RUN = (
    "train_toy.py --num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain "
    "--train_steps 1500 --save_and_sample_every 1500 --checkpoint_every 0.2"
)
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with local_slurm(tmp_path_factory.mktemp("slurm") / "s") as started:
        yield started


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A folder with the scripts, as a user has it."""
    return copy_suite(tmp_path_factory.mktemp("suite"))


def copy_suite(folder: Path) -> Path:
    for name in ("common", "networks", "diffusion", "datasets", "reporting", "figures", "training", "evaluation"):
        (folder / name).symlink_to(ROOT / name)
    for file in ROOT.glob("*.py"):
        (folder / file.name).symlink_to(file)
    shutil.copytree(ROOT / "cluster", folder / "cluster")
    return folder


class Job:
    """A job in the queue, whose run writes to suite/log_dir."""

    def __init__(self, slurm: Slurm, suite: Path, words: str, log_dir: str):
        self.slurm, self.suite, self.log_dir = slurm, suite, suite / log_dir
        path = f"{Path(sys.executable).parent}:{search_path()}"
        self.number = slurm.submit(*words.split(), cwd=suite, PATH=path, OMP_NUM_THREADS="1")

    def output(self, number: str = "") -> str:
        file = self.suite / f"slurm-{number or self.number}.out"
        return file.read_text() if file.exists() else ""

    def until(self, what: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not what():
            facts = self.slurm.show(self.number)
            assert time.monotonic() < end and facts["JobState"] not in ENDED, (facts, self.output())
            time.sleep(0.1)

    def until_it_trains(self) -> None:
        self.until((self.log_dir / "checkpoint.pt").exists)

    def until_it_goes_on(self) -> None:
        """It continues, in a new job, at the step of the checkpoint that the old one left."""
        step = self.saved_step()
        self.slurm.start_again(self.number)
        self.until(lambda: f"resuming at step {step}:" in self.output())

    def saved_step(self) -> int:
        return int(torch.load(self.log_dir / "checkpoint.pt", weights_only=True)["step"])

    def processes(self) -> list[int]:
        """The numbers of the processes that train."""
        lines = self.slurm.call("scontrol", "listpids", f"{self.number}.0").splitlines()[1:]
        return [int(line.split()[0]) for line in lines if line.split()[3] not in "-"]

    def send_usr1(self) -> None:
        self.slurm.call("scancel", "--signal=USR1", self.number)

    def wait(self, *states: str) -> dict[str, str]:
        return self.slurm.wait(self.number, set(states) or ENDED)

    def end(self) -> None:
        self.slurm.call("scancel", self.number)


@pytest.fixture
def start(slurm, suite, request):
    """start() submits the tiny run, with a log folder named after the test, and waits until it trains."""
    log_dir = request.node.name

    def submit(script: str = "one_gpu.slurm", sbatch: str = "") -> Job:
        job = Job(slurm, suite, f"{sbatch} cluster/{script} {RUN} --log_dir {log_dir}", log_dir)
        job.until_it_trains()
        return job

    return submit


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("model_*.pt")
    return torch.load(file, weights_only=True)["model"]


@pytest.fixture(scope="module")
def whole_run(slurm, suite):
    """The tiny run, in one job that nothing disturbs."""
    job = Job(slurm, suite, f"cluster/one_gpu.slurm {RUN} --log_dir whole", "whole")
    assert job.wait()["JobState"] == "COMPLETED", job.output()
    return job


def test_a_job_trains_to_the_end(whole_run):
    assert whole_run.output().count("done: ") == 1 and (whole_run.log_dir / "report.html").exists()


def test_two_tasks_stop_after_the_same_step(start):
    job = start("several_gpus.slurm", sbatch="--ntasks-per-node=2 --gres=gpu:2")
    job.send_usr1()
    job.wait("PENDING")
    assert job.output().count(f"stopped by SIGUSR1 after step {job.saved_step()}") == 1
    job.end()


def test_after_its_time_limit_a_job_goes_on_to_the_same_end(start, whole_run):
    job = start()
    job.send_usr1()
    job.wait("PENDING")
    step = job.saved_step()
    assert f"stopped by SIGUSR1 after step {step}" in job.output() and step < 1500
    job.until_it_goes_on()
    facts = job.wait()
    assert facts["JobState"] == "COMPLETED" and facts["Restarts"] == "1", job.output()
    for name, value in weights(whole_run.log_dir).items():
        assert torch.equal(weights(job.log_dir)[name], value)


def test_a_preempted_job_goes_on(start, slurm, suite):
    job = start()
    slurm.submit("--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true", cwd=suite)
    job.wait("PENDING")
    assert f"stopped by SIGTERM after step {job.saved_step()}" in job.output()
    job.until_it_goes_on()
    job.end()


def test_a_job_goes_on_after_its_node_failed(start, slurm):
    job = start()
    slurm.fail_node()
    job.until_it_goes_on()
    job.end()


def test_a_killed_process_ends_the_job_which_says_how_to_go_on(start, slurm):
    job = start()
    for process in job.processes():
        os.kill(process, signal.SIGKILL)
    assert job.wait()["JobState"] == "FAILED"
    (line,) = (line for line in job.output().splitlines() if "not queued again" in line)
    slurm.call(*re.search(r"scontrol requeue \d+", line).group().split())
    job.until_it_goes_on()
    job.end()


def test_a_cancelled_job_saves_and_does_not_come_back(start):
    job = start()
    job.end()
    assert job.wait()["JobState"] == "CANCELLED"
    assert f"stopped by SIGTERM after step {job.saved_step()}" in job.output()


def test_a_job_without_progress_is_not_queued_again(slurm, suite):
    job = Job(slurm, suite, f"cluster/one_gpu.slurm {RUN} --log_dir early", "early")
    job.until(lambda: f"{job.number}.0" in slurm.call("squeue", "--steps", "--noheader"))
    job.send_usr1()
    facts = job.wait()
    assert facts["JobState"] == "FAILED" and facts["Restarts"] == "0"
    assert "not queued again" in job.output() and not job.log_dir.exists()


def test_an_array_trains_a_seed_in_each_task_and_queues_tasks_alone(slurm, suite):
    first, last = (suite / "log" / f"log_toy_seed{seed}" / "checkpoint.pt" for seed in (0, 1))
    job = Job(slurm, suite, f"--array=0-1 cluster/array.slurm {RUN}", "log/log_toy_seed1")
    job.until(lambda: first.exists() and last.exists())
    assert [torch.load(file, weights_only=True)["arguments"]["seed"] for file in (first, last)] == [0, 1]
    assert slurm.show(f"{job.number}_1")["JobId"] == job.number  # the last task has the number of the whole array
    slurm.call("scancel", "--signal=USR1", f"{job.number}_1")
    facts = slurm.wait(f"{job.number}_1", {"PENDING"})
    time.sleep(2)  # the first task would be queued again now
    assert facts["Restarts"] == "1" and slurm.show(f"{job.number}_0")["Restarts"] == "0"
    job.end()
