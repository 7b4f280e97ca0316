"""Do the models of a log folder load safely, are they those of its run, do they draw its grids, and do these show digits?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch

from common import console
from common.console import CallError, RunError
from common.machine import pick_amp
from datasets import sources
from datasets.image_set import ImageSet
from ddpm import DDPM
from evaluation.classifier import classify, file_name, load_or_train, tells_rotations
from figures.grids import to_unit
from networks.classifier import Classifier
from reporting.checks import Check
from reporting.grids import flat
from reporting.log_files import grid_name, model_name
from reporting.reader import MOST_BYTES, printable
from training.checkpoint import load_model
from training.seeds import PICTURES, seed_for

# Mean difference in grey levels of 255, median over the images, between a grid and the same drawn again. Measured with
# log/log_mnist (T = 400): 0.0 on the same kind of chip, 0.3 between bfloat16 and float32, 2.9 for the model of two epochs
# earlier, whose images look much the same.
SAME_MODEL = 1.5
JUDGED_HEIGHTS = (28, 32, 64)  # other sizes would need a judge of their own
FAIL, DOUBT = 0.25, 0.6  # judge accuracy on the way from chance (0) to that on real test images (1)


def check_models(check: Check, names: Sequence[str], resample: str | None) -> None:
    """Each of these model files is loaded without trust and compared with config.json; with `resample` ("one" or "all"
    weights) the last one draws its grids again.
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
    path, settings = check.folder.path / name, check.settings
    try:
        ddpm, content = _load(path, check)
    except (RunError, CallError, OSError) as error:
        check.say("problem", name, "was refused: " + str(error).replace(f"{path} ", ""))
        return None
    wrong = None
    mark = re.search(r"(epoch|step)(\d+)", name)
    if content["spec"] != settings.config.get("spec", content["spec"]):
        wrong = "is of another network or schedule than config.json tells"
    elif settings.kind == "classes" and content["class_names"] != list(settings.class_names):
        wrong = "knows other classes than config.json tells"
    elif content["arguments"].get("seed") != settings.seed:
        wrong = "is of a run with another seed"
    elif mark and content.get(mark[1]) != int(mark[2]):
        wrong = f"holds {mark[1]} {printable(content.get(mark[1]), 40)}"
    n = sum(weight.numel() for weight in ddpm.nn_model.parameters())
    check.say("problem" if wrong else "ok", name, wrong or f"{n:,} parameters, loaded without running anything of it")
    return None if wrong else ddpm


def _resample(check: Check, name: str, which: str) -> None:
    """Draw the last grids again, from the noise of the run's seed, on the kind of device that drew them."""
    settings = check.settings
    config = {**settings.config, **(settings.config.get("resumed") or [{}])[-1]}
    kind = str(config.get("device", "cpu")).split(" ")[0].split(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind):
        check.say("note", name, f"cannot draw its grids again here: their noise is of {printable(kind, 20)}")
        return
    amp = torch.bfloat16 if str(config.get("precision", "")).startswith("bf16") else None
    if kind == "cpu" and amp and pick_amp("auto", torch.device("cpu")) is None:
        amp = None  # emulated it would take long, and is as close as float32 is
    ddpm, _ = _load(check.folder.path / name, check, amp, kind)
    weights: list[float | None] = list(settings.g_weights) or [None]  # None: a run without classes
    if which == "one":
        weights = [min(weights, key=lambda w: abs(w or 0))]
    for w in weights:
        grid = grid_name(settings.unit, settings.last, w)
        if grid not in check.generated:
            check.say("note", grid, "was not drawn again: there is nothing to compare with")
            continue
        drawn = draw_again(ddpm, check, w)
        there = flat(check.generated[grid])
        difference = float(np.median(np.abs(drawn - there).mean(axis=(1, 2))))
        check.facts["redrawn_difference"] = round(difference, 2)
        text = f"{name} draws {{}} images: they differ by {difference:.2g} of 255 grey levels, {SAME_MODEL} are allowed"
        good = difference <= SAME_MODEL
        check.say("ok" if good else "problem", grid, text.format("the same" if good else "other"))


def draw_again(ddpm: DDPM, check: Check, w: float | None) -> np.ndarray:
    """The images of the last grid as grey levels, float32 [N, H, W], drawn as figures/images.py and train_afhq.py do it."""
    settings = check.settings
    generator = torch.Generator(ddpm.device).manual_seed(seed_for(settings.seed, PICTURES))
    if settings.kind == "classes":
        y, _ = ddpm.sample(
            settings.n_samples,
            None,
            len(settings.class_names),
            w or 0.0,
            list(settings.shown),
            generator=generator,
            record=False,
        )
    else:
        y, _ = ddpm.sample(settings.n_samples, classes=None, generator=generator, record=False)
    return (to_unit(y).cpu() * 255).round().mean(dim=1).numpy()


# ------------------------------------------------------------------------------------------------ judges


class Classifiers:
    """The judges of the data sets that were met so far, and the real test images."""

    def __init__(self, data_dir: Path, judge_dir: Path):
        self.data_dir, self.judge_dir = data_dir, judge_dir
        self.known: dict[tuple[str, tuple[str, ...], int, int], tuple[Classifier, float, ImageSet]] = {}

    def of(
        self, name: str, class_names: tuple[str, ...], height: int, channels: int
    ) -> tuple[Classifier, float, ImageSet]:
        """The judge, its accuracy on real test images, and these. DataError or ValueError if they are not to be had."""
        key = (name, class_names, height, channels)
        if key not in self.known:
            shape: dict[str, Any] = {"n_classes": None, "im_height": height, "im_channels": channels}
            shape["class_names"] = class_names
            train_set, test_set = (sources.load(name, self.data_dir, train, **shape) for train in (True, False))
            judge, accuracy = load_or_train(self.judge_dir / file_name(train_set), train_set, test_set)
            self.known[key] = (judge, accuracy, test_set)
        return self.known[key]

    def look_at(self, check: Check) -> None:
        """Which classes does the judge see in the generated images of the last grids?"""
        settings = check.settings
        if settings.kind != "classes" or settings.height not in JUDGED_HEIGHTS or len(settings.class_names) < 2:
            check.say("note", "judge", "there is no judge for such a run")
            return
        try:
            judge, real, test_set = self.of(
                str(settings.config["arguments"].get("dataset")),
                settings.class_names,
                settings.height,
                settings.channels,
            )
        except (console.DataError, RunError, ValueError) as error:
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
            seen = classify(judge, images[:, : settings.channels].contiguous())
            asked = torch.tensor(settings.shown).repeat(settings.n_samples)
            share = (seen.cpu() == asked).float().mean().item()
            check.facts[f"judge_accuracy_w{w:g}"] = round(share, 4)
            way = (share - chance) / max(real - chance, 1e-9)
            text = f"{share:.0%} of {len(asked)} images show the class asked for (of real test images {real:.1%})"
            check.say("problem" if way < FAIL else "note" if way < DOUBT else "ok", name, text)
