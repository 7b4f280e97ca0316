"""What a log folder tells of its run: `Run`, as far as it can be read, for the report; `Settings`, strictly, for the check."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple

from common.files import finite
from common.limits import MOST_CLASSES, MOST_WEIGHTS, WHOLE, wrong_name
from reporting.grids import Grid
from reporting.log_files import ANIMATION, GRID, POINT_DATA, shown_classes
from reporting.reader import Folder, Unreadable, printable

# Arguments that may differ when a run is resumed: none of them changes what training computes. (The device does, since
# each kind has random numbers of its own, but a run must be able to go on elsewhere.)
FREE = (
    {"n_epochs", "train_steps", "resume", "log_dir", "data_dir", "load_path", "judge_dir", "device", "compile"}
    | {"save_every", "animate_every", "save_and_sample_every", "g_weight", "n_samples", "show_classes", "fid"}
    | {"n_workers", "checkpoint_every", "prompts", "sampler", "sample_steps", "placement"}
    | {"attributes", "clip_weights"}  # files: the recipe of the encoder says what is in them
)
# These do, but after a loss that became infinite one of them is what the user has to change.
ADJUSTABLE = {"l_rate", "amp"}
MOST_SETS = 1000  # of pictures: of a run with more sets, only the last one is checked


class Moment(NamedTuple):
    """A moment of the training at which pictures were made: ('epoch', 12)."""

    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


class Pictures(NamedTuple):
    """The pictures of a log folder, by file name."""

    grids: dict[Moment, dict[str, str]]  # moment -> guidance weight ("" for a run without classes) -> name, in order
    animations: dict[Moment, dict[str, str]]
    loss: str | None
    others: list[str]

    def still(self, gif: str) -> str | None:
        """The picture that a GIF ends in: the grid of the same moment and weight, or samples.png for samples.gif."""
        match = ANIMATION.fullmatch(gif)
        if match:
            return self.grids.get(Moment(match["unit"], int(match["number"])), {}).get(match["weight"] or "")
        name = f"{Path(gif).stem}.png"
        return name if name in self.others else None


class Run(NamedTuple):
    """A log folder, read as far as possible."""

    folder: Folder
    config: dict[str, Any]  # of config.json, or {}
    rows: list[dict[str, str]]  # of metrics.csv
    measured: Any  # content of metrics.json, or []
    pictures: Pictures
    notes: list[str]  # what could not be read, in words for the page

    def table(self, key: str) -> dict[str, Any]:
        """A dict in the configuration; {} if it is missing or something else."""
        value = self.config.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def unit(self) -> str:
        """What the run counts in: 'epoch' or 'step'."""
        in_steps = "train_steps" in self.table("arguments") or (
            self.rows and finite(self.rows[-1].get("epoch")) is None
        )
        return "step" if in_steps else "epoch"

    @property
    def things(self) -> str:
        """What the run learns: 'points' or 'images'."""
        return "points" if str(self.table("dataset").get("name")) in POINT_DATA else "images"

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    def network(self) -> str:
        """The kind of network, as the checkpoint's recipe or (in older folders) an argument names it."""
        return str(self.table("spec").get("network", self.table("arguments").get("network", "")))

    def numbers(self, key: str) -> list[float]:
        """The finite values of a column of metrics.csv."""
        values = (finite(row.get(key)) for row in self.rows)
        return [value for value in values if value is not None]

    def last(self, key: str) -> float | None:
        """The newest finite value of a column of metrics.csv."""
        values = self.numbers(key)
        return values[-1] if values else None

    def progress(self) -> tuple[int, int | None]:
        """How many epochs (or steps) are done, and how many were asked for, where that is known."""
        planned = finite(self.table("arguments").get("train_steps" if self.unit == "step" else "n_epochs"))
        return int(self.last(self.unit) or 0), None if planned is None else int(planned)

    def state(self) -> str:
        """How far the run has come, in words."""
        done, planned = self.progress()
        if not self.rows:
            return f"no finished {self.unit} yet"
        if planned is None:
            return f"{done} {self.unit}s done"
        if done >= planned:
            return f"finished {done} of {planned} {self.unit}s"
        return f"stopped at {self.unit} {done} of {planned} (or still running)"


def read_run(log_dir: str | os.PathLike | Folder) -> Run:
    """Read a log folder. Raises NotADirectoryError if there is none, Unreadable if it cannot be opened."""
    if not isinstance(log_dir, Folder) and not Path(log_dir).is_dir():
        raise NotADirectoryError(f"{log_dir} is not a folder")
    folder, notes = log_dir if isinstance(log_dir, Folder) else Folder(log_dir), []

    def content(read: Callable[[str], Any], name: str, default: Any) -> Any:
        """What `read` makes of a file; the default if it is missing, or if it cannot be read, and then a note says so."""
        if name not in folder.files and name not in folder.others:
            return default
        try:
            return read(name)
        except Unreadable as error:
            notes.append(f"{name} {error}, so its content is missing here.")
            return default

    config = content(folder.json, "config.json", {})
    if not isinstance(config, dict):
        notes.append("config.json does not hold an object, so the settings are missing here.")
        config = {}
    rows = content(folder.csv, "metrics.csv", None)
    unit = "epoch" if rows and "epoch" in rows[0] else "step"
    good = [row for row in rows or [] if finite(row.get(unit)) is not None]
    if rows is not None and len(good) < max(1, len(rows)):
        notes.append(f"metrics.csv: {len(rows) - len(good)} of {len(rows)} rows have no {unit} and are left out.")
    return Run(folder, config, good, content(folder.json, "metrics.json", []), find_pictures(folder), notes)


