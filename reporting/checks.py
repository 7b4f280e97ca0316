"""What an assignment asks of a log folder, by the kind of run that its config.json tells, and whether it is there and sane."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import numpy as np

from common.files import finite
from reporting.grids import ends_elsewhere, read_images, what_is_wrong, wrong_images
from reporting.log_files import KNOWN, MODEL, animation_name, grid_name, model_name
from reporting.reader import Folder, Unreadable, printable
from reporting.run import Settings, read_settings

POINT_FIGURES = ("samples.png", "forward_process.png", "backward_process.png", "vector_field.png")
HAND_IN = 12e6  # bytes: a model larger than that need not be handed in
BLOWN_UP = 1.5  # a last loss so many times the lowest one has risen
LEVELS = ("ok", "note", "problem")


class Finding(NamedTuple):
    level: str  # of LEVELS
    what: str  # the file
    text: str


class Check:
    """One folder (None: it cannot be opened), its findings so far, and what its run is and has reached."""

    def __init__(self, folder: Folder | None):
        self._folder = folder
        self.findings: list[Finding] = []
        self.known_settings: Settings | None = None  # None: config.json does not tell them
        self.done = 0  # epochs or steps
        self.rows: list[dict[str, str]] = []
        self.generated: dict[str, np.ndarray] = {}  # grid's name -> its generated images
        self.facts: dict[str, Any] = {}  # for the table of many folders

    @property
    def folder(self) -> Folder:
        assert self._folder is not None, "the folder cannot be opened"
        return self._folder

    @property
    def settings(self) -> Settings:
        assert self.known_settings is not None, "config.json does not tell the settings"
        return self.known_settings

    def say(self, level: str, what: str, text: str) -> None:
        self.findings.append(Finding(level, printable(what), printable(text, 500)))

    def there(self, name: str, missing: str = "problem", why: str = "is missing") -> bool:
        """Is this plain file in the folder? A finding of level `missing` if it is not."""
        if name in self.folder.files:
            return True
        kind = self.folder.others.get(name)
        if kind == "folder":
            self.say(missing, name, "is a folder, where a file of this name is due")
        elif kind is None:  # of links and the like there is a problem already
            self.say(missing, name, why)
        return False

    def use(self, read: Callable[[str], Any], name: str) -> Any:
        """`read(name)`; None, and a problem that names the reason, if that cannot be done."""
        try:
            return read(name)
        except Unreadable as error:
            self.say("problem", name, str(error))
            return None


# ------------------------------------------------------------------------------------------------ the run


def check_config(check: Check) -> None:
    """config.json -> check.known_settings; a problem, and None, if it is not there or makes no sense."""
    if not check.there("config.json", why="is missing: without it nobody knows what this run was"):
        return
    config = check.use(check.folder.json, "config.json")
    if config is None:
        return
    try:
        check.known_settings = read_settings(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        check.say("problem", "config.json", f"does not tell what the run was: {reason}")


def check_changes(check: Check) -> None:
    """A note on the exercise's arguments that were changed."""
    arguments, defaults = check.settings.config["arguments"], check.settings.config.get("defaults")
    free = ("log_dir", "data_dir", "resume", "device", "n_workers", "judge_dir", "load_path", "save_every")
    if isinstance(defaults, dict):
        changed = [n for n in arguments if n in defaults and n not in free and arguments[n] != defaults[n]]
        text = ", ".join(f"{name} {arguments[name]} (not {defaults[name]})" for name in changed)
        if changed:
            check.say("note", "config.json", f"the run was not called with the exercise's settings: {text}")


