"""Reading a log folder that a stranger handed in: nothing in it is executed, followed, or allowed to fill the memory.

Only plain files directly in the folder are opened; links, pipes, devices and folders are named and left alone. Every
file has a bound on its size, and a picture is refused by its header before it is decoded.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import struct
import warnings
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import numpy as np
from PIL import Image

MOST_ENTRIES = 2000  # files in a folder
MOST_BYTES = {".json": 2 * 2**20, ".csv": 16 * 2**20, ".png": 64 * 2**20, ".gif": 64 * 2**20, ".pt": 2**31}
MOST_PIXELS = 16_000_000  # of a picture, or of one frame of an animation
GEOMETRY = "image grid"  # utils.GEOMETRY (importing utils loads matplotlib, which takes longer than most checks)
MOST_FRAMES, MOST_PIXELS_OF_FRAMES = 1000, 400_000_000


class Unreadable(ValueError):
    """A file that cannot be used, with the reason in one line."""


class Picture(NamedTuple):
    """A decoded PNG."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    geometry: str | None  # where its images stand, as utils.py wrote it


class Animation(NamedTuple):
    """What a check needs of a GIF."""

    geometry: str | None
    n_frames: int
    first: np.ndarray  # uint8 [H, W, 3]
    last: np.ndarray
    moves: bool  # does any frame differ from the one before?


def printable(text: Any, most: int = 300) -> str:
    """Text from a stranger on one line of a terminal: control and invisible characters as their escapes."""
    text = str(text)[:most]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Folder:
    """The entries of one folder by name: `files`, and what is none of these, with the word for it: `others`."""

    def __init__(self, path: Path):
        self.path, self.files, self.others = path, set(), {}
        try:
            with os.scandir(path) as entries:
                for n, entry in enumerate(entries):
                    if n == MOST_ENTRIES:
                        raise Unreadable(f"holds more than {MOST_ENTRIES:,} files")
                    kind = _kind(entry)
                    if kind == "file":
                        self.files.add(entry.name)
                    else:
                        self.others[entry.name] = kind
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from None

    def size(self, name: str) -> int:
        try:
            return os.lstat(self.path / name).st_size
        except OSError:
            return 0

    def read(self, name: str) -> bytes:
        """The bytes of a plain file of at most MOST_BYTES. Unreadable otherwise."""
        most = MOST_BYTES[os.path.splitext(name)[1].lower()]
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self.path / name, flags)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Unreadable("is no plain file")
                content = file.read(most + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from None
        if len(content) > most:
            raise Unreadable(f"is larger than {most / 2**20:.0f} MB, and was not read")
        if not content:
            raise Unreadable("is empty")
        return content

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except Unreadable:
            raise
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"is no JSON ({printable(error, 80)})") from None

    def csv(self, name: str) -> list[dict[str, str]]:
        try:
            text = self.read(name).decode("utf-8")
            return list(csv.DictReader(io.StringIO(text, newline=""), restval="", restkey=""))
        except Unreadable:
            raise
        except (ValueError, csv.Error) as error:
            raise Unreadable(f"is no table ({printable(error, 80)})") from None

    def picture(self, name: str) -> Picture:
        """A PNG, decoded."""
        content = self.read(name)
        _check_header(content, name)
        with _decoding(), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return Picture(np.asarray(image.convert("RGB")), image.info.get(GEOMETRY))

    def animation(self, name: str) -> Animation:
        """A GIF: every frame is decoded, the first and the last are kept."""
        content = self.read(name)
        _check_header(content, name)
        with _decoding(), Image.open(io.BytesIO(content), formats=["GIF"]) as image:
            size, n, moves = image.size, 0, False
            comment = bytes(image.info.get("comment", b"")).decode("ascii", "replace")
            geometry = comment[len(GEOMETRY) :] if comment.startswith(GEOMETRY) else None
            first = last = None
            while True:
                frame = np.asarray(image.convert("RGB"))
                moves = moves or (last is not None and not np.array_equal(frame, last))
                first, last, n = frame if first is None else first, frame, n + 1
                if n > MOST_FRAMES or n * size[0] * size[1] > MOST_PIXELS_OF_FRAMES:
                    raise Unreadable("has too many frames, and was not read to its end")
                try:
                    image.seek(n)
                except EOFError:
                    return Animation(geometry, n, first, last, moves)
                if image.size != size:
                    raise Unreadable("has frames of different sizes")


def _kind(entry: os.DirEntry) -> str:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return "file that cannot be read"
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "pipe or device"


def _check_header(content: bytes, name: str) -> None:
    """Unreadable unless this is the head of a PNG (or GIF, by the name) of a size that may be decoded."""
    if name.lower().endswith(".gif"):
        if content[:6] not in (b"GIF87a", b"GIF89a") or len(content) < 10:
            raise Unreadable("is no GIF")
        width, height = struct.unpack("<HH", content[6:10])
    else:
        if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
            raise Unreadable("is no PNG")
        width, height = struct.unpack(">II", content[16:24])
    if width * height > MOST_PIXELS:
        raise Unreadable(f"claims {width:,} x {height:,} pixels, and was not decoded")


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Whatever Pillow raises about a picture becomes Unreadable; what would become too large is an error to it."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except Unreadable:
        raise
    except Exception as error:
        reason = printable(error, 100) or type(error).__name__
        raise Unreadable(f"cannot be decoded ({reason})") from None
    finally:
        Image.MAX_IMAGE_PIXELS = before
