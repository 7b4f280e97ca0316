"""What check_log.py asks of models: do they have the claimed loss, do they draw the grids again, and what do these show?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.console import CallError, RunError, one_line
from common.files import finite
from common.limits import WHOLE
from common.machine import pick_amp
from datasets import sources
from datasets.context import encode_prompts
from datasets.encoders import encoder_from
from datasets.image_set import ImageSet
from datasets.points import DISTRIBUTIONS, PointSet
from ddpm import DDPM
from evaluation.classifier import classify, file_name, load_or_train, tells_rotations
from figures.grids import to_unit
from networks.classifier import Classifier
from reporting.checks import Check
from reporting.grids import flat
from reporting.known import hashes
from reporting.log_files import MODEL, grid_name, model_name
from reporting.reader import MOST_BYTES, Unreadable, printable
from training.arguments import sampler_as_asked
from training.checkpoint import load_model
from training.data_set import DataSet
from training.losses import VALIDATION_IMAGES, validation_loss
from training.seeds import PICTURES, seed_for

# The largest difference between a grid and the same grid drawn again: the median over the images of the mean difference,
# in grey levels from 0 to 255. Measured with log/log_mnist (T = 400): 0.0 on the same kind of processor, 0.3 between
# bfloat16 and float32, 2.9 for the model of two epochs earlier, whose images look much the same.
SAME_MODEL = 1.5
SAME_LOSS = 0.01  # relative: bfloat16 and float32 differ by half of it, models of two epochs mostly by more
HEIGHTS = (28, 32, 64)  # each height needs a classifier of its own
FAIL, DOUBT = 0.25, 0.6  # accuracy on a scale from chance (0) to that on real test images (1)


class ModelChecks:
    """What check_log.py is asked for besides the checks of the files.

    models: the loss of each model, and the images against the data set. resample: draw "one" grid again, or "all".
    classifiers: those that look at the last grids.
    """

    def __init__(self, data_dir: Path, models: bool, resample: str | None, classifiers: Classifiers | None):
        self.data_dir, self.models, self.resample, self.classifiers = data_dir, models, resample, classifiers
        self.sets: dict[str, DataSet] = {}
        self.training_images: dict[str, np.ndarray] = {}  # hashes

    def __call__(self, check: Check) -> None:
        if self.models:
            self._check_images(check)
        for name in check.models if self.models or self.resample else ():
            if name == "checkpoint.pt":
                continue
            try:
                ddpm, _ = _load(check, name, _amp(check))
            except (RunError, CallError, OSError, Unreadable) as error:
                check.say("problem", name, "was refused: " + str(error).replace(f"{check.folder.path / name} ", ""))
                continue
            if self.models:
                self._check_loss(check, name, ddpm)
            if self.resample:
                _resample(check, name, self.resample)
        if self.classifiers is not None:
            self.classifiers.look_at(check)

    def data(self, check: Check, train: bool) -> DataSet:
        """The images or points of a run. RunError or ValueError if they cannot be loaded."""
        settings, arguments = check.settings, check.settings.config["arguments"]
        name = str(arguments.get("dataset"))
        key = str((name, settings.class_names, arguments.get("data_class"), settings.height, settings.channels, train))
        if settings.kind == "points":
            n, generator = arguments.get("n_points"), torch.Generator().manual_seed(settings.seed)
            if type(n) is not int or not 1 <= n <= WHOLE["n_points"][1]:
                raise ValueError("config.json does not say how many points there were")
            first, second = (DISTRIBUTIONS[name].sample(k, generator) for k in (n, VALIDATION_IMAGES))
            return PointSet(first if train else second, name)
        if key not in self.sets:
            shape: dict[str, Any] = {"im_height": settings.height, "im_channels": settings.channels, "n_classes": None}
            if settings.kind == "classes":
                shape["class_names"] = settings.class_names
            else:
                shape["data_class"] = arguments.get("data_class")
            self.sets[key] = sources.load(name, self.data_dir, train, **shape)
        return self.sets[key]

    def _check_loss(self, check: Check, name: str, ddpm: DDPM) -> None:
        """The validation loss, computed as training does, against the one that metrics.csv claims for this model."""
        mark, settings = MODEL.fullmatch(name), check.settings
        row = next((row for row in check.rows if mark and finite(row.get(mark["unit"])) == int(mark["number"])), {})
        claimed = finite(row.get("val_loss"))
        if claimed is None or settings.kind == "prompts":  # their vectors would need the encoder
            return
        try:
            loss = validation_loss(ddpm, self.data(check, False), settings.kind == "classes", settings.seed)
        except (RunError, ValueError) as error:
            check.say("note", name, f"its loss was not measured: {error}")
            return
        check.facts["measured_loss"] = f"{loss:.6g}"
        good = abs(loss - claimed) <= SAME_LOSS * abs(claimed)
        text = f"has a validation loss of {loss:.5g}, where metrics.csv claims {claimed:.5g}"
        check.say("ok" if good else "problem", name, text)

    def _check_images(self, check: Check) -> None:
        """Are generated images copies of training images?"""
        settings = check.settings
        if settings.kind == "points" or not check.generated:
            return
        try:
            train_set = self.data(check, True)
        except (RunError, ValueError) as error:
            check.say("note", "data", f"no images were compared with the training images: {error}")
            return
        key = str(id(train_set))
        if key not in self.training_images:
            self.training_images[key] = hashes(train_set.images[:, 0].numpy())
        for name, grid in check.generated.items():
            drawn = hashes(grid[..., 0].reshape(-1, *grid.shape[2:4]))
            copies = int(np.isin(drawn, self.training_images[key]).sum())
            if copies:
                check.say("problem", name, f"{copies} of its {len(drawn)} generated images are training images")


def _load(check: Check, name: str, amp: torch.dtype | None = None, device: str = "cpu") -> tuple[DDPM, dict[str, Any]]:
    if check.folder.files[name] > MOST_BYTES[".pt"]:
        raise RunError(f"is larger than {MOST_BYTES['.pt'] / 2**30:.0f} GB, and was not read")
    with check.folder.open(name) as file:
        return load_model(check.folder.path / name, torch.device(device), amp, opened=file)


def _amp(check: Check, kind: str = "cpu") -> torch.dtype | None:
    """The arithmetic of the run, if this machine has it. Emulated, it would be slow and no closer than float32."""
    config = {**check.settings.config, **(check.settings.config.get("resumed") or [{}])[-1]}
    asked = str(config.get("precision", "")).startswith("bf16")
    here = kind != "cpu" or pick_amp("auto", torch.device("cpu"))
    return torch.bfloat16 if asked and here else None


def _resample(check: Check, name: str, which: str) -> None:
    """Draw the grids of a model again, from the noise of the run's seed, on the kind of device that drew them."""
    settings, mark = check.settings, MODEL.fullmatch(name)
    if mark is None or mark["unit"] != settings.unit or (which == "one" and int(mark["number"]) != settings.last):
        return
    config = {**settings.config, **(settings.config.get("resumed") or [{}])[-1]}
    kind = str(config.get("device", "cpu")).split(" ")[0].split(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind):
        check.say("note", name, f"cannot draw its grids again here: their noise was drawn on {printable(kind, 20)}")
        return
    ddpm, content = _load(check, name, _amp(check, kind), kind)
    asked = [content["arguments"].get(option) for option in ("sampler", "sample_steps", "placement")]
    try:
        ddpm = sampler_as_asked(ddpm, *asked)
    except (TypeError, ValueError):
        check.say("problem", name, f"has no possible sampler: {printable(asked, 60)}")
        return
    weights: list[float | None] = list(settings.g_weights) or [None]
    for w in weights if which == "all" else [min(weights, key=lambda w: abs(w or 0))]:
        grid = grid_name(settings.unit, int(mark["number"]), w)
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
        check.facts["redrawn_difference"] = max(round(difference, 2), check.facts.get("redrawn_difference", 0))
        text = f"{name} draws {{}} images: they differ by {difference:.2g} of 255 grey levels, {SAME_MODEL} are allowed"
        good = difference <= SAME_MODEL
        check.say("ok" if good else "problem", grid, text.format("the same" if good else "other"))


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
            level = "problem" if score < FAIL else "note" if score < DOUBT else "ok"
            claimed = _claimed(check, w)
            allowed = 0.02 + 4 * math.sqrt(
                max(share * (1 - share), 1 / len(asked)) / len(asked)
            )  # other images: chance
            if claimed is not None and abs(claimed - share) > allowed:
                level, text = "problem", f"{text}, and metrics.json claims {claimed:.0%}"
            check.say(level, name, text)


def _claimed(check: Check, w: float) -> float | None:
    """The accuracy that metrics.json claims for the last model at a guidance weight; None if it claims none."""
    last = model_name(check.settings.unit, check.settings.last)
    try:
        for entry in reversed(check.folder.json("metrics.json")):
            for row in entry["results"] if entry.get("model") == last else []:
                if row.get("guidance_weight") == w and finite(row.get("judge_accuracy")) is not None:
                    return finite(row["judge_accuracy"])
    except (Unreadable, KeyError, TypeError, AttributeError):
        pass
    return None
