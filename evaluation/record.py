"""metrics.json, the list of what evaluate.py, train_afhq.py --fid or train_toy.py measured.

reporting/tables.py shows it in the report.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.console import CallError
from common.files import write_json
from reporting.reader import MOST_BYTES, Unreadable, open_plain

if TYPE_CHECKING:
    from ddpm import DDPM


class Record:
    """A measurement in metrics.json. Each result is written at once, so that an interruption loses none.

    Other measurements in the file are kept, also those that another process adds meanwhile. Only if a resumed run
    measures a step again, the new result replaces the old one.
    """

    def __init__(self, file: Path, **about: Any):
        self.file, self.entry = file, {**about, "results": []}

    def add(self, result: dict[str, Any]) -> None:
        others = [entry for entry in read_list(self.file) if entry != self.entry and not self._repeats(entry, result)]
        self.entry["results"].append(result)
        write_json(self.file, [*others, self.entry])

    def _repeats(self, entry: Any, result: dict[str, Any]) -> bool:
        """Is `entry` an older measurement of the same step of the same run?"""
        if "step" not in result or not isinstance(entry, dict):
            return False
        same = all(entry.get(key) == self.entry.get(key) for key in ("model", "measured"))
        before = [row for row in entry.get("results") or [] if isinstance(row, dict)]
        return same and any(row.get("step") == result["step"] for row in before)


def reverse_steps(ddpm: DDPM) -> str:
    """How the model takes reverse steps, for a table."""
    return f"variance {ddpm.variance}, clip_x0 {ddpm.clip_x0}"


def read_list(file: Path) -> list:
    """The measurements already in `file`. CallError if it cannot be added to."""
    if not os.path.lexists(file):
        return []
    try:
        with open_plain(file) as stream:
            measured = json.loads(stream.read(MOST_BYTES[".json"] + 1).decode("utf-8"))
    except Unreadable as error:
        raise CallError(f"{file} {error}: move it away, or choose another --out") from None
    except (ValueError, RecursionError):
        raise CallError(f"{file} is damaged: move it away, or choose another --out") from None
    if not isinstance(measured, list):
        raise CallError(f"{file} is not a list of measurements: choose another --out")
    return measured
