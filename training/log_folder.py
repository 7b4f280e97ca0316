"""The folder of one run: who may write there, what it says of itself, the lines that the run prints."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import IO, Any

from common.console import CallError, live_line
from common.files import try_lock, write_csv, write_json
from common.machine import environment
from ddpm import DDPM
from reporting.page import write_report
from training.data_set import DataSet
from training.losses import VALIDATION_IMAGES
from training.settings import About, Settings
from utils import plot_loss


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
        "n_parameters": sum(p.numel() for p in ddpm.nn_model.parameters()),
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

    With `resume` the folder is taken as it stands; otherwise a run that it holds is first moved to `<name>_old1`,
    `<name>_old2`, ... CallError if another process is training there, or the path is no folder.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        if path.exists() and not path.is_dir():
            raise CallError(f"--log_dir {path} is a file; a folder is needed")
        path.mkdir(parents=True, exist_ok=True)
        self.log = self._lock()
        for file in path.glob(".*"):  # left by a process that was killed while it wrote (see common.files.atomic_write)
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.\w+", file.name):
                file.unlink()
        if not resume and ((path / "config.json").exists() or any(path.glob("*.pt"))):
            n = 1
            while (moved_to := path.parent / f"{path.name}_old{n}").exists():
                n += 1
            os.replace(path, moved_to)
            path.mkdir()
            self.log = self._lock()
            self.say(f"an earlier run stood in {path}: it was moved to {moved_to} (--resume would have continued it)")

    def _lock(self) -> IO[str]:
        log = try_lock(self.path / "train.log")
        if log is None:
            raise CallError(f"another process is training in {self.path}: wait for it, or take another --log_dir")
        return log

    def write_config(self, config: dict[str, Any], resumed_at: int | None = None) -> None:
        """Write config.json. A run that is resumed keeps the first one and adds its own command and machine to it."""
        file = self.path / "config.json"
        if resumed_at is not None and file.exists():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                before = None
            before = before if isinstance(before, dict) else config  # damaged: what this process knows is better
            changing = ("command", "versions", "device", "precision", "commit", "started")
            again = {"from_step": resumed_at, **{key: config[key] for key in changing}}
            now = {key: config[key] for key in ("arguments", "expected")}
            config = {**before, **now, "resumed": [*before.get("resumed", []), again]}
        write_json(file, config)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.csv, if there is a row yet."""
        if history:
            write_csv(self.path / "metrics.csv", history)

    def write_report(self, history: list[dict[str, Any]], unit: str) -> None:
        """Write loss.png, if there is a row yet, and report.html. unit: "epoch" or "step", what the rows count."""
        if history:
            plot_loss(self.path / "loss.png", history, unit)
        write_report(self.path)

    def say(self, line: str) -> None:
        """Print a line, and write it to train.log."""
        self.live("")
        print(line, flush=True)
        self.write_log(line)

    def write_log(self, line: str) -> None:
        self.log.write(line + "\n")
        self.log.flush()

    def live(self, line: str) -> None:
        """A line that the next one overwrites; only on a terminal."""
        live_line(line)
