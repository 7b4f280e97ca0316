"""Files that are never half written, and numbers in words."""

from __future__ import annotations

import csv
import json
import math
import os
import stat
import sys

import numpy as np
import pytest
import torch

from common.files import atomic_write, format_duration, write_csv, write_json


def test_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folders" / "a.txt"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == ".txt"
            assert temporary.name.startswith(".")
            temporary.write_text(text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_keeps_the_old_file_on_error(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_complains_when_nothing_was_written(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions on Windows")
def test_files_can_be_read_by_those_who_could_read_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "a.json", {})
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_round_trip(tmp_path):
    obj = {"a": [1, 2.5, None, True], "name": "Zürich", "path": tmp_path, "n": torch.tensor(3), "f": np.float32(0.5)}
    write_json(tmp_path / "a.json", obj)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {**obj, "path": str(tmp_path), "n": 3, "f": 0.5}
    assert "Zürich" in text
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text


def test_csv_round_trip(tmp_path):
    rows = [
        {"step": 1234567, "loss": 0.123456789, "val": None, "rate": 1e-7, "name": 'a,"b"'},
        {"loss": torch.tensor(2.0), "step": 2, "val": float("nan"), "rate": np.float64(3)},
    ]
    write_csv(tmp_path / "a.csv", rows)
    with open(tmp_path / "a.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["step", "loss", "val", "rate", "name"]
    assert lines == [["1234567", "0.123457", "", "1e-07", 'a,"b"'], ["2", "2", "nan", "3", ""]]
    with pytest.raises(ValueError):
        write_csv(tmp_path / "a.csv", [{"a": 1}, {"b": 1}])


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.2, "0 s"),
        (12, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (7199, "2 h 00 min"),
        (100 * 3600, "100 h 00 min"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
