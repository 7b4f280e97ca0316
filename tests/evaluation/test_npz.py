"""evaluation/npz.py, through sample.py --npz: what the file holds, and every way in which an export can be interrupted."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from started_script import run_code
from tiny_sample import seeded

from common.console import run_script
from datasets.image_set import to_uint8
from ddpm import DDPM
from evaluation import npz
from training.seeds import EXPORT, seed_for

DONE = {"samples.npz", "samples.log"}


def arrays_of(file):
    with np.load(file) as arrays:
        return arrays["arr_0"], arrays["arr_1"]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def parts_in(out):
    (folder,) = out.glob(f"{npz.PARTS}*")
    return sorted(folder.iterdir())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def interrupted(run, monkeypatch):
    """interrupted("--arguments", 2) runs an export that is interrupted in its third part."""

    def start(more, after):
        drawn, sample = [], DDPM.sample

        def counted(*arguments, **named):
            if len(drawn) == after:
                raise KeyboardInterrupt
            drawn.append(1)
            return sample(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(DDPM, "sample", counted)
            assert run(more) == 130

    return start


@pytest.fixture
def killed(run, monkeypatch):
    """killed("--arguments", npz, "write_npz") runs an export that ends where it calls this function."""

    def start(more, where, name):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            assert run(more) == 130

    return start


def test_npz_layout(run, ddpm, out):
    assert run("--npz 5 --classes 3 8 --batch_size 2 --g_weight 0.5 --seed 6") == 0
    images, labels = arrays_of(out / "samples.npz")
    assert images.dtype == np.uint8 and images.shape == (5, 28, 28, 3)
    assert labels.dtype == np.int64 and labels.tolist() == [3, 8, 3, 8, 3]
    assert (images == images[..., :1]).all()
    generator = seeded(seed_for(6, EXPORT, 1))  # of part 1 alone: images 2 and 3
    y, _ = ddpm.sample(1, g_weight=0.5, classes=[3, 8], generator=generator)
    np.testing.assert_array_equal(images[2:4, ..., 0], to_uint8(y[:, 0]).numpy())
    assert not (images[0] == images[2]).all()
    assert names_in(out) == DONE
    with np.load(out / "samples.npz") as archive:
        assert archive["class_names"].tolist() == [str(digit) for digit in range(10)]
        settings = json.loads(archive[npz.SETTINGS])
    assert settings["seed"] == 6 and settings["weights"] == "average" and len(settings["model_sha256"]) == 64


def test_an_interrupted_export_is_the_uninterrupted_one(run, interrupted, out, tmp_path, monkeypatch, capsys):
    words = "--npz 7 --batch_size 2"
    assert run(words, out=tmp_path / "whole") == 0
    interrupted(words, after=2)
    first, _ = parts_in(out)
    assert not (out / "samples.npz").exists()
    (first.parent / ".part_00002.0123abcd.npy").write_bytes(b"half")  # of a process that was killed
    drawn, sample = [], DDPM.sample
    monkeypatch.setattr(DDPM, "sample", lambda *a, **k: drawn.append(k["classes"]) or sample(*a, **k))
    assert run(words) == 0 and "7 images in 4 parts, 2 of them" in capsys.readouterr().out
    assert drawn == [[4, 5], [6]]
    assert (out / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()
    assert names_in(out) == DONE


def test_an_unfinished_export_stops_no_other(run, interrupted, out, tmp_path, capsys):
    """Each has parts of its own, and goes on when its command comes again."""
    words = "--npz 4 --batch_size 2 --classes 1"
    interrupted(words, after=1)
    assert run(f"{words} --seed 3") == 0 and f"{parts_in(out)[0].parent} holds parts" in capsys.readouterr().out
    assert run(words) == 0 and "2 parts, 1 of them" in capsys.readouterr().out
    assert run(words, out=tmp_path / "whole") == 0
    assert (out / "samples_2.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()
    assert names_in(out) == DONE | {"samples_2.npz"}


def test_a_finished_export_is_neither_repeated_nor_overwritten(run, out, monkeypatch, capsys):
    calls = [("--npz 2 --batch_size 2", "samples.npz"), ("--npz 2 --batch_size 2 --seed 1", "samples_2.npz")]
    assert all(run(words) == 0 for words, _ in calls)
    first, second = (arrays_of(out / name)[0] for _, name in calls)
    assert not (first == second).all()
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(DDPM, "sample", None)  # whoever draws now fails
    capsys.readouterr()
    for words, name in calls:
        assert run(words) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert f"{out / name} is complete" in line
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_finished_export_that_is_damaged_is_made_again(run, out):
    assert run("--npz 1 --classes 1") == 0
    data = (out / "samples.npz").read_bytes()
    (out / "samples.npz").write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    assert run("--npz 1 --classes 1") == 0
    assert arrays_of(out / "samples_2.npz")[0].shape == (1, 28, 28, 3)


def test_killed_before_the_parts_are_removed(run, killed, out, capsys):
    """The file is complete: another command works as ever, the same one removes its parts."""
    killed("--npz 1 --classes 1", npz.shutil, "rmtree")
    assert run("--npz 1 --classes 2") == 0
    assert run("--npz 1 --classes 1") == 0 and "is complete" in capsys.readouterr().out
    assert names_in(out) == DONE | {"samples_2.npz"}


def test_two_exports_into_one_folder_do_not_mix(run, out, monkeypatch, capsys):
    """The second call comes while the first one draws; a plain grid is free to go on."""
    sample = DDPM.sample

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
    assert names_in(out) == DONE | {"samples.png"} and arrays_of(out / "samples.npz")[1].tolist() == [1, 1]
    assert len((out / "samples.log").read_text().splitlines()) == 2


def test_an_export_that_is_told_to_end_goes_on(run, model, out, tmp_path):
    """Told by a signal, in a process of its own, while it joins the parts."""
    words = "--npz 3 --batch_size 2 --classes 1"
    code = (
        "import os, signal, sample\n"
        "from evaluation.npz import np\n"
        "np.lib.format.write_array_header_1_0 = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sample.run_script(sample.main)\n"
    )
    status, printed = run_code(code, [str(model), "--out", str(out), "--device", "cpu", *words.split()], tmp_path)
    assert status == 128 + signal.SIGTERM, printed
    assert [part.name for part in parts_in(out)] == ["part_00000.npy", "part_00001.npy"]
    assert run(words) == run(words, out=tmp_path / "whole") == 0
    assert (out / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()


def test_room_on_the_disk_is_needed_for_what_is_missing(run, killed, out, monkeypatch, capsys):
    words, free = "--npz 4 --batch_size 2 --classes 1", [2 * 4 * 2352 - 1]  # 28 x 28 x 3 bytes, twice
    monkeypatch.setattr(npz.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    assert run(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "choose another --out" in line and names_in(out) == {"samples.log"}
    free[0] += 1
    killed(words, npz, "write_npz")
    free[0] = 4 * 2352  # the parts are there now, a little larger than their pixels
    assert run(words) == 0


def test_a_damaged_part_is_named_and_drawn_again_without_it(run, killed, out, capsys):
    killed("--npz 1 --classes 1", npz, "write_npz")
    (part,) = parts_in(out)
    part.write_bytes(part.read_bytes()[:-1])
    assert run("--npz 1 --classes 1") == 1 and f"{part} is damaged" in capsys.readouterr().err
    part.unlink()
    assert run("--npz 1 --classes 1") == 0


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**58), lambda: np.empty(2**58)], ids=["torch", "numpy"])
def test_not_enough_memory_is_one_line(allocate, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(allocate)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and "not enough memory" in line


def test_other_runtime_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_script(lambda: torch.zeros(2) + torch.zeros(3))
