"""Runs on context vectors, from training to sample.py and check_log.py: an encoder of attributes, and CLIP."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_prompts import run_train_celeba, write_faces
from tiny_script import run_here

import check_log
import evaluate
import sample
from datasets.context import ContextSet, encode_prompts
from datasets.encoders import encoder_from
from evaluation.prompt_score import load_or_train
from training import checkpoint

PROMPTS = ["old, happy", "not old"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    """The log folder of a run with an encoder of attributes; tests only read it."""
    log_dir = tmp_path_factory.mktemp("words") / "log"
    table = f"{faces}//attributes.csv"  # as nobody would write it, but check_log.py must not mind
    words = ["--encoder", "attributes", "--attributes", table, "--prompts", *PROMPTS]
    words += ["--sampler", "ddim", "--sample_steps", "3"]
    assert run_train_celeba(faces, log_dir, *words) == 0
    return log_dir


@pytest.fixture
def draw(run, tmp_path):
    """draw("--more", "words") is `python sample.py` with the model of the run; returns the exit status."""
    call = [str(run / "model_epoch2.pt"), "--device", "cpu", "--out", str(tmp_path / "out")]
    return lambda *words: run_here(sample, [*call, *words])


def sampled(log_dir, w):
    """The samples of the last grid, drawn again by DDPM.sample with the prompts' vectors."""
    ddpm, content = checkpoint.load_model(log_dir / "model_epoch2.pt", torch.device("cpu"))
    vectors = encode_prompts(encoder_from(content["spec"]["encoder"]), PROMPTS)
    return ddpm.sample(2, None, vectors.shape[1], w, vectors, generator=torch.Generator().manual_seed(5))[0]


# ------------------------------------------------------------ attributes


def test_the_log_folder_passes_and_its_model_draws_its_grids(run, capsys):
    assert run_here(check_log, [str(run), "--resample", "all"]) == 0
    found = capsys.readouterr().out
    assert "run with prompts on folder" in found and found.count("draws the same images") == 6  # 2 epochs, 3 weights
    for name in ("similarity.png", "samples_unconditional.png", "data.png"):
        assert (run / name).exists()
    assert "old, happy" in (run / "report.html").read_text(encoding="utf-8")


