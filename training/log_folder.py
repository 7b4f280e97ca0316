"""The folder of one run: who may write there, what it says of itself, the lines that the run prints."""

from __future__ import annotations

import contextlib
import os
import re
from itertools import count
from pathlib import Path
from typing import IO, Any

from common.console import CallError, RunError, live_line
from common.files import stands_at, try_lock, write_csv, write_json
from common.machine import environment
from ddpm import DDPM
from figures.curves import plot_curves
from networks import count_parameters
from reporting.log_files import CAPTIONS
from reporting.page import write_report
from reporting.reader import Folder, Unreadable
from training.data_set import DataSet
from training.losses import VALIDATION_IMAGES
from training.settings import About, Settings

BEFORE_THE_FIRST_STEP = {"config.json", "train.log", "report.html", "data.png"}
PICTURES = "|".join([*CAPTIONS, "generated_images", "animation", "loss", "networks"])
OURS = re.compile(  # files of a run, and what scripts of the suite put beside them
    r"config\.json|metrics\.(csv|json)|report\.html|train\.log|samples\.log|checkpoint\.pt|model_(epoch|step)\d+\.pt"
    rf"|network_\w+|samples_npz_parts|({PICTURES})(_.*)?\.(png|gif|csv|npz)"
)


def config_of(about: About, settings: Settings, ddpm: DDPM, train_set: DataSet, val_set: DataSet) -> dict[str, Any]:
    """The content of config.json: what was asked for, on what data and which machine."""
    return {
        **environment(ddpm.device),
        "arguments": about.arguments,
        "defaults": about.defaults,
        "precision": precision_of(ddpm),
        "seed": settings.seed,
        "dataset": {
            "name": train_set.name,
            "train_images": len(train_set),
            "val_images": min(VALIDATION_IMAGES, len(val_set)),
            "classes": train_set.class_names,
            "dequantised": settings.dequantise,
        },
        "n_parameters": count_parameters(ddpm.nn_model),
        "spec": about.spec,
        "expected": about.expected,
    }


def precision_of(ddpm: DDPM) -> str:
    return "bf16 autocast" if ddpm.amp_dtype else "float32"


def arithmetic_of(ddpm: DDPM) -> str:
    """What a run has to keep to remain the same to the bit (on a GPU there are kernels that vary besides)."""
    return f"{precision_of(ddpm)} on {ddpm.device.type}"


