"""Collect what the sheet on guidance wants handed in, in a folder that runs by itself, and say what is still missing.

    python hand_in.py                                              # hand_in/, with log/log_mnist and log/log_cifar10
    python hand_in.py --names "Ada Lovelace" "Alan Turing" --answers answers.txt
    python hand_in.py --logs log/mine log/log_cifar10_unet --out handed_in

The folder gets the files that the sheet lists (networks/Conditional_UNet.py, train_mnist.py, train_cifar10.py, utils.py,
ddpm.py), the modules that these import, the log folders as log_mnist/ and log_cifar10/, your text, and README.txt. Then
Python imports all of these there, and train_mnist.py trains on 8 digits, in a new process. checkpoint.pt stays behind,
because it only continues a run.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import ast
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from common.console import ArgumentParser, CallError, HelpFormatter, RunError, as_path, run_script
from reporting.reader import Folder
from reporting.verdict import check_folder

ROOT = Path(__file__).resolve().parent
LISTED = ["networks/Conditional_UNet.py", "train_mnist.py", "train_cifar10.py", "utils.py", "ddpm.py"]  # by the sheet
BESIDE = ["requirements.txt", "LICENSE"]
LOGS = ["log_mnist", "log_cifar10"]
TINY = (
    "--dataset rendered --limit 8 --n_epochs 1 --n_timesteps 2 --n_features 8 --n_samples 1 --g_weight 1 "
    "--batch_size 250 --device cpu"
)
CODE = """import runpy, utils, train_cifar10
train_cifar10.parser()
runpy.run_path("train_mnist.py", run_name="__main__")
"""
README = """{names}

Install what is needed:      pip install -r requirements.txt
Train on MNIST:              python train_mnist.py
Train on CIFAR-10:           python train_cifar10.py
The equations:               ddpm.py, networks/Conditional_UNet.py
Our results:                 {logs}
Our answers:                 {answers}
"""


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add, logs = parser.add_argument, [Path("log") / name for name in LOGS]
    add("--logs", type=as_path, nargs=2, default=logs, metavar="FOLDER", help="log folders of MNIST and of CIFAR-10")
    add("--names", nargs="+", default=[], metavar="NAME", help="who hands this in, for README.txt")
    add("--answers", type=as_path, default=None, metavar="FILE", help="your text with the answers to the questions")
    add("--out", type=as_path, default=Path("hand_in"), help="the folder to make")
    return parser


def needed(listed: "list[str]") -> "set[Path]":
    """These files of the suite and every module of it that they import, directly or not; relative to ROOT."""
    found: set[Path] = set()
    waiting = [Path(name) for name in listed]
    while waiting:
        file = waiting.pop()
        if file in found or not (ROOT / file).exists():
            continue
        found.add(file)
        modules = set()
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        for module in modules:
            path = Path(*module.split("."))
            waiting += [
                path.with_suffix(".py"),
                path / "__init__.py",
                *(parent / "__init__.py" for parent in path.parents),
            ]
    return found


def left_behind(folder: str, names: "list[str]") -> "set[str]":
    """What of a log folder is not handed in: what only continues a run, hidden files, and what is neither file nor folder."""
    unwanted = {name for name in names if name == "checkpoint.pt" or name.startswith(".")}
    return unwanted | {name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())}


def collect(args: argparse.Namespace) -> "list[str]":
    """Fill args.out. Returns what the sheet still wants, in words."""
    wanted = []
    for file in sorted(needed(LISTED)) + [Path(name) for name in BESIDE]:
        (args.out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, args.out / file)
    for folder, name in zip(args.logs, LOGS):
        if not folder.is_dir():
            wanted.append(f"{name}: {folder} is not there (train it, or name another folder with --logs)")
            continue
        shutil.copytree(folder, args.out / name, ignore=left_behind)
        check = check_folder(Folder(args.out / name))
        problems = [finding for finding in check.findings if finding.level == "problem"]
        if problems:
            wanted.append(f"{name}: not all is right, see `python check_log.py {folder}`")
    answers = f"answers{args.answers.suffix}" if args.answers else "none"
    if args.answers:
        shutil.copyfile(args.answers, args.out / answers)
    else:
        wanted.append("your answers to the questions, as a text file: --answers FILE")
    if not args.names:
        wanted.append("your names, for README.txt: --names")
    names = ", ".join(args.names) or "(names)"
    logs = ", ".join(f"{name}/report.html" for name in LOGS if (args.out / name).exists()) or "none"
    text = README.format(names=names, logs=logs, answers=answers)
    (args.out / "README.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    return wanted


def start(folder: Path, words: "list[str]") -> None:
    """Import the scripts there, with nothing of this suite but what the folder holds, and start train_mnist.py with these
    words. RunError with the last line of Python's if that fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"  # more threads make steps this small slower, on a busy computer by far
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"{folder} does not run by itself: {last}")


def main() -> None:
    args = parser().parse_args()
    if args.out.exists():
        raise CallError(f"{args.out} is there already: remove it, or name another folder with --out")
    if args.answers and not args.answers.is_file():
        raise CallError(f"--answers: {args.answers} is no file")
    wanted = collect(args)
    print(f"{args.out}: {sum(file.is_file() for file in args.out.rglob('*'))} files; starting them ...", flush=True)
    with tempfile.TemporaryDirectory() as log_dir:
        start(args.out, [*TINY.split(), "--log_dir", f"{log_dir}/log"])
    for cache in args.out.rglob("__pycache__"):
        shutil.rmtree(cache)
    print(f"{args.out} runs by itself")
    for line in wanted:
        print(f"still wanted: {line}")


if __name__ == "__main__":
    run_script(main)
