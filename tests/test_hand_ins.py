"""Hand-ins as they come: sound ones pass, and copies of a real run, spoiled in every way that was seen, do not."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path
from typing import Callable
from unittest import mock

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_hand_in import (
    NAMES,
    copy,
    draw,
    edit_json,
    edit_metrics,
    edit_model,
    grid_of,
    noised,
    read_grid,
    run_check,
    untrained,
    write_bars,
    write_run,
)

import check_log
from common.files import write_json
from datasets.sources import load
from evaluation import model_checks
from figures.grids import plot_gif, plot_grid
from reporting import grids, known

LAST = "model_epoch6.pt"
WEIGHTS, EPOCHS = (0, 1, 3), (2, 4, 6)


class Runs:
    """The real runs that all tests spoil copies of, and their data."""

    def __init__(self, root: Path):
        self.data = root / "data"
        write_bars(self.data)
        self.honest = write_run(self.data, root / "honest")
        self.twin = copy(self.honest, root / "twin")  # the same seed on the same machine: only the times differ
        for file in ("metrics.csv", "train.log"):
            (self.twin / file).unlink()
        rows = list(csv.DictReader(io.StringIO((self.honest / "metrics.csv").read_text())))
        for row in rows:
            row["seconds"] = str(float(row["seconds"]) * 1.1 + 0.01)
        (self.twin / "metrics.csv").write_text((self.honest / "metrics.csv").read_text())
        edit_metrics(self.twin / "metrics.csv", lambda _: rows)
        (self.twin / "checkpoint.pt").unlink()
        self.short = write_run(self.data, root / "short", "--n_epochs 2 --seed 1")
        self.resumed = write_run(
            self.data, copy(self.short, root / "resumed"), "--n_epochs 4 --seed 1 --resume --save_every 4"
        )
        measured = [{"images": "samples", "guidance_weight": 1, "judge_accuracy": 0.95, "n_images": 20}]
        bits = [{"bits_per_dim": 1.5, "decoder": 0.25, "steps": 1.0, "prior": 0.25}]
        for folder in (self.honest, self.twin):
            entries = [{"model": LAST, "measured": "samples", "results": measured}]
            entries += [{"model": LAST, "measured": "bits per dimension", "results": bits}]
            write_json(folder / "metrics.json", entries)
        test_set = load("mnist", self.data, False)
        firsts = np.stack([known.hashes(test_set.images[test_set.labels == k][:4, 0].numpy()) for k in range(10)])
        other = np.zeros((10, 4), np.uint64)
        training = known.hashes(load("mnist", self.data, True).images[:20, 0].numpy())
        self.lists = {"mnist_test": firsts, "mnist_train": training}
        for name in ("fashion_mnist", "rendered", "cifar10"):
            self.lists[f"{name}_test"], self.lists[f"{name}_train"] = other, other[0]
        self.first_lists = self.lists


@pytest.fixture(scope="module")
def runs(tmp_path_factory, short_figures):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    table = mock.patch.object(known, "table", side_effect=lambda: runs.lists)
    # A run this short draws noisy images; tests/test_check_log.py has noise that must be found.
    with table, mock.patch.dict(known.SIZES, mnist=(200, 40)), mock.patch.object(grids, "NOISE", -1):
        yield runs


# ------------------------------------------------------------------------------------------------ sound variants


def as_the_sheet_says(runs: Runs, root: Path) -> Path:
    copy(runs.honest, root / "anna" / "log_mnist"), copy(runs.resumed, root / "anna" / "log_cifar10")
    for name in ("README.txt", "answers.pdf", "train_mnist.py"):
        (root / "anna" / name).write_text(name)
    return root / "anna"


def zipped(runs: Runs, root: Path) -> Path:
    as_the_sheet_says(runs, root / "tree")
    return Path(shutil.make_archive(str(root / "anna"), "zip", root / "tree"))


def zip_in_a_folder(runs: Runs, root: Path) -> Path:
    (root / "Anna_123_file").mkdir(), shutil.move(str(zipped(runs, root)), str(root / "Anna_123_file"))
    return root / "Anna_123_file"


def from_a_mac(runs: Runs, root: Path) -> Path:
    folder = as_the_sheet_says(runs, root)
    for file in [*(folder / "log_mnist").iterdir(), folder / "README.txt"]:
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (folder / "log_mnist" / ".DS_Store").touch(), (folder / "Thumbs.db").touch()
    (folder / "__MACOSX" / "log_mnist").mkdir(parents=True)
    (folder / "__MACOSX" / "log_mnist" / "._config.json").write_bytes(b"\0\5\26\7")
    return folder


def only_what_must_be_there(runs: Runs, root: Path) -> Path:
    folder = copy(runs.honest, root / "log")
    for name in ("checkpoint.pt", "train.log", "report.html", "metrics.json", "model_epoch2.pt", "model_epoch4.pt"):
        (folder / name).unlink()
    return folder


def of_an_older_version(runs: Runs, root: Path) -> Path:
    """Its pictures do not say in their metadata where their images stand."""
    folder = copy(runs.honest, root / "log")
    for file in folder.glob("generated_images_*.png"):
        imageio.imwrite(file, imageio.imread(file))
    return folder


def saved_by_a_spreadsheet(runs: Runs, root: Path) -> Path:
    folder = copy(runs.honest, root / "log")
    table = (folder / "metrics.csv").read_text().replace(",", ";").replace(".", ",")
    (folder / "metrics.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*table.splitlines(), ";;;", ""]).encode())
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + config.replace(b"\n", b"\r\n"))
    return folder


def zip_in_a_zip(runs: Runs, root: Path) -> Path:
    """Of folders within folders, with odd names."""
    copy(runs.honest, root / "inner" / "home" / "jörg" / "my course" / "sheet 5" / "log" / "log_mnist (1)")
    shutil.make_archive(str(root / "outer" / "Jörg"), "zip", root / "inner")
    return Path(shutil.make_archive(str(root / "hand-in"), "zip", root / "outer"))


def beside_data_and_software(runs: Runs, root: Path) -> Path:
    copy(runs.honest, root / "anna" / "log_mnist"), (root / "anna" / "exercise.ipynb").touch()
    for place in ("data/cats", "venv/lib/site-packages"):
        (root / "anna" / place).mkdir(parents=True)
        for i in range(2001):
            (root / "anna" / place / f"{i}.png").touch()
    return root / "anna"


SOUND: dict[str, Callable[[Runs, Path], Path]] = {
    "as training left it": lambda runs, root: copy(runs.honest, root / "log"),
    "resumed": lambda runs, root: copy(runs.resumed, root / "log"),
    "with the same seed on the same machine": lambda runs, root: copy(runs.twin, root / "log"),
    "as the sheet says": as_the_sheet_says,
    "zipped": zipped,
    "a zip in a folder, as a learning platform gives it": zip_in_a_folder,
    "from a Mac and a PC": from_a_mac,
    "only what must be there": only_what_must_be_there,
    "of an older version": of_an_older_version,
    "saved by a spreadsheet and an editor": saved_by_a_spreadsheet,
    "a zip in a zip": zip_in_a_zip,
    "beside data and software": beside_data_and_software,
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_hand_in_passes(runs, tmp_path, capsys, kind):
    status = run_check(SOUND[kind](runs, tmp_path), "--models", "--data_dir", runs.data, "--quiet")
    assert status == 0, capsys.readouterr().out


def test_two_honest_runs_with_one_seed_are_a_note(runs, tmp_path, capsys):
    assert run_check(copy(runs.honest, tmp_path / "a"), copy(runs.twin, tmp_path / "b")) == 0
    out = capsys.readouterr().out
    assert "share model, pictures, losses: so do two honest runs with one seed on one machine" in out
    assert "2 of 2 hand-ins pass" in out


def test_one_verdict_for_a_hand_in_and_one_for_each_of_its_folders(runs, tmp_path, capsys):
    folder = as_the_sheet_says(runs, tmp_path)
    (folder / "log_cifar10" / "loss.png").unlink(), (folder / "README.txt").unlink()
    assert run_check(folder, "--csv", tmp_path / "marks.csv") == 1
    out = capsys.readouterr().out
    assert f"{folder}: failed, 1 of 2 log folders pass" in out and "note     README.txt: none in the hand-in" in out
    assert f"{folder / 'log_mnist'}: passed" in out and "answers: answers.pdf" in out
    rows = list(csv.DictReader(open(tmp_path / "marks.csv", encoding="utf-8")))
    assert [row["verdict"] for row in rows] == ["failed", "passed"] and rows[0]["hand_in"] == str(folder)
    assert float(rows[1]["val_loss"]) > 0 and len(rows[1]["model_hash"]) == 12 and rows[1]["parameters"] == "41921"
    assert run_check(folder, "--problems") == 1
    assert capsys.readouterr().out == f"{folder / 'log_cifar10'}: loss.png: is missing\n"


def test_a_hand_in_without_a_run_fails(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    own = tmp_path / "own"
    shutil.copytree(check_log.OWN / "log_mnist_fc", own / "log_mnist_fc")
    assert run_check(tmp_path / "empty", own, "--problems") == 1
    out = capsys.readouterr().out
    assert "empty: holds no log folder" in out and "own: holds no run of its own" in out


def test_pictures_and_figures_of_another_run_are_found(runs, tmp_path, capsys):
    other, mine = copy(runs.short, tmp_path / "other"), copy(runs.honest, tmp_path / "mine")
    shutil.copy(other / "mixture.png", mine)
    assert run_check(other, mine, "--problems") == 1
    assert f"{other} shares mixture.png, although seed or settings differ" in capsys.readouterr().out
    shutil.copy(check_log.OWN / "log_mnist" / "inpainting.png", mine)
    assert run_check(mine, "--problems") == 1
    out = capsys.readouterr().out
    assert "log_mnist: the suite's own run has the same inpainting.png, although seed or settings differ" in out


# ------------------------------------------------------------------------------------------------ spoiled copies


MEANS = ("train_loss", "val_loss")
LOSSES = (*MEANS, "loss_q1", "loss_q2", "loss_q3", "loss_q4")


def scale_losses(folder: Path, by: float = 0.5, keys: tuple[str, ...] = MEANS) -> None:
    def change(rows):
        for row in rows:
            for key in keys:
                row[key] = f"{float(row[key]) * by:.6g}"

    edit_metrics(folder / "metrics.csv", change)


def log_again(folder: Path) -> None:
    """train.log tells what metrics.csv has."""
    rows = {row["epoch"]: row for row in csv.DictReader(io.StringIO((folder / "metrics.csv").read_text()))}
    lines = (folder / "train.log").read_text().splitlines(True)
    for i, line in enumerate(lines):
        match = re.match(r"epoch (\d+)/\d+  train loss", line)
        if match:
            losses = [f"{float(rows[match[1]][key]):.4f}" for key in ("train_loss", "val_loss")]
            lines[i] = re.sub(r"train loss \S+  val loss \S+", "train loss {}  val loss {}".format(*losses), line)
    (folder / "train.log").write_text("".join(lines))


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def dressed(folder: Path, short: Path, thoroughly: bool) -> None:
    """Two epochs dressed as six: the table goes on, the files are renamed, and so on."""
    shutil.rmtree(folder)
    shutil.copytree(short, folder)
    without(folder, "checkpoint.pt", "train.log", "report.html")

    def go_on(rows):
        for epoch in range(3, 7):
            better = {key: f"{float(rows[-1][key]) * 0.9:.6g}" for key in LOSSES}
            rows.append({**rows[-1], **better, "epoch": str(epoch), "step": str(int(rows[0]["step"]) * epoch)})

    edit_metrics(folder / "metrics.csv", go_on)
    edit_json(folder / "config.json", lambda c: c["arguments"].update(n_epochs=6))
    edit_json(folder / "config.json", lambda c: c.update(command=c["command"].replace("--n_epochs 2", "--n_epochs 6")))
    (folder / "model_epoch2.pt").rename(folder / LAST)
    edit_model(folder / LAST, lambda c: c.update(epoch=6))
    for w in WEIGHTS:
        images = read_grid(folder, grid_of(2, w))
        (folder / grid_of(2, w)).rename(folder / grid_of(6, w))
        (folder / f"animation_epoch2_guidance_weight{w}.gif").rename(
            folder / f"animation_epoch6_guidance_weight{w}.gif"
        )
        if thoroughly:
            plot_grid(folder / grid_of(6, w), *images, NAMES, f"epoch 6, guidance weight {w}")
        for epoch in (2, 4):  # smooth ways to the last grid
            way = [
                images[0] * 0.9 + 0.1 * np.sin(np.arange(images[0].size).reshape(images[0].shape) * epoch),
                images[1],
            ]
            plot_grid(folder / grid_of(epoch, w), *way, NAMES, f"epoch {epoch}, guidance weight {w}")
    if thoroughly:
        edit_model(folder / LAST, lambda c: (c.update(step=72), c["arguments"].update(n_epochs=6)))


def earlier_as_last(folder: Path) -> None:
    shutil.copy(folder / "model_epoch2.pt", folder / LAST)
    edit_model(folder / LAST, lambda c: c.update(epoch=6, step=72))


def swapped(folder: Path, epochs: tuple[int, ...] = EPOCHS, redrawn: bool = False) -> None:
    """Weights 1 and 3 in each other's files."""
    for epoch in epochs:
        one, three = (read_grid(folder, grid_of(epoch, w)) for w in (1, 3))
        if redrawn:
            draw(folder, epoch, 1, three[0]), draw(folder, epoch, 3, one[0])
        else:
            a, b = (folder / grid_of(epoch, w) for w in (1, 3))
            a.rename(folder / "x.png"), b.rename(a), (folder / "x.png").rename(b)
    for w, other in ((1, 3), (3, 1)):
        gif = folder / f"animation_epoch6_guidance_weight{w}.gif"
        gif.rename(folder / f"{other}.gif")
    for w in (1, 3):
        (folder / f"{w}.gif").rename(folder / f"animation_epoch6_guidance_weight{w}.gif")


