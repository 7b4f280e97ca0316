"""evaluation/npz.py, through sample.py --npz: what the file holds, and every way in which an export can be interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_sample import seeded

from common.console import run_script
from datasets.image_set import to_uint8
from ddpm import DDPM
from evaluation import npz
from training.seeds import EXPORT, seed_for

ROOT = Path(__file__).resolve().parents[2]


def arrays_of(file):
    with np.load(file) as arrays:
        return arrays["arr_0"], arrays["arr_1"]


def test_npz_layout(run, ddpm, tmp_path):
    assert run("--npz 5 --classes 3 8 --batch_size 2 --g_weight 0.5 --seed 6") == 0
    images, labels = arrays_of(tmp_path / "out" / "samples.npz")
    assert images.dtype == np.uint8 and images.shape == (5, 28, 28, 3)
    assert labels.dtype == np.int64 and labels.tolist() == [3, 8, 3, 8, 3]
    assert (images == images[..., :1]).all()
    generator = seeded(seed_for(6, EXPORT, 1))  # of part 1 alone: images 2 and 3
    y, _ = ddpm.sample(1, g_weight=0.5, classes=[3, 8], generator=generator)
    np.testing.assert_array_equal(images[2:4, ..., 0], to_uint8(y[:, 0]).numpy())
    assert not (images[0] == images[2]).all()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"samples.npz", "samples.log"}
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert json.loads(archive[npz.SETTINGS])["seed"] == 6


@pytest.fixture
def interrupted(monkeypatch):
    """interrupted(run, more, after=2) runs an export that is interrupted in its third part; returns the exit status."""

    def start(run, more, after=0, stop=KeyboardInterrupt):
        drawn, sample = [], DDPM.sample

        def counted(*arguments, **named):
            if len(drawn) == after:
                raise stop
            drawn.append(1)
            return sample(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(DDPM, "sample", counted)
            return run(more)

    return start


@pytest.fixture
def not_joined(monkeypatch):
    """not_joined(run, more) runs an export that is interrupted when all parts are drawn; returns the exit status."""

    def start(run, more):
        with monkeypatch.context() as patch:
            patch.setattr(npz, "write_npz", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            return run(more)

    return start


@pytest.mark.parametrize("stop, status", [(KeyboardInterrupt, 130), (MemoryError, 1)])
def test_an_interrupted_export_is_the_uninterrupted_one(run, interrupted, tmp_path, monkeypatch, capsys, stop, status):
    words, out = "--npz 7 --batch_size 2", tmp_path / "out"
    assert run(words, out=tmp_path / "whole") == 0
    assert interrupted(run, words, after=2, stop=stop) == status
    parts = out / npz.PARTS
    assert {path.name for path in parts.iterdir()} == {"settings.json", "part_00000.npy", "part_00001.npy"}
    assert not (out / "samples.npz").exists()
    (parts / ".part_00002.0123abcd.npy").write_bytes(b"half")  # of a process that was killed
    drawn, sample = [], DDPM.sample
    monkeypatch.setattr(DDPM, "sample", lambda *a, **k: drawn.append(k["classes"]) or sample(*a, **k))
    capsys.readouterr()
    assert run(words) == 0
    assert "7 images in 4 parts, of which 2 are there" in capsys.readouterr().out
    assert drawn == [[4, 5], [6]]
    assert (out / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()
    assert {path.name for path in out.iterdir()} == {"samples.npz", "samples.log"}


def test_a_finished_export_is_not_overwritten(run, tmp_path):
    for more in ("", "--seed 1"):
        assert run(f"--npz 2 --batch_size 2 {more}") == 0
    first, _ = arrays_of(tmp_path / "out" / "samples.npz")
    second, _ = arrays_of(tmp_path / "out" / "samples_2.npz")
    assert not (first == second).all()


def test_the_same_command_again_draws_nothing(run, model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run("--npz 2 --batch_size 2") == run("--npz 2 --batch_size 1") == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(DDPM, "sample", None)  # whoever draws now fails
    capsys.readouterr()
    for more, name in [("--batch_size 2", "samples.npz"), ("--batch_size 1", "samples_2.npz")]:
        assert run(f"--npz 2 {more}") == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert f"{out / name} is there, complete" in line
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]]
)
def test_a_finished_export_that_is_damaged_is_made_again(run, tmp_path, damage):
    out = tmp_path / "out"
    assert run("--npz 1 --classes 1") == 0
    (out / "samples.npz").write_bytes(damage((out / "samples.npz").read_bytes()))
    assert run("--npz 1 --classes 1") == 0
    assert arrays_of(out / "samples_2.npz")[0].shape == (1, 28, 28, 3)


def test_killed_before_the_parts_are_removed(run, tmp_path, monkeypatch, capsys):
    """The file is complete: the same command removes its parts, another one does not touch them."""
    with monkeypatch.context() as patch:
        patch.setattr(npz.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("--npz 1 --classes 1") == 130
    assert run("--npz 1 --classes 2") == 2 and (tmp_path / "out" / npz.PARTS).exists()
    assert run("--npz 1 --classes 1") == 0 and "complete" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"samples.npz", "samples.log"}


def test_two_exports_into_one_folder_do_not_mix(run, tmp_path, monkeypatch, capsys):
    """The second call comes while the first one draws; a plain grid is free to go on."""
    sample, out = DDPM.sample, tmp_path / "out"

    def second_call(*arguments, **named):
        monkeypatch.setattr(DDPM, "sample", sample)
        for more in ("", "--seed 1"):
            assert run(f"--npz 2 --classes 1 {more}") == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert f"another process is exporting into {out}" in line
        assert run("--classes 1 --n_samples 1") == 0
        return sample(*arguments, **named)

    monkeypatch.setattr(DDPM, "sample", second_call)
    assert run("--npz 2 --classes 1") == 0
    names = {"samples.png", "samples.npz", "samples.log"}
    assert {path.name for path in out.iterdir()} == names and arrays_of(out / "samples.npz")[1].tolist() == [1, 1]
    assert len((out / "samples.log").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "middle, parts",
    [
        ("np.save = lambda file, pixels: (file.touch(), end())", []),
        ("np.lib.format.write_array_header_1_0 = lambda *_: end()", ["part_00000.npy", "part_00001.npy"]),
    ],
    ids=["of a part", "of the whole"],
)
def test_an_export_that_is_told_to_end_goes_on(run, model, tmp_path, middle, parts):
    """In a process of its own, as the signal would otherwise end the tests."""
    out, words = tmp_path / "out", "--npz 3 --batch_size 2 --classes 1"
    code = (
        "import os, signal, sample\n"
        "from evaluation.npz import np\n"
        "end = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"{middle}\n"
        "sample.run_script(sample.main)\n"
    )
    call = [sys.executable, "-c", code, str(model), "--out", str(out), "--device", "cpu", *words.split()]
    ended = subprocess.run(call, cwd=ROOT, timeout=300, stdout=subprocess.DEVNULL)
    assert ended.returncode == 128 + signal.SIGTERM
    assert sorted(path.name for path in (out / npz.PARTS).iterdir()) == [*parts, npz.SETTINGS]
    assert {path.name for path in out.iterdir()} == {npz.PARTS, "samples.log"}
    assert run(words) == run(words, out=tmp_path / "whole") == 0
    assert (out / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()


def test_what_the_disk_has_no_room_for_is_refused_at_once(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(DDPM, "sample", None)
    assert run("--npz 5000000000000") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs 23,520,000.0 GB more" in line  # 28 x 28 x 3 bytes, twice
    assert not (tmp_path / "out" / npz.PARTS).exists()


def test_room_is_needed_for_what_is_missing(run, not_joined, monkeypatch, capsys):
    words, free = "--npz 4 --batch_size 2 --classes 1", [2 * 4 * 2352 - 1]
    monkeypatch.setattr(npz.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    assert run(words) == 1 and "choose another --out" in capsys.readouterr().err
    free[0] += 1
    assert not_joined(run, words) == 130
    free[0] = 4 * 2352  # the parts are there now, a little larger than their pixels
    assert run(words) == 0


def test_a_damaged_part_is_named_and_drawn_again_without_it(run, not_joined, tmp_path, capsys):
    assert not_joined(run, "--npz 1 --classes 1") == 130
    part = tmp_path / "out" / npz.PARTS / "part_00000.npy"
    part.write_bytes(part.read_bytes()[:-1])
    assert run("--npz 1 --classes 1") == 1 and f"{part} is damaged" in capsys.readouterr().err
    part.unlink()
    assert run("--npz 1 --classes 1") == 0


def test_settings_without_parts_bind_nobody(run, interrupted, tmp_path):
    """Interrupted before the first part: any other export may begin."""
    assert interrupted(run, "--npz 1 --classes 1") == 130
    assert run("--npz 1 --classes 2") == 0
    assert arrays_of(tmp_path / "out" / "samples.npz")[1].tolist() == [2]


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, np.uint8)],
    ids=["torch", "numpy"],
)
def test_not_enough_memory_is_one_line(allocate, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(allocate)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and "not enough memory" in line


def test_other_runtime_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_script(lambda: torch.zeros(2) + torch.zeros(3))


def test_parts_of_another_export_are_refused(run, not_joined, tmp_path, capsys, whole_run):
    words, parts = "--npz 4 --batch_size 2 --classes 1 2", tmp_path / "out" / npz.PARTS
    assert not_joined(run, words) == 130
    before = {path: path.read_bytes() for path in parts.iterdir()}
    settings = json.loads((parts / npz.SETTINGS).read_text())
    assert settings["n_images"] == 4 and settings["weights"] == "average" and len(settings["model_sha256"]) == 64
    capsys.readouterr()
    for more, message in [
        (f"{words} --seed 3", "seed was 0, is 3"),
        ("--npz 6 --batch_size 2 --classes 1 2", "n_images was 4, is 6"),
        ("--npz 4 --batch_size 1 --classes 2 1", "batch_size was 2, is 1; classes was [1, 2], is [2, 1]"),
        (f"{words} --g_weight 3", "g_weight was 1.0, is 3.0"),
    ]:
        assert run(more) == 2
        error = capsys.readouterr().err
        assert message in error and f"remove {parts}" in error and len(error.splitlines()) == 1
    assert run(words, whole_run / "model_epoch2.pt") == 2 and "model_sha256 was" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in parts.iterdir()} == before
    for text in ("{", "3", '"text"', None):
        (parts / npz.SETTINGS).write_text(text) if text else (parts / npz.SETTINGS).unlink()
        assert run(words) == 2 and "settings.json is missing or damaged" in capsys.readouterr().err
