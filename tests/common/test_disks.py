"""Files on a disk that is full, in folders that others change, beside links and pipes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

from common.files import atomic_write, check_writable, free_names, missing, open_to_append, try_lock, write_json

resource = pytest.importorskip("resource")


@contextlib.contextmanager
def full_disk(n_bytes: int):
    """Files cannot grow beyond n_bytes: what stands for a full disk or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_tensor(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(50_000)}, path)


def save_gif(path: Path) -> None:
    import imageio.v2 as imageio
    import numpy as np

    imageio.mimwrite(path, list(np.random.default_rng(0).integers(0, 256, (5, 99, 99), dtype=np.uint8)))


def save_text(path: Path) -> None:
    path.write_text("x" * 200_000)


@pytest.mark.parametrize("save, suffix", [(save_tensor, ".pt"), (save_gif, ".gif"), (save_text, ".csv")])
def test_a_full_disk_is_named_with_the_file_and_keeps_the_one_before(tmp_path, save, suffix):
    file = tmp_path / f"file{suffix}"
    file.write_text("before")
    with full_disk(10_000), pytest.raises(OSError) as error, atomic_write(file) as temporary:
        save(temporary)
    assert error.value.errno == errno.EFBIG and error.value.filename == str(file)
    assert file.read_text() == "before" and os.listdir(tmp_path) == [file.name]


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    for error in (ValueError("a bug"), FileNotFoundError(errno.ENOENT, "no font", "/font.ttf")):
        with pytest.raises(type(error)) as raised, atomic_write(tmp_path / "a.png") as temporary:
            temporary.write_text("half")
            raise error
        assert raised.value is error
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    check_writable(tmp_path / "new" / "marks.csv")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "marks.csv"):
        with pytest.raises(OSError) as error:
            check_writable(path)
        assert error.value.filename == str(path)


def test_a_name_of_another_encoding_is_written_and_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"log_dir": os.fsdecode(b"\xdcbung"), "class": "Übung"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["log_dir"] == os.fsdecode(b"\xdcbung")


def test_nothing_is_appended_through_a_link_or_into_a_pipe(tmp_path):
    mine, link, pipe = tmp_path / "mine", tmp_path / "samples.log", tmp_path / "train.log"
    mine.write_text("mine")
    link.symlink_to(mine)
    os.mkfifo(pipe)
    for file in (link, pipe):
        with pytest.raises(OSError) as error:
            open_to_append(file)
        assert error.value.filename == str(file)
    assert mine.read_text() == "mine"
    with free_names(tmp_path, "samples", (".log",)) as paths:
        paths[0].write_text("new")
    assert paths[0].name == "samples_2.log" and mine.read_text() == "mine"


def test_a_lock_holds_what_stands_there(tmp_path, monkeypatch):
    """Another process moves the folder away between opening and locking."""
    folder = tmp_path / "log"
    folder.mkdir()
    held = try_lock(folder / "train.log")
    assert held and try_lock(folder / "train.log") is None
    held.close()
    import fcntl

    lock = fcntl.flock

    def late(*arguments):
        folder.rename(tmp_path / "log_old1")
        folder.mkdir()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    assert try_lock(folder / "train.log") is None


def test_a_missing_file_is_told_with_those_that_exist(tmp_path):
    for name in ("model_epoch5.pt", "model_epoch10.pt", "notes.txt"):
        (tmp_path / name).write_text("")
    text = missing(tmp_path / "model_epoch20.pt")
    assert "model_epoch5.pt" in text and "model_epoch10.pt" in text and "notes" not in text
    assert "no folder" in missing(tmp_path / "lgo" / "model_epoch5.pt")
