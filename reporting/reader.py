"""Reads the files of a log folder that may come from a stranger: nothing is executed, no link is followed.

Only plain files directly in the folder are opened. Every file has a limit on its size, and there are limits on what becomes
of it: the header of a picture is checked before it is decoded, a table is read row by row. So no file can fill the memory.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import stat
import struct
import warnings
from pathlib import Path
from typing import IO, Any, Iterator, NamedTuple

import numpy as np
from PIL import Image

MOST_ENTRIES = 2000  # files in a folder
MOST_BYTES = {
    **{suffix: 4 * 2**20 for suffix in (".json", ".csv", ".log")},
    ".html": 2**20,
    **{suffix: 64 * 2**20 for suffix in (".png", ".gif")},
    ".pt": 2**31,
}
MOST_CELLS_WIDE, MOST_ROWS, MOST_CELLS = 100, 100_000, 1_000_000  # of a table
MOST_DIGITS = 100  # of an integer: Python takes long to read a long one
MOST_PIXELS = 16_000_000  # of a picture, or of one frame of an animation
MOST_FRAMES, MOST_PIXELS_OF_FOLDER = 1000, 300_000_000  # of all pictures and frames of a folder together
PIECE = 2**20  # bytes that are read at once
HEADER = 24  # bytes of a PNG or GIF that tell its size
GEOMETRY = "image grid"  # name of a PNG's text chunk, and first words of a GIF's comment: see `Layout.geometry`
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX", ".Spotlight-V100", ".Trashes")


class Unreadable(ValueError):
    """A file or folder that cannot be used, with the reason in one line."""


class TooMany(Unreadable):
    """A folder with too many files to look through: a data set, say."""


class Picture(NamedTuple):
    """A decoded PNG."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    geometry: str | None  # where its images stand, as figures/grids.py wrote it


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


def is_system_file(name: str) -> bool:
    """Was this file or folder added by an operating system? (macOS puts a "._name" beside each "name" in a zip.)"""
    return name in SYSTEM_FILES or name.startswith("._")


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file. Unreadable if it is a link, a pipe or a device, or cannot be opened."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise Unreadable("is a link, which was not followed")
        file = open(os.open(path, flags), "rb")
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise Unreadable("is no plain file")


