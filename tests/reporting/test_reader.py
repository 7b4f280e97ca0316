"""Files from strangers cost little, whatever they claim to hold, and a zip is read with the same rules as a folder."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from figures.grids import plot_grid
from reporting import reader
from reporting.archive import ZipFolder
from reporting.hand_ins import HandIn
from reporting.model_file import read_model
from reporting.reader import Folder, Unreadable

TABLES = {
    "half a million columns": ("epoch," + ",".join(map(str, range(500_000))) + "\n1\n", "more than 100 columns"),
    "a million rows": ("epoch,train_loss\n" + "1,\n" * 1_000_000, "more than 100,000 rows"),
    "more bytes": ("epoch\n" + "1\n" * 3_000_000, "larger than 4 MB"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_too_large_is_not_read(tmp_path, kind):
    content, reason = TABLES[kind]
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(Unreadable, match=reason):
        Folder(tmp_path).csv("metrics.csv")


def test_a_row_with_more_cells_than_heads_keeps_those_that_have_one(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1" + ",2" * 1_000_000 + "\n3\n")
    assert Folder(tmp_path).csv("metrics.csv") == [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]


def test_a_number_without_end_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ' + "9" * 1_000_000 + "}")
    with pytest.raises(Unreadable, match="1,000,000 digits"):
        Folder(tmp_path).json("config.json")


def test_all_pictures_of_a_folder_together_have_a_limit(tmp_path, monkeypatch):
    plot_grid(tmp_path / "a.png", np.zeros((4, 1, 8, 8)))
    width, height = Folder(tmp_path).image_size("a.png")
    monkeypatch.setattr(reader, "MOST_PIXELS_OF_FOLDER", 2 * width * height)
    folder = Folder(tmp_path)
    folder.picture("a.png"), folder.picture("a.png")
    with pytest.raises(Unreadable, match="the folder has more than"):
        folder.picture("a.png")


@pytest.mark.skipif(sys.platform == "win32", reason="has no links")
def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    (secret / "log").mkdir(parents=True), (secret / "log" / "config.json").write_text("{}")
    (tmp_path / "hand_in").mkdir()
    os.symlink(secret / "log", tmp_path / "hand_in" / "log"), os.symlink(secret, tmp_path / "link")
    os.symlink(secret / "log" / "config.json", tmp_path / "hand_in" / "config.json")
    for name in ("config.json", "log"):
        with pytest.raises(Unreadable, match="is a link"):
            Folder(tmp_path / "hand_in").open(name)
    assert HandIn(tmp_path / "hand_in").folders == []
    assert "is a link" in HandIn(tmp_path / "link").unread["link"]


# ------------------------------------------------------------------------------------------------ zips


def pack(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_a_zip_is_read_as_the_folder_that_it_holds(tmp_path):
    members = {
        "anna/log/config.json": b"{}",
        "anna\\log\\metrics.csv": b"a\n1\n",
        "__MACOSX/anna/log/._config.json": b"x",
    }
    (folder,) = HandIn(pack(tmp_path / "a.zip", members)).folders
    assert sorted(folder.files) == ["config.json", "metrics.csv"] and folder.json("config.json") == {}
    assert folder.csv("metrics.csv") == [{"a": "1"}] and folder.path == tmp_path / "a.zip" / "anna" / "log"


def test_a_hostile_zip_costs_little(tmp_path):
    link = zipfile.ZipInfo("log/metrics.csv")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    file = pack(tmp_path / "a.zip", {"log/config.json": bytes(10_000_000), "../../log/x.json": b"{}"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    folder = ZipFolder(file).child("log")
    with pytest.raises(Unreadable, match="larger than 4 MB"):
        folder.json("config.json")
    with pytest.raises(Unreadable, match="is a link"):
        folder.csv("metrics.csv")
    assert sorted(ZipFolder(file).others) == ["log"]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip_is_named(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    assert "a.zip" in HandIn(tmp_path / "a.zip").unread


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize(
    "pickled",
    [b"", b"\x80\x02cos\nsystem\n.", b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x02}.", b"(" * 100_000],
)
def test_a_model_that_is_none_is_refused(tmp_path, pickled):
    pack(tmp_path / "model.pt", {"a/data.pkl": pickled}, zipfile.ZIP_STORED)
    with open(tmp_path / "model.pt", "rb") as file, pytest.raises(Unreadable, match="no model of this suite"):
        read_model(file)


def test_a_model_is_read_without_torch(whole_run):
    with open(whole_run / "model_epoch3.pt", "rb") as file:
        model = read_model(file)
    config = json.loads((whole_run / "config.json").read_text())
    assert model.n_parameters == config["n_parameters"] and model.content["epoch"] == 3 and len(model.digest) == 40