def find_pictures(folder: Folder) -> Pictures:
    """The PNGs and GIFs of a log folder. Hidden files, empty ones, and files of other kinds are left out."""
    found: tuple[dict[Moment, dict[str, str]], ...] = ({}, {})  # grids, animations
    others = []
    for name in sorted(name for name, n_bytes in folder.files.items() if n_bytes and name[0] != "."):
        for pattern, moments in zip((GRID, ANIMATION), found):
            match = pattern.fullmatch(name)
            if match:
                moment = Moment(match["unit"], int(match["number"]))
                moments.setdefault(moment, {})[match["weight"] or ""] = name
                break
        else:
            if name.lower().endswith((".png", ".gif")) and name != "loss.png":
                others.append(name)
    grids, animations = (
        {
            moment: dict(sorted(moments[moment].items(), key=lambda item: finite(item[0]) or 0))
            for moment in sorted(moments)
        }
        for moments in found
    )
    return Pictures(grids, animations, "loss.png" if folder.files.get("loss.png") else None, others)


class Settings(NamedTuple):
    """What config.json tells of a run, every value checked."""

    kind: str  # "classes"; "prompts": the same, asked in words; "steps": without classes; "points"
    unit: str  # "epoch" or "step"
    dataset: str
    last: int  # epochs or steps asked for
    every: int  # pictures every so many
    animate_every: int
    g_weights: tuple[float, ...]
    class_names: tuple[str, ...]  # all of them
    shown: tuple[int, ...]  # those in the grids
    n_samples: int
    height: int
    channels: int
    T: int
    seed: int
    resumed_at: int  # the step of the last continuation: files before it may be of other settings
    config: dict[str, Any]

    @property
    def labelled(self) -> bool:
        """Have the grids a column for each class, or for each prompt?"""
        return self.kind in ("classes", "prompts")

    def grid(self) -> Grid:
        """The grid of samples that the run draws."""
        size = (self.height, self.height)
        if self.labelled:
            names = tuple(self.class_names[k] for k in self.shown)
            return Grid(size, names, len(names), (self.n_samples, self.n_samples))
        n_columns = math.ceil(math.sqrt(self.n_samples))
        return Grid(size, (), n_columns, (math.ceil(self.n_samples / n_columns),))

    def due(self, done: int) -> list[int]:
        """The epochs or steps up to `done` after which there are pictures."""
        last = [self.last] if done >= self.last else []
        if done // self.every > MOST_SETS:
            return last
        return sorted({*range(self.every, done + 1, self.every), *last})


def read_settings(config: dict[str, Any]) -> Settings:
    """Raises KeyError, TypeError, ValueError or AttributeError if config.json does not tell what the run was."""
    arguments, dataset = config["arguments"], config["dataset"]

    def integer(name: str, default: int | None = None) -> int:
        value, (lowest, highest) = arguments.get(name, default), WHOLE[name]
        if type(value) is not int or not min(1, lowest) <= value <= highest:
            raise ValueError(f"{name} is {printable(value, 40)}, not an integer from {min(1, lowest)} to {highest}")
        return value

    steps, points = "train_steps" in arguments, arguments.get("dataset") in POINT_DATA
    prompts = arguments.get("prompts")
    no_classes = steps or arguments.get("unconditional") is True
    kind = "points" if points else "steps" if no_classes else "prompts" if prompts else "classes"
    names = prompts or dataset.get("classes") or []
    if type(names) is not list or any(map(wrong_name, names)):
        raise ValueError("the classes of the data set are no list of names")
    weights, shown = [], []
    if kind in ("classes", "prompts"):
        weights = arguments["g_weight"]
        if type(weights) is not list or not 0 < len(weights) <= MOST_WEIGHTS or None in map(finite, weights):
            raise ValueError("g_weight is no list of numbers")
        if not 0 < len(names) <= MOST_CLASSES:
            raise ValueError("the data set has no classes")
        most = arguments.get("show_classes")
        shown = shown_classes(len(names), most if type(most) is int and most > 0 else None)
    resumed = [again["from_step"] for again in config.get("resumed") or []]
    if not all(type(step) is int for step in resumed):
        raise ValueError("a continuation does not say its step")
    return Settings(
        kind=kind,
        unit="step" if steps else "epoch",
        dataset=str(dataset.get("name", arguments.get("dataset"))),
        last=integer("train_steps" if steps else "n_epochs"),
        every=integer("save_and_sample_every" if steps else "save_every"),
        animate_every=integer("animate_every", 1),
        g_weights=tuple(weights),
        class_names=tuple(names),
        shown=tuple(shown),
        n_samples=integer("n_samples", 1),
        height=integer("im_height", 28),
        channels=integer("im_channels", 3 if steps or prompts else 1),
        T=integer("n_timesteps"),
        seed=integer("seed"),
        resumed_at=max(resumed, default=0),
        config=config,
    )
