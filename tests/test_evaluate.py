"""evaluate.py on tiny models and data: what it measures, against other ways to compute it, and what it writes down."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_folders import write_folder

import evaluate
import train_afhq
from common.console import run_script
from common.machine import pick_amp
from datasets import sources
from datasets.image_set import ImageSet, to_float
from datasets.rendered_digits import render_digits
from ddpm import DDPM
from diffusion.inpainting import mask_named
from evaluation import classifier as classifiers
from evaluation import clean_fid, measure, metrics, reference
from networks.classifier import DigitClassifier
from reporting.page import write_report
from training import checkpoint

CPU = torch.device("cpu")
FIGURES = ("frechet_distance", "precision", "recall")


@pytest.fixture
def evaluated(data_dir, whole_run, tmp_path, monkeypatch):
    """evaluated("--more arguments") evaluates a copy of the tiny run's model; returns (exit status, what was measured)."""
    for recipe in ("DIGITS", "CLOTHES"):
        monkeypatch.setattr(classifiers, recipe, getattr(classifiers, recipe)._replace(epochs=1))
    monkeypatch.setattr(classifiers, "PHOTOS", classifiers.PHOTOS._replace(epochs=1, n_features=8))
    for name in ("model_epoch3.pt", "checkpoint.pt"):
        shutil.copy(whole_run / name, tmp_path)

    def run(more="--n_samples 2 --g_weight 0 1", source="model_epoch3.pt", data=data_dir):
        words = f"{tmp_path / source} --data_dir {data} --judge_dir {tmp_path} --device cpu {more}"
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words.split()])
        status = 0
        try:
            run_script(evaluate.main)
        except SystemExit as end:
            status = end.code
        file = tmp_path / "metrics.json"
        return status, json.loads(file.read_text()) if file.exists() else None

    return run


def write_npz(path, images, labels=None):
    """As `sample.py --npz` does. images: uint8 [N, C, H, W]."""
    pixels = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    np.savez(path, arr_0=pixels, **({} if labels is None else {"arr_1": np.asarray(labels)}))


# ------------------------------------------------------------------------------------------------ few steps


def test_quality_against_steps(evaluated, tmp_path):
    status, (measured,) = evaluated("--steps_sweep 8 1 3 --samplers ddpm ddim:fitted --n_samples 1")
    assert status == 0
    real, *results = measured["results"]
    assert real["images"] == "real test images"
    expected = [(n, way) for n in (1, 3) for way in ("ddpm", "ddim:fitted")] + [(8, "ddpm")]
    assert [(r["steps"], r["sampler"]) for r in results[::2]] == expected  # all 8 steps are Algorithm 2's alone
    with open(tmp_path / "steps_model_epoch3.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["steps"]), row["sampler"]) for row in rows] == expected
    for row, at_0, at_1 in zip(rows, results[::2], results[1::2]):
        assert (at_0["guidance_weight"], at_1["guidance_weight"]) == (0, 1)
        assert float(row["frechet_distance_w0"]) == pytest.approx(at_0["frechet_distance"], rel=1e-4)
        assert float(row["judge_accuracy_w1"]) == pytest.approx(at_1["judge_accuracy"], rel=1e-4)
    assert imageio.imread(tmp_path / "steps_model_epoch3.png").ndim == 3


def test_the_sampler_that_is_asked_for_is_measured(evaluated, tmp_path):
    _, (measured,) = evaluated("--n_samples 1 --g_weight 0 --sampler ddim --n_steps 3 --placement fitted")
    assert measured["sampler"].startswith("ddim, 3 of 8 steps, placed by fitted, seed 0")
    _, (_, plain) = evaluated("--n_samples 1 --g_weight 0 --n_steps 3")
    assert plain["results"][1]["frechet_distance"] != measured["results"][1]["frechet_distance"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--steps_sweep 9", "--steps_sweep 9: the model has 8 steps"),
        ("--steps_sweep 2 --n_steps 2", "--n_steps has no effect on --steps_sweep"),
        ("--samplers ddim", "--samplers has no effect on anything but --steps_sweep"),
        ("--steps_sweep 2 --samplers ddim:best", "'ddim:best' is not one of ddpm, ddim,"),
        ("--inpaint 2 --sampler ddim", "--sampler has no effect on completions"),
        ("--placement fitted", "--placement needs a number of steps"),
    ],
)
def test_wrong_calls_of_samplers(evaluated, capsys, words, message):
    assert evaluated(words)[0] == 2 and message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ samples of a model