def for_all(folder: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    for epoch in EPOCHS:
        for w in WEIGHTS:
            draw(folder, epoch, w, *change(*read_grid(folder, grid_of(epoch, w))))
    for file in folder.glob("*.gif"):  # as if it had been drawn so
        w = int(file.stem[-1])
        generated = read_grid(folder, grid_of(6, w))[0]
        frames = np.stack([np.random.default_rng(0).uniform(-1, 1, generated.shape), generated])
        plot_gif(file, frames, [8, 0], 10, NAMES)


def rolled(images: np.ndarray) -> np.ndarray:
    return np.roll(images.reshape(2, 10, 1, 28, 28), 1, axis=1).reshape(images.shape)


def as_generated(folder: Path, runs: Runs, train: bool, first: int, n: int = 20) -> None:
    """Images of the data set stand for the first n of the last grid, and the GIF ends in them."""
    images = read_grid(folder, grid_of(6, 3))[0]
    images[:n] = load("mnist", runs.data, train).images[first : first + n].numpy() / 127.5 - 1
    draw(folder, 6, 3, images)
    frames = np.stack([np.random.default_rng(0).uniform(-1, 1, images.shape), images])
    plot_gif(folder / "animation_epoch6_guidance_weight3.gif", frames, [8, 0], 10, NAMES)


def set_config(**arguments) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda c: c["arguments"].update(arguments))


