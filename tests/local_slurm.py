"""A real SLURM on this machine, as root and without a network, in a folder of its own: Debian's slurm-wlm and munge.

python tests/local_slurm.py FOLDER starts one and prints the SLURM_CONF to use with sbatch, squeue and scancel until Enter is
pressed. There is one node with four pretended GPUs and two partitions: jobs of `high` preempt those of `low` (the
default), which are queued again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
JobRequeue=1
KillWait=10
BatchStartTimeout=1
OverTimeLimit=0
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 Boards=1 SocketsPerBoard=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why no SLURM can be started here, or nothing."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=search_path())]
    if absent:
        return f"{', '.join(absent)} not installed (Debian's packages slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "a SLURM of one's own needs root"


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Slurm:
    """Commands of SLURM for the cluster whose configuration lies in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}

    def start(self, *command: str) -> None:
        """Start a daemon of this cluster."""
        with open(self.folder / f"{command[0]}.out", "ab") as out:
            self.daemons[command[0]] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def start_node(self) -> None:
        self.start("slurmd", "-D", "-c", "-N", self.host)

    def kill(self, *but: str) -> None:
        """End all processes of this cluster and of its jobs without warning, except these daemons."""
        mine, found = f"SLURM_CONF={self.folder}/slurm.conf\0".encode(), []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended
                if mine in environment.read_bytes():
                    found.append(int(environment.parent.name))
        kept = [self.daemons[name].pid for name in but]  # each has a session of its own
        for what in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none can tell of another's end
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(pid) not in kept:
                        os.kill(pid, what)
        for name in self.daemons.keys() - but:
            self.daemons[name].wait()

    def fail_node(self) -> None:
        """The node loses its power and starts again. SLURM then notices that a job is missing there, if the job began a
        while ago (BatchStartTimeout and MessageTimeout)."""
        self.kill("munged", "slurmctld")
        time.sleep(12)
        self.start_node()

    def call(self, *command: object, cwd: Path | None = None, **more: str) -> str:
        end = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if end.returncode:
            raise RuntimeError(f"{command[0]} ended with {end.returncode}: {end.stdout}")
        return end.stdout.strip()

    def submit(self, *arguments: object, cwd: Path, **more: str) -> str:
        """sbatch; returns the number of the job."""
        return self.call("sbatch", "--parsable", *arguments, cwd=cwd, **more).split("\n")[-1]

    def show(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_again(self, job: str) -> None:
        """Start a job that was queued again soon, and not after SLURM's two minutes. Not in the same second, in which SLURM
        would take it for the job that has ended."""
        self.wait(job, {"PENDING"})
        time.sleep(1.1)
        while self.wait(job, {"PENDING", "RUNNING"})["JobState"] == "PENDING":
            with contextlib.suppress(RuntimeError):  # while the processes of the last start still end
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)

    def wait(self, job: str, states: set[str] = ENDED, seconds: float = 120) -> dict[str, str]:
        """Wait until the job is in one of these states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            facts = self.show(job)
            if facts["JobState"] in states:
                return facts
            time.sleep(0.2)
        raise TimeoutError(f"job {job} is {facts['JobState']} after {seconds} s")


@contextlib.contextmanager
def local_slurm(folder: Path) -> Iterator[Slurm]:
    """Start munged, slurmctld and slurmd in a folder; stop them and every job at the end."""
    slurm = Slurm(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=slurm.host, folder=folder, ports=free_ports(2)))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-3]\n")
    for gpu in range(4):
        (folder / f"gpu{gpu}").touch()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    files["seed-file"] = "munge.seed"
    try:
        slurm.start("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
        end = time.monotonic() + 30
        while not (folder / "munge.socket").exists() and time.monotonic() < end:
            time.sleep(0.05)
        slurm.start("slurmctld", "-D")
        slurm.start_node()
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(RuntimeError):
                if slurm.call("sinfo", "--noheader", "-o", "%T").split("\n")[0] == "idle":
                    break
            if time.monotonic() > end:
                logs = "\n".join((folder / f"{name}.out").read_text()[-2000:] for name in ("slurmctld", "slurmd"))
                raise RuntimeError(f"SLURM did not start:\n{logs}")
            time.sleep(0.2)
        yield slurm
    finally:
        slurm.kill()


if __name__ == "__main__":
    with local_slurm(Path(sys.argv[1]).resolve()) as started:
        input(f"export SLURM_CONF={started.environment['SLURM_CONF']}   (Enter ends it) ")
