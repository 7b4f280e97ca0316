"""Random command lines: values at and beyond every limit, of wrong types, flags that contradict each other. Each ends with
a line and a status of its own (0, 1 or 2), never with a traceback. FUZZ=300 tries as many for each script.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys

import numpy as np
import pytest
from test_rooms import SCRIPTS
from tiny_folders import write_folder
from tiny_script import run_here

import evaluate
from common.limits import WHOLE
from training.trainer import Trainer

N = int(os.environ.get("FUZZ", 12))
SEED = 7
SMALL = 64  # what is larger is parsed, and then not run: it would take long, rightly
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "8",
    "9",
    "-1",
    "-0",
    "1.5",
    "0.5",
    "1e3",
    "1e400",
    "nan",
    "-inf",
    "x",
    "",
    "1,2",
    "--",
    "٣",
]
EDGES = [str(end + d) for limits in WHOLE.values() for end in limits for d in (-1, 0, 1)] + ["9" * 5000, str(2**64)]
TEXTS = [
    "",
    " ",
    "x",
    "~",
    "3+8",
    "3*x+8",
    "3+3",
    "0",
    "no such",
    "\x1b[2J",
    "Übung",
    "\udcff",
    "cpu:9",
    "meta",
    "a" * 5000,
]
GIVEN = {"help", "data_dir", "log_dir", "judge_dir", "out", "load_path", "device", "dataset", "encoder", "fid", "judge"}


@pytest.fixture(scope="module")
def base(tmp_path_factory, whole_run, data_dir):
    """base(script): the words that each line begins with, so that what is accepted runs on a few small images."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_folder(folder / "afhq" / "afhq", ["cat"], 12, size=8)
    write_folder(folder / "own", ["cat", "dog"], 6, size=8)
    model = str(whole_run / "model_epoch3.pt")
    run = ["--device", "cpu", "--batch_size", "8", "--log_dir", str(folder / "run")]
    small = [*run, "--n_features", "8", "--n_timesteps", "2", "--data_dir", str(data_dir)]
    words = {
        "train_mnist": small,
        "train_toy": [*run, "--num_hidden", "8", "--n_points", "50"],
        "train_afhq": [*run, "--data_dir", str(folder / "afhq"), "--unet_dim", "8", "--image_size", "8"],
        "sample": [
            model,
            "--device",
            "cpu",
            "--out",
            str(folder / "out"),
            "--n_samples",
            "1",
            "--data_dir",
            str(data_dir),
        ],
        "evaluate": [model, "--device", "cpu", "--out", str(folder), "--data_dir", str(data_dir)],
        "check_log": [str(whole_run), str(folder / "out"), str(folder)],
        "report": [str(folder / "own")],
    }
    return lambda script: words.get(script, [])


def line(rng: random.Random, parser: argparse.ArgumentParser) -> list[str]:
    """A few of a parser's options with values of all kinds."""
    actions = [action for action in parser._actions if action.dest not in GIVEN]
    words = []
    for action in rng.sample(actions, min(len(actions), rng.choice([1, 1, 2, 2, 3, 5]))):
        values = rng.choice([NUMBERS, NUMBERS, EDGES, TEXTS, [str(choice) for choice in action.choices or NUMBERS]])
        count = 0 if action.nargs == 0 else rng.choice([0, 1, 2, 3, 101]) if action.nargs in ("+", "*") else 1
        some = [rng.choice(values) for _ in range(count)]
        option = [rng.choice(action.option_strings)] if action.option_strings else []
        joined = len(some) == 1 and option and option[0].startswith("--") and rng.random() < 0.5
        words += [f"{option[0]}={some[0]}"] if joined else [*option, *some]
    return words


def runs(parser: argparse.ArgumentParser, words: list[str], capsys) -> bool:
    """Is the line accepted, and everything in it small enough to be run?"""
    try:
        args = vars(parser.parse_args(words))
    except SystemExit as end:
        good = end.code in (0, 2) and "Traceback" not in capsys.readouterr().err
    else:
        given = " ".join(words)
        values = [v for name, value in args.items() if name != "seed" for v in np.atleast_1d(np.array(value, object))]
        return not any(isinstance(v, int) and v > SMALL and str(v) in given for v in values)
    assert good, words
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="other encodings of arguments")
@pytest.mark.parametrize("script", SCRIPTS)
def test_random_command_lines(script, base, monkeypatch, capsys, tmp_path):
    module, rng = importlib.import_module(script), random.Random(f"{SEED} {script}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "run", lambda self: None)
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: None)
    for _ in range(N):
        words = [*base(script), *line(rng, module.parser())]
        if runs(module.parser(), words, capsys) and base(script):
            status, error = run_here(module, words), capsys.readouterr().err
            assert status in (0, 1, 2, None) and "Traceback" not in error, (words, error)
            assert script == "check_log" or status in (0, None) or "error:" in error, (words, error)
