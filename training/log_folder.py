"""The folder of one run: who may write there and under which names, what it says of itself, the lines it prints."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import IO, Any

from common.console import CallError, live_line
from common.files import try_lock, write_json


class LogFolder:
    """A folder for one run at a time. Opening it never destroys an earlier run.

    With `resume` the folder is taken as it stands; otherwise a run that it holds is first moved aside, to
    `<name>_old1`, `_old2`, ... CallError if another process is training there, or the path is no folder.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        if path.exists() and not path.is_dir():
            raise CallError(f"--log_dir {path} is a file; a folder is needed")
        path.mkdir(parents=True, exist_ok=True)
        self.log = self._lock()
        self._clean()
        if not resume and self._holds_run():
            moved_to = self._set_aside()
            path.mkdir()
            self.log = self._lock()
            self.say(f"an earlier run stood in {path}: it was moved to {moved_to} (--resume would have continued it)")

    def _lock(self) -> IO[str]:
        log = try_lock(self.path / "train.log")
        if log is None:
            raise CallError(f"another process is training in {self.path}: wait for it, or take another --log_dir")
        return log

    def _clean(self) -> None:
        """Remove the unfinished files of a process that was killed while it wrote (see utils.atomic_write)."""
        for file in self.path.glob(".*"):
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.\w+", file.name):
                file.unlink()

    def _holds_run(self) -> bool:
        return (self.path / "config.json").exists() or any(self.path.glob("*.pt"))

    def _set_aside(self) -> Path:
        n = 1
        while (self.path.parent / f"{self.path.name}_old{n}").exists():
            n += 1
        moved_to = self.path.parent / f"{self.path.name}_old{n}"
        os.replace(self.path, moved_to)
        return moved_to

    def write_config(self, config: dict[str, Any], resumed_at: int | None = None) -> None:
        """Write config.json. A continuation keeps the first one and adds its own command and machine to it."""
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

    def say(self, line: str) -> None:
        """A line for the terminal and for train.log."""
        self.live("")
        print(line, flush=True)
        self.write_log(line)

    def write_log(self, line: str) -> None:
        self.log.write(line + "\n")
        self.log.flush()

    def live(self, line: str) -> None:
        """A line that the next one overwrites; only on a terminal."""
        live_line(line)
