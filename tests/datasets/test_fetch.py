"""datasets/fetch.py: what training needs, downloaded or checked beforehand."""

from __future__ import annotations

import sys

import pytest
from started_script import run_started
from tiny_folders import write_folder
from tiny_mnist import write_mnist
from tiny_script import run_here

from datasets import fetch


def test_what_is_there_is_checked(tmp_path, capsys):
    write_mnist(tmp_path, 40, 20)
    write_folder(tmp_path / "cifar10", ["a", "b"], 4, size=32, splits=("train", "test"))
    assert run_here(fetch, ["mnist", "cifar10", "--data_dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"mnist: 40 training and 20 test images in {tmp_path}" in lines
    assert f"cifar10: 8 training and 8 test images in {tmp_path}" in lines
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    assert run_here(fetch, ["mnist", "--data_dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "t10k-images-idx3-ubyte" in line


def test_without_a_network_it_says_so_in_one_line(tmp_path, capsys, monkeypatch):
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    assert run_here(fetch, ["cifar10", "--data_dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the download failed" in line


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("words, status", [(["--help"], 0), (["no_such_set"], 2)])
def test_it_starts_from_any_folder(tmp_path, words, status):
    found, printed = run_started("datasets/fetch.py", words, tmp_path)
    assert found == status and "fetch.py" in printed
