"""The user's Python and settings: what is missing is told in one line, and what is set decides nothing."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
import torch
from test_rooms import SCRIPTS

import check_log
from common import machine
from common.console import CallError, run_script
from training import processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("script", ["train_mnist", "sample", "check_log", "report"])
def test_a_python_without_the_packages(script):
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['{script}.py', '--help']; "
    code += f"runpy.run_path({str(ROOT / script)!r} + '.py', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "requirements.txt" in ended.stderr and sys.executable in ended.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_python_3_6_can_read_what_comes_before_its_line(script):
    """It is `python3` on many clusters. A script is parsed as a whole before `common` can say which Python is needed."""
    trees = [
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 6))
        for file in (ROOT / f"{script}.py", ROOT / "common" / "__init__.py")
    ]
    nodes = [node for node in trees[0].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = [getattr(node, "module", None) or node.names[0].name for node in nodes]
    assert modules[:2] == ["sys", "os.path"] and modules[2].split(".")[0] == "common"  # and no __future__


def test_an_old_python_is_told_so():
    code = f"import sys; sys.version_info = (3, 7, 9); sys.path.insert(0, {str(ROOT)!r}); import common"
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.splitlines()[0].startswith("Python 3.8 or newer")


def test_a_users_matplotlib_decides_nothing(tmp_path, monkeypatch):
    """A notebook's backend, which is not installed here, and a matplotlibrc that wants LaTeX and cuts margins."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.bbox: tight\nfont.family: no such font\n")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from common.console import run_script; import utils, hashlib\n"
        "run_script(lambda: utils.plot_loss([0.5], 'loss.png'))\n"
        "print(hashlib.sha256(open('loss.png', 'rb').read()).hexdigest())"
    )

    def drawn(folder, **environment):
        call = [sys.executable, "-c", code]
        return subprocess.run(
            call, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        ).stdout

    (tmp_path / "plain").mkdir()
    backend = "module://matplotlib_inline.backend_inline"
    assert drawn(tmp_path, MPLBACKEND=backend) == drawn(tmp_path / "plain")


@pytest.mark.parametrize("name", ["meta", "hpu", "privateuseone", "cuda:99", "xla", "no such", "cpu:x", ""])
def test_a_device_that_is_not_there_is_a_wrong_call(name):
    with pytest.raises(CallError) as error:
        machine.pick_device(name)
    assert "\n" not in str(error.value) and "--device cpu" in str(error.value)


@pytest.mark.parametrize(
    "found",
    [
        {"RANK": ""},
        {"RANK": "3"},
        {"WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "y"},
        {"RANK": "1", "WORLD_SIZE": "2"},
    ],
)
def test_left_over_variables_of_a_launcher_decide_nothing(found, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert processes.start("cpu") == torch.device("cpu") and processes.count() == 1
    with processes.together():
        pass
    with pytest.raises(SystemExit):
        check_log.parser().parse_args([])
    assert "HAND_IN" in capsys.readouterr().err


def test_devices_that_are_there():
    assert machine.pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(os.name == "nt", reason="other quotes")
def test_advice_can_be_pasted(monkeypatch):
    words = ["train_mnist.py", "--log_dir", "it's mine", "--data_dir", r"C:\Users\new", "$HOME"]
    monkeypatch.setattr(sys, "argv", words)
    line = machine.advised("--resume")
    assert shlex.split(line)[1:] == [*words, "--resume"]
    assert shlex.split(machine.command_line("--resume")) == ["python", *words, "--resume"]
    ran = subprocess.run(f"{machine.this_python()} -c 'import torch'", shell=True)
    assert ran.returncode == 0


def test_advice_for_data_is_python(tmp_path, monkeypatch):
    from common.console import DataError
    from datasets import torchvision_sets

    for folder in (tmp_path / "it's", PureWindowsPath(r"C:\Users\new")):
        with pytest.raises(DataError) as error, torchvision_sets._advice("x", torchvision_sets.MNIST, folder):
            raise ValueError
        words = shlex.split(str(error.value).split(" run: ")[1].split("; or copy")[0])
        compile(words[-1], "advice", "exec")
        assert repr(str(folder)) in words[-1]


def test_a_users_files_with_names_of_ours(tmp_path):
    """utils.py and types.py where the user stands do not get in the way of a script elsewhere."""
    for name in ("utils.py", "types.py", "common.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    call = [sys.executable, str(ROOT / "check_log.py"), "--help"]
    assert subprocess.run(call, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0


def test_run_script_restores_what_it_changes():
    before = sys.stdout, sys.stderr
    run_script(lambda: None)
    assert (sys.stdout, sys.stderr) == before
