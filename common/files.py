"""Atomic writes, JSON and CSV, locks, unused file names, numbers as text."""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import math
import os
import stat
from pathlib import Path
from typing import IO, Any, Iterator, Sequence

try:
    import fcntl
except ImportError:  # Windows has no flock: there nothing stops two runs in one folder
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file completely or not at all: `with atomic_write("a.pt") as temporary: torch.save(state, temporary)`.

    Yields a hidden path in the same folder, with the same suffix. At the end of the block this file replaces `path` in
    one step. If the block raises, it is removed and `path` stays as it was. Missing parent folders are created.
    A disk that refuses the file becomes an OSError that names `path`, whatever the library that wrote made of it.
    """
    path = Path(path)
    # Not tempfile.mkstemp: only the owner may read its files, but others (graders) must read a log folder.
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        known = isinstance(error, OSError) and error.errno
        refusal = error if known else _refusal(temporary)
        named = getattr(refusal, "filename", None)  # another file, which the block reads, keeps its name
        if not isinstance(refusal, OSError) or named not in (None, temporary, str(temporary)):
            raise
        raise OSError(refusal.errno, refusal.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    with contextlib.suppress(OSError):  # after a power cut the new name must be there; Windows cannot do this
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refusal(file: Path) -> OSError | None:
    """The error by which the disk refuses another megabyte in this file (it is full, or a quota is), or None.

    Torch's zip writer and imageio raise errors of their own, which do not say so.
    """
    try:
        with open(file, "ab", buffering=0) as end:
            left = 2**20
            while left > 0:
                left -= end.write(bytes(left)) or 0
    except OSError as error:
        return error
    return None


def check_writable(path: str | os.PathLike) -> None:
    """OSError if this file cannot be written: for the beginning of work whose result goes there."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    probe = path.with_name(f".{path.stem}.{os.urandom(4).hex()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(probe, "x").close()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def missing(path: str | os.PathLike) -> str:
    """In words that a file is not there, and what of its kind is."""
    path = Path(path)
    if not path.parent.is_dir():
        return f"there is no file {path}, and no folder {path.parent}"
    if path.is_dir():
        path = path / "*.pt"
    names = sorted(file.name for file in path.parent.glob(f"*{path.suffix}") if path.suffix and file.name[0] != ".")
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"there is no file {path}" + (f"; {path.parent} holds {', '.join(names[:5])}{more}" if names else "")


def open_to_append(file: str | os.PathLike) -> IO[str]:
    """Open a text file for appending. OSError unless it is a plain file (or new): nothing is written through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        opened = open(os.open(file, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        what = {errno.ELOOP: "is a link, and nothing is written through links", errno.ENXIO: "is a pipe"}
        raise OSError(error.errno, what.get(error.errno or 0, error.strerror), str(file)) from None
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(errno.EINVAL, "is no plain file", str(file))
    return opened


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON. Paths become strings; tensors and numpy arrays of one element, numbers.

    Raises TypeError for other objects that JSON does not know. Bytes of a file name that are no text in this encoding
    (Python's surrogates) become escapes, from which JSON reads them back.
    """

    def plain(value: Any) -> Any:
        return value.item() if hasattr(value, "item") else os.fspath(value)

    text = json.dumps(obj, indent=2, ensure_ascii=False, default=plain) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Write dicts (at least one) as a CSV table. The first row's keys are the columns.

    Floats get 6 significant digits; None becomes an empty cell. Raises ValueError if a later row has another key.
    """

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return f"{value:.6g}" if isinstance(value, float) else value

    with atomic_write(path) as temporary, open(
        temporary, "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)


def finite(value: Any) -> float | None:
    """`value` as a float, or None if it is not a finite number."""
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
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(total / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def try_lock(file: Path) -> IO[str] | None:
    """Open a file for appending and lock it until it is closed. None if another process has locked it.

    Also None if another process has moved the file away or removed it meanwhile: what was locked is then not what
    stands there. OSError unless it is a plain file.
    """
    try:
        opened = open_to_append(file)
    except FileNotFoundError:  # its folder was moved away
        return None
    try:
        if fcntl:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        return None
    except OSError:
        pass  # a file system without locks
    if not stands_at(opened, file):
        opened.close()
        return None
    return opened


def stands_at(opened: IO[str], file: Path) -> bool:
    """Is this open file the one that stands at this path, and not one that was moved away or removed?"""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(file))
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextlib.contextmanager
def free_names(folder: Path, stem: str, suffixes: Sequence[str] = (".png",), beside: str = "") -> Iterator[list[Path]]:
    """Paths named `stem`, or `stem_2`, `stem_3`, ...: the first that no file with a suffix or `beside` has.

    An empty file reserves the name, so that two processes never get the same one. If the block writes nothing, because
    of an error or a signal, the empty file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        name = folder / (stem if n == 1 else f"{stem}_{n}")
        paths = [Path(f"{name}{suffix}") for suffix in suffixes]
        if any(Path(f"{name}{suffix}").exists() for suffix in (*suffixes, beside or suffixes[0])):
            continue
        with contextlib.suppress(FileExistsError):  # another process was faster
            open(paths[0], "x").close()
            break
    try:
        yield paths
    finally:
        if paths[0].exists() and not paths[0].stat().st_size:
            paths[0].unlink()
