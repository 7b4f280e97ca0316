"""Files that are never half written, locks, free names, and numbers as text."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import os
import secrets
from pathlib import Path
from typing import IO, Any, Iterator, Sequence

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, two runs in one folder are the user's care
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file completely or not at all: `with atomic_write("a.pt") as temporary: torch.save(state, temporary)`.

    Yields a hidden path in the same folder with the same suffix. When the block ends, the file is forced to disk and
    takes the place of `path` in one step. When the block raises, the temporary file is removed and `path` stays as it
    was. Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its files are readable by their owner only, and a log folder is there to be read by others.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # Windows and some network disks cannot force a folder to disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON. Paths become strings, scalar tensors and numpy scalars become numbers.

    Raises TypeError for any other object that JSON does not know.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "item"):
            return value.item()
        raise TypeError(f"cannot write a {type(value).__name__} as JSON")

    text = json.dumps(obj, indent=2, ensure_ascii=False, default=plain) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Write dicts as a CSV table, the columns in the order of the first row's keys.

    Floats have 6 significant digits, None becomes an empty cell. Raises ValueError if there is no row, or if a later row
    has a key that the first row lacks.
    """
    if not rows:
        raise ValueError("write_csv needs at least one row, to know the columns")

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return f"{value:.6g}" if isinstance(value, float) else value

    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)


def finite(value: Any) -> float | None:
    """A finite number, or None for anything that is not one."""
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def format_duration(seconds: float) -> str:
    """A duration in seconds as text: "1 h 02 min", "3 min 05 s" or "12 s"; "unknown" if not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    total = max(0, round(seconds))
    if total >= 3600:
        minutes = round(total / 60)
        return f"{minutes // 60} h {minutes % 60:02d} min"
    if total >= 60:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total} s"


def try_lock(file: Path) -> IO[str] | None:
    """Open a file to append to it, and hold it until it is closed or the process ends; None if another one holds it."""
    log = open(file, "a", encoding="utf-8")
    try:
        if fcntl:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    except OSError:
        pass  # a file system without locks
    return log


@contextlib.contextmanager
def free_names(folder: Path, stem: str, suffixes: Sequence[str] = (".png",), beside: str = "") -> Iterator[list[Path]]:
    """The first of `stem`, `stem_2`, ... that no file with one of the suffixes, or with `beside`, has yet.

    An empty file holds the first name until the block has written it, so that two processes never get the same. A block
    that ends otherwise, also by a signal (see `ended_by_signals`), frees the name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        name = stem if n == 1 else f"{stem}_{n}"
        paths = [folder / (name + suffix) for suffix in suffixes]
        if any(path.exists() for path in [*paths, *([folder / (name + beside)] if beside else [])]):
            continue
        with contextlib.suppress(FileExistsError):  # another process was faster
            open(paths[0], "x").close()
            break
    try:
        yield paths
    finally:
        if paths[0].exists() and not paths[0].stat().st_size:
            paths[0].unlink()
