"""train_fashion_mnist.py, run for real on a few random pictures: what every class-conditional run draws, and when."""

from __future__ import annotations

import json
import signal

import imageio.v2 as imageio
import pytest
import torch
from tiny_mnist import write_mnist
from tiny_script import run_here

import train_fashion_mnist
from figures import images as image_figures
from training import checkpoint, class_conditional
from training.trainer import Trainer

TINY = "--n_features 8 --n_timesteps 4 --batch_size 20 --n_samples 1 --g_weight 1 --n_epochs 2 --device cpu"
BEFORE = {"data.png"}  # drawn before the first step
PICTURES = {"forward_process.png", "backward_process.png"}  # drawn with the samples


@pytest.fixture(scope="module")
def fashion_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion")
    write_mnist(folder, folder="FashionMNIST")
    return folder


@pytest.fixture
def train(fashion_dir):
    def run(log_dir, more=""):
        words = f"{TINY} --data_dir {fashion_dir} --log_dir {log_dir} {more}".split()
        return run_here(train_fashion_mnist, words)

    return run


def pictures(folder):
    """The pixels of all PNGs, by name."""
    return {file.name: imageio.imread(file) for file in folder.glob("*.png")}


def test_a_run_leaves_its_data_and_both_processes_and_makes_them_again(train, tmp_path):
    log_dir = tmp_path / "log"
    assert train(log_dir) == 0
    config = json.loads((log_dir / "config.json").read_text())
    assert config["dataset"]["name"] == "fashion_mnist" and config["dataset"]["classes"][9] == "Ankle boot"
    assert config["defaults"]["log_dir"].endswith("log_fashion_mnist") and config["defaults"]["n_epochs"] == 20
    _, content = checkpoint.load_model(log_dir / "model_epoch2.pt", torch.device("cpu"))
    assert content["class_names"] == config["dataset"]["classes"]

    before = pictures(log_dir)
    assert before.keys() >= {*BEFORE, *PICTURES, "inpainting.png", "mixture.png", "loss.png"}
    for name in before:
        (log_dir / name).unlink()
    (log_dir / "report.html").unlink()
    assert train(log_dir, "--resume") == 0  # the run is finished: only its pictures are made again
    after = pictures(log_dir)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    page = (log_dir / "report.html").read_text()
    assert all(f'src="./{name}"' in page for name in BEFORE | PICTURES)


def test_the_data_can_be_seen_before_the_first_step(train, tmp_path, monkeypatch):
    """A run that is stopped at once has its data sheet, and a report that shows it."""
    log_dir, seen = tmp_path / "log", []
    original = Trainer.train_step

    def first_step(self):
        seen.append((pictures(log_dir).keys() >= BEFORE, "data.png" in (log_dir / "report.html").read_text()))
        original(self)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_step", first_step)
    assert train(log_dir) == 128 + signal.SIGTERM
    assert seen == [(True, True)]


def test_a_refused_continuation_leaves_the_data_sheet_alone(train, tmp_path):
    log_dir = tmp_path / "log"
    assert train(log_dir, "--n_epochs 1") == 0
    (log_dir / "data.png").write_bytes(b"as it was")
    assert train(log_dir, "--n_classes 5 --resume") == 2
    assert (log_dir / "data.png").read_bytes() == b"as it was"


def test_pictures_do_not_shift_training(train, tmp_path, monkeypatch):
    assert train(tmp_path / "with", "--save_every 1 --show_classes 3") == 0
    monkeypatch.setattr(class_conditional, "draw_data", lambda run, **_: None)
    monkeypatch.setattr(class_conditional, "draw_class_run", lambda run, **_: None)
    assert train(tmp_path / "without") == 0
    a, b = (checkpoint.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "without" / "data.png").exists()


def test_a_picture_shows_as_many_classes_as_were_asked_for(train, tmp_path, monkeypatch):
    """Of the samples and of the processes; the data sheet shows all. The option may change when a run goes on."""
    heads = {}
    for name in ("plot_groups", "plot_grid"):
        monkeypatch.setattr(image_figures, name, lambda path, *more: heads.update({path.name: more}))
    monkeypatch.setattr(image_figures, "plot_gif", lambda *_: None)
    assert train(tmp_path / "log", "--show_classes 4 --n_epochs 1") == 0
    shown = ["T-shirt/top", "Pullover", "Sandal", "Sneaker"]  # 0, 2, 5 and 7 of 10
    assert heads["generated_images_epoch1_guidance_weight1.png"][2] == shown
    assert heads["forward_process.png"][1] == heads["backward_process.png"][1] == shown
    assert len(heads["data.png"][1][0]) == 10
    assert train(tmp_path / "log", "--show_classes 2 --n_epochs 1 --resume") == 0
    assert heads["generated_images_epoch1_guidance_weight1.png"][2] == ["T-shirt/top", "Sandal"]