def test_results_are_added_and_the_judge_is_kept(evaluated, monkeypatch):
    status, first = evaluated()
    assert status == 0 and len(first) == 1
    (measured,) = first
    assert [result["images"] for result in measured["results"]] == ["real test images", "samples", "samples"]
    assert [result.get("guidance_weight") for result in measured["results"]] == [None, 0, 1]
    for result in measured["results"]:
        assert 0 <= result["judge_accuracy"] <= 1 and result["n_images"] == 20 and result["n_reference"] == 70
        assert result["frechet_distance"] > 0 and 0 <= result["precision"] <= 1 and 0 <= result["recall"] <= 1
        assert "mnist" in result["features"] and result["reference"] == "mnist, training images" and "fid" not in result
    assert measured["results"][1]["frechet_distance"] > measured["results"][0]["frechet_distance"]
    assert measured["weights"] == "moving average" and measured["epoch"] == 3 and measured["measured"] == "samples"
    assert measured["sampler"] == "ddpm, 8 steps, seed 0, variance beta, clip_x0 False"
    assert "evaluate.py" in measured["command"]
    monkeypatch.setattr(classifiers, "train", None)  # a second training would fail
    status, second = evaluated("--n_samples 2 --g_weight 0 1 --seed 1")
    assert status == 0 and second[:1] == first and len(second) == 2
    assert second[1]["results"][1] != first[0]["results"][1]  # other samples
    status, third = evaluated()
    assert third[2]["results"] == first[0]["results"]  # the same samples, the same figures


