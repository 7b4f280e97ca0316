"""What an assignment asks of a log folder, by the kind of run that its config.json describes: settings, losses, files."""

from __future__ import annotations

import hashlib
from typing import Any, Callable, NamedTuple

import numpy as np

from common.files import finite
from reporting.grids import what_is_wrong
from reporting.log_files import KNOWN
from reporting.model_file import ModelFile
from reporting.reader import Folder, Unreadable, printable
from reporting.run import Settings, read_settings

BLOWN_UP = 1.5  # the loss has risen again if the last one is more than this times the lowest
OF_DATA = ("data", "forward_process", "similarity")  # pictures in which runs with other settings may be equal
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
        # Grid's name -> its generated images, uint8 [rows, columns, H, W, 3].
        self.generated: dict[str, np.ndarray] = {}
        self.real: tuple[str, np.ndarray] | None = None  # the real images, and the grid that shows them
        self.models: dict[str, ModelFile] = {}  # those that can be read
        self.figures: dict[str, str] = {}  # digests: see `remember`
        self.facts: dict[str, Any] = {}  # for the table of many folders

    @property
    def folder(self) -> Folder:
        assert self._folder is not None, "the folder cannot be opened"
        return self._folder

    @property
    def finished(self) -> bool:
        return self.done >= self.settings.last

    @property
    def settings(self) -> Settings:
        assert self.known_settings is not None, "config.json does not tell the settings"
        return self.known_settings

    @property
    def failed(self) -> bool:
        return any(finding.level == "problem" for finding in self.findings)

    def say(self, level: str, what: str, text: str) -> None:
        self.findings.append(Finding(level, printable(what), printable(text, 500)))

    def remember(self, name: str, content: bytes) -> None:
        """Keep the digest of what the model drew, or what was measured: another hand-in may have the same."""
        self.figures[name] = hashlib.sha1(content).hexdigest()

    def let_go(self) -> None:
        """Forget images and weights: those of a hundred folders would fill the memory."""
        self.generated, self.real, self.models = {}, None, {}

    def there(self, name: str, missing: str = "problem", why: str = "is missing") -> bool:
        """Is this plain file in the folder? A finding of level `missing` if it is not."""
        if name in self.folder.files:
            return True
        kind = self.folder.others.get(name)
        if kind == "folder":
            self.say(missing, name, "is a folder, but should be a file")
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
    free = ("log_dir", "data_dir", "resume", "device", "n_workers", "judge_dir", "save_every", "prompts")
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
    for i, row in enumerate(rows):
        numbers = [row[settings.unit], row["train_loss"], row.get("val_loss") or 0]  # there may be no validation set
        if None in map(finite, numbers):
            check.say("problem", name, f"row {i + 1} has a loss (or {settings.unit}) that is no finite number")
            return
    check.rows = rows
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
        level = "note" if settings.config["arguments"].get("load_path") else "problem"  # it may begin where it ends
        check.say(level, name, f"the training loss does not fall: {losses[0]:.4g} at first, {end:.4g} at the end")
    elif losses[-1] > BLOWN_UP * min(losses):
        check.say("problem", name, f"the training loss rose again: from {min(losses):.4g} to {losses[-1]:.4g}")
    if len(check.findings) == before:
        text = f"{len(rows)} rows, training loss {losses[0]:.4g} at first, {losses[-1]:.4g} at the end"
        check.say("ok" if len(rows) > 1 else "note", name, text + ("" if len(rows) > 1 else ": one row is no curve"))
    check.facts["train_loss"] = losses[-1]
    check.facts["val_loss"] = next((row["val_loss"] for row in reversed(rows) if row.get("val_loss")), "")
    finished = check.finished
    text = f"{'finished' if finished else 'not finished:'} {check.done} of {settings.last} {settings.unit}s"
    check.say("ok" if finished else "problem", "the run", text + ("" if finished else "; --resume continues it"))


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
    check.there("checkpoint.pt", "note", "is missing, so the run cannot be continued (normal in a hand-in)")
    if "metrics.json" not in check.folder.files and check.known_settings is not None:
        level = "problem" if check.settings.kind == "points" else "note"
        check.there("metrics.json", level, "is missing: nothing was measured (python evaluate.py MODEL)")


def check_figure(check: Check, name: str, missing: str = "problem") -> None:
    """A picture of any kind: is it there, can it be decoded, does it show something?"""
    picture = check.use(check.folder.picture, name) if check.there(name, missing) else None
    if picture is not None:
        height, width = picture.pixels.shape[:2]
        wrong = what_is_wrong(picture.pixels)
        if not name.startswith(OF_DATA):
            check.remember(name, picture.pixels.tobytes())
        check.say("problem" if wrong else "ok", name, wrong or f"{width} x {height} pixels")


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