def set_rows(**cells: Callable[[dict], str]) -> Callable[[Path], None]:
    def change(rows):
        for row in rows:
            row.update({key: cell(row) for key, cell in cells.items()})

    return lambda folder: edit_metrics(folder / "metrics.csv", change)


def add_to_page(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        page = folder / "report.html"
        page.write_text(page.read_text().replace("</main>", f"{text}</main>"))

    return change


def on_page(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text, n = re.subn(old, new, (folder / "report.html").read_text())
        assert n
        (folder / "report.html").write_text(text)

    return change


def measured(**figures) -> Callable[[Path], None]:
    def change(entries):
        for entry in entries:
            for row in entry["results"]:
                row.update({key: value for key, value in figures.items() if key in row})

    return lambda folder: edit_json(folder / "metrics.json", change)


def renamed_data(name: str, runs: Runs) -> Callable[[Path], None]:
    """The run was on another data set and says MNIST. (Here the two lists of known images change places.)"""
    lists = {**runs.first_lists, f"{name}_test": runs.lists["mnist_test"], "mnist_test": runs.lists[f"{name}_test"]}
    return lambda folder: setattr(runs, "lists", lists)


def new_date(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(started="2026-12-01 09:00:00 UTC"))
    without(folder, "report.html")


MODELS = ("model_epoch2.pt", "model_epoch4.pt", "model_epoch6.pt")
LOGS = ("train.log", "checkpoint.pt")
EARLIER = ("model_epoch2.pt", "model_epoch4.pt", "checkpoint.pt")


def spoiled_kinds(runs: Runs) -> dict[str, tuple[Callable[[Path], object], str]]:
    """{kind: (what is done to a copy, what catches it)}; "copy": comparing with the other hand-ins."""
    model = lambda change, *gone: lambda f: edit_model(without(f, *gone) / LAST, change)  # noqa: E731
    short = runs.short
    return {
        "losses halved in the table": (scale_losses, ""),
        "... and no train.log": (lambda f: scale_losses(without(f, "train.log")), ""),
        "... and neither log nor checkpoint": (lambda f: scale_losses(without(f, *LOGS)), ""),
        "losses halved everywhere": (
            lambda f: (scale_losses(without(f, *LOGS, "report.html"), keys=LOSSES), measured(bits_per_dim=1.5)(f)),
            "models",
        ),
        "... and in train.log": (lambda f: (scale_losses(without(f, "checkpoint.pt")), log_again(f)), ""),
        "a row that stands twice": (
            lambda f: edit_metrics(
                without(f, *LOGS) / "metrics.csv", lambda r: r[4].update({**r[3], "epoch": "5", "step": "60"})
            ),
            "",
        ),
        "another learning rate": (lambda f: set_config(l_rate=1e-3)(without(f, "checkpoint.pt", *MODELS)), ""),
        "another seed at the top of config.json": (
            lambda f: edit_json(f / "config.json", lambda c: c.update(seed=7)),
            "",
        ),
        "two epochs dressed as six": (lambda f: dressed(f, short, False), ""),
        "... with everything edited": (lambda f: dressed(f, short, True), "models"),
        "another student's folder, new date": (new_date, "copy"),
        "... with noise on its weights": (
            lambda f: (new_date(without(f, "checkpoint.pt")), edit_model(f / LAST, lambda c: noised(c, 1e-4))),
            "copy",
        ),
        "... with another seed in config.json": (lambda f: (new_date(f), set_config(seed=7)(f)), ""),
        "the suite's own run, new date": (
            lambda f: (shutil.rmtree(f), shutil.copytree(check_log.OWN / "log_mnist_fc", f), new_date(f)),
            "",
        ),
        "epoch 6's pictures as epoch 4's": (
            lambda f: [draw(f, 4, w, read_grid(f, grid_of(6, w))[0]) for w in WEIGHTS],
            "",
        ),
        "epochs 2 and 4 swapped": (
            lambda f: [
                (draw(f, 2, w, b), draw(f, 4, w, a))
                for w in WEIGHTS
                for a, b in [[read_grid(f, grid_of(e, w))[0] for e in (2, 4)]]
            ],
            "",
        ),
        "a file renamed to another epoch": (
            lambda f: [shutil.copy(f / grid_of(2, w), f / grid_of(4, w)) for w in WEIGHTS],
            "",
        ),
        "an earlier model as the last": (lambda f: shutil.copy(f / "model_epoch2.pt", f / LAST), ""),
        "... with its epoch edited": (earlier_as_last, ""),
        "... and the others deleted": (lambda f: (earlier_as_last(f), without(f, *EARLIER)), "models"),
        "untrained weights": (model(untrained), ""),
        "... and no checkpoint": (model(untrained, "checkpoint.pt"), "models"),
        "noised weights": (model(lambda c: noised(c, 0.5)), ""),
        "... and without a checkpoint": (model(lambda c: noised(c, 0.5), "checkpoint.pt"), "models"),
        "a model of another seed": (lambda f: shutil.copy(short / "model_epoch2.pt", f / "model_epoch2.pt"), ""),
        "a checkpoint of another run": (lambda f: shutil.copy(short / "checkpoint.pt", f), ""),
        "first training images as generated": (lambda f: as_generated(f, runs, True, 0), ""),
        "other training images as generated": (lambda f: as_generated(f, runs, True, 40), ""),
        "three training images among the generated": (lambda f: as_generated(f, runs, True, 40, 3), "models"),
        "test images as generated": (lambda f: as_generated(f, runs, False, 20), ""),
        "w = 1 and w = 3 swapped": (lambda f: swapped(f, (6,)), ""),
        "... in all epochs": (swapped, ""),
        "... and drawn again": (lambda f: swapped(f, redrawn=True), ""),
        "Fashion-MNIST declared as MNIST": (renamed_data("fashion_mnist", runs), ""),
        "rendered digits declared as MNIST": (renamed_data("rendered", runs), ""),
        "other real images": (lambda f: for_all(f, lambda g, r: (g, r[::-1].copy() * 0.9)), ""),
        "classes in wrong columns of a grid": (lambda f: draw(f, 4, 1, rolled(read_grid(f, grid_of(4, 1))[0])), ""),
        "... of all grids, real rows too": (lambda f: for_all(f, lambda g, r: (rolled(g), rolled(r))), ""),
        "... of all grids": (lambda f: for_all(f, lambda g, r: (rolled(g), r)), "judge"),
        "class names in another order": (
            lambda f: edit_json(f / "config.json", lambda c: c["dataset"].update(classes=NAMES[::-1])),
            "",
        ),
        "class names of another data set": (
            lambda f: edit_json(f / "config.json", lambda c: c["dataset"].update(classes=known.CLOTHES)),
            "",
        ),
        "another data set in config.json": (
            lambda f: edit_json(f / "config.json", lambda c: c["dataset"].update(name="cifar10")),
            "",
        ),
        "an accuracy that no 20 images can have": (measured(judge_accuracy=0.987), ""),
        "an accuracy above 1": (measured(judge_accuracy=1.2), ""),
        "fewer bits than their sum": (measured(bits_per_dim=0.9), ""),
        "an accuracy that was never measured": (measured(judge_accuracy=1.0), "judge"),
        "a script in report.html": (add_to_page("<script>alert(1)</script>"), ""),
        "a handler in report.html": (add_to_page("<b onclick='alert(1)'>x</b>"), ""),
        "a picture from elsewhere in report.html": (add_to_page("<img src='https://example.org/a.png' alt=''>"), ""),
        "a style from elsewhere in report.html": (on_page("</style>", "p { background: URL(//x.org) }</style>"), ""),
        "a weaker policy in report.html": (on_page("default-src 'none'", "default-src *"), ""),
        "another loss in report.html": (on_page(r"(loss, epoch 6</dt><dd>)[\d.]+", r"\g<1>0.001"), ""),
        "report.html of another run": (lambda f: shutil.copy(short / "report.html", f), ""),
        "a smaller batch in config.json": (set_config(batch_size=8), ""),
        "a smaller batch everywhere in config.json": (
            lambda f: edit_json(
                f / "config.json",
                lambda c: (
                    c["arguments"].update(batch_size=8),
                    c.update(command=c["command"].replace("size 16", "size 8")),
                ),
            ),
            "",
        ),
        "shorter times": (set_rows(seconds=lambda row: f"{float(row['seconds']) / 20:.6g}"), ""),
        "higher speeds than a CPU has": (
            lambda f: set_rows(images_per_second=lambda row: "900000", seconds=lambda row: "0.2")(without(f, *LOGS)),
            "",
        ),
        "more steps of the process in config.json": (set_config(n_timesteps=400), ""),
        "train.log of another run": (lambda f: shutil.copy(short / "train.log", f), ""),
        "a cut train.log": (
            lambda f: (f / "train.log").write_text("".join((f / "train.log").read_text().splitlines(True)[:3])),
            "",
        ),
        "more epochs in the table": (
            lambda f: edit_metrics(f / "metrics.csv", lambda rows: rows.append({**rows[-1], "epoch": "7"})),
            "",
        ),
        "GIFs of another weight": (
            lambda f: shutil.copy(
                f / "animation_epoch6_guidance_weight0.gif", f / "animation_epoch6_guidance_weight3.gif"
            ),
            "",
        ),
        "another size of the network": (
            lambda f: edit_json(f / "config.json", lambda c: c.update(n_parameters=10**7)),
            "",
        ),
        "samples that another model drew": (
            draw_another,
            "resample",
        ),
    }


def draw_another(folder: Path) -> None:
    """Grid and GIF of the last epoch at w = 0 show what another model draws."""
    shifted = np.roll(read_grid(folder, grid_of(6, 0))[0], 2, axis=2)
    draw(folder, 6, 0, shifted)
    frames = np.stack([np.random.default_rng(0).uniform(-1, 1, shifted.shape), shifted])
    plot_gif(folder / "animation_epoch6_guidance_weight0.gif", frames, [8, 0], 10, NAMES)


class Judge(torch.nn.Module):
    """Sees the class of a bar in its place."""

    mirrors = False

    def __init__(self):
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        place = ((y[:, 0] + 1) * torch.arange(28)).sum((1, 2)) / (y[:, 0] + 1).sum((1, 2))
        return -((place[:, None] - 3.5 - 2 * torch.arange(10)) ** 2)


def test_every_spoiled_copy_is_caught(runs, tmp_path, capsys):
    """By the files alone, or with --models; very few need the samples drawn again or a judge."""
    words = {
        "": [],
        "copy": [copy(runs.honest, tmp_path / "first")],
        "models": ["--models", "--data_dir", runs.data],
        "resample": ["--resample", "one"],
        "judge": ["--judge"],
    }
    kinds, missed, other = spoiled_kinds(runs), [], []
    test_set = load("mnist", runs.data, False)
    with mock.patch.object(model_checks.Classifiers, "of", return_value=(Judge(), 0.99, test_set)):
        for i, (kind, (spoil, how)) in enumerate(kinds.items()):
            folder = copy(runs.honest, tmp_path / str(i))
            spoil(folder)
            status = run_check(folder, *words[how], "--problems")
            out = capsys.readouterr().out
            if status != 1 or f"{folder}: " not in out or "could not be checked" in out:
                missed.append((kind, how, out))
            if how and how != "copy" and run_check(folder, "--problems") == 1:
                other.append((kind, "caught already by default", capsys.readouterr().out))
            shutil.rmtree(folder)
            runs.lists = runs.first_lists
    assert not missed, missed
    assert not other, other
    assert len(kinds) >= 40 and sum(how in ("resample", "judge") for _, how in kinds.values()) <= 4
