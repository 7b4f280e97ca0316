"""Tests of datasets/image_folder.py on small images made here; CIFAR-10 and AFHQ are read where they are at hand."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.console import DataError, run_script
from datasets import image_folder
from datasets.image_files import decode
from datasets.image_folder import load_folder
from datasets.sources import load

ROOT = Path(__file__).resolve().parents[2]


# ---- helpers ---------------------------------------------------------------------------------------------------------


def write_image(file: Path, pixels: np.ndarray, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def write_folder(root: Path, counts: dict[str, int], size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Random PNGs: counts {"train/cat": 3, ...}. Returns the pixels uint8 [size, size, 3] by relative name."""
    rng = np.random.default_rng(seed)
    made = {}
    for folder, n in counts.items():
        for i in range(n):
            name = f"{folder}/{i:04}.png"
            made[name] = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            write_image(root / name, made[name])
    return made


def chw(pixels: np.ndarray) -> bytes:
    return pixels.transpose(2, 0, 1).tobytes()


def one_line_of(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


@pytest.fixture(autouse=True)
def own_user_cache(tmp_path, monkeypatch):
    """No test writes into the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


@pytest.fixture
def pets(tmp_path):
    """30 + 20 training and 4 + 6 test images of two classes."""
    root = tmp_path / "pets"
    made = write_folder(root, {"train/cat": 30, "train/dog": 20, "test/cat": 4, "test/dog": 6})
    return root, made


# ---- which files, in which order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("train, counts", [(True, [30, 20]), (False, [4, 6])])
def test_every_image_arrives_with_its_class(pets, train, counts):
    root, made = pets
    images, labels, names = load_folder(root, train, 8)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64 and names == ["cat", "dog"]
    assert images.shape == (sum(counts), 3, 8, 8) and labels.bincount().tolist() == counts
    split = "train" if train else "test"
    classes = {chw(pixels): name.split("/")[1] for name, pixels in made.items() if name.startswith(split)}
    assert [classes.pop(image.numpy().tobytes()) for image in images] == [names[k] for k in labels]
    assert not classes


def test_a_folder_called_val_is_a_test_folder(pets):
    root, _ = pets
    test = load_folder(root, False, 8)[0]
    (root / "test").rename(root / "val")
    assert torch.equal(load_folder(root, False, 8)[0], test) and len(load_folder(root, True, 8)[0]) == 50


def test_classes_are_sorted_and_mixed_in_a_fixed_order(tmp_path):
    write_folder(tmp_path, {"train/zebra": 200, "train/ant": 200, "test/zebra": 1, "test/ant": 1}, size=2)
    _, names, files = image_folder.list_split(tmp_path, True)
    assert names == ["ant", "zebra"]
    labels = [file.label for file in files]
    assert 25 < sum(labels[:100]) < 75  # 50 expected; a sorted folder would give 0
    # Neither an added file nor another place of the folder reorders the others.
    write_folder(tmp_path, {"train/bee": 10, "test/bee": 1}, size=2)
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    with_bees = [file.name for file in image_folder.list_split(moved, True)[2]]
    assert [name for name in with_bees if not name.startswith("bee")] == [file.name for file in files]
    assert len(with_bees) == 410


def test_what_is_no_image_is_ignored(pets):
    root, _ = pets
    cats = root / "train" / "cat"
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "._0001.png", "no_suffix"):
        (cats / name).write_bytes(b"no image")
    (root / "train" / ".git").mkdir()
    (root / "train" / "readme.png").write_bytes(b"in no class")
    (cats / "folder.png").mkdir()
    write_image(cats / "LOUD.PNG", np.zeros((8, 8, 3), np.uint8))
    images, _, names = load_folder(root, True, 8)
    assert len(images) == 51 and names == ["cat", "dog"]


@pytest.mark.parametrize("n, held_out", [([100, 40], [10, 4]), ([15, 3, 2, 1], [1, 1, 1, 0])])
def test_without_a_test_folder_some_training_images_are_held_out(tmp_path, n, held_out):
    made = write_folder(tmp_path, {f"train/{k}": count for k, count in enumerate(n)})
    train, test = (load_folder(tmp_path, train, 8) for train in (True, False))
    assert test[1].bincount(minlength=len(n)).tolist() == held_out
    assert train[1].bincount().tolist() == [a - b for a, b in zip(n, held_out)]
    pixels = [image.numpy().tobytes() for split in (train, test) for image in split[0]]
    assert sorted(pixels) == sorted(map(chw, made.values()))  # disjoint, and nothing is lost
    assert train[2] == test[2]


def test_no_more_than_500_are_held_out(tmp_path, monkeypatch):
    files = [[image_folder.ImageFile(f"{i}", f"{k}/{i}", k, (0, 0, 0)) for i in range(4000)] for k in range(2)]
    monkeypatch.setattr(image_folder, "class_folders", lambda folder: ["a", "b"])
    monkeypatch.setattr(image_folder, "_class_files", lambda folder, name, label: files[label])
    assert [len(image_folder.list_split(tmp_path, train)[2]) for train in (True, False)] == [7500, 500]


def test_folders_that_are_not_as_they_should_be(tmp_path):
    def complaint(train: bool = True) -> str:
        with pytest.raises(DataError) as error:
            load("folder", tmp_path, train, n_classes=None, im_channels=3)
        return one_line_of(error)

    train = tmp_path / "train"
    assert f"{train} is not there" in complaint()
    train.write_text("a file")
    assert f"{train} is not there" in complaint()
    train.unlink()
    train.mkdir()
    assert f"{train} holds no class folders" in complaint()
    write_folder(tmp_path, {"train/cat": 1})
    assert "too few images to hold some out" in complaint(train=False)
    (train / "dog").mkdir()
    (train / "dog" / "notes.txt").write_text("no dogs yet")
    assert f"{train / 'dog'} holds no images" in complaint()
    write_folder(tmp_path, {"train/dog": 1, "test/cat": 1})
    assert "'dog'" in complaint(train=False) and "same classes" in complaint(train=False)
    assert list(tmp_path.glob("*.npy")) == []


# ---- files that cannot be decoded ------------------------------------------------------------------------------------


def spoil(root: Path, kind: str) -> Path:
    file = sorted((root / "train" / "cat").glob("*.png"))[3]
    content = file.read_bytes()
    file.unlink()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "a link to nowhere":
        file.symlink_to(root / "nowhere")
    elif kind == "too large":
        write_image(file, np.zeros((12, 12, 3), np.uint8))
    elif kind == "floats":
        Image.fromarray(np.zeros((8, 8), np.float32)).save(file, format="TIFF")
    else:
        file.write_bytes({"empty": b"", "a web page": b"<html>sorry</html>"}[kind])
    return file


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("kind", ["truncated", "empty", "a web page", "a link to nowhere", "floats", "too large"])
def test_one_bad_file_is_named_and_left_out(tmp_path, kind, n_workers, capfd, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of the 144 of "too large", Pillow itself only warns
    made = write_folder(tmp_path, {"train/cat": 60, "train/dog": 40, "test/cat": 1, "test/dog": 1})
    file = spoil(tmp_path, kind)
    images, labels, _ = load_folder(tmp_path, True, 8, n_workers)
    (line,) = capfd.readouterr().err.splitlines()
    assert str(file) in line and "left out" in line
    assert labels.bincount().tolist() == [59, 40]
    classes = {chw(pixels): name.split("/")[1] for name, pixels in made.items()}
    assert [classes[image.numpy().tobytes()] for image in images] == [["cat", "dog"][k] for k in labels]
    again = load_folder(tmp_path, True, 8)
    assert torch.equal(again[0], images) and torch.equal(again[1], labels)
    assert capfd.readouterr().err.splitlines() == [line]  # out of the cache


@pytest.mark.parametrize("n_workers", [0, 2])
def test_more_than_one_percent_bad_files_stop_the_run(tmp_path, n_workers, capfd):
    write_folder(tmp_path, {"train/cat": 199, "test/cat": 1})
    names = [file.name for file in image_folder.list_split(tmp_path, True)[2]]
    for i in (5, 70, 150):
        (tmp_path / "train" / names[i]).write_bytes(b"bad")
    with pytest.raises(DataError) as error:
        load_folder(tmp_path, True, 8, n_workers)
    text = one_line_of(error)
    assert "3 of 199" in text and names[5] in text and "cannot identify image" in text
    assert capfd.readouterr().err == "" and list(tmp_path.glob("*.npy")) == []


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read (Permission denied)"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_is_no_fault_of_a_file_stops_the_run(tmp_path, monkeypatch, capsys, error, message, n_workers):
    def failing_decode(file: str, *how: int) -> np.ndarray:
        if file.endswith("0007.png"):
            raise error
        return decode(file, *how)

    write_folder(tmp_path, {"train/cat": 199, "test/cat": 1})
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(image_folder, "decode", failing_decode)
        run_script(lambda: load_folder(tmp_path, True, 8, n_workers))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and message in line and list(tmp_path.glob("*.npy")) == []
    assert isinstance(error, MemoryError) or str(tmp_path / "train/cat/0007.png") in line
    assert len(load_folder(tmp_path, True, 8)[0]) == 199  # once the file can be read again


@needs_fork
def test_ctrl_c_ends_the_decoding_quietly(tmp_path, monkeypatch, capfd):
    def slow_decode(*args: object) -> int:
        (tmp_path / "begun").touch()
        time.sleep(0.1)
        return 0

    def main() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that a shell starts with "&" ignores it
        run_script(lambda: load_folder(tmp_path, True, 8, n_workers=2))

    write_folder(tmp_path, {"train/cat": 199, "test/cat": 1}, size=2)  # 10 s of work
    monkeypatch.setattr(image_folder, "decode", slow_decode)
    run = multiprocessing.get_context("fork").Process(target=main)
    run.start()
    while run.is_alive() and not (tmp_path / "begun").exists():
        time.sleep(0.02)
    start = time.time()
    os.kill(run.pid, signal.SIGINT)
    run.join(timeout=30)
    assert time.time() - start < 5 and run.exitcode == 130
    (line,) = capfd.readouterr().err.splitlines()  # no traceback
    assert line.endswith("error: interrupted") and list(tmp_path.glob("*.npy")) == []


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_the_second_start_decodes_nothing(pets, monkeypatch, capsys):
    root, _ = pets
    fresh = [load_folder(root, train, 8) for train in (True, False)]
    assert [line.split(" in ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "decoding 50 train images (.png)",
        "decoding 10 test images (.png)",
    ]
    monkeypatch.setattr(image_folder, "_decode_files", None)  # whoever decodes now fails
    moved = root.rename(root.with_name("moved"))
    for train, expected in zip((True, False), fresh):
        images, labels, names = load_folder(moved, train, 8)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1]) and names == expected[2]
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in moved.iterdir()) == ["test", "test_8px.npy", "train", "train_8px.npy"]
    with pytest.raises(TypeError):
        load_folder(moved, True, 16)  # another size is another file


@pytest.mark.parametrize("change", ["content", "size", "time", "one more", "one less", "other name", "other class"])
def test_a_changed_folder_is_decoded_again(pets, change, capsys):
    root, made = pets
    file = root / "train" / "cat" / "0003.png"
    write_image(file, made["train/cat/0003.png"], format="BMP")  # whose size does not depend on the content
    load_folder(root, True, 8)
    if change in ("content", "size"):
        old = file.stat()
        write_image(file, np.zeros((8, 8, 3), np.uint8), format={"content": "BMP", "size": "PNG"}[change])
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))  # as `cp -p` does
        assert (file.stat().st_size == old.st_size) == (change == "content")
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "one more":
        shutil.copy2(file, file.with_name("new.png"))
    elif change == "one less":
        file.unlink()
    else:
        file.rename({"other name": file.with_name("new.png"), "other class": root / "train/dog/new.png"}[change])
    capsys.readouterr()
    images, labels, _ = load_folder(root, True, 8)
    assert capsys.readouterr().out.startswith("decoding")
    (root / "train_8px.npy").unlink()
    expected = load_folder(root, True, 8)
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
    assert len(list(root.glob("*.npy"))) == 1  # the old one does not stay


@pytest.mark.parametrize("removed", [True, False])
def test_a_class_without_a_test_image_counts_in_the_labels(tmp_path, removed):
    write_folder(tmp_path, {"train/bee": 20, "train/cat": 20})  # without a test folder: two of each are held out
    if removed:
        write_folder(tmp_path, {"train/ant": 1})  # which leaves none to hold out
    load_folder(tmp_path, False, 8)
    if removed:
        shutil.rmtree(tmp_path / "train" / "ant")
    else:
        write_folder(tmp_path, {"train/ant": 1})
    _, labels, names = load_folder(tmp_path, False, 8)
    assert [names[label] for label in sorted(labels)] == ["bee", "bee", "cat", "cat"]


@pytest.mark.parametrize("kind", ["truncated", "truncated behind the images", "empty", "a pickle", "of floats"])
def test_a_damaged_cache_is_made_again(pets, kind, capsys, tmp_path):
    root, _ = pets
    expected = [part.clone() for part in load_folder(root, True, 8)[:2]]
    cache = root / "train_8px.npy"
    content = cache.read_bytes()
    if kind == "a pickle":
        np.save(cache, np.array([Path("an object")], object))
    elif kind == "of floats":
        np.save(cache, np.zeros((50, 3, 8, 8)))
    else:
        cache.write_bytes(content[: {"truncated": 3000, "empty": 0}.get(kind, len(content) - 10)])
    capsys.readouterr()
    images, labels, _ = load_folder(root, True, 8)
    notice, decoding = capsys.readouterr().out.splitlines()
    assert str(cache) in notice and "damaged" in notice and decoding.startswith("decoding")
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
    load_folder(root, True, 8)
    assert capsys.readouterr().out == ""  # the new cache is whole


def test_images_are_mapped_not_read(tmp_path):
    """Loading takes no memory for them, and the cache of an earlier version goes."""
    write_folder(tmp_path, {"train/cat": 150, "test/cat": 1}, size=4)
    (tmp_path / "train_128px.npz").write_bytes(b"of an earlier version")
    load_folder(tmp_path, True, 128)
    assert not (tmp_path / "train_128px.npz").exists()
    tracemalloc.start()
    images, _, _ = load_folder(tmp_path, True, 128)
    assert tracemalloc.get_traced_memory()[1] < images.nbytes / 4
    tracemalloc.stop()
    before = (tmp_path / "train_128px.npy").read_bytes()
    images.zero_()  # a process's own copy: neither the file nor another process sees it
    assert (tmp_path / "train_128px.npy").read_bytes() == before


def test_beside_a_read_only_folder_the_user_cache_serves(pets, tmp_path, monkeypatch):
    root, _ = pets
    monkeypatch.setattr(os, "access", lambda path, mode: path != root)  # the superuser may write everywhere
    expected = load_folder(root, True, 8)
    assert len(list((tmp_path / "user cache").rglob("*.npy"))) == 1
    monkeypatch.setattr(image_folder, "_decode_files", None)
    assert torch.equal(load_folder(root, True, 8)[0], expected[0]) and list(root.glob("*.npy")) == []


def test_without_a_place_for_the_cache_there_are_still_images(pets, capsys):
    root, _ = pets
    (root / "train_8px.npy" / "in the way").mkdir(parents=True)
    for _ in range(2):
        assert len(load_folder(root, True, 8)[0]) == 50
        assert "train_8px.npy cannot be written" in capsys.readouterr().out


@needs_fork
def test_two_processes_at_once(pets):
    root, _ = pets
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.SimpleQueue()

    def load_and_tell() -> None:
        barrier.wait()
        images, labels, _ = load_folder(root, True, 8)
        results.put((images.numpy().tobytes(), labels.tolist()))

    processes = [context.Process(target=load_and_tell) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(timeout=60)
    expected = load_folder(root, True, 8)
    assert found == [(expected[0].numpy().tobytes(), expected[1].tolist())] * 2
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in root.iterdir()) == ["test", "train", "train_8px.npy"]


# ---- by way of load --------------------------------------------------------------------------------------------------


def test_load_folder_and_afhq(pets, tmp_path):
    root, _ = pets
    data = load("folder", root, True, n_classes=None, im_height=8, im_channels=3, n_workers=1)
    assert data.name == "folder" and data.class_names == ["cat", "dog"] and len(data) == 50
    root.rename(tmp_path / "afhq")
    cats = load("afhq", tmp_path, True, n_classes=1, im_height=8, im_channels=3, limit=10)
    assert cats.class_names == ["cat"] and len(cats) == 10
    first = data.images[data.labels == 0][:10]
    assert torch.equal(cats.images, first)
    with pytest.raises(ValueError, match="n_classes = 3"):
        load("afhq", tmp_path, True, n_classes=3, im_height=8, im_channels=3)
    with pytest.raises(ValueError, match="im_channels = 1"):
        load("afhq", tmp_path, True, n_classes=2, im_height=8, im_channels=1)


# ---- real data -------------------------------------------------------------------------------------------------------


def real_folder(name: str, tmp_path: Path) -> Path:
    """The data folder that holds <name>/train; the test is skipped if there is none.

    A link to it, so that the caches go to tmp_path.
    """
    for place in (os.environ.get("DDPM_DATA_DIR"), ROOT / "data"):
        if place and Path(place, name, "train").is_dir():
            (tmp_path / name).mkdir()
            for split in Path(place, name).absolute().iterdir():
                if split.is_dir():
                    (tmp_path / name / split.name).symlink_to(split)
            return tmp_path
    pytest.skip(f"{name} is not on this machine")


def test_real_cifar10(tmp_path):
    data = load("cifar10", real_folder("cifar10", tmp_path), False, im_height=32, im_channels=3, n_workers=2)
    assert data.images.shape == (10_000, 3, 32, 32) and data.labels.bincount().tolist() == [1000] * 10
    assert data.class_names == [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    assert data.labels[:2000].bincount().min() > 150  # the validation images show every class
    # The published statistics of CIFAR-10 (of its training images, which the test images resemble).
    mean = data.images.double().mean((0, 2, 3)) / 255
    assert (mean - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 0.01


def test_real_afhq_cats(tmp_path):
    data_dir = real_folder("afhq", tmp_path)
    options = {"n_classes": 1, "im_height": 64, "im_channels": 3, "n_workers": 2}
    train, test = (load("afhq", data_dir, train, **options) for train in (True, False))
    assert train.class_names == ["cat"] and len(test) == 500 and len(train) > 4000
    assert train.images.shape[1:] == (3, 64, 64)
    pixels = [{image.numpy().tobytes() for image in data.images} for data in (train, test)]
    assert not pixels[0] & pixels[1]
