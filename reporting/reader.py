"""What a log folder holds, as far as its report shows it. The folder may be anybody's: nothing in it is trusted.

Files are read only if they are regular and not huge, no picture is decoded, and what cannot be read becomes a note.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from common.files import finite
from reporting.log_files import POINT_DATA

GRID = re.compile(
    r"generated_images_(?P<unit>epoch|step)(?P<number>\d+)_guidance_weight(?P<weight>-?\d[\d.e+-]*)\.png"
    r"|samples_(?P<unit2>step|epoch)(?P<number2>\d+)\.png"
)
ANIMATION = re.compile(
    r"animation_(?P<unit>epoch|step)(?P<number>\d+)_guidance_weight(?P<weight>-?\d[\d.e+-]*)\.gif"
    r"|animation_(?P<unit2>step|epoch)(?P<number2>\d+)\.gif"
)
MAX_BYTES = 50_000_000  # of a text file: far more than any run writes, and little enough to be read at once


class Moment(NamedTuple):
    """A moment of the training, at which pictures were made: ('epoch', 12)."""

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
            moment, weight = _key(match)
            return self.grids.get(moment, {}).get(weight)
        name = f"{Path(gif).stem}.png"
        return name if name in self.others else None


class Run(NamedTuple):
    """A log folder, read."""

    path: Path
    config: dict  # of config.json, or {}
    rows: list[dict[str, str]]  # of metrics.csv
    pictures: Pictures
    notes: list[str]  # what could not be read, in words for the page

    def table(self, key: str) -> dict:
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

    def last(self, key: str) -> float | None:
        """The newest finite value of a column of metrics.csv."""
        values = (finite(row.get(key)) for row in reversed(self.rows))
        return next((value for value in values if value is not None), None)

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


def read_run(log_dir: str | os.PathLike) -> Run:
    """Read a log folder. Raises NotADirectoryError if there is none."""
    path = Path(log_dir)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a folder")
    notes: list[str] = []
    config, rows = _read_config(path / "config.json", notes), _read_metrics(path / "metrics.csv", notes)
    return Run(path, config, rows, find_pictures(path), notes)


def _key(match: re.Match) -> tuple[Moment, str]:
    """Moment and guidance weight in the name of a grid or a GIF."""
    unit, count = match["unit"] or match["unit2"], match["number"] or match["number2"]
    return Moment(unit, int(count)), match["weight"] or ""


def find_pictures(log_dir: str | os.PathLike) -> Pictures:
    """The PNGs and GIFs of a log folder. Hidden files, empty ones, and files of other kinds are left out."""
    paths = [path for path in Path(log_dir).iterdir() if path.suffix.lower() in (".png", ".gif")]
    names = sorted(path.name for path in paths if path.name[0] != "." and path.is_file() and path.stat().st_size)
    grids: dict[Moment, dict[str, str]] = {}
    animations: dict[Moment, dict[str, str]] = {}
    others = []
    for name in names:
        for pattern, found in ((GRID, grids), (ANIMATION, animations)):
            match = pattern.fullmatch(name)
            if match:
                moment, weight = _key(match)
                found.setdefault(moment, {})[weight] = name
                break
        else:
            if name != "loss.png":
                others.append(name)

    def in_order(moments: dict) -> dict:
        return {
            moment: dict(sorted(moments[moment].items(), key=lambda item: finite(item[0]) or 0))
            for moment in sorted(moments)
        }

    return Pictures(in_order(grids), in_order(animations), "loss.png" if "loss.png" in names else None, others)


def read_text(path: Path) -> str:
    """A text file of the folder. OSError if it is missing, no regular file (a pipe would never end) or huge."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is not a regular file")
    if about.st_size > MAX_BYTES:
        raise OSError(f"it has {about.st_size / 1e6:,.0f} MB")
    with open(path, newline="", encoding="utf-8") as file:  # read() with a limit: a growing file stays bounded too
        return file.read(MAX_BYTES)


def _read_config(path: Path, notes: list[str]) -> dict:
    """The dict in a JSON file; {} if it is missing, or if it cannot be read, and then a note says so."""
    try:
        config = json.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({error}), so the settings are missing here.")
        return {}
    if not isinstance(config, dict):
        notes.append(f"{path.name} does not hold an object, so the settings are missing here.")
        return {}
    return config


def _read_metrics(path: Path, notes: list[str]) -> list[dict[str, str]]:
    """The rows of metrics.csv that have an epoch or a step; a note says so if there are others."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), restval="", restkey=""))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path.name} cannot be read ({error}), so the course of the training is missing here.")
        return []
    unit = "epoch" if rows and "epoch" in rows[0] else "step"
    good = [row for row in rows if finite(row.get(unit)) is not None]
    if not good:
        notes.append(f"{path.name} has no row with an epoch number.")
    elif len(good) < len(rows):
        notes.append(f"{path.name}: {len(rows) - len(good)} of {len(rows)} rows have no epoch number and are left out.")
    return good


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels from the head of a PNG or GIF; None if it is neither."""
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
        return struct.unpack(">II", head[16:24])
    if head[:4] == b"GIF8" and len(head) >= 10:
        return struct.unpack("<HH", head[6:10])
    return None