def test_a_picture_that_is_missing_is_a_problem(run, tmp_path, capsys):
    for file in run.iterdir():
        if file.name not in ("similarity.png", "generated_images_epoch2_guidance_weight7.png"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert run_here(check_log, [str(tmp_path)]) == 1
    found = capsys.readouterr().out
    assert "problem  similarity.png" in found and "problem  generated_images_epoch2_guidance_weight7.png" in found


def test_the_condition_reaches_the_network_in_training(run):
    """The weights of the context are not those of the beginning, and another context gives other samples."""
    content = checkpoint.load(run / "checkpoint.pt")
    torch.manual_seed(0)
    before = checkpoint.build(content["spec"], torch.device("cpu")).nn_model.condition.weight
    assert not torch.equal(content["model"]["condition.weight"], before)
    y = sampled(run, 1.0)
    assert not torch.equal(y[0], y[1])


def test_a_stopped_run_goes_on_to_the_bit(faces, run, tmp_path):
    words = ("--encoder", "attributes", "--prompts", "happy")
    assert run_train_celeba(faces, tmp_path / "log", *words, "--n_epochs", "1") == 0
    assert run_train_celeba(faces, tmp_path / "log", *words, "--resume") == 0
    weights = [checkpoint.load(folder / "checkpoint.pt")["model"] for folder in (run, tmp_path / "log")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_does_not_go_on_with_another_table(run, faces, tmp_path, capsys):
    (tmp_path / "log").mkdir()
    for file in run.iterdir():
        (tmp_path / "log" / file.name).write_bytes(file.read_bytes())
    data = write_faces(tmp_path / "data")
    table = data / "attributes.csv"
    table.write_text(table.read_text().replace("\n3,3,", "\n3,4,"))
    assert run_train_celeba(data, tmp_path / "log", "--encoder", "attributes", "--prompts", "old", "--resume") == 2
    assert "another table of attributes" in capsys.readouterr().err


def test_prompts_pictures_and_mixtures(faces, draw, tmp_path):
    words = ["happy", "old*0.5 + happy*0.5"]
    assert draw("--prompts", *words, "--g_weight", "1", "3", "--image_prompt", str(faces / "train/face/003.png")) == 0
    one = imageio.imread(tmp_path / "out" / "prompts.png")
    assert draw("--image_prompt", str(faces / "train/face/003.png")) == 0
    assert one.shape[0] > imageio.imread(tmp_path / "out" / "prompts_2.png").shape[0]  # two weights


def test_prompts_change_samples(draw, tmp_path):
    for prompt in ("happy", "not happy", "happy"):
        assert draw("--prompts", prompt, "--n_samples", "1") == 0
    pages = [imageio.imread(tmp_path / "out" / f"prompts{n}.png") for n in ("", "_2", "_3")]
    assert np.array_equal(pages[0], pages[2]) and not np.array_equal(pages[0][-100:], pages[1][-100:])


@pytest.mark.parametrize(
    "words, status, told",
    [
        (["--prompts"], 2, "expected at least one argument"),
        (["--prompts", ""], 2, "empty"),
        (["--prompts", "handsome"], 2, "'handsome'"),
        (["--prompts", "old", "--classes", "1"], 2, "--classes"),
        (["--classes", "1", "--g_weight", "1", "3"], 2, "--guidance_sweep"),
        (["--clip_weights", "x"], 2, "--clip_weights"),
        (["--prompts", "old", "--clip_weights", "x"], 2, "is not CLIP"),
        (["--image_prompt", "nowhere.png"], 1, "nowhere.png"),
    ],
)
def test_calls_that_are_refused(draw, words, status, told, capsys):
    assert draw(*words) == status
    assert told in capsys.readouterr().err


def test_a_model_of_classes_understands_no_prompts(model, tmp_path, capsys):
    assert run_here(sample, [str(model), "--device", "cpu", "--out", str(tmp_path), "--prompts", "old"]) == 2
    assert "understands no prompts" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    "damage, told",
    [
        ({"kind": "spell"}, "there is no encoder 'spell'"),
        ({"kind": "clip"}, "must hold model, sha256"),
        ({"more": 1.0}, "and nothing else"),
        ({"mean": "text"}, "must hold"),
        ({"names": [1, 2]}, "texts as names"),
        ({"std": [0.0, 1.0]}, "above 0"),
    ],
)
def test_recipes_that_make_no_encoder(run, tmp_path, damage, told, capsys):
    content = checkpoint.load(run / "model_epoch2.pt")
    content["spec"]["encoder"].update(damage)
    checkpoint.save(tmp_path / "model_epoch2.pt", content)
    assert run_here(sample, [str(tmp_path / "model_epoch2.pt"), "--device", "cpu", "--prompts", "old"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, status, told",
    [
        (["--encoder", "attributes", "--prompts", "x" * 101], 2, "101 characters"),
        (["--encoder", "attributes", "--attributes", "none.csv"], 1, "none.csv"),
        (["--encoder", "attributes", "--prompts", "sad"], 2, "'sad'"),
        (["--encoder", "attributes", "--clip_weights", "random"], 2, "--clip_weights has no effect"),
        (["--attributes", "none.csv"], 2, "--attributes has no effect"),
    ],
)
def test_trainings_that_are_refused_before_they_begin(faces, tmp_path, words, status, told, capsys):
    assert run_train_celeba(faces, tmp_path / "log", *words) == status
    assert told in capsys.readouterr().err and not (tmp_path / "log").exists()


# ------------------------------------------------------------ CLIP


def test_clip_without_its_package(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it were not installed
    assert run_train_celeba(faces, tmp_path / "log") == 1
    assert "requirements-text.txt" in capsys.readouterr().err


CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """The name of a small model of open_clip, which has no weights to download."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    return "tiny-clip"


@pytest.fixture(scope="module")
def clip_run(faces, tiny_clip, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("clip") / "log"
    words = ["--clip_model", tiny_clip, "--clip_weights", "random", "--prompts", "a smiling woman", "an old man"]
    assert run_train_celeba(faces, log_dir, *words) == 0
    return log_dir


def test_clip_from_the_pictures_to_the_prompts(clip_run, faces, tmp_path, capsys):
    assert run_here(check_log, [str(clip_run), "--resample", "all"]) == 0
    assert capsys.readouterr().out.count("draws the same images") == 6  # 2 epochs, 3 weights
    with np.load(next(faces.glob("context_train_clip-tiny-clip-*.npz"))) as cache:
        assert cache["context"].dtype == np.float16 and cache["context"].shape == (36, 16)
        np.testing.assert_allclose(np.square(cache["context"].astype(float)).sum(1), 1, atol=1e-2)
    call = [str(clip_run / "model_epoch2.pt"), "--device", "cpu", "--out", str(tmp_path)]
    words = ["--prompts", "a hat*0.3 + a man*0.7", "--image_prompt", str(faces / "train/face/003.png")]
    assert run_here(sample, [*call, *words, "--g_weight", "1", "7"]) == 0
    assert (tmp_path / "prompts.png").exists()


def test_prompts_are_refused_before_pictures_are_decoded(tiny_clip, tmp_path, capsys):
    data = write_faces(tmp_path / "data")
    assert call_of_clip(data, tmp_path / "log", tiny_clip, "random", "--prompts", "a*b") == 2
    assert "weight" in capsys.readouterr().err and not list(data.glob("*.np*"))


def test_vectors_of_clip(tiny_clip, faces):
    from datasets.clip import Clip

    clip = Clip(tiny_clip, "random")
    again = encoder_from(clip.recipe())
    texts = clip.encode_texts(["an old man", "a hat"])
    assert torch.equal(texts, again.encode_texts(["an old man", "a hat"])) and texts.shape == (2, clip.dimension)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    files = sorted((faces / "train" / "face").iterdir())[:3]
    torch.testing.assert_close(clip.encode_images(files).norm(dim=1), torch.ones(3))
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(clip.encode_pixels(pixels)[1:], clip.encode_pixels(pixels[1:]))


def call_of_clip(faces, log_dir, model, weights, *more):
    return run_train_celeba(faces, log_dir, "--clip_model", model, "--clip_weights", weights, *more)


def test_clip_refuses(tiny_clip, faces, tmp_path, monkeypatch, capsys):
    import open_clip

    def told(*words):
        status = call_of_clip(faces, tmp_path / "log", *words)
        return status, capsys.readouterr().err

    status, error = told("no-clip", "random")
    assert status == 2 and "no model 'no-clip'" in error
    status, error = told(tiny_clip, "laion2b")
    assert status == 2 and "'laion2b' is no file" in error
    status, error = told(tiny_clip, "random", "--prompts", "an " * 100 + "old man")
    assert status == 2 and "307 characters" in error
    status, error = told(tiny_clip, "random", "--prompts", "123456789" * 10)
    assert status == 2 and "too long: 92 tokens, and CLIP reads 77" in error
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    status, error = told(tiny_clip, str(tmp_path / "weights.pt"))
    assert status == 1 and "cannot be read" in error and "--clip_weights" in error

    def no_network(*arguments, **more):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", no_network)
    status, error = told("ViT-B-32", "openai")
    assert status == 1 and "cannot be downloaded" in error and "--clip_weights" in error and error.count("\n") == 1


def test_clip_weights_from_a_file_and_those_of_another_model(tiny_clip, clip_run, faces, tmp_path, capsys):
    import open_clip

    torch.manual_seed(1)
    torch.save(open_clip.create_model(tiny_clip).state_dict(), tmp_path / "mine.pt")
    prompts = ["--prompts", "an old man"]
    assert call_of_clip(faces, tmp_path / "log", tiny_clip, str(tmp_path / "mine.pt"), *prompts) == 0
    capsys.readouterr()
    call = ["--device", "cpu", "--out", str(tmp_path), *prompts]
    mine, other = (str(folder / "model_epoch2.pt") for folder in (tmp_path / "log", clip_run))
    assert run_here(sample, [mine, *call]) == 2
    assert "--clip_weights FILE" in capsys.readouterr().err
    assert run_here(sample, [mine, *call, "--clip_weights", str(tmp_path / "mine.pt")]) == 0
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(tmp_path / "mine.pt", tmp_path / "moved")
    assert call_of_clip(faces, tmp_path / "log", tiny_clip, moved, *prompts, "--resume", "--n_epochs", "3") == 0
    assert run_here(sample, [other, *call, "--clip_weights", str(tmp_path / "mine.pt")]) == 1
    assert "are not those of the training" in capsys.readouterr().err


# ------------------------------------------------------------ evaluate.py


def evaluated(log_dir, faces, tmp_path, *words):
    """The results of `python evaluate.py` in words: {kind: rows}."""
    call = [str(log_dir / "model_epoch2.pt"), "--device", "cpu", "--data_dir", str(faces), "--n_samples", "4"]
    out = ["--out", str(tmp_path), "--judge_dir", str(tmp_path)]
    assert run_here(evaluate, [*call, *out, *words]) == 0
    entries = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    return {entry["measured"]: entry["results"] for entry in entries}


def test_the_score_of_prompts_and_the_ratings_of_attributes(run, faces, tmp_path):
    found = evaluated(run, faces, tmp_path, "--prompts", "old", "young", "happy, old", "--g_weight", "0", "2")
    assert [(row["guidance_weight"], row["prompt"]) for row in found["prompts"]][2:4] == [(0, "happy, old"), (2, "old")]
    assert all(-1 <= row["score"] <= 1 for row in found["prompts"])
    assert [row["attribute"] for row in found["ratings"]] == ["age", "age"]
    for row in found["ratings"]:
        assert row["difference"] == pytest.approx(row["rating_high"] - row["rating_low"])
        assert row["share_of_real"] == pytest.approx(row["difference"] / row["difference_of_real_quarters"])
    assert (tmp_path / "prompt_score_model_epoch2.png").exists()


def test_the_regressor_learns_to_see(tmp_path):
    """Brightness is an attribute that can be seen; a second one is noise."""
    levels, rng = np.random.default_rng(0).integers(20, 236, 80), torch.Generator().manual_seed(0)
    images = torch.from_numpy(levels).to(torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8)
    context = torch.stack([torch.from_numpy((levels - 128) / 62).float(), torch.randn(80, generator=rng)], 1) / 2**0.5
    both = ContextSet(images, torch.zeros(80, dtype=torch.int64), ["a"], "folder", context=context.half())
    halves = [
        dataclasses.replace(both, images=images[part], context=both.context[part])
        for part in (slice(60), slice(60, 80))
    ]
    _network, correlations = load_or_train(tmp_path, *halves)
    assert correlations[0] > 0.9 > 0.8 > abs(correlations[1])
    _again, same = load_or_train(tmp_path, *halves)
    assert same == correlations and len(list(tmp_path.iterdir())) == 1


def test_the_score_of_clip(clip_run, faces, tmp_path):
    found = evaluated(clip_run, faces, tmp_path, "--prompts", "an old man", "a hat", "--g_weight", "1")
    ddpm, content = checkpoint.load_model(clip_run / "model_epoch2.pt", torch.device("cpu"))
    clip = encoder_from(content["spec"]["encoder"])
    vectors = clip.encode_texts(["an old man", "a hat"])
    y, _ = ddpm.sample(4, None, 16, 1.0, vectors, generator=torch.Generator().manual_seed(0))
    seen = clip.encode_pixels((y.clamp(-1, 1) + 1) / 2)
    own, other = (seen[0::2] @ vectors.T).mean(0).tolist()
    assert found["prompts"][0]["score"] == pytest.approx(own, abs=2e-3)
    assert found["prompts"][0]["score_with_other_prompts"] == pytest.approx(other, abs=2e-3)


@pytest.mark.parametrize(
    "words, told", [(["--prompts", "old", "--fid"], "--fid"), (["--clip_weights", "x"], "--clip_weights")]
)
def test_measurements_that_are_refused(run, words, told, capsys):
    assert run_here(evaluate, [str(run / "model_epoch2.pt"), "--device", "cpu", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_model_of_classes_has_no_prompts_to_measure(model, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert run_here(evaluate, [str(model), "--device", "cpu", "--prompts", "old", *out]) == 2
    assert "was not trained on context vectors" in capsys.readouterr().err
