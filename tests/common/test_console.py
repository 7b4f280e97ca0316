"""Numbers, paths and output of scripts, as people give them and where people read them."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from pathlib import Path

import pytest
from test_rooms import SCRIPTS

from common import console
from common.console import (
    ArgumentParser,
    CallError,
    Output,
    as_path,
    at_least,
    expanded,
    in_range,
    live_line,
    number,
    run_script,
)
from common.limits import WHOLE


def status_of(main) -> int:
    with pytest.raises(SystemExit) as end:
        run_script(main)
    return end.value.code


# ------------------------------------------------------------ arguments


@pytest.fixture
def refused(capsys):
    """refused(type, "--option=value") parses and returns the last line of the refusal."""

    def parse(kind, word, nargs=None):
        parser = ArgumentParser()
        parser.add_argument("--option", type=kind, nargs=nargs)
        with pytest.raises(SystemExit) as end:
            parser.parse_args([word])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return parse


@pytest.mark.parametrize(
    "kind, text, words",
    [
        (at_least(1), "x", "must be a whole number"),
        (at_least(1), "1.5", "must be a whole number"),
        (at_least(1), "1" * 5000, "must be"),
        (at_least(1), "0", "at least 1"),
        (in_range(0, 1), "0,1,2", "separate several by spaces"),
        (in_range(0, 1), "nan", "must be in"),
        (as_path, "", "empty"),
        (at_least(1), "--", "expected a value"),
    ],
)
def test_a_wrong_value_is_told_in_words(refused, kind, text, words):
    line = refused(kind, f"--option={text}")
    assert words in line and "finite_number" not in line and len(line) < 200


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_numbers_end_where_torch_and_the_readers_of_files_do(refused, name):
    lowest, highest = WHOLE[name]
    assert number(name)(str(lowest)) == lowest and number(name)(str(highest)) == highest
    for value in (lowest - 1, highest + 1, 2**63, 10**40):
        assert "must be at" in refused(number(name), f"--option={value}")


def test_minus_zero_is_zero():
    assert f"{in_range(-1, 1)('-0'):g}" == "0"


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("USERPROFILE", "/home/anna")
    assert as_path("~/run") == Path("/home/anna/run") and as_path("run~") == Path("run~")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_path_of_a_command_line_may_begin_with_the_home_folder(script):
    paths = ("FILE", "FOLDER", "MODEL", "IMAGE", "HAND_IN")
    for action in importlib.import_module(script).parser()._actions:
        if action.metavar in paths or isinstance(action.default, Path) or action.dest in ("mask", "log_dir"):
            assert action.type in (as_path, expanded) or action.choices, action.dest


# ------------------------------------------------------------ output


def test_output_outlives_its_reader():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        out = Output(stream)
        for _ in range(3):
            print("x" * 10_000, file=out, flush=True)


def test_a_name_that_the_terminal_does_not_know():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("Übung", os.fsdecode(b"\xff"), file=Output(stream), flush=True)
    assert stream.buffer.getvalue() == b"\\xdcbung \\udcff\n"


def test_without_any_output(monkeypatch):
    """`python train_mnist.py >&- 2>&-`: Python has no streams then."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    run_script(lambda: print("nobody reads this"))


def test_a_narrow_terminal_keeps_numbers_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((30, 20)))
    live_line("epoch 3/20  loss 0.0312  12345 images/s  3 min 05 s left")
    assert capsys.readouterr().out.strip("\r ") == "epoch 3/20  loss 0.0312"


# ------------------------------------------------------------ endings


def test_a_message_is_one_line_without_control_characters(capsys):
    def main():
        raise CallError("the file \x1b[2J says\nthis \udcff")

    assert status_of(main) == 2
    assert capsys.readouterr().err.splitlines()[0].endswith("the file \\x1b[2J says this \\udcff")


@pytest.mark.skipif(os.name == "nt", reason="has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.usefixtures("in_a_terminal")
def test_a_signal_removes_what_is_half_written(tmp_path, capsys, name):
    def main():
        with console_file(tmp_path / "a.png") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), getattr(signal, name))

    assert status_of(main) == 128 + getattr(signal, name)
    assert name in capsys.readouterr().err and os.listdir(tmp_path) == []
    assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL


def console_file(path):
    from common.files import atomic_write

    return atomic_write(path)


@pytest.mark.skipif(os.name == "nt", reason="has no such signal")
def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_script(lambda: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
