"""The scripts for colour images, run for real on a few random pictures."""

from __future__ import annotations

import csv
import json
import signal
import sys
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_folders import write_folder
from tiny_sample import run_sample
from tiny_script import run_here

import sample
import train_afhq
import train_cifar10
import train_cifar100
from datasets import sources
from evaluation.comparison import Model
from training import checkpoint, trainer

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TINY_CIFAR = "--n_features 8 --n_timesteps 3 --batch_size 8 --n_samples 1 --g_weight 1 --n_epochs 2 --save_every 1"
TINY_AFHQ = "--unet_dim 8 --unet_dim_mults 1 2 --time_steps 10 --batch_size 4 --n_samples 4 --image_size 16"
STEPS = "--train_steps 7 --save_and_sample_every 3"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colour")
    write_folder(folder / "cifar10", CIFAR, 2, splits=("train", "test"))
    write_folder(folder / "afhq", ["cat", "dog"], 12, size=20)
    return folder


def run(script, words):
    return run_here(script, [*words.split(), "--device", "cpu"])


def cifar(data_dir, log_dir, more=""):
    return run(train_cifar10, f"{TINY_CIFAR} --data_dir {data_dir} --log_dir {log_dir} {more}")


def afhq(data_dir, log_dir, more=STEPS):
    return run(train_afhq, f"{TINY_AFHQ} --data_path {data_dir} --save_folder {log_dir} {more}")


def weights(file):
    content = checkpoint.load(file)
    return content["step"], content["model"]


def same_training(a, b):
    (step_a, weights_a), (step_b, weights_b) = weights(a), weights(b)
    return step_a == step_b and all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)


# ------------------------------------------------------------------------------------------------ CIFAR-10


@pytest.mark.parametrize("network", ["--network conditional_unet", "--network unet --dim_mults 1 2"])
def test_cifar_leaves_a_complete_folder(data_dir, tmp_path, network):
    assert cifar(data_dir, tmp_path / "log", f"{network} --animate_every 2") == 0
    names = {file.name for file in (tmp_path / "log").iterdir()}
    assert {"config.json", "metrics.csv", "loss.png", "report.html", "inpainting.png", "mixture.png"} <= names
    assert {"data.png", "forward_process.png", "backward_process.png"} <= names
    assert {"generated_images_epoch1_guidance_weight1.png", "generated_images_epoch2_guidance_weight1.png"} <= names
    assert "animation_epoch2_guidance_weight1.gif" in names and "animation_epoch1_guidance_weight1.gif" not in names
    ddpm, content = checkpoint.load_model(tmp_path / "log" / "model_epoch2.pt", torch.device("cpu"))
    assert content["class_names"] == CIFAR and ddpm.nn_model.size == (3, 32, 32)


def test_cifar_defaults_are_the_exercise(data_dir, tmp_path, no_pictures):
    assert cifar(data_dir, tmp_path / "log") == 0
    defaults = json.loads((tmp_path / "log" / "config.json").read_text())["defaults"]
    expected = {"g_weight": [1, 3], "n_samples": 4, "save_every": 10, "animate_every": 20, "flip": "on"}
    assert {name: defaults[name] for name in expected} == expected
    assert defaults["log_dir"].endswith("log_cifar10") and defaults["im_height"] == 32


def test_flips_mirror_training_images_only_and_resume_exactly(data_dir, tmp_path, monkeypatch, no_pictures):
    from datasets.image_set import ImageSet

    flips = []
    original = ImageSet.batch

    def batch(self, index, flip=None):
        flips.append(None if flip is None else flip.tolist())
        return original(self, index, flip)

    monkeypatch.setattr(ImageSet, "batch", batch)
    assert cifar(data_dir, tmp_path / "a") == 0
    drawn = [flip for flip in flips if flip is not None]
    assert len(drawn) == 4 and {len(flip) for flip in drawn} == {8}  # 20 images: two batches of 8 in each epoch
    assert len({tuple(flip) for flip in drawn}) > 1 and 5 < sum(map(sum, drawn)) < 27
    assert None in flips  # validation
    assert cifar(data_dir, tmp_path / "b", "--n_epochs 1") == 0
    assert cifar(data_dir, tmp_path / "b", "--n_epochs 2 --resume") == 0
    assert same_training(tmp_path / "a" / "checkpoint.pt", tmp_path / "b" / "checkpoint.pt")


