"""Data sets as people have them on their disks: packed, renamed, zipped on a Mac, with junk in them."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_folders import write_folder
from tiny_mnist import write_mnist

from common.console import DataError
from datasets import sources, torchvision_sets
from datasets.image_files import decode


@pytest.mark.parametrize("names, packed", [("-idx", True), (".idx", False), (".idx", True)])
def test_mnist_as_people_have_it(tmp_path, names, packed):
    arrays = write_mnist(tmp_path)
    for file in list((tmp_path / "MNIST" / "raw").iterdir()):
        content = file.read_bytes()
        new = file.with_name(file.name.replace("-idx", names) + (".gz" if packed else ""))
        file.unlink()
        new.write_bytes(gzip.compress(content) if packed else content)
    data = sources.load("mnist", tmp_path, True)
    assert np.array_equal(data.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(data.labels.numpy(), arrays["train-labels-idx1-ubyte"])


def test_mnist_in_folders_of_the_files_names(tmp_path):
    arrays = write_mnist(tmp_path)
    for file in list((tmp_path / "MNIST" / "raw").iterdir()):
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        (file / file.name.replace("-idx", ".idx")).write_bytes(content)
    assert np.array_equal(sources.load("mnist", tmp_path, False).labels.numpy(), arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_among_pictures_is_left_out(tmp_path):
    root = write_folder(tmp_path, ["cat"], 120, size=8)
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    which = {"n_classes": None, "im_height": 8, "im_channels": 3}
    assert sum(len(sources.load("folder", root, split, **which)) for split in (True, False)) == 120


def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="~no_such_user"):
        sources.load("folder", "~no_such_user/x", True)


def test_clothes_under_the_names_of_digits_are_told(tmp_path, monkeypatch, capsys):
    labels = write_mnist(tmp_path)["train-labels-idx1-ubyte"].astype(np.uint8)
    sources.load("mnist", tmp_path, True)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(torchvision_sets, "CLOTHES", {hashlib.sha256(labels.tobytes()).hexdigest()})
    sources.load("mnist", tmp_path, True)
    out = capsys.readouterr().out
    assert "Fashion-MNIST" in out and out.count("\n") == 1


def test_folders_as_people_have_them(tmp_path, capsys):
    root = write_folder(tmp_path, ["cat", "dog"], 3, size=8, splits=("train", "valid"))
    for file in (root / "train" / "cat").iterdir():
        Image.open(file).save(file.with_suffix(".jpg"))
        file.with_suffix(".jpg").rename(file.with_suffix(".jfif"))
        file.unlink()
    (root / "train" / "__MACOSX").mkdir()
    (root / "train" / "__MACOSX" / "._000.png").write_bytes(b"\0\5\26\7")
    (root / "train" / "dog" / "holiday.heic").write_bytes(b"x")
    which = {"n_classes": None, "im_height": 8, "im_channels": 3}
    train, test = (sources.load("folder", root, split, **which) for split in (True, False))
    assert (len(train), len(test), train.class_names) == (6, 6, ["cat", "dog"])
    out, err = capsys.readouterr()
    assert ".jfif" in out and "valid" in out and "holiday.heic" in err


def test_junk_in_exif_data_costs_no_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    plain, junk = tmp_path / "plain.png", tmp_path / "junk.png"
    Image.fromarray(pixels).save(plain)
    Image.fromarray(pixels).save(junk, exif=b"Exif\0\0XX junk")
    assert np.array_equal(decode(junk, 8, 8), decode(plain, 8, 8))