class LogFolder:
    """A folder for one run at a time. Opening it never destroys an earlier run.

    With `resume` the folder is taken as it stands. Otherwise a run that it holds is first set aside: as `<name>_old1`,
    `<name>_old2`, ... beside it; or, where the folder itself is not ours to rename (a link, a mount point, the working
    directory, a parent that cannot be written), as `old1`, `old2`, ... in it, the run's own files only. A run that never
    made a step is not kept. asked: whether --resume was given (then no advice to give it is printed).
    CallError if another process is training there, if the path is no folder, or if it is a stranger's.
    """

    gone = False  # whether the folder was moved away while the run writes into it

    def __init__(self, path: Path, resume: bool, asked: bool = False):
        self.path = path
        if path.exists() and not path.is_dir():
            raise CallError(f"--log_dir {path} is a file; a folder is needed")
        self.log = self._lock()
        if not resume:
            self._refuse_strangers()
        for file in path.glob(".*"):  # left by a process that was killed while it wrote (see common.files.atomic_write)
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.\w+", file.name):
                file.unlink()
        if resume:
            return
        if self._holds_a_run():
            moved_to = self._set_aside()
            advice = "" if asked else " (--resume would have continued it)"
            self.say(f"an earlier run stood in {path}: it was moved to {moved_to}{advice}")
        else:
            os.truncate(self.log.fileno(), 0)

    def _lock(self) -> IO[str]:
        self.path.mkdir(parents=True, exist_ok=True)
        log = try_lock(self.path / "train.log")
        if log is None:
            raise CallError(f"another process is training in {self.path}: wait for it, or take another --log_dir")
        return log

    def _refuse_strangers(self) -> None:
        """CallError if a config.json stands there that no run of this suite has written."""
        if not os.path.lexists(self.path / "config.json"):
            return
        try:
            config = Folder(self.path).json("config.json")
            ours = isinstance(config, dict) and (not config or "arguments" in config)
            wrong = "" if ours else "is not that of a run of this suite"
        except Unreadable as error:
            wrong = str(error)
        if wrong:
            raise CallError(f"{self.path / 'config.json'} {wrong}: take another --log_dir, or move that file away")

    def _holds_a_run(self) -> bool:
        """Is there a run, with more than what stands there before the first step?"""
        names = {entry.name for entry in os.scandir(self.path)}
        run = "config.json" in names or any(re.fullmatch(r"checkpoint\.pt|model_(epoch|step)\d+\.pt", n) for n in names)
        return run and not names <= BEFORE_THE_FIRST_STEP

    def _set_aside(self) -> Path:
        path, inside = self.path, self.path.is_symlink() or os.path.ismount(self.path)
        whole = path.resolve()
        if not inside and whole not in (Path.cwd(), *Path.cwd().parents):
            moved_to = next(to for n in count(1) if not (to := whole.with_name(f"{whole.name}_old{n}")).exists())
            try:
                os.replace(path, moved_to)
            except OSError:  # the parent cannot be written; on Windows, a file is open
                pass
            else:
                self.log = self._lock()
                return path.parent / moved_to.name
        moved_to = next(to for n in count(1) if not (to := path / f"old{n}").exists())
        moved_to.mkdir()
        for entry in sorted(path.iterdir()):
            if OURS.fullmatch(entry.name) and entry.name != "train.log":
                os.replace(entry, moved_to / entry.name)
        # The log is locked, and stays where it is.
        (moved_to / "train.log").write_bytes((path / "train.log").read_bytes())
        os.truncate(self.log.fileno(), 0)
        return moved_to

    def check(self) -> None:
        """RunError if the folder was moved away or removed since the run opened it: another run may stand there now."""
        if not stands_at(self.log, self.path / "train.log"):
            self.gone = True
            raise RunError(f"{self.path} was moved, removed or emptied while the run wrote into it: the run ends here")

    def write_config(self, config: dict[str, Any], resumed_at: int | None = None) -> None:
        """Write config.json. A run that is resumed keeps the first one and adds its own command and machine to it."""
        self.check()
        file = self.path / "config.json"
        if resumed_at is not None and os.path.lexists(file):
            try:
                before = Folder(self.path).json(file.name)
            except Unreadable:
                before = None
            ours = isinstance(before, dict) and isinstance(before.get("resumed", []), list)
            before = before if ours else config  # damaged: what this process knows is better
            changing = ("command", "versions", "device", "precision", "commit", "started")
            again = {"from_step": resumed_at, **{key: config[key] for key in changing}}
            now = {key: config[key] for key in ("arguments", "expected")}
            config = {**before, **now, "resumed": [*before.get("resumed", []), again]}
        write_json(file, config)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.csv, if there is a row yet."""
        self.check()
        if history:
            write_csv(self.path / "metrics.csv", history)

    def write_report(self, history: list[dict[str, Any]], unit: str) -> None:
        """Write loss.png, if there is a row yet, and report.html. unit: "epoch" or "step", what the rows count."""
        self.check()
        if history:
            plot_curves(self.path / "loss.png", history, unit)
        write_report(self.path)

    def say(self, line: str) -> None:
        """Print a line, and write it to train.log."""
        self.live("")
        print(line, flush=True)
        self.write_log(line)

    def write_log(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: a line that is lost is not worth the run
            os.write(self.log.fileno(), f"{line}\n".encode("utf-8", "backslashreplace"))

    def live(self, line: str) -> None:
        """A line that the next one overwrites; only on a terminal."""
        live_line(line)