def test_the_figures_are_those_of_the_samples(evaluated, data_dir, tmp_path):
    """Computed here, step by step, from samples drawn here."""
    _, (measured,) = evaluated("--n_samples 2 --g_weight 1 --seed 5")
    ddpm, _ = checkpoint.load_model(tmp_path / "model_epoch3.pt", CPU, pick_amp("auto", CPU))
    y, _ = ddpm.sample(2, n_classes=10, g_weight=1, generator=torch.Generator().manual_seed(5))
    images = ((y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    train_set = sources.load("mnist", data_dir, train=True)
    classifier = DigitClassifier().eval()
    classifier.load_state_dict(checkpoint.load(tmp_path / "judge_mnist_10x28x1.pt")["model"])
    with torch.no_grad():
        real, fake, logits = (
            classifier.features(to_float(train_set.images)),
            classifier.features(images),
            classifier(images),
        )
    found = measured["results"][1]
    assert found["judge_accuracy"] == (logits.argmax(1) == torch.arange(10).repeat(2)).float().mean()
    expected = metrics.frechet_distance(*metrics.moments(real), *metrics.moments(fake))
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-3)
    some = torch.randperm(70, generator=torch.Generator().manual_seed(0))[:20]
    assert [found["precision"], found["recall"]] == pytest.approx(metrics.precision_recall(real[some], fake), abs=0.051)


def test_accuracy_counts_the_class_asked_for(evaluated, monkeypatch):
    """A sampler that draws exactly the class asked for has 100 %, one that is a class off has 0 %."""

    class Brightness(DigitClassifier):
        def forward(self, x):
            return torch.eye(10)[(x.mean(dim=(1, 2, 3)) * 10).round().long().clamp(0, 9)]

    for shift, accuracy in ((0, 1.0), (1, 0.0)):

        def sample(self, n, size, n_classes, w, generator, record, progress, shift=shift):
            k = (torch.arange(n_classes).repeat(n) + shift) % 10
            return (k / 10).view(-1, 1, 1, 1).expand(-1, 1, 28, 28), None

        monkeypatch.setattr("ddpm.DDPM.sample", sample)
        monkeypatch.setattr(reference, "load_or_train", lambda *_: (Brightness().eval(), 1.0))
        monkeypatch.setattr(classifiers, "for_inference", lambda classifier: classifier)
        _, measured = evaluated()
        assert [result["judge_accuracy"] for result in measured[-1]["results"][1:]] == [accuracy, accuracy]


def test_samples_are_drawn_in_parts_and_kept_as_bytes(whole_run, monkeypatch):
    ddpm, _ = checkpoint.load_model(whole_run / "model_epoch3.pt", CPU)
    sizes, whole = [], ddpm.sample
    monkeypatch.setattr(ddpm, "sample", lambda n, *more, **named: sizes.append(n) or whole(n, *more, **named))
    monkeypatch.setattr(reference, "AT_ONCE", 25)
    images, labels = reference.draw_samples(ddpm, 10, 5, 0.0, seed=0)
    assert sizes == [2, 2, 1] and images.dtype == torch.uint8 and images.shape == (50, 1, 28, 28)
    assert labels.tolist() == list(range(10)) * 5
    images, labels = reference.draw_samples(ddpm, 0, 30, 0.0, seed=0)
    assert sizes[3:] == [25, 5] and len(images) == 30 and labels is None


def test_an_interruption_loses_no_result(evaluated, monkeypatch, tmp_path):
    draw = reference.draw_samples

    def interrupted(ddpm, n_classes, n_samples, w, *more):
        if w == 1:
            (tmp_path / "metrics.json").write_text(json.dumps([*read(), {"of": "another process"}]))
        if w == 2:
            raise KeyboardInterrupt
        return draw(ddpm, n_classes, n_samples, w, *more)

    def read():
        return json.loads((tmp_path / "metrics.json").read_text())

    monkeypatch.setattr(measure, "draw_samples", interrupted)
    status, measured = evaluated("--n_samples 1 --g_weight 0 1 2")
    assert status == 130 and len(measured) == 2 and measured[0] == {"of": "another process"}
    assert [result.get("guidance_weight") for result in measured[1]["results"]] == [None, 0, 1]


def test_the_report_is_written_again_where_there_is_one(evaluated, tmp_path):
    evaluated("--n_samples 1 --g_weight 1")
    assert not (tmp_path / "report.html").exists()
    write_report(tmp_path)
    evaluated("--n_samples 1 --g_weight 7")
    assert "<td>7</td>" in (tmp_path / "report.html").read_text()


def test_halves_of_a_set_are_near_and_noise_is_far(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "DIGITS", classifiers.DIGITS._replace(epochs=2, batch_size=40, n_features=8))
    images, labels = render_digits(1600, seed=0)
    half, test = (
        ImageSet(images[part], labels[part], list("0123456789"), "rendered") for part in (slice(800), slice(800, None))
    )
    near = reference.Reference(half, test, tmp_path, None)
    other = near.compare("the other half", test.images, test.labels)
    again = near.compare("the other half", test.images, test.labels)
    noise = torch.randint(0, 256, test.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    far = near.compare("noise", noise, None)
    assert other == again and "judge_accuracy" not in far
    same = near.compare("the training images", half.images, half.labels)
    assert same["frechet_distance"] < 1e-6 and same["precision"] == same["recall"] == 1
    assert far["frechet_distance"] > 100 * other["frechet_distance"]
    assert other["precision"] > 0.7 and other["recall"] > 0.7 and far["precision"] < 0.05


def test_the_kind_of_weights_is_named(evaluated, tmp_path, capsys):
    assert evaluated("--raw")[0] == 2
    assert "--raw needs a checkpoint.pt" in capsys.readouterr().err
    status, measured = evaluated("--n_samples 1 --g_weight 0 --raw", "checkpoint.pt")
    assert status == 0 and measured[0]["weights"] == "raw"
    content = checkpoint.load(tmp_path / "model_epoch3.pt")
    content["arguments"]["ema"] = 0.0
    checkpoint.save(tmp_path / "model_epoch3.pt", content)
    assert evaluated("--n_samples 1 --g_weight 0")[1][1]["weights"] == "raw"  # there is no moving average


@pytest.mark.parametrize("words", ["", "--inpaint 2", "--bits_per_dim 2"])
def test_a_model_that_diverged_is_refused_at_once(evaluated, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr(classifiers, "train", None)
    content = checkpoint.load(tmp_path / "model_epoch3.pt")
    for weight in content["model"].values():
        if weight.is_floating_point():
            weight.fill_(1e38)  # finite, as the reader of such files demands, but not for long
    checkpoint.save(tmp_path / "model_epoch3.pt", content)
    assert evaluated(words) == (1, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "not finite: it diverged" in line


@pytest.mark.parametrize("words", ["--n_samples 1", "--inpaint 2", "--bits_per_dim 2"])
def test_a_model_that_diverges_later_is_refused(evaluated, tmp_path, monkeypatch, capsys, words):
    """It predicts noise for x_T, but not for the end of the reverse process."""
    eps = DDPM.eps

    def late(self, x, t, c=None):
        return eps(self, x, t, c) * torch.where(torch.as_tensor(t == 1).any(), math.nan, 1.0)

    monkeypatch.setattr(DDPM, "eps", late)
    status, measured = evaluated(words)
    assert status == 1 and "not finite: it diverged" in capsys.readouterr().err
    assert all("guidance_weight" not in result for entry in measured or [] for result in entry["results"])


def test_where_results_cannot_be_written_no_work_begins(evaluated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_model", None)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder" / "metrics.json").mkdir(parents=True)
    for out, status in ((tmp_path / "metrics.json", 2), (tmp_path / "file", 1), (tmp_path / "folder", 2)):
        assert evaluated(f"--out {out}") == (status, None)
        (line,) = capsys.readouterr().err.splitlines()
        assert str(out) in line
    (tmp_path / "metrics.json").write_text("{}")
    assert evaluated() == (2, {})


def test_other_kinds_of_files_are_named(evaluated, tmp_path, capsys):
    assert evaluated(source="missing.pt")[0] == 1
    (tmp_path / "text.pt").write_text("hello")
    assert evaluated(source="text.pt")[0] == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    assert evaluated()[0] == 0
    classifier = next(tmp_path.glob("judge_*.pt"))
    capsys.readouterr()
    assert evaluated(source=classifier.name)[0] == 1
    assert "holds no 'spec'" in capsys.readouterr().err
    content = checkpoint.load(classifier)
    checkpoint.save(classifier, {**content, "model": {"weight": torch.zeros(1)}})
    assert evaluated()[0] == 1
    assert "do not fit" in capsys.readouterr().err
    checkpoint.save(classifier, {"model": content["model"]})  # as an earlier version wrote it
    assert evaluated()[0] == 1
    assert "delete the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, reason",
    [
        ("--method mean", "--method has no effect on anything but --inpaint"),
        ("--bits_per_dim 3 --n_steps 5", "--n_steps has no effect on the likelihood"),
        ("--n_steps 9", "n_steps must be a whole number from 1 to T = 8, not 9"),
        ("--dataset mnist", "--dataset has no effect on a model"),
        ("--data_class 3", "--data_class has no effect on a model"),
        ("--bits_per_dim 3 --fid", "--fid has no effect on a measurement without samples"),
        ("--inpaint 3 --method mean input --jump_length 2", "--jump_length has no effect on steps that are taken only"),
        ("--inpaint 3 --g_weight 0", "--g_weight has no effect on a measurement without samples"),
        ("--inpaint 3 --bits_per_dim 3", "not allowed with"),
    ],
)
def test_options_without_effect_are_refused(evaluated, words, reason, capsys):
    assert evaluated(words) == (2, None)
    assert reason in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ an .npz


def test_an_npz_of_samples_has_the_figures_of_the_model(evaluated, tmp_path):
    """Grey images, three times equal, become one channel again: else the judge would be another one."""
    ddpm, _ = checkpoint.load_model(tmp_path / "model_epoch3.pt", CPU, pick_amp("auto", CPU))
    images, labels = reference.draw_samples(ddpm, 10, 2, 1.0, seed=0)
    write_npz(tmp_path / "samples.npz", images, labels)
    evaluated("--n_samples 2 --g_weight 1")
    status, (of_model, of_npz) = evaluated("--dataset mnist", "samples.npz")
    assert status == 0 and of_npz["model"] == "samples.npz" and "sampler" not in of_npz
    assert of_npz["results"][0] == of_model["results"][0]
    assert of_npz["results"][1] == {k: v for k, v in of_model["results"][1].items() if k != "guidance_weight"}
    assert [file.name for file in tmp_path.glob("judge_*")] == ["judge_mnist_10x28x1.pt"]


@pytest.mark.parametrize("labels", [None, np.full(9, -1)])
def test_a_coloured_npz_stays_coloured_and_needs_no_labels(evaluated, tmp_path, labels):
    write_npz(tmp_path / "samples.npz", torch.randint(0, 256, (9, 3, 28, 28), dtype=torch.uint8), labels)
    status, (measured,) = evaluated("--dataset mnist", "samples.npz")
    assert status == 0 and (tmp_path / "judge_mnist_10x28x3.pt").exists()
    assert "judge_accuracy" in measured["results"][0] and "judge_accuracy" not in measured["results"][1]


def test_the_classes_of_an_npz_are_names(evaluated, tmp_path, capsys, monkeypatch):
    """The data set has one more class, and another order, than the model that drew the images."""
    root = write_folder(tmp_path / "data", ["ant", "cat", "dog"], 4, size=16, splits=["train", "test"])
    sets = []

    def start(train_set, *_):
        sets.append(train_set)
        return SimpleNamespace(compare=lambda *_: {}), SimpleNamespace(add=lambda _: None)

    monkeypatch.setattr(measure, "start_comparison", start)
    arrays = {"arr_0": np.zeros((4, 16, 16, 3), np.uint8), "arr_1": np.array([0, 0, 1, 1])}
    np.savez(tmp_path / "old.npz", **arrays)
    np.savez(tmp_path / "samples.npz", **arrays, class_names=np.array(["dog", "cat"]))
    for file in ("old.npz", "samples.npz"):
        evaluated("--dataset folder", file, root)
    assert [found.class_names for found in sets] == [["ant", "cat", "dog"], ["dog", "cat"]]
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "wolf")
    assert evaluated("--dataset folder", "samples.npz", root)[0] == 2
    assert "no class 'dog'" in capsys.readouterr().err


def test_calls_for_an_npz_that_cannot_be(evaluated, tmp_path, capsys):
    images = torch.zeros(12, 1, 28, 28, dtype=torch.uint8)
    write_npz(tmp_path / "samples.npz", images, np.full(12, 10))
    write_npz(tmp_path / "few.npz", images[:3])
    for words, source, expected, reason in [
        ("", "samples.npz", 2, "add --dataset"),
        ("--dataset mnist --n_samples 3", "samples.npz", 2, "--n_samples has no effect on an .npz"),
        ("--dataset mnist --raw", "samples.npz", 2, "--raw has no effect on an .npz"),
        ("--dataset mnist", "samples.npz", 1, "labels up to 10, but mnist has 10 classes"),
        ("--dataset mnist --data_class x", "samples.npz", 2, "there is no class 'x'"),
        ("--dataset mnist", "few.npz", 2, "more than 3 of each are needed"),
        ("--dataset mnist", "missing.npz", 1, "there is no file"),
    ]:
        assert evaluated(words, source) == (expected, None), words
        error = capsys.readouterr().err
        assert reason in error and len(error.strip().splitlines()) == 1


# ------------------------------------------------------------------------------------------------ the standard FID


class FourFeatures:
    """An extractor as clean-fid calls it: sums of the features of the judge that `evaluated` keeps."""

    def __init__(self, file):
        self.classifier = DigitClassifier().eval()
        self.classifier.load_state_dict(checkpoint.load(file)["model"])

    def __call__(self, x):
        with torch.no_grad():
            features = self.classifier.features(F.interpolate(x[:, :1], (28, 28), mode="area") / 127.5 - 1)
            return 1e3 * features.view(len(x), 4, -1).sum(2)  # four sums: some features alone are always 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_stands_beside_the_other_figures(evaluated, data_dir, tmp_path, monkeypatch):
    pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed (requirements-fid.txt)")
    _, (before,) = evaluated("--n_samples 4 --g_weight 1")
    extractor = FourFeatures(tmp_path / "judge_mnist_10x28x1.pt")
    monkeypatch.setattr(clean_fid, "_inception", lambda folder, device: extractor)
    status, (_, measured) = evaluated("--n_samples 4 --g_weight 1 --fid")
    assert status == 0
    ddpm, _ = checkpoint.load_model(tmp_path / "model_epoch3.pt", CPU, pick_amp("auto", CPU))
    train, test = (sources.load("mnist", data_dir, train=split).images for split in (True, False))
    samples, _ = reference.draw_samples(ddpm, 10, 4, 1.0, seed=0)
    of_train, of_test, of_samples = (
        torch.from_numpy(clean_fid._features(images, extractor, CPU)) for images in (train, test, samples)
    )
    for result, old, features in zip(measured["results"], before["results"], (of_test, of_samples)):
        expected = metrics.frechet_distance(*metrics.moments(of_train), *metrics.moments(features))
        assert expected > 1 and result.pop("fid") == pytest.approx(expected, rel=1e-3) and result == old


def test_without_cleanfid_the_judge_still_judges(evaluated, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    monkeypatch.setitem(sys.modules, "cleanfid.fid", None)
    status, (measured,) = evaluated("--n_samples 1 --g_weight 1 --fid")
    error = capsys.readouterr().err.strip()
    assert status == 0 and len(error.splitlines()) == 1 and "pip install -r requirements-fid.txt" in error
    assert all(figure in result and "fid" not in result for result in measured["results"] for figure in FIGURES)


# ------------------------------------------------------------------------------------------------ bits per dimension


def test_bits_per_dimension(evaluated, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "load_or_train", None)  # no judge is needed
    monkeypatch.setattr(measure, "AT_ONCE", 4)
    status, (measured,) = evaluated("--bits_per_dim 6 --seed 3")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bits per dimension"))
    (found,) = measured["results"]
    assert status == 0 and measured["bound_of"] == "the first 6 test images, each given its class"
    assert found["bits_per_dim"] == pytest.approx(found["decoder"] + found["steps"] + found["prior"])
    assert all(f"{found[part]:.4f}" in line for part in ("bits_per_dim", "decoder", "steps")) and "the prior" in line

    ddpm, _ = checkpoint.load_model(tmp_path / "model_epoch3.pt", CPU)  # in float32, whatever the processor has
    test_set = sources.load("mnist", data_dir, train=False)
    y, c = test_set.batch(torch.arange(6))
    bound = ddpm.variational_bound(y, c, torch.Generator().manual_seed(3), batch_size=4)
    assert found["bits_per_dim"] == pytest.approx(bound.bits_per_dim.mean().item(), rel=1e-6)
    variance = np.var(bound.bits_per_dim.tolist(), ddof=1)
    assert found["standard_error"] == pytest.approx(math.sqrt(variance / 6), rel=1e-6)
    with open(tmp_path / "bits_per_dim_model_epoch3.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["term"] for row in rows] == [f"L_{k}" for k in range(9)]
    terms = [float(row["bits_per_dim"]) for row in rows]
    assert terms == pytest.approx((bound.terms.mean(dim=0) / 784 / math.log(2)).tolist(), rel=1e-5)
    assert found["figure"] == "bits_per_dim_model_epoch3.png" and measured["arithmetic"] == "float32"
    again = evaluated("--bits_per_dim 6 --seed 3")[1][1]
    assert again["results"][0].pop("figure") == "bits_per_dim_model_epoch3_2.png"  # none is overwritten
    assert again == {**measured, "results": [{name: found[name] for name in found if name != "figure"}]}
    for name in ("bits_per_dim_model_epoch3.png", "bits_per_dim_model_epoch3_2.png"):
        assert (imageio.imread(tmp_path / name) < 128).any()
        assert name in write_report(tmp_path).read_text()
    assert evaluated("--bits_per_dim 1")[1][2]["results"][0]["standard_error"] is None
    assert evaluated("--bits_per_dim 1000")[1][3]["bound_of"].startswith("the first 20 test images")


# ------------------------------------------------------------------------------------------------ without classes


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A folder with an AFHQ of two kinds of animals, and in it log/model_step2.pt, a model of the first kind."""
    folder = tmp_path_factory.mktemp("animals")
    write_folder(folder / "afhq", ["cat", "dog"], 50, size=16)
    words = (
        "--unet_dim 8 --unet_dim_mults 1 2 --time_steps 6 --batch_size 4 --n_samples 4 --image_size 16 --device cpu "
    )
    words += f"--train_steps 2 --save_and_sample_every 2 --data_path {folder} --save_folder {folder / 'log'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_afhq.py", *words.split()])
        run_script(train_afhq.main)
    return folder


def test_a_model_without_classes(evaluated, animals, tmp_path, monkeypatch):
    shutil.copy(animals / "log" / "model_step2.pt", tmp_path)
    drawn, sample = [], DDPM.sample
    monkeypatch.setattr(DDPM, "sample", lambda self, *a, **k: drawn.append((self, k)) or sample(self, *a, **k))
    status, (measured,) = evaluated("--n_samples 9", "model_step2.pt", animals)
    assert status == 0 and [file.name for file in tmp_path.glob("judge_*")] == ["judge_afhq_cat_1x16x3.pt"]
    real, found = measured["results"]
    assert (real["images"], real["n_images"]) == ("real test images", 5)  # one in ten of the cats is held out
    assert (found["images"], found["n_images"], found["n_reference"]) == ("samples", 9, 45)
    assert all(figure in found for figure in FIGURES) and "rotations of cat" in found["features"]
    assert not {"judge_accuracy", "guidance_weight"} & {*real, *found}
    (ddpm, arguments), *_ = drawn
    assert ddpm.clip_x0 is True and ddpm.variance == "posterior"  # as train_afhq.py draws
    assert not {"clip_x0", "variance"} & set(arguments)
    assert measured["sampler"] == "ddpm, 6 steps, seed 0, variance posterior, clip_x0 True"
    assert evaluated("--n_samples 9", "model_step2.pt", animals)[1][1] == measured
    bits = evaluated("--bits_per_dim 3", "model_step2.pt", animals)[1][2]
    assert bits["bound_of"] == "the first 3 test images" and bits["results"][0]["bits_per_dim"] > 0


def test_a_data_set_of_one_class(evaluated, animals, tmp_path, monkeypatch):
    """datasets.load has 10 classes by default, and the model's file names none."""
    shutil.copy(animals / "log" / "model_step2.pt", tmp_path)
    shutil.copytree(animals / "afhq" / "train" / "cat", tmp_path / "data" / "afhq" / "train" / "cat")
    status, (measured,) = evaluated("--n_samples 9", "model_step2.pt", tmp_path / "data")
    assert status == 0 and measured["results"][1]["n_reference"] == 45


def test_an_npz_of_noise_is_far_from_everything(evaluated, tmp_path):
    """Of smooth images, red ones and blue ones, two disjoint halves are near each other, and noise is far from both."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(0, 1, 16).view(16, 1)
    for i in range(160):
        bright, tilt = torch.rand(2, generator=generator)
        image = torch.zeros(16, 16, 3)
        image[..., 2 * (i % 2)] = 55 + 100 * bright + 100 * tilt * slope
        file = tmp_path / "data" / ("test" if i < 80 else "train") / "rb"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(file, image.to(torch.uint8).numpy())
    noise = torch.randint(256, (80, 3, 16, 16), dtype=torch.uint8, generator=generator)
    write_npz(tmp_path / "noise.npz", noise)
    half = sources.load("folder", tmp_path / "data", False, n_classes=2, im_height=16, im_channels=3).images
    write_npz(tmp_path / "half.npz", half)
    for name in ("noise.npz", "half.npz", "half.npz"):
        status, measured = evaluated("--dataset folder", name, tmp_path / "data")
        assert status == 0
    far, near, again = (entry["results"][-1] for entry in measured)
    assert again == near and near["frechet_distance"] < 0.05 * far["frechet_distance"]
    assert max(far["precision"], far["recall"]) < 0.2 and min(near["precision"], near["recall"]) > 0.7


def test_an_npz_of_one_class(evaluated, animals, tmp_path):
    dogs = sources.load("afhq", animals, False, n_classes=None, data_class="dog", im_height=16, im_channels=3)
    write_npz(tmp_path / "samples.npz", dogs.images, np.full(5, 7))  # labels say nothing where there are no classes
    status, (measured,) = evaluated("--dataset afhq --data_class dog", "samples.npz", animals)
    assert status == 0 and "rotations of dog" in measured["results"][0]["features"]
    assert measured["results"][1]["n_reference"] == 45 and "judge_accuracy" not in measured["results"][1]
    of_tests, of_npz = ([result[name] for name in FIGURES] for result in measured["results"])
    assert of_npz == pytest.approx(of_tests)  # the same five images


def test_what_a_model_without_classes_cannot_be_asked(evaluated, animals, tmp_path, capsys):
    shutil.copy(animals / "log" / "model_step2.pt", tmp_path)
    for words, reason in [
        ("--g_weight 1", "--g_weight: the model has no classes"),
        ("--inpaint 2", "has only one class"),
        ("--n_samples 3", "more than 3 of each are needed"),
    ]:
        assert evaluated(words, "model_step2.pt", animals) == (2, None)
        assert reason in capsys.readouterr().err
    content = checkpoint.load(tmp_path / "model_step2.pt")
    for name, value, reason in [
        ("dataset", ["afhq"], "no data set of this suite"),
        ("data_class", "cow", "no class 'cow'"),
    ]:
        changed = {**content, "arguments": {**content["arguments"], name: value}}
        checkpoint.save(tmp_path / "model_step2.pt", changed)
        assert evaluated("--n_samples 9", "model_step2.pt", animals) == (2, None)
        assert reason in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ completions


def test_completions_in_the_record_and_in_the_report(evaluated, tmp_path, monkeypatch, data_dir):
    status, (measured,) = evaluated("--inpaint 4 --mask random --seed 1")
    assert status == 0 and measured["measured"] == "completions"
    assert measured["completions"] == "the first 4 test images, random hidden, no class given"
    names = {"judge_mnist_10x28x1.pt", "random1_hidden_judge_mnist_10x28x1.pt"}
    assert {file.name for file in tmp_path.glob("*judge_*")} == names
    mean, by_input, repaint = measured["results"]
    assert mean["known_error"] < 1e-6 < by_input["known_error"] and repaint["known_error"] == 0

    ddpm, _ = checkpoint.load_model(tmp_path / "model_epoch3.pt", CPU, pick_amp("auto", CPU))
    y = to_float(sources.load("mnist", data_dir, train=False).images[:4])
    mask = mask_named("random", 28, 28, torch.Generator().manual_seed(1))
    found = ddpm.complete_image(y, mask, method="input", generator=torch.Generator().manual_seed(1))
    known = mask.expand_as(y) == 1
    assert by_input["known_error"] == pytest.approx((found - y)[known].abs().mean().item(), rel=1e-4)

    _, (_, few) = evaluated(
        "--inpaint 4 --mask random --seed 1 --method input --n_steps 5 --n_resample 3 --jump_length 2"
    )
    assert few["sampler"] == "ddpm, 5 of 8 steps, seed 1" and [r["n_resample"] for r in few["results"]] == [3]
    found = ddpm.respaced(5).complete_image(
        y, mask, method="input", n_resample=3, jump_length=2, generator=torch.Generator().manual_seed(1)
    )
    off = (found - y)[known].abs().mean().item()
    assert few["results"][0]["known_error"] == pytest.approx(off, rel=1e-4) != by_input["known_error"]

    _, (_, _, bottom) = evaluated("--inpaint 4")
    assert (tmp_path / "bottom_hidden_judge_mnist_10x28x1.pt").exists() and "bottom hidden" in bottom["completions"]
    page = write_report(tmp_path).read_text()
    assert "<h3>Completed images</h3>" in page and "<h3>Generated images</h3>" not in page
    for method in ("mean", "input", "repaint"):
        assert page.count(f"<td>{method}</td>") == (3 if method == "input" else 2)
    assert page.count(f"<td>{by_input['known_error']:.4g}</td>") == 1
    assert page.count("<td>the first 4 test images, random hidden, no class given</td>") == 4
