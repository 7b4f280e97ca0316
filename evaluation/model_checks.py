"""What check_log.py asks of models: are they those of the run, do they draw its grids, and what do these grids show?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch

from common.console import CallError, RunError, one_line
from common.machine import pick_amp
from datasets import sources
from datasets.context import encode_prompts
from datasets.encoders import encoder_from
from datasets.image_set import ImageSet
from ddpm import DDPM
from evaluation.classifier import classify, file_name, load_or_train, tells_rotations
from figures.grids import to_unit
from networks.classifier import Classifier
from reporting.checks import Check
from reporting.grids import flat
from reporting.log_files import grid_name, model_name
from reporting.reader import MOST_BYTES, printable
from training.arguments import sampler_as_asked
from training.checkpoint import load_model
from training.seeds import PICTURES, seed_for

# The largest difference between a grid and the same grid drawn again: the median over the images of the mean difference,
# in grey levels from 0 to 255. Measured with log/log_mnist (T = 400): 0.0 on the same kind of processor, 0.3 between
# bfloat16 and float32, 2.9 for the model of two epochs earlier, whose images look much the same.
SAME_MODEL = 1.5
HEIGHTS = (28, 32, 64)  # each height needs a classifier of its own
FAIL, DOUBT = 0.25, 0.6  # accuracy on a scale from chance (0) to that on real test images (1)


def check_models(check: Check, names: Sequence[str], resample: str | None) -> None:
    """Load these model files, which need not be trusted, and compare them with config.json. The last model draws its
    grids again: of one guidance weight if `resample` is "one", of all if it is "all", of none if it is None.
    """
    for name in names:
        ddpm = _check_model(check, name)
        if ddpm is not None and resample and name == model_name(check.settings.unit, check.settings.last):
            _resample(check, name, resample)


def _load(path: Path, check: Check, amp: torch.dtype | None = None, device: str = "cpu") -> tuple[DDPM, dict[str, Any]]:
    if check.folder.files[path.name] > MOST_BYTES[".pt"]:
        raise RunError(f"{path} is larger than {MOST_BYTES['.pt'] / 2**30:.0f} GB, and was not read")
    return load_model(path, torch.device(device), amp)


def _check_model(check: Check, name: str) -> DDPM | None:
    """The model in this file, if it can be loaded and is of this run."""
    path, settings = check.folder.path / name, check.settings
    try:
        ddpm, content = _load(path, check)
    except (RunError, CallError, OSError) as error:
        check.say("problem", name, "was refused: " + str(error).replace(f"{path} ", ""))
        return None
    wrong = None
    mark = re.search(r"(epoch|step)(\d+)", name)
    if content["spec"] != settings.config.get("spec", content["spec"]):
        wrong = "has another network or schedule than config.json says"
    elif settings.kind == "classes" and content["class_names"] != list(settings.class_names):
        wrong = "has other classes than config.json says"
    elif content["arguments"].get("seed") != settings.seed:
        wrong = "is of a run with another seed"
    elif mark and content.get(mark[1]) != int(mark[2]):
        wrong = f"holds {mark[1]} {printable(content.get(mark[1]), 40)}"
    n = sum(weight.numel() for weight in ddpm.nn_model.parameters())
    check.say("problem" if wrong else "ok", name, wrong or f"{n:,} parameters, loaded without running any code in it")
    return None if wrong else ddpm


def _resample(check: Check, name: str, which: str) -> None:
    """Draw the last grids again, with the noise of the run's seed, on the kind of device that drew them."""
    settings = check.settings
    config = {**settings.config, **(settings.config.get("resumed") or [{}])[-1]}
    kind = str(config.get("device", "cpu")).split(" ")[0].split(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind):
        check.say("note", name, f"cannot draw its grids again here: their noise was drawn on {printable(kind, 20)}")
        return
    amp = torch.bfloat16 if str(config.get("precision", "")).startswith("bf16") else None
    if kind == "cpu" and amp and pick_amp("auto", torch.device("cpu")) is None:
        amp = None  # emulated bfloat16 would be slow, and no closer than float32
    ddpm, content = _load(check.folder.path / name, check, amp, kind)
    asked = [content["arguments"].get(option) for option in ("sampler", "sample_steps", "placement")]
    try:
        ddpm = sampler_as_asked(ddpm, *asked)
    except (TypeError, ValueError):
        check.say("problem", name, f"has no possible sampler: {printable(asked, 60)}")
        return
    weights: list[float | None] = list(settings.g_weights) or [None]  # None: a run without classes
    if which == "one":
        weights = [min(weights, key=lambda w: abs(w or 0))]
    for w in weights:
        grid = grid_name(settings.unit, settings.last, w)
        if grid not in check.generated:
            check.say("note", grid, "was not drawn again: there is nothing to compare with")
            continue
        try:
            drawn = draw_again(ddpm, check, w)
        except (RunError, CallError, KeyError, ValueError) as error:  # of the encoder of prompts
            check.say("note", grid, f"was not drawn again: {one_line(error)}")
            return
        there = flat(check.generated[grid])
        difference = float(np.median(np.abs(drawn - there).mean(axis=(1, 2))))
        check.facts["redrawn_difference"] = round(difference, 2)
        good = difference <= SAME_MODEL
        text = f"images: they differ by {difference:.2g} of 255 grey levels, {SAME_MODEL} are allowed"
        check.say("ok" if good else "problem", grid, f"{name} draws {'the same' if good else 'other'} {text}")


