"""hand_in.py: what it collects and what it still wants. tests/test_commands.py starts it as a user does."""

from __future__ import annotations

import os
import sys

import pytest
from tiny_script import run_here

import hand_in


@pytest.fixture
def no_start(monkeypatch):
    started = []
    monkeypatch.setattr(hand_in, "start", lambda folder, words: started.append(words))
    return started


def test_collects_what_the_sheet_lists_and_says_what_it_wants(tmp_path, whole_run, no_start, capsys):
    answers, out = tmp_path / "text.md", tmp_path / "out"
    answers.write_text("1. because")
    words = ["--logs", str(whole_run), str(tmp_path / "none"), "--out", str(out)]
    assert run_here(hand_in, [*words, "--answers", str(answers)]) == 0
    assert all((out / name).is_file() for name in [*hand_in.LISTED, "README.txt", "answers.md", "requirements.txt"])
    assert (out / "log_mnist" / "report.html").exists() and not (out / "log_mnist" / "checkpoint.pt").exists()
    printed = capsys.readouterr().out
    assert "runs by itself" in printed and "log_cifar10" in printed and "--names" in printed
    assert "still wanted: your answers" not in printed
    assert [words[:2] for words in no_start] == [["--dataset", "rendered"]]
    assert run_here(hand_in, words) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_odd_files_and_names(tmp_path, no_start):
    logs = tmp_path / "log"
    logs.mkdir()
    os.mkfifo(logs / "samples.log")
    (logs / "lost.png").symlink_to(tmp_path / "nowhere")
    (logs / "config.json").write_text("{}")
    words = ["--logs", str(logs), str(logs), "--out", str(tmp_path / "out"), "--names", os.fsdecode(b"\xdcbung")]
    assert run_here(hand_in, words) == 0
    assert os.listdir(tmp_path / "out" / "log_mnist") == ["config.json"]
    assert "udcdcbung" in (tmp_path / "out" / "README.txt").read_text()


def test_only_what_is_imported_comes_along():
    files = {str(file) for file in hand_in.needed(hand_in.LISTED)}
    assert {"diffusion/schedules.py", "training/trainer.py", "networks/__init__.py"} <= files
    assert not {file for file in files if file.startswith(("evaluation", "sheets", "tests", "sample"))}


@pytest.mark.parametrize("script", ["train_mnist", "train_cifar10", "utils"])
def test_a_folder_that_does_not_run_is_one_line(tmp_path, script):
    for name in ("train_mnist", "utils"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "train_cifar10.py").write_text("parser = print")
    (tmp_path / f"{script}.py").write_text("import nothing_of_this_name")
    with pytest.raises(hand_in.RunError, match="No module named 'nothing_of_this_name'"):
        hand_in.start(tmp_path, [])
