"""Tests of CIFAR-10 and CIFAR-100 in datasets/sources.py, with tiny files of torchvision's format; nothing is downloaded."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from common.console import DataError
from datasets.sources import load

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COLOUR = {"im_height": 32, "im_channels": 3}


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(data_dir: Path, monkeypatch, source: type = CIFAR10, per_batch: int = 20) -> dict[str, np.ndarray]:
    """Random images in the layout of `source`, whose published MD5 sums become theirs. Returns the pixels [N, 3072]."""
    rng = np.random.default_rng(0)
    folder = data_dir / source.base_folder
    folder.mkdir(parents=True)
    labels_key, n_classes = ("labels", 10) if source is CIFAR10 else ("fine_labels", 100)
    pixels, lists = {}, {}
    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(source, attribute):
            pixels[name] = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
            labels = [(i + len(pixels)) % n_classes for i in range(per_batch)]
            (folder / name).write_bytes(pickle.dumps({"data": pixels[name], labels_key: labels}))
            sums.append([name, md5(folder / name)])
        lists[attribute] = sums
    names = CIFAR10_NAMES if source is CIFAR10 else [f"class {i}" for i in range(100)]
    meta = folder / source.meta["filename"]
    meta.write_bytes(pickle.dumps({source.meta["key"]: names}))
    lists["meta"] = {**source.meta, "md5": md5(meta)}
    for attribute, value in lists.items():
        monkeypatch.setattr(source, attribute, value)
    return pixels


def complaint(data_dir: Path, name: str = "cifar10") -> str:
    with pytest.raises(DataError) as error:
        load(name, data_dir, True, n_classes=None, **COLOUR)
    text = str(error.value)
    assert text and "\n" not in text
    return text


@pytest.fixture
def no_network(monkeypatch):
    tried = []

    def fail(request, *args, **kwargs):
        tried.append(request)
        raise OSError("no network\nin this test")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    return tried


def test_torchvisions_format(tmp_path, monkeypatch, no_network):
    pixels = write_cifar(tmp_path, monkeypatch)
    train, test = (load("cifar10", tmp_path, train, **COLOUR) for train in (True, False))
    assert train.images.shape == (100, 3, 32, 32) and train.images.dtype == torch.uint8
    assert train.images.is_contiguous() and train.labels.dtype == torch.int64
    expected = np.concatenate([pixels[f"data_batch_{i}"] for i in range(1, 6)])
    assert np.array_equal(train.images.flatten(1).numpy(), expected)
    assert np.array_equal(test.images.flatten(1).numpy(), pixels["test_batch"])
    assert train.labels[:3].tolist() == [1, 2, 3] and test.labels[:3].tolist() == [6, 7, 8]
    assert train.class_names == test.class_names == CIFAR10_NAMES and train.name == "cifar10" and no_network == []


def test_cifar100(tmp_path, monkeypatch, no_network):
    pixels = write_cifar(tmp_path, monkeypatch, CIFAR100, per_batch=200)
    data = load("cifar100", tmp_path, True, n_classes=None, **COLOUR)
    assert data.n_classes == 100 and np.array_equal(data.images.flatten(1).numpy(), pixels["train"])


@pytest.mark.parametrize("im_height", [32, 16, 40])
def test_both_forms_give_the_same_images(tmp_path, monkeypatch, no_network, im_height):
    write_cifar(tmp_path / "batches", monkeypatch)
    sets = [load("cifar10", tmp_path / "batches", train, **COLOUR) for train in (True, False)]
    for split, data in zip(("train", "test"), sets):
        for i, (image, label) in enumerate(zip(data.images, data.labels)):
            file = tmp_path / "cifar10" / split / CIFAR10_NAMES[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file)
    for train in (True, False):
        a = load("cifar10", tmp_path / "batches", train, im_height=im_height, im_channels=3)
        b = load("cifar10", tmp_path, train, im_height=im_height, im_channels=3)
        assert a.class_names == b.class_names and a.images.shape == b.images.shape
        far = (a.images[:, None].int() - b.images[None].int()).abs().flatten(2).amax(2)  # [N, N]
        partner = far.argmin(1)
        assert far.amin(1).max() <= (0 if im_height == 32 else 1)
        assert len(set(partner.tolist())) == len(a) and torch.equal(a.labels, b.labels[partner])
        assert not torch.equal(partner, torch.arange(len(a)))  # only the order differs
        assert not a.lossy and not b.lossy
    file = next((tmp_path / "cifar10" / "train").glob("*/*.png"))
    file.rename(file.with_suffix(".jpg"))
    assert (
        not load("cifar10", tmp_path / "batches", True, **COLOUR).lossy
        and load("cifar10", tmp_path, True, **COLOUR).lossy
    )
    assert no_network == []


def test_nothing_there_and_no_network(tmp_path, no_network, capfd):
    text = complaint(tmp_path / "data")
    for part in ("cifar-10-batches-py", "login node", "cifar-10-python.tar.gz", "cifar10/train/<class>"):
        assert part in text
    assert no_network and list((tmp_path / "data").iterdir()) == []
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1 and err == ""


class Harmful:
    """What an evil pickle can do: run any function when it is read."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_file_other_than_the_published_one_is_not_unpickled(tmp_path, monkeypatch, no_network, name):
    write_cifar(tmp_path, monkeypatch)
    trace = tmp_path / "it ran"
    harmful = pickle.dumps(Harmful(trace))
    (tmp_path / "cifar-10-batches-py" / name).write_bytes(harmful)
    text = complaint(tmp_path)
    assert f"published: {name})" in text and "delete it" in text
    assert not trace.exists() and no_network == []
    pickle.loads(harmful)
    assert trace.exists()  # the test can tell


def test_a_missing_file_is_named(tmp_path, monkeypatch, no_network):
    write_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    assert "data_batch_4" in complaint(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, no_network):
    write_cifar(tmp_path, monkeypatch)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", "data_batch_1")

    monkeypatch.setattr(CIFAR10, "_check_integrity", refuse)
    text = complaint(tmp_path)
    assert "cannot be read" in text and "Permission denied" in text


def test_an_archive_put_there_by_hand_is_unpacked(tmp_path, monkeypatch, no_network):
    pixels = write_cifar(tmp_path, monkeypatch)
    folder = tmp_path / "cifar-10-batches-py"
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    data = load("cifar10", tmp_path, False, **COLOUR)
    assert np.array_equal(data.images.flatten(1).numpy(), pixels["test_batch"]) and no_network == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, archive.name]


def test_a_broken_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def half_download(url, root, filename, md5):
        Path(root, filename).write_bytes(b"half")
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", half_download)
    assert "corrupted" in complaint(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_downloads_faster(tmp_path, monkeypatch, no_network):
    """Its folder stands in the way of ours when ours is moved; either will do."""
    pixels = write_cifar(tmp_path / "source", monkeypatch)

    def download(self):
        for place in (Path(self.root), tmp_path):
            shutil.copytree(tmp_path / "source" / self.base_folder, place / self.base_folder)

    monkeypatch.setattr(CIFAR10, "download", download)
    data = load("cifar10", tmp_path, False, **COLOUR)
    assert np.array_equal(data.images.flatten(1).numpy(), pixels["test_batch"])


def test_colours_are_not_made_grey(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="im_channels = 1: cifar10 gives 3"):
        load("cifar10", tmp_path, True, im_height=32, im_channels=1)