class Folder:
    """The entries of one folder. Raises Unreadable if it cannot be opened or has more than `most` entries.

    files: size in bytes of each plain file, by name. others: what else is there, as {name: "link", "folder", ...}.
    Files that operating systems add are left out.
    """

    def __init__(self, path: str | os.PathLike, most: float = math.inf):
        self.path = Path(path)
        self.files: dict[str, int] = {}
        self.others: dict[str, str] = {}
        self.pixels_left = MOST_PIXELS_OF_FOLDER
        self._scan(most)

    def _scan(self, most: float) -> None:
        try:
            with os.scandir(self.path) as entries:
                for n, entry in enumerate(entries):
                    if n >= most:
                        raise TooMany(f"holds more than {most:,} files")
                    if not is_system_file(entry.name):
                        self._add(entry)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from None

    def _add(self, entry: os.DirEntry) -> None:
        try:
            about = entry.stat(follow_symlinks=False)
        except OSError:
            self.others[entry.name] = "file that cannot be read"
            return
        if stat.S_ISREG(about.st_mode):
            self.files[entry.name] = about.st_size
        else:
            kinds = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
            self.others[entry.name] = kinds.get(stat.S_IFMT(about.st_mode), "pipe or device")

    def child(self, name: str) -> Folder:
        """A folder in this one."""
        return Folder(self.path / name, MOST_ENTRIES)

    def open(self, name: str) -> IO[bytes]:
        """A plain file, opened for reading from any place. Unreadable if it is something else."""
        kind = self.others.get(name)
        if kind:
            raise Unreadable(f"is a {kind}, which was not followed or opened")
        return open_plain(self.path / name)

    def read(self, name: str, head: bool = False) -> bytes:
        """The bytes of a plain file, or only its first ones. Unreadable if it is missing, empty or too large."""
        most = HEADER if head else MOST_BYTES[os.path.splitext(name)[1].lower()]
        parts, left = [], most + (not head)
        with self.open(name) as file:
            while left > 0:
                try:
                    part = file.read(min(left, PIECE))
                except Unreadable:
                    raise
                except Exception as error:  # of a zip: a damaged part
                    raise Unreadable(f"cannot be read ({printable(error, 80)})") from None
                if not part:
                    break
                parts.append(part)
                left -= len(part)
        if not left and not head:
            raise Unreadable(f"is larger than {most / 2**20:.0f} MB, and was not read")
        if not parts:
            raise Unreadable("is empty")
        return b"".join(parts)

    def text(self, name: str) -> str:
        """A text file; bytes that are no UTF-8 become question marks."""
        return self.read(name).decode("utf-8", "replace")

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name).decode("utf-8-sig"), parse_int=_integer)
        except Unreadable:
            raise
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"is no JSON ({printable(error, 80)})") from None

    def csv(self, name: str) -> list[dict[str, str]]:
        """The rows of a table, read one by one. Cells that are missing are "", and cells without a head are left out.

        The table may have been saved by a spreadsheet: a mark at its beginning, empty rows, semicolons and decimal commas.
        """
        try:
            text = self.read(name).decode("utf-8-sig")
            semicolons = ";" in text.partition("\n")[0]
            text = text.replace(",", ".") if semicolons else text
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if semicolons else ",")
            heads = next(reader, [])
            if len(heads) > MOST_CELLS_WIDE:
                raise Unreadable(f"is a table of more than {MOST_CELLS_WIDE} columns, and was not read")
            rows: list[dict[str, str]] = []
            for row in reader:
                if not any(row):
                    continue
                if len(rows) >= MOST_ROWS or len(rows) * len(heads) >= MOST_CELLS:
                    raise Unreadable(f"is a table of more than {len(rows):,} rows, and was not read to its end")
                rows.append(dict(zip(heads, row + [""] * (len(heads) - len(row)))))
            return rows
        except Unreadable:
            raise
        except (ValueError, csv.Error) as error:
            raise Unreadable(f"is no table ({printable(error, 80)})") from None

    def image_size(self, name: str) -> tuple[int, int] | None:
        """Width and height of a PNG or GIF in pixels; None if it is neither."""
        try:
            return _image_size(self.read(name, head=True), name)
        except Unreadable:
            return None

    def picture(self, name: str) -> Picture:
        """A PNG, decoded."""
        with self._decoding(name, "PNG") as image:
            return Picture(np.asarray(image.convert("RGB")), image.info.get(GEOMETRY))

    def animation(self, name: str) -> Animation:
        """A GIF: every frame is decoded, the first and the last are kept."""
        with self._decoding(name, "GIF") as image:
            size, n, moves = image.size, 0, False
            comment = bytes(image.info.get("comment", b"")).decode("ascii", "replace")
            geometry = comment[len(GEOMETRY) :] if comment.startswith(GEOMETRY) else None
            first = last = None
            while True:
                frame = np.asarray(image.convert("RGB"))
                moves = moves or (last is not None and not np.array_equal(frame, last))
                first, last, n = frame if first is None else first, frame, n + 1
                if n > MOST_FRAMES:
                    raise Unreadable(f"has more than {MOST_FRAMES:,} frames, and was not read to its end")
                try:
                    image.seek(n)
                except EOFError:
                    return Animation(geometry, n, first, last, moves)
                self._spend(*image.size)
                if image.size != size:
                    raise Unreadable("has frames of different sizes")

    def _spend(self, width: int, height: int) -> None:
        """Decoding takes time and memory: all pictures of a folder together have a limit."""
        self.pixels_left -= width * height
        if self.pixels_left < 0:
            raise Unreadable(f"was not decoded: the folder has more than {MOST_PIXELS_OF_FOLDER:,} pixels")

    @contextlib.contextmanager
    def _decoding(self, name: str, kind: str) -> Iterator[Image.Image]:
        """The open image. Whatever Pillow raises becomes Unreadable, also its warning of an image that is too large."""
        content = self.read(name)
        width, height = _image_size(content, name)
        if width * height > MOST_PIXELS:
            raise Unreadable(f"claims {width:,} x {height:,} pixels, and was not decoded")
        self._spend(width, height)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content), formats=[kind]) as image:
                    yield image
        except Unreadable:
            raise
        except Exception as error:
            reason = printable(error, 100) or type(error).__name__
            raise Unreadable(f"cannot be decoded ({reason})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _image_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height from the header of a PNG (or GIF, by the name). Unreadable if it is none."""
    if name.lower().endswith(".gif"):
        if content[:6] not in (b"GIF87a", b"GIF89a") or len(content) < 10:
            raise Unreadable("is no GIF")
        return struct.unpack("<HH", content[6:10])
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < HEADER:
        raise Unreadable("is no PNG")
    return struct.unpack(">II", content[16:24])