def test_a_height_that_does_not_halve_is_one_line(data_dir, tmp_path, capsys):
    assert cifar(data_dir, tmp_path / "log", "--network unet --im_height 28 --dim_mults 1 2 2 2") == 2
    assert "height must be divisible by 8" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ CIFAR-100


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """The log folder of a tiny run of a hundred classes, with one image in each."""
    folder = tmp_path_factory.mktemp("cifar100")
    write_folder(folder / "cifar100", [f"class_{k:02}" for k in range(100)], 1, splits=("train", "test"))
    words = f"{TINY_CIFAR} --batch_size 50 --n_epochs 1 --data_dir {folder} --log_dir {folder / 'log'}"
    assert run(train_cifar100, words) == 0
    return folder / "log"


def test_cifar100_trains_on_all_classes_and_shows_ten(hundred):
    config = json.loads((hundred / "config.json").read_text())
    assert len(config["dataset"]["classes"]) == 100 and config["dataset"]["train_images"] == 100
    assert config["defaults"]["log_dir"].endswith("log_cifar100") and config["defaults"]["n_classes"] == 100
    assert config["defaults"]["flip"] == "on" and config["defaults"]["g_weight"] == [1, 3]
    names = {file.name for file in hundred.iterdir()}
    assert {"data.png", "forward_process.png", "backward_process.png", "inpainting.png", "mixture.png"} <= names
    for name in ("data.png", "generated_images_epoch1_guidance_weight1.png", "forward_process.png"):
        assert imageio.imread(hundred / name).shape[1] < 1000
    frames = imageio.mimread(hundred / "animation_epoch1_guidance_weight1.gif")
    assert len(frames) == 3  # the states after its three steps
    assert imageio.imread(hundred / "animation_epoch1_guidance_weight1.gif").shape[1] < 500


def test_a_model_of_a_hundred_classes_is_loaded_and_used(hundred, tmp_path):
    file = hundred / "model_epoch1.pt"
    ddpm, content = checkpoint.load_model(file, torch.device("cpu"))
    assert content["class_names"] == [f"class_{k:02}" for k in range(100)] and ddpm.nn_model.n_classes == 100
    assert run_sample(file, tmp_path) == 0 and run_sample(file, tmp_path, "--classes class_99 7") == 0
    assert imageio.imread(tmp_path / "samples.png").shape[1] < 1000
    assert run_sample(file, tmp_path, "--npz 100") == 0  # for measuring: of all classes
    assert sorted(np.load(tmp_path / "samples.npz")["arr_1"].tolist()) == list(range(100))


# ------------------------------------------------------------------------------------------------ AFHQ


