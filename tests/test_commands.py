"""Every script is started as a user starts it, and every command in the pages and docstrings is one that works."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from started_script import ROOT, run_started
from test_rooms import SCRIPTS
from tiny_folders import write_folder
from tiny_mnist import write_mnist

CPU = "--device cpu --n_timesteps 4 --batch_size 8"
CLASSES = f"{CPU} --n_epochs 1 --n_features 8 --n_samples 1 --g_weight 1 --data_dir data --log_dir run"
CIFAR = f"{CLASSES} --n_classes 2 --im_height 8"
CALLS = {  # in a folder with tiny data and a finished run; what each of them leaves there
    "train_mnist": (CLASSES, "run/report.html"),
    "train_fashion_mnist": (CLASSES, "run/report.html"),
    "train_cifar10": (CIFAR, "run/report.html"),
    "train_cifar100": (CIFAR, "run/report.html"),
    "train_afhq": (
        f"{CPU} --train_steps 1 --unet_dim 8 --unet_dim_mults 1 2 --image_size 8 --n_samples 4 --data_path data --log_dir run",
        "run/report.html",
    ),
    "train_celeba": (
        f"{CPU} --n_epochs 1 --n_features 8 --dim_mults 1 2 --n_blocks 1 --n_samples 1 --g_weight 1 --im_height 8 "
        "--dataset folder --data_dir data/afhq --encoder attributes --prompts happy --log_dir run",
        "run/report.html",
    ),
    "train_folder": (f"{CLASSES} --im_height 8 --data_dir data/afhq", "run/report.html"),
    "train_toy": (f"{CPU} --train_steps 1 --num_hidden 8 --n_points 50 --log_dir run", "run/report.html"),
    "sample": ("log/model_epoch3.pt --device cpu --n_samples 1", "log/samples.png"),
    "evaluate": ("log/model_epoch3.pt --device cpu --bits_per_dim 1 --data_dir data", "log/metrics.json"),
    "check_log": ("log --csv marks.csv", "marks.csv"),
    "hand_in": ("--logs log log --names A --answers data/answers.txt --out handed_in", "handed_in/README.txt"),
    "report": ("log --index .", "index.html"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, whole_run):
    """Far from the scripts: `data` with a few random images of every kind, and the finished run `log`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "log").mkdir()
    for file in whole_run.iterdir():
        (folder / "log" / file.name).write_bytes(file.read_bytes())
    write_mnist(folder / "data")
    (folder / "data" / "answers.txt").write_text("1. because")
    write_mnist(folder / "data", folder="FashionMNIST")
    for name in ("cifar10", "cifar100"):
        write_folder(folder / "data" / name, ["a", "b"], 4, size=8, splits=("train", "test"))
    write_folder(folder / "data" / "afhq", ["cat"], 12, size=8)
    rows = [f"{i},{i % 5},{7 * i % 4}" for i in range(12)]
    (folder / "data" / "afhq" / "attributes.csv").write_text("\n".join(["file,happy,age", *rows]))
    return folder


def test_every_script_has_a_call():
    assert set(SCRIPTS) == {*CALLS, "benchmark"}  # tests/test_benchmark.py starts it


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, tmp_path):
    status, printed = run_started(f"{script}.py", ["--help"], tmp_path)
    assert status == 0 and printed.startswith("usage:"), printed


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("script", CALLS)
def test_a_tiny_call(script, folder):
    words, result = CALLS[script]
    began = (folder / result).stat().st_mtime_ns if (folder / result).exists() else 0
    status, printed = run_started(f"{script}.py", words.split(), folder)
    assert status == 0, printed
    assert (folder / result).stat().st_mtime_ns > began, printed


def test_without_a_fork(tmp_path):
    """Really `python train_mnist.py --help`."""
    call = [sys.executable, str(ROOT / "train_mnist.py"), "--help"]
    assert subprocess.run(call, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0


# ------------------------------------------------------------ the commands in pages and docstrings

START = r"(?:python|make|sbatch) "
SOURCES = [
    file for pattern in ("*.md", "docs/*.md", "answers/*.md", "*.py", "networks/*.py") for file in ROOT.glob(pattern)
]
LINE = re.compile(rf"^ {{4}}({START}.*)$", re.MULTILINE)
INLINE = re.compile(rf"(?<!`)`({START}[^`]+)`(?!`)")


def text_of(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text), clean=False) or "") if file.suffix == ".py" else text


def commands() -> list[tuple[str, str]]:
    """(file, command) for each line of code and each `command` in a sentence, without their comments."""
    found = []
    for file in sorted(SOURCES):
        text = text_of(file)
        for command in LINE.findall(text) + INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            found.append((str(file.relative_to(ROOT)), " ".join(re.sub(r" #.*", "", command).split())))
    return found


COMMANDS = commands()


def test_commands_are_found():
    files = {file for file, _ in COMMANDS}
    assert {"README.md", "CONTRIBUTING.md", "docs/sampling.md", "answers/guidance.md", "train_toy.py"} <= files


@pytest.mark.parametrize("file, command", COMMANDS)
def test_a_command_of_the_pages(file, command):
    tool, *words = shlex.split(command)
    if tool == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    elif tool == "sbatch" or words[0] == "-m":  # python -m pytest tests/...
        assert all((ROOT / word).exists() for word in words if "/" in word)
    elif words[0].startswith("networks/"):
        assert (ROOT / words[0]).exists()
    else:
        name = words[0][: -len(".py")].replace("/", ".")
        name = "train_mnist" if name == "train_shapes" else name  # the example of docs/adding_a_dataset.md
        script = importlib.import_module(name)
        parser = script.parser()
        with contextlib.suppress(SystemExit) if "--help" in words else contextlib.nullcontext():
            parser.parse_args(words[1:])