def draw_again(ddpm: DDPM, check: Check, w: float | None) -> np.ndarray:
    """The images of the last grid as grey levels, float32 [N, H, W], drawn as figures/images.py and train_afhq.py do it."""
    settings = check.settings
    generator = torch.Generator(ddpm.device).manual_seed(seed_for(settings.seed, PICTURES))
    if settings.kind == "classes":
        classes: dict[str, Any] = {"n_classes": len(settings.class_names), "classes": list(settings.shown)}
    elif settings.kind == "prompts":
        vectors = encode_prompts(encoder_from(settings.config["spec"]["encoder"]), list(settings.class_names))
        classes = {"n_classes": vectors.shape[1], "classes": vectors}
    else:
        classes = {"classes": None}
    y, _ = ddpm.sample(settings.n_samples, g_weight=w or 0.0, generator=generator, record=False, **classes)
    return (to_unit(y).cpu() * 255).round().mean(dim=1).numpy()


# ------------------------------------------------------------------------------------------------ classifiers


class Classifiers:
    """The classifiers of all data sets that were needed so far, and the real test images."""

    def __init__(self, data_dir: Path, judge_dir: Path):
        self.data_dir, self.judge_dir = data_dir, judge_dir
        self.known: dict[tuple[str, tuple[str, ...], int, int], tuple[Classifier, float, ImageSet]] = {}

    def of(
        self, name: str, class_names: tuple[str, ...], height: int, channels: int
    ) -> tuple[Classifier, float, ImageSet]:
        """The classifier, its accuracy on real test images, and these images. Raises RunError or ValueError without data."""
        key = (name, class_names, height, channels)
        if key not in self.known:
            shape: dict[str, Any] = {"n_classes": None, "im_height": height, "im_channels": channels}
            shape["class_names"] = class_names
            train_set, test_set = (sources.load(name, self.data_dir, train, **shape) for train in (True, False))
            classifier, accuracy = load_or_train(self.judge_dir / file_name(train_set), train_set, test_set)
            self.known[key] = (classifier, accuracy, test_set)
        return self.known[key]

    def look_at(self, check: Check) -> None:
        """How many generated images of the last grids show the class that was asked for?"""
        settings = check.settings
        if settings.kind != "classes" or settings.height not in HEIGHTS or len(settings.class_names) < 2:
            check.say("note", "judge", "there is no classifier for such a run")
            return
        try:
            name = str(settings.config["arguments"].get("dataset"))
            classifier, real, test_set = self.of(name, settings.class_names, settings.height, settings.channels)
        except (RunError, ValueError) as error:
            check.say("note", "judge", f"cannot judge: {error}")
            return
        if tells_rotations(test_set):
            return
        chance = 1 / len(settings.class_names)
        for w in settings.g_weights:
            name = grid_name(settings.unit, settings.last, w)
            if name not in check.generated:
                continue
            grid = check.generated[name]
            images = torch.from_numpy(grid.reshape(-1, *grid.shape[2:]).copy()).permute(0, 3, 1, 2)
            found = classify(classifier, images[:, : settings.channels].contiguous())
            asked = torch.tensor(settings.shown).repeat(settings.n_samples)
            share = (found.cpu() == asked).float().mean().item()
            check.facts[f"judge_accuracy_w{w:g}"] = round(share, 4)
            score = (share - chance) / max(real - chance, 1e-9)
            text = f"{share:.0%} of {len(asked)} images show the class asked for (of real test images {real:.1%})"
            check.say("problem" if score < FAIL else "note" if score < DOUBT else "ok", name, text)
