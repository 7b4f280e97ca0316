"""What goes wrong around a run: folders that belong to others, names that change, files from elsewhere. docs/faults.md
lists the situations; kills, signals and several processes are in tests/training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_folders import write_folder
from tiny_script import run_here

import check_log
import sample
import train_afhq
import train_folder
import train_mnist
from common.console import CallError, DataError, RunError
from datasets import sources
from evaluation import npz
from evaluation.model_checks import Classifiers
from evaluation.record import read_list
from training import checkpoint, class_conditional
from training.log_folder import LogFolder
from training.trainer import Trainer

ONE = "--n_epochs 1 --n_timesteps 2 --g_weight 0"


def last_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# ------------------------------------------------------------ what training accepts, every script accepts


TINY_ONE = [
    "--n_epochs",
    "1",
    "--n_timesteps",
    "2",
    "--g_weight",
    "0",
    "--batch_size",
    "16",
    "--n_samples",
    "1",
    "--device",
    "cpu",
]


@pytest.mark.parametrize(
    "network, folder",
    [
        ("--n_features 8", "/".join(["generative_models_winter_term_group_07"] * 4)),
        ("--network fc --num_hidden 8 --im_height 68", "wide"),
        ("--n_features 8", os.fsdecode(b"\xdcbung")),
        ("--n_features 8", "\u00dcbung \u200d"),
    ],
)
def test_a_model_that_was_trained_can_be_used(quick, data_dir, tmp_path, network, folder):
    log_dir = tmp_path / folder / "log"
    words = [*TINY_ONE, *network.split(), "--data_dir", str(data_dir), "--log_dir", str(log_dir)]
    assert run_here(train_mnist, words) == 0
    assert run_here(sample, [str(log_dir / "model_epoch1.pt"), "--n_samples", "1", "--device", "cpu"]) == 0
    assert run_here(check_log, [str(log_dir)]) in (0, 1)
    assert json.loads((log_dir / "config.json").read_text(encoding="utf-8"))["arguments"]["log_dir"] == str(log_dir)


@pytest.mark.parametrize(
    "word",
    [
        "--im_height 2147483648",
        "--n_timesteps 100001",
        "--n_features 4104",
        "--num_hidden 9223372036854775807",
        "--g_weight 1 2 1.0",
        "--g_weight " + " ".join(map(str, range(101))),
        "--save_every=--",
        "--log_dir=",
    ],
)
def test_what_readers_would_refuse_is_refused_before_training(quick, tmp_path, capsys, word):
    assert quick(tmp_path / "log", word) == 2
    assert "error:" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", ["a\u200db", "x" * 101, os.fsdecode(b"\xff")])
def test_a_class_that_no_reader_could_name_is_refused(tmp_path, name):
    write_folder(tmp_path, ["cat", name], 2, size=8)
    with pytest.raises(DataError, match="rename its folder"):
        sources.load("folder", tmp_path, True, n_classes=2, im_height=8, im_channels=3)


# ------------------------------------------------------------ classes are names


def test_a_data_set_with_more_classes_gives_those_asked_for(tmp_path):
    root = write_folder(tmp_path, ["cat", "dog"], 4, size=8)
    asked = {"n_classes": None, "class_names": ["cat", "dog"], "im_height": 8, "im_channels": 3}
    before = sources.load("folder", root, True, **asked)
    (root / "train" / "ant").mkdir()
    for file in (root / "train" / "cat").iterdir():
        shutil.copy(file, root / "train" / "ant")
    after = sources.load("folder", root, True, **asked)
    assert after.class_names == ["cat", "dog"]
    assert torch.equal(after.images, before.images) and torch.equal(after.labels, before.labels)
    swapped = sources.load("folder", root, True, **{**asked, "class_names": ["dog", "cat"]})
    assert torch.equal(swapped.labels, 1 - before.labels)
    shutil.rmtree(root / "train" / "dog")
    with pytest.raises(ValueError, match="no class 'dog'"):
        sources.load("folder", root, True, **asked)


def test_a_renamed_class_is_no_resumption(tmp_path, capsys):
    root = write_folder(tmp_path / "d", ["cat", "dog"], 8, size=8)
    words = f"--data_dir {root} --log_dir {tmp_path / 'log'} --im_height 8 --n_features 8 --batch_size 8".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_conditional, "draw_class_run", lambda run, **_: run.save_model())
        parser = lambda: class_conditional.training_parser(  # noqa: E731
            "", datasets=["folder"], log_dir="run", im_channels=3, n_classes=2
        )
        patch.setattr(train_mnist, "parser", parser)
        assert run_here(train_mnist, [*TINY_ONE, *words]) == 0
        (root / "train" / "dog").rename(root / "train" / "ant")
        capsys.readouterr()
        assert run_here(train_mnist, [*TINY_ONE, *words, "--n_epochs", "2", "--resume"]) == 2
    assert "'ant'" in last_line(capsys)
    ddpm, content = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    name, which = checkpoint.data_of(ddpm, content)
    with pytest.raises(ValueError, match="no class 'dog'"):
        sources.load(name, root, True, **which)
    with pytest.raises(ValueError, match="no class 'dog'"):
        Classifiers(root, tmp_path).of("folder", ("cat", "dog"), 8, 3)


def first_model(run):
    """In place of Trainer.run: the model that it begins with."""
    run.begin()
    run.save_model()
    run.folder.log.close()


def test_weights_of_another_animal_are_told(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "afhq", ["cat", "dog"], 12, size=8)
    monkeypatch.setattr(Trainer, "run", first_model)
    words = f"--device cpu --batch_size 8 --unet_dim 8 --unet_dim_mults 1 --image_size 8 --data_dir {tmp_path}".split()
    assert run_here(train_afhq, [*words, "--log_dir", str(tmp_path / "cat")]) == 0
    model, dog = str(tmp_path / "cat" / "model_step0.pt"), ["--log_dir", str(tmp_path / "dog"), "--data_class", "dog"]
    capsys.readouterr()
    assert run_here(train_afhq, [*words, *dog, "--load_path", model]) == 0
    assert "data_class cat, and this run has dog" in capsys.readouterr().out
    assert run_here(train_afhq, [*words, "--log_dir", str(tmp_path / "more"), "--load_path", model]) == 0
    assert "was trained with" not in capsys.readouterr().out


def test_weights_of_other_classes_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "run", first_model)
    words = "--device cpu --batch_size 8 --n_features 8 --n_timesteps 8 --im_height 8 --schedule cosine"
    told = []
    model = str(tmp_path / "log_a" / "model_epoch0.pt")
    for name, classes in (("a", ["cat", "dog"]), ("b", ["cat", "pear"]), ("c", ["cat", "dog"])):
        write_folder(tmp_path / name, classes, 12, size=8)
        of_a = [] if name == "a" else ["--load_path", model]
        where = ["--data_dir", str(tmp_path / name), "--log_dir", str(tmp_path / f"log_{name}")]
        assert run_here(train_folder, [*words.split(), *where, *of_a]) == 0
        told.append([line for line in capsys.readouterr().out.splitlines() if line.startswith(model)])
    assert told == [[], [f"{model}: the classes are others, 'pear' where 'dog' stood"], []]


def test_an_option_that_a_checkpoint_does_not_know_had_its_default(quick, tmp_path, capsys):
    log_dir = tmp_path / "log"
    assert quick(log_dir, ONE) == 0
    content = checkpoint.load(log_dir / "checkpoint.pt")
    for name in ("dequantise", "fc_kind", "accumulate", "clip_grad"):
        del content["arguments"][name]
    checkpoint.save(log_dir / "checkpoint.pt", content)
    assert quick(log_dir, f"{ONE} --n_epochs 2 --resume --clip_grad 1") == 2
    assert "--clip_grad" in capsys.readouterr().err
    assert quick(log_dir, f"{ONE} --n_epochs 2 --resume") == 0


# ------------------------------------------------------------ folders belong to the user


@pytest.fixture
def earlier(whole_run, tmp_path, monkeypatch):
    """A function that opens a LogFolder on a copy of a finished run; lines that it says are kept."""
    said: list[str] = []
    monkeypatch.setattr(LogFolder, "say", lambda self, line: said.append(line))

    def open_again(path: Path, target: Path | None = None, **how) -> LogFolder:
        shutil.copytree(whole_run, target or path, dirs_exist_ok=True)
        return LogFolder(path, resume=False, **how)

    open_again.said = said
    return open_again


def test_an_earlier_run_in_a_plain_folder(earlier, tmp_path):
    earlier(tmp_path / "run")
    assert (tmp_path / "run_old1" / "model_epoch3.pt").exists() and os.listdir(tmp_path / "run") == ["train.log"]
    assert "--resume would have" in earlier.said[0]


@pytest.mark.parametrize("kind", ["link", "working directory", "read-only parent"])
def test_a_folder_that_is_not_ours_to_rename(earlier, tmp_path, monkeypatch, kind):
    path, target = tmp_path / "run", None
    if kind == "link":
        target = tmp_path / "scratch" / "run"
        target.mkdir(parents=True)
        path.symlink_to(target)
    elif kind == "working directory":
        path.mkdir()
        monkeypatch.chdir(path)
        path = Path(".")
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: refuse() if Path(a) == path else replace(a, b))
    (target or path).mkdir(exist_ok=True)
    (path / "thesis.tex").write_text("mine")
    earlier(path, target)
    assert (path / "thesis.tex").exists() and (path / "old1" / "model_epoch3.pt").exists()
    assert sorted(file.name for file in path.iterdir()) == ["old1", "thesis.tex", "train.log"]
    assert "epoch 1/3" in (path / "old1" / "train.log").read_text()


def refuse():
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "[1]", "[" * 100_000, ""])
def test_a_strangers_folder_stays_where_it_is(tmp_path, content):
    project = tmp_path / "project"
    project.mkdir()
    (project / "config.json").write_text(content)
    (project / "model.pt").write_text("mine")
    before = sorted(os.listdir(project))
    with pytest.raises(CallError, match="config.json"):
        LogFolder(project, resume=False)
    assert sorted({*os.listdir(project)} - {"train.log"}) == before and os.listdir(tmp_path) == ["project"]


def test_a_run_without_a_step_leaves_no_old_folder(tmp_path):
    folder = LogFolder(tmp_path / "run", resume=False)
    folder.write_config({"arguments": {}})
    folder.say("said")
    folder.log.close()
    again = LogFolder(tmp_path / "run", resume=False)
    assert os.listdir(tmp_path) == ["run"] and (tmp_path / "run" / "train.log").read_text() == ""
    again.log.close()


def test_nobody_is_told_to_resume_who_did(earlier, tmp_path):
    earlier(tmp_path / "run", asked=True)
    assert "moved" in earlier.said[0] and "--resume" not in earlier.said[0]


@pytest.mark.parametrize("end", ["moved", "removed", "taken by another run"])
def test_a_folder_that_is_gone_is_noticed(tmp_path, end):
    folder = LogFolder(tmp_path / "run", resume=False)
    folder.check()
    if end == "removed":
        shutil.rmtree(tmp_path / "run")
    else:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
    if end.startswith("taken"):
        other = LogFolder(tmp_path / "run", resume=False)
        other.check()
    with pytest.raises(RunError, match="moved"):
        folder.check()


def test_a_run_whose_folder_is_moved_ends_and_writes_nothing_more(train, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_conditional, "draw_class_run", lambda *_, **__: run.rename(tmp_path / "elsewhere"))
        assert train(run, "--save_every 1") == 1
    assert "moved" in last_line(capsys) and not run.exists()
    assert "moved" in (tmp_path / "elsewhere" / "train.log").read_text().splitlines()[-1]


def test_one_of_three_at_once(tmp_path, monkeypatch):
    """Three processes open a folder in the same moment; an earlier run that stands there is kept once."""
    monkeypatch.setattr(LogFolder, "say", lambda self, line: None)
    for k in range(12):
        run = tmp_path / str(k) / "run"
        if k % 2:
            run.mkdir(parents=True)
            (run / "config.json").write_text("{}")
            (run / "precious").write_text("x")
        (read, write), (hold, let_go) = os.pipe(), os.pipe()
        go = time.time() + 0.02
        for _ in range(3):
            if os.fork() == 0:
                try:
                    while time.time() < go:
                        pass
                    folder = LogFolder(run, resume=False)
                    folder.write_config({"arguments": {}})
                    os.write(write, b"open\n")
                    os.close(let_go)
                    os.read(hold, 1)  # until the others have tried
                except CallError as error:
                    os.write(write, b"refused\n" if "another process is training" in str(error) else b"wrong\n")
                finally:
                    os._exit(0)
        with os.fdopen(read) as said:
            results = sorted(said.readline() for _ in range(3))
        os.close(let_go)
        for _ in range(3):
            os.wait()
        os.close(write), os.close(hold)
        assert results == ["open\n", "refused\n", "refused\n"], k
        kept = [file.parent.name for file in (tmp_path / str(k)).glob("*/precious")]
        assert kept == (["run_old1"] if k % 2 else [])


# ------------------------------------------------------------ files from elsewhere


ODD = {
    "arguments": [1],
    "step": float("nan"),
    "history": [1],
    "optimizer": [1],
    "train_images": -1,
    "loss_sums": None,
    "loss_counts": [1, 2, 3],
    "train_seconds": "long",
}


@pytest.mark.parametrize("key", [*ODD, "no history", "control characters", "another optimiser"])
def test_an_odd_checkpoint_is_refused_in_one_line(quick, whole_run, tmp_path, capsys, key):
    log_dir = tmp_path / "log"
    log_dir.mkdir()
    content = checkpoint.load(whole_run / "checkpoint.pt")
    if key in ODD:
        content[key] = ODD[key]
    elif key == "no history":
        del content["history"]
    elif key == "control characters":
        content["arguments"] = {**content["arguments"], "seed": "\x1b[2J\n\n"}
    else:
        content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(content, log_dir / "checkpoint.pt")
    assert quick(log_dir, "--n_epochs 4 --resume") in (1, 2)
    line = last_line(capsys)
    assert "checkpoint.pt" in line and line.isprintable()


@pytest.mark.parametrize("content", ['{"resumed": 5}', "[" * 100_000, "pipe", "link"])
def test_an_odd_config_does_not_stop_a_resumption(quick, whole_run, tmp_path, content):
    log_dir = tmp_path / "log"
    log_dir.mkdir()
    shutil.copy(whole_run / "checkpoint.pt", log_dir)
    (tmp_path / "mine.json").write_text("{}")
    if content == "pipe":
        os.mkfifo(log_dir / "config.json")
    elif content == "link":
        (log_dir / "config.json").symlink_to(tmp_path / "mine.json")
    else:
        (log_dir / "config.json").write_text(content)
    assert quick(log_dir, "--n_epochs 4 --resume") == 0
    assert json.loads((log_dir / "config.json").read_text())["resumed"][0]["from_step"] == 12
    assert (tmp_path / "mine.json").read_text() == "{}"


def test_a_missing_model_is_told_with_those_that_exist(whole_run, capsys):
    assert run_here(sample, [str(whole_run / "model_epoch20.pt"), "--device", "cpu"]) == 1
    assert "model_epoch2.pt, model_epoch3.pt" in last_line(capsys)


# ------------------------------------------------------------ output


@pytest.mark.skipif(sys.platform == "win32", reason="has no such shell")
def test_a_run_without_its_reader_goes_on(data_dir, tmp_path):
    """`python train_mnist.py ... | head -1`, and then with stdout closed by the caller."""
    words = f"{' '.join(TINY_ONE)} --n_features 8 --data_dir {data_dir} --log_dir {tmp_path}/run"
    call = f"{sys.executable} train_mnist.py {words}"
    root = Path(train_mnist.__file__).parent
    for line in (f"{{ {call}; echo $? > {tmp_path}/status; }} | true", f"{call} >&-; echo $? > {tmp_path}/status"):
        ended = subprocess.run(line, shell=True, cwd=root, capture_output=True, text=True)
        assert (tmp_path / "status").read_text() == "0\n" and ended.stderr == ""
        assert (tmp_path / "run" / "model_epoch1.pt").exists()
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "\xff", "pipe", "link"])
def test_an_odd_metrics_json_is_one_line(tmp_path, content):
    file = tmp_path / "metrics.json"
    if content == "pipe":
        os.mkfifo(file)
    elif content == "link":
        file.symlink_to(tmp_path / "mine.json")
    else:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(CallError, match="metrics.json"):
        read_list(file)


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "samples.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(npz.SETTINGS, "w") as member:
            for _ in range(200):
                member.write(bytes(2**20))
    tracemalloc.start()
    assert npz._finished(tmp_path, {}) is None
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


# ------------------------------------------------------------ the page


def test_every_row_of_the_page_has_its_test():
    root = Path(__file__).resolve().parents[1]
    named = re.findall(r"`(test_\w+)` \|$", (root / "docs" / "faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    there = "".join(file.read_text(encoding="utf-8") for file in (root / "tests").rglob("test_*.py"))
    assert len(named) > 30 and [name for name in named if f"def {name}(" not in there] == []