@pytest.fixture(scope="module")
def animal_run(data_dir, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("afhq") / "log"
    assert afhq(data_dir, log_dir) == 0
    return log_dir


@pytest.fixture
def no_processes(monkeypatch):
    """Without the figures of both processes, which take a third of the time of a run."""
    monkeypatch.setattr(train_afhq, "process_figures", lambda *_, **__: None)


def test_afhq_leaves_a_complete_folder(animal_run):
    names = {file.name for file in animal_run.iterdir()}
    marks = (3, 6, 7)  # every third step, and the last
    assert {f"samples_step{s}.png" for s in marks} | {f"model_step{s}.pt" for s in marks} <= names
    assert {"data.png", "loss.png", "forward_process.png", "backward_process.png"} <= names
    assert {"animation_step7.gif", "report.html"} <= names
    rows = list(csv.DictReader(open(animal_run / "metrics.csv")))
    assert [row["step"] for row in rows] == [str(s) for s in range(1, 8)]
    assert [bool(row["val_loss"]) for row in rows] == [s in marks for s in range(1, 8)]
    page = (animal_run / "report.html").read_text()
    assert "finished 7 of 7 steps" in page and "forward_process.png" in page
    assert imageio.imread(animal_run / "samples_step7.png").std() > 10


def test_afhq_trains_on_one_class_without_classes(animal_run):
    ddpm, content = checkpoint.load_model(animal_run / "model_step7.pt", torch.device("cpu"))
    assert content["class_names"] == [] and ddpm.nn_model.n_classes == 0
    config = json.loads((animal_run / "config.json").read_text())
    assert config["dataset"]["train_images"] == 11 and config["dataset"]["classes"] == ["cat"]  # one is held out
    expected = {"batch_size": 32, "n_timesteps": 50, "schedule": "cosine", "loss": "l1", "l_rate": 1e-3, "unet_dim": 16}
    assert {name: config["defaults"][name] for name in expected} == expected


def test_afhq_resumes_exactly(data_dir, animal_run, tmp_path, no_processes):
    assert (
        afhq(data_dir, tmp_path / "log", "--train_steps 5 --save_and_sample_every 3") == 0
    )  # in the middle of epoch 3
    assert afhq(data_dir, tmp_path / "log", f"{STEPS} --resume") == 0
    assert same_training(animal_run / "checkpoint.pt", tmp_path / "log" / "checkpoint.pt")


def test_afhq_begins_with_the_weights_of_a_file(data_dir, animal_run, tmp_path, capsys, no_processes):
    file = animal_run / "model_step7.pt"
    assert afhq(data_dir, tmp_path / "log", f"--train_steps 1 --load_path {file} --learning_rate 1e-30") == 0
    before, after = weights(file)[1], weights(tmp_path / "log" / "checkpoint.pt")[1]
    assert all(torch.allclose(before[name], after[name]) for name in before)
    assert afhq(data_dir, tmp_path / "other", f"--load_path {file} --unet_dim 16") == 1
    assert "do not fit" in capsys.readouterr().err
    assert afhq(data_dir, tmp_path / "other", "--load_path nowhere.pt") == 1


def test_afhq_knows_the_names_of_the_other_scripts_too(data_dir, tmp_path):
    """Messages of the suite advise these, such as a smaller --l_rate."""
    args = train_afhq.parser().parse_args(
        ["--l_rate", "1", "--n_timesteps", "2", "--n_features", "8", "--log_dir", "a", "--data_dir", "b"]
    )
    assert (args.l_rate, args.n_timesteps, args.unet_dim, args.log_dir.name, args.data_dir.name) == (1, 2, 8, "a", "b")


def test_afhq_pictures_have_a_validation_loss(data_dir, tmp_path, monkeypatch, no_processes):
    """Pictures every 25 steps, rows every second one; a checkpoint only with pictures, unless one takes long."""
    saved, save = [], trainer.Trainer.save_checkpoint
    monkeypatch.setattr(trainer.Trainer, "save_checkpoint", lambda self: saved.append(self.step) or save(self))
    assert afhq(data_dir, tmp_path / "log", "--train_steps 27 --save_and_sample_every 25") == 0
    rows = list(csv.DictReader(open(tmp_path / "log" / "metrics.csv")))
    assert [int(row["step"]) for row in rows] == [*range(2, 25, 2), 25, 26, 27]
    assert [int(row["step"]) for row in rows if row["val_loss"]] == saved == [25, 27]
    saved.clear()
    assert afhq(data_dir, tmp_path / "log", "--train_steps 5 --save_and_sample_every 25 --checkpoint_every 0") == 0
    assert saved == [1, 2, 3, 4, 5]


def test_afhq_other_animals(data_dir, tmp_path, capsys, no_processes):
    assert afhq(data_dir, tmp_path / "log", "--data_class dog --train_steps 1") == 0
    file = tmp_path / "log" / "model_step1.pt"
    ddpm, content = checkpoint.load_model(file, torch.device("cpu"))
    model = Model(file, ddpm, content, ddpm)
    dogs = sources.load("afhq", data_dir, False, n_classes=None, data_class="dog", im_height=16, im_channels=3)
    assert torch.equal(sample.images_of(model, data_dir, 1).images, dogs.images[:1])
    assert (ddpm.variance, ddpm.clip_x0) == ("posterior", True)  # the sheet's sampler, also in sample.py
    assert afhq(data_dir, tmp_path / "log2", "--data_class cow") == 2
    assert "the classes are cat, dog" in capsys.readouterr().err


def test_afhq_measures_samples_while_it_trains(data_dir, tmp_path, monkeypatch, capsys, no_processes):
    """--fid: a row for each set of pictures, also over an interruption; the training itself stays the same."""
    monkeypatch.setattr(train_afhq, "N_FID", 8)
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    more = f"--fid --judge_dir {tmp_path}"
    assert afhq(data_dir, tmp_path / "log", f"--train_steps 5 --save_and_sample_every 3 {more}") == 0
    assert "the FID needs clean-fid" in capsys.readouterr().err
    assert afhq(data_dir, tmp_path / "log", f"{STEPS} {more} --resume") == 0
    rows = [row for entry in json.loads((tmp_path / "log" / "metrics.json").read_text()) for row in entry["results"]]
    assert [row["step"] for row in rows] == [3, 5, 6, 7]
    assert all(row["n_images"] == 8 and row["n_reference"] == 11 and row["frechet_distance"] > 0 for row in rows)
    assert afhq(data_dir, tmp_path / "plain", STEPS) == 0
    assert same_training(tmp_path / "plain" / "checkpoint.pt", tmp_path / "log" / "checkpoint.pt")
    assert imageio.imread(tmp_path / "log" / "fid.png").std() > 10
    page = (tmp_path / "log" / "report.html").read_text()
    assert "fid.png" in page and "rotations of cat" in page


def test_a_run_that_was_stopped_while_it_was_measured_measures_again(data_dir, tmp_path, monkeypatch, no_processes):
    monkeypatch.setattr(train_afhq, "N_FID", 8)
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    more = f"{STEPS} --fid --judge_dir {tmp_path}"
    with monkeypatch.context() as patch:
        draw = train_afhq.draw_samples

        def draw_and_be_stopped(*arguments, watch):
            def watched(t):
                signal.raise_signal(signal.SIGTERM)
                watch(t)

            return draw(*arguments, watch=watched)

        patch.setattr(train_afhq, "draw_samples", draw_and_be_stopped)
        assert afhq(data_dir, tmp_path / "log", more) == 128 + signal.SIGTERM
    assert weights(tmp_path / "log" / "checkpoint.pt")[0] == 3
    assert afhq(data_dir, tmp_path / "log", f"{more} --resume") == 0
    entries = json.loads((tmp_path / "log" / "metrics.json").read_text())
    assert [row["step"] for entry in entries for row in entry["results"]] == [3, 6, 7]
    assert entries[0]["weights"] == "moving average"
    assert entries[0]["sampler"] == "ddpm, 10 steps, seed 0, variance posterior, clip_x0 True"


def test_distances_of_one_judge_are_plotted_once_per_step(data_dir, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(train_afhq, "plot_distances", lambda path, rows: drawn.append(rows))
    monkeypatch.setattr(train_afhq, "draw_samples", lambda *_, **__: (None, None))
    run = SimpleNamespace(averaged=None, device=torch.device("cpu"), log_dir=tmp_path, step=5)
    run.model_path, run.seed_for_pictures = lambda: tmp_path / "model_step6.pt", 0
    run.ddpm = SimpleNamespace(n_timesteps=5, variance="beta", clip_x0=False)
    run.settings = SimpleNamespace(seed=0, ema=0)
    rows = [{"step": 5, "features": "old"}, {"step": 6, "features": "new"}, {"step": 6, "features": "new", "fid": 2.0}]
    results = iter(rows)
    reference = SimpleNamespace(compare=lambda *_, **__: next(results), judge_accuracy=1.0)
    train_afhq.measure(run, reference, 8)
    run.step = 6
    for _ in range(2):  # the second time after an interruption
        train_afhq.measure(run, reference, 8)
    assert drawn == [rows[:1], rows[1:2], rows[2:]]  # what an earlier judge measured is another curve
