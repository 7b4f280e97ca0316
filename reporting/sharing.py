"""Who shares what: hand-ins compared with each other, and with the runs that come with the suite."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from common.files import finite
from reporting.checks import OF_DATA, Check
from reporting.grids import flat
from reporting.hand_ins import HandIn
from reporting.log_files import grid_name, model_name
from reporting.reader import Folder, Unreadable, printable
from reporting.run import FREE, read_run

NEAR_WEIGHTS = 0.02  # relative distance of two models that are nearly equal. Two runs with different seeds: above 1
NEAR_PICTURES = 0.7  # grey levels of 255, likewise of two grids
OWN = Path(__file__).resolve().parents[1] / "log"  # the suite's own runs
SAME_BYTES = 16 * 2**20  # that are compared of two files
PIXELS, ROWS = 4096, 0.5  # that stand for a grid; part of the rows of a run that show that another is the same


class Print(NamedTuple):
    """What tells one run from all others."""

    name: str
    hand_in: Path
    asked: str  # seed and settings
    seconds: frozenset[tuple[str, str]]  # (epoch or step, seconds it took): no two runs take equally long to six digits
    losses: str
    model: str  # digests
    pictures: str
    weights: np.ndarray  # a part of them
    pixels: np.ndarray
    figures: dict[str, str]  # digests of pictures by file name


def times_of(rows: list[dict[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset((row.get("step", ""), row["seconds"]) for row in rows if finite(row.get("seconds")))


def print_of(name: str, hand_in: Path, check: Check) -> Print | None:
    """None for a folder that does not say what its run was."""
    settings = check.known_settings
    if settings is None:
        return None
    model = check.models.get(model_name(settings.unit, settings.last))
    weights: list[float | None] = list(settings.g_weights) or [None]
    grids = (check.generated.get(grid_name(settings.unit, settings.last, w)) for w in weights)
    grid = next((images for images in grids if images is not None), np.zeros((0, 1, 1, 1, 3), np.uint8))
    pixels = flat(grid).ravel()
    return Print(
        name,
        hand_in,
        asked(settings.config),
        times_of(check.rows),
        losses_of(check.rows),
        model.digest if model else "",
        _digest(grid.tobytes()) if grid.size else "",
        model.sketch if model else np.zeros(0, np.float32),
        pixels[:: max(1, len(pixels) // PIXELS)],
        dict(check.figures),
    )


def losses_of(rows: list[dict[str, str]]) -> str:
    """A digest of the losses; "" if there are not several."""
    return _digest([row.get("train_loss") for row in rows]) if len(rows) > 1 else ""


def asked(config: Any) -> str:
    """A digest of seed and settings; "" if there are none."""
    arguments = config.get("arguments") if isinstance(config, dict) else None
    if not isinstance(arguments, dict):
        return ""
    return _digest(sorted((key, str(value)[:200]) for key, value in arguments.items() if key not in FREE))


def _digest(content: Any) -> str:
    return hashlib.sha1(content if isinstance(content, bytes) else repr(content).encode()).hexdigest()


def shared(a: Print, b: Print) -> tuple[str, str] | None:
    """(level, what two runs share, in words), or None if that is nothing."""
    what = [key for key in ("model", "pictures", "losses") if getattr(a, key) and getattr(a, key) == getattr(b, key)]
    if "model" not in what and len(a.weights) and a.weights.shape == b.weights.shape:
        size = min(float(np.linalg.norm(a.weights)), float(np.linalg.norm(b.weights)))
        if np.linalg.norm(a.weights - b.weights) < NEAR_WEIGHTS * size:
            what.append("nearly the model")
    comparable = "pictures" not in what and len(a.pixels) and a.pixels.shape == b.pixels.shape
    if comparable and np.abs(a.pixels - b.pixels).mean() < NEAR_PICTURES:
        what.append("nearly the pictures")
    figures = sorted(name for name, digest in a.figures.items() if b.figures.get(name) == digest)
    if figures and "pictures" not in what:
        what.append(_some(figures))
    same = len(a.seconds & b.seconds)
    if same and same >= ROWS * min(len(a.seconds), len(b.seconds)) and (same > 1 or what):
        return "problem", ", ".join([f"the times of {same} rows", *what]) + ": one of the two is a copy"
    if not what:
        return None
    if a.asked == b.asked:
        return "note", ", ".join(what) + ": so do two honest runs with one seed on one machine"
    return "problem", ", ".join(what) + ", although seed or settings differ"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def compare(prints: Sequence[tuple[Check, Print]]) -> list[tuple[Print, Print, str, str]]:
    """(one, other, level, what they share) of all pairs that share something. Where one is a copy, both get a problem.
    Within one hand-in it is a note.
    """
    found = []
    for (check_a, a), (check_b, b) in itertools.combinations(prints, 2):
        result = shared(a, b)
        if result:
            level, text = result
            found.append((a, b, "note" if a.hand_in == b.hand_in else level, text))
            if found[-1][2] == "problem":
                check_a.say("problem", "another hand-in", f"{b.name} shares {text}")
                check_b.say("problem", "another hand-in", f"{a.name} shares {text}")
    return found


def table(pairs: list[tuple[Print, Print, str, str]]) -> str:
    """The pairs as lines of text."""
    lines = [f"  {level:<8} {printable(a.name)} and {printable(b.name)} share {text}" for a, b, level, text in pairs]
    return "\n".join(["who shares what:", *lines]) if lines else ""


# ------------------------------------------------------------------------------------------------ the suite's own runs


class OwnRun(NamedTuple):
    folder: Folder
    files: tuple[bytes, bytes]
    asked: str
    seconds: frozenset[tuple[str, str]]
    losses: str


class Own:
    """The runs that come with the suite, in its folder log/."""

    def __init__(self, root: Path):
        self.root = root
        self.runs: list[OwnRun] = []
        for folder in HandIn(root).folders if root.is_dir() else []:
            run = read_run(folder)
            self.runs.append(OwnRun(folder, _files(folder), asked(run.config), times_of(run.rows), losses_of(run.rows)))

    def __contains__(self, path: Path) -> bool:
        return self.root.resolve() in (path.resolve(), *path.resolve().parents)

    def is_untouched(self, folder: Folder) -> bool:
        """Is this one of the suite's own runs, which came along in a hand-in?"""
        return folder.path not in self and _files(folder) in [run.files for run in self.runs]

    def look_at(self, check: Check) -> None:
        """A problem if the run is a changed copy of one of the suite's own."""
        if check.folder.path in self:
            return
        mine, losses = times_of(check.rows), losses_of(check.rows)
        for run in self.runs:
            same = len(mine & run.seconds)
            if same > 1 and same >= ROWS * min(len(mine), len(run.seconds)):
                text = f"is a copy: {same} rows took as long as those of the suite's {run.folder.path.name}"
                check.say("problem", "metrics.csv", text)
                return
        mine_asked = asked(check.settings.config) if check.known_settings else None
        for run in self.runs:
            same_files = [name for name in check.folder.files if _same_file(name, check.folder, run.folder)]
            same_files += ["the losses of metrics.csv"] if losses and losses == run.losses else []
            if same_files:
                level, why = "problem", ", although seed or settings differ"
                if run.asked == mine_asked:
                    level, why = "note", ": so has an honest run with its seed and settings on such a machine"
                text = f"the suite's own run has the same {_some(sorted(same_files))}{why}"
                check.say(level, run.folder.path.name, text)


def _same_file(name: str, one: Folder, other: Folder) -> bool:
    """Have two folders the same picture or model of this name, byte for byte?"""
    if (
        one.files[name] != other.files.get(name)
        or name.startswith(OF_DATA)
        or not name.endswith((".png", ".gif", ".pt"))
    ):
        return False
    try:
        with one.open(name) as a, other.open(name) as b:
            return a.read(SAME_BYTES) == b.read(SAME_BYTES)
    except Exception:  # of a damaged zip
        return False


def _files(folder: Folder) -> tuple[bytes, bytes]:
    try:
        return folder.read("config.json"), folder.read("metrics.csv")
    except Unreadable:
        return b"", folder.path.as_posix().encode()
