"""Jobs that were submitted wrongly say in one line of their output what to do; submitted to a real SLURM."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from local_slurm import local_slurm, missing, search_path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("basename", "bash", "cat", "head", "rm", "scontrol", "srun", "tr")  # all that the job scripts need
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with local_slurm(tmp_path_factory.mktemp("slurm") / "s") as started:
        yield started


@pytest.fixture
def folder(tmp_path):
    """The job scripts, and a training script that says how it was called."""
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    (tmp_path / "train_toy.py").write_text("import sys\nprint('called with', *sys.argv[1:])\n")
    return tmp_path


@pytest.fixture
def result(slurm, folder):
    """result(words of sbatch) submits a job: its exit code and output."""

    def submit(*words: str, cwd: Path = folder, path: str = "") -> tuple[str, str]:
        python = f"{Path(sys.executable).parent}:{search_path()}"
        sbatch = shutil.which("sbatch", path=search_path())
        job = slurm.call(sbatch, "--parsable", *words, cwd=cwd, PATH=path or python, VIRTUAL_ENV="").split("\n")[-1]
        return slurm.wait(job)["ExitCode"], (cwd / f"slurm-{job}.out").read_text()

    return submit


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "no training script given"),
        ("--n_epochs 3", "--n_epochs stands where the training script should"),
        ("train_nothing.py", "no file train_nothing.py in"),
        ("train_toy.py --time=02:00:00", "--time=02:00:00 is an option of sbatch: write it before the .slurm file"),
        ("train_toy.py -p gpu", "-p is an option of sbatch"),
    ],
)
def test_a_wrong_call_is_one_line(result, words, message):
    code, output = result("cluster/one_gpu.slurm", *words.split())
    (line,) = output.splitlines()
    assert code == "2:0" and message in line


def test_a_wrong_folder_is_one_line(result, folder):
    code, output = result("../cluster/one_gpu.slurm", "train_toy.py", cwd=folder / "cluster")
    (line,) = output.splitlines()
    assert code == "2:0" and "submit the job from the folder that holds it" in line


def tools(folder: Path) -> Path:
    """A folder with what the job scripts need, and no python."""
    (folder / "tools").mkdir()
    for tool in TOOLS:
        (folder / "tools" / tool).symlink_to(shutil.which(tool, path=search_path()))
    return folder / "tools"


def test_no_environment_is_one_line(result, folder):
    path = tools(folder)
    (code, output), python = result("cluster/one_gpu.slurm", "train_toy.py", path=str(path)), path / "python"
    (line,) = output.splitlines()
    assert code == "2:0" and "no python found: activate your environment" in line
    python.write_text(f'#!/bin/bash\nexec {sys.executable} -S "$@"\n')  # -S: without the packages of an environment
    python.chmod(0o755)
    code, output = result("cluster/one_gpu.slurm", "train_toy.py", path=str(path))
    (line,) = output.splitlines()
    assert code == "2:0" and f"{python} has no torch: activate the environment that has it" in line


def test_an_environment_beside_the_scripts_and_a_container_are_found(result, folder):
    path, python = str(tools(folder)), f'exec {sys.executable} "$@"\n'
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f"#!/bin/bash\n{python}")  # docs/cluster.md: apptainer exec ... python "$@"
    (folder / "bin" / "python").chmod(0o755)
    assert result("cluster/one_gpu.slurm", "train_toy.py", path=f"{folder / 'bin'}:{path}")[0] == "0:0"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.move(folder / "bin" / "python", folder / ".venv" / "bin" / "python")
    (folder / ".venv" / "bin" / "activate").write_text(f"VIRTUAL_ENV={folder}/.venv\nPATH=$VIRTUAL_ENV/bin:$PATH\n")
    code, output = result("cluster/one_gpu.slurm", "train_toy.py", "--seed", "3", path=path)
    assert (code, output) == ("0:0", "called with --seed 3 --resume auto\n")


def test_line_ends_of_windows_do_no_harm_or_are_named(result, folder):
    for file in (folder / "cluster" / "job.sh", folder / "train_toy.py"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert result("cluster/one_gpu.slurm", "train_toy.py")[0] == "0:0"
    file = folder / "cluster" / "one_gpu.slurm"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(RuntimeError, match="DOS line breaks"):
        result("cluster/one_gpu.slurm", "train_toy.py")


def test_an_array_over_scripts_needs_as_many_tasks(result, folder):
    (folder / "train_mnist.py").symlink_to("train_toy.py")
    words = ["cluster/array.slurm", "train_toy.py", "train_mnist.py", "--seed", "3"]
    code, output = result("--array=2", "--output=slurm-%A.out", *words)
    (line,) = output.splitlines()
    assert code == "2:0" and "sbatch --array=0-1" in line
    code, output = result("--array=1", "--output=slurm-%A.out", *words)
    assert (code, output) == ("0:0", "called with --seed 3 --resume auto\n")