def check_metrics(check: Check) -> None:
    """metrics.csv: is every row there, are its numbers finite, does the loss fall, is the run finished?"""
    name, settings = "metrics.csv", check.settings
    if not check.there(name):
        return
    rows = check.use(check.folder.csv, name)
    if rows is None:
        return
    missing = [key for key in (settings.unit, "train_loss") if not rows or key not in rows[0]]
    if missing:
        check.say("problem", name, "has no row" if not rows else f"has no column {missing[0]}")
        return
    check.rows = rows
    for i, row in enumerate(rows):
        numbers = [row[settings.unit], row["train_loss"], row.get("val_loss") or 0]  # there may be no validation set
        if None in map(finite, numbers):
            check.say("problem", name, f"row {i + 1} has a loss (or {settings.unit}) that is no finite number")
            return
    marks, losses = ([float(row[key]) for row in rows] for key in (settings.unit, "train_loss"))
    check.done = int(max(marks))
    before = len(check.findings)
    if settings.unit == "epoch" and marks != list(range(1, len(rows) + 1)):
        absent = sorted(set(range(1, min(check.done, 10**6) + 1)) - set(marks))
        text = f"epoch {absent[0]} is missing" if absent else "its epochs do not stand in order, each once"
        check.say("problem", name, text)
    elif any(a >= b for a, b in zip(marks, marks[1:])):
        check.say("problem", name, f"its {settings.unit}s do not rise from row to row")
    end = float(np.mean(losses[-max(1, len(losses) // 4) :]))
    if len(losses) > 1 and end >= losses[0]:
        check.say("problem", name, f"the training loss does not fall: {losses[0]:.4g} at first, {end:.4g} at the end")
    elif losses[-1] > BLOWN_UP * min(losses):
        check.say("problem", name, f"the training loss rose again: from {min(losses):.4g} to {losses[-1]:.4g}")
    if len(check.findings) == before:
        text = f"{len(rows)} rows, training loss {losses[0]:.4g} at first, {losses[-1]:.4g} at the end"
        check.say("ok" if len(rows) > 1 else "note", name, text + ("" if len(rows) > 1 else ": one row is no curve"))
    check.facts["train_loss"] = losses[-1]
    finished = check.done >= settings.last
    text = f"{'finished' if finished else 'not finished:'} {check.done} of {settings.last} {settings.unit}s"
    check.say("ok" if finished else "problem", "the run", text + ("" if finished else "; --resume goes on with it"))


# ------------------------------------------------------------------------------------------------ pictures


def check_figure(check: Check, name: str, missing: str = "problem") -> None:
    """A picture of any kind: is it there, can it be decoded, does it show something?"""
    picture = check.use(check.folder.picture, name) if check.there(name, missing) else None
    if picture is not None:
        height, width = picture.pixels.shape[:2]
        wrong = what_is_wrong(picture.pixels)
        check.say("problem" if wrong else "ok", name, wrong or f"{width} x {height} pixels")


def check_pictures(check: Check) -> None:
    """The figures, grids and animations that this kind of run owes."""
    settings, finished = check.settings, check.done >= check.settings.last
    check_figure(check, "loss.png")
    if settings.kind == "points":
        for name in POINT_FIGURES:
            check_figure(check, name)
    elif settings.kind == "steps":
        for name in ("forward_process.png", "backward_process.png"):
            check_figure(check, name)
        if settings.config["arguments"].get("fid"):
            check_figure(check, "fid.png")
    elif settings.kind == "prompts":
        for name in ("similarity.png", "forward_process.png", "backward_process.png"):
            check_figure(check, name)
        if finished:
            check_figure(check, "samples_unconditional.png")
    elif finished:
        for name in ("inpainting.png", "mixture.png")[: 2 if len(settings.class_names) > 1 else 1]:
            check_figure(check, name, "problem" if settings.dataset in ("mnist", "rendered") else "note")
        for name in ("data.png", "forward_process.png", "backward_process.png"):
            check_figure(check, name, "note")
    if settings.kind != "points":
        _check_samples(check)


def _check_samples(check: Check) -> None:
    settings = check.settings
    real: tuple[str, np.ndarray] | None = None
    for mark in settings.due(min(check.done, settings.last)):
        final = mark == settings.last
        animated = final or (settings.labelled and mark % settings.animate_every == 0)
        # What a continued run drew before it was continued may have been asked for with other arguments.
        row = check.rows[mark - 1] if mark <= len(check.rows) else {}
        steps = mark if settings.unit == "step" else int(finite(row.get("step")) or 0)
        level = "note" if steps <= settings.resumed_at and not final else "problem"
        for w in settings.g_weights or (None,):
            name = grid_name(settings.unit, mark, w)
            if check.there(name, level):
                real = _check_grid(check, name, level, real) or real
            if animated:
                gif = animation_name(settings.unit, mark, w)
                if check.there(gif, level):
                    _check_animation(check, gif, check.generated.get(name), level)


def _check_grid(
    check: Check, name: str, level: str, real: tuple[str, np.ndarray] | None
) -> tuple[str, np.ndarray] | None:
    """One grid; `real` are the real images of an earlier one. Returns its name and its own, if it has any."""
    picture = check.use(check.folder.picture, name)
    if picture is None:
        return None
    grid = check.settings.grid()
    groups = what_is_wrong(picture.pixels) or read_images(picture.pixels, picture.geometry, grid)
    if isinstance(groups, str):
        check.say(level, name, groups)
        return None
    generated, own = _only_samples(groups[0], check.settings), groups[1] if len(groups) > 1 else None
    wrong = wrong_images(generated, own)
    same = [other for other, images in check.generated.items() if np.array_equal(images, generated)]
    if wrong is None and same:
        wrong = f"shows the same generated images as {same[0]}"
    if wrong is None and real is not None and own is not None and not np.array_equal(own, real[1]):
        wrong = f"shows other real images than {real[0]}"
    check.generated[name] = generated
    if wrong:
        check.say(level, name, wrong)
    else:
        check.say(
            "ok",
            name,
            " and ".join(f"{n} rows of {kind}" for n, kind in zip(grid.rows, ("generated", "real"))) + " images",
        )
    return (name, own) if own is not None else None


def _check_animation(check: Check, name: str, generated: np.ndarray | None, level: str) -> None:
    animation = check.use(check.folder.animation, name)
    if animation is None:
        return
    grid = check.settings.grid()
    grid = grid._replace(rows=grid.rows[:1])
    first, last = (read_images(x, animation.geometry, grid, animated=True) for x in (animation.first, animation.last))
    wrong: str | None = None
    if animation.n_frames < 2:
        wrong = "does not move: it has one frame"
    elif not animation.moves:
        wrong = f"does not move: its {animation.n_frames} frames are the same"
    elif isinstance(first, str) or isinstance(last, str):
        wrong = str(last)
    else:
        start, end = (_only_samples(groups[0], check.settings) for groups in (first, last))
        wrong = ends_elsewhere(end, generated) if generated is not None else None
        if wrong is None and ends_elsewhere(end, start) is None:
            wrong = "hardly moves: its first frame shows the images of its last"
    check.say(level if wrong else "ok", name, wrong or f"{animation.n_frames} frames, from noise to the grid's images")


def _only_samples(images: np.ndarray, settings: Settings) -> np.ndarray:
    """uint8 [rows, columns, H, W, 3] without the blanks that fill up the last row of a run without classes."""
    return images if settings.labelled else images.reshape(-1, 1, *images.shape[2:])[: settings.n_samples]


# ------------------------------------------------------------------------------------------------ models


def check_model_files(check: Check) -> list[str]:
    """Are the models there that the run was to write? Returns the names of all that are (evaluation/model_checks.py reads
    them, which needs torch).
    """
    settings, files = check.settings, check.folder.files
    last = model_name(settings.unit, settings.last)
    if check.done >= settings.last:
        n_bytes = 4 * (finite(settings.config.get("n_parameters")) or 0)
        large = n_bytes > HAND_IN
        why = f"is missing ({n_bytes / 1e6:.0f} MB: too large to hand in)" if large else "is missing"
        check.there(last, "note" if large else "problem", why)
    for mark in settings.due(min(check.done, settings.last)):
        name = model_name(settings.unit, mark)
        if name != last:
            check.there(name, "note")
    models = [name for name in files if MODEL.fullmatch(name)]
    if "checkpoint.pt" in files and (models or settings.kind != "points"):
        models.append("checkpoint.pt")
    return sorted(models)


# ------------------------------------------------------------------------------------------------ the rest of the folder


def check_others(check: Check) -> None:
    """Links and other things that are no files; files that are worth having; files that nobody expects."""
    for name, kind in sorted(check.folder.others.items()):
        if kind == "folder":
            check.say("note", name, "is a folder, which was not looked into")
        else:
            check.say("problem", name, f"is a {kind}, which was not followed or opened: hand in the file itself")
    check.there("report.html", "note", "is missing: python report.py FOLDER writes it")
    check.there("train.log", "note")
    check.there("checkpoint.pt", "note", "is not here, so that the run cannot go on (normal after handing in)")
    measured = "metrics.json" in check.folder.files
    if measured:
        entries = check.use(check.folder.json, "metrics.json")
        if entries is not None:
            check.say("ok", "metrics.json", "can be read")
    elif check.known_settings is not None:
        level = "problem" if check.settings.kind == "points" else "note"
        check.there("metrics.json", level, "is missing: nothing was measured (python evaluate.py MODEL)")


def check_strangers(check: Check) -> None:
    """Pictures that nobody asked for must be decodable too; a note on files that no script of the suite writes."""
    told = {finding.what for finding in check.findings}
    for name in sorted(check.folder.files):
        if name.lower().endswith(".png") and printable(name) not in told:
            check_figure(check, name)
        elif name.lower().endswith(".gif") and printable(name) not in told:
            check.use(check.folder.animation, name)
    strange = sorted(name for name in check.folder.files if not KNOWN.fullmatch(name))
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        check.say("note", ", ".join(strange[:5]) + more, "no script of the suite writes this")
