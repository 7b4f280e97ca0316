"""Reads log folders inside a zip file, with the limits of reporting/reader.py, and unpacks nothing to disk."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import IO

from reporting.reader import MOST_ENTRIES, PIECE, Folder, TooMany, Unreadable, is_system_file, open_plain, printable

MOST_MEMBERS = 20_000
MOST_TABLE = 4 * 2**20  # bytes of the zip's table of contents
MOST_IN_MEMORY = 256 * 2**20  # bytes of a file in which one has to jump, such as a model


class _Pieces(io.BufferedReader):
    """A file that gives no more than MOST_TABLE bytes at once: `zipfile` reads as many as the file itself claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:  # the end of the file
            size = MOST_TABLE
        if size > MOST_TABLE:
            raise Unreadable("is a zip with too large a table of contents")
        return super().read(size)


class Archive:
    """An open zip file. Raises Unreadable if it is none.

    members: {folder: {name: member}}, folders as tuples of their parts. kinds: as Folder.others, likewise by folder.
    """

    def __init__(self, opened: IO[bytes]):
        try:
            self.zip = zipfile.ZipFile(_Pieces(opened))  # type: ignore[arg-type]
        except Unreadable:
            raise
        except zipfile.BadZipFile:
            raise Unreadable("is no zip, or a damaged one: hand in a folder or a zip") from None
        except Exception as error:  # damaged files make zipfile raise anything
            raise Unreadable(f"is no zip that can be read ({printable(error, 80)})") from None
        self.within, self.bytes_left = False, MOST_IN_MEMORY  # is it in a zip? what zips in it may have, all together
        self.members: dict[tuple[str, ...], dict[str, zipfile.ZipInfo]] = {(): {}}
        self.kinds: dict[tuple[str, ...], dict[str, str]] = {(): {}}
        if len(self.zip.infolist()) > MOST_MEMBERS:
            raise Unreadable(f"holds more than {MOST_MEMBERS:,} files")
        for member in self.zip.infolist():
            parts = tuple(part for part in re.split(r"[/\\]", member.filename) if part not in ("", "."))
            if parts and ".." not in parts and len(parts) <= 20 and not any(map(is_system_file, parts)):
                self._add(parts, member)

    def _add(self, parts: tuple[str, ...], member: zipfile.ZipInfo) -> None:
        folder = member.filename.endswith(("/", "\\"))
        for n in range(len(parts) + folder):  # the folders above, which need not have entries of their own
            self.members.setdefault(parts[:n], {})
            self.kinds.setdefault(parts[:n], {})
            if n:
                self.kinds[parts[: n - 1]][parts[n - 1]] = "folder"
        if folder:
            return
        *above, name = parts
        files, kinds = self.members[tuple(above)], self.kinds[tuple(above)]
        if stat.S_ISLNK(member.external_attr >> 16):
            kinds[name] = "link"
        elif name in files:
            kinds[name] = "file that stands twice in the zip"
        else:
            files[name] = member


class ZipFolder(Folder):
    """A folder inside a zip, for reading as a `Folder`. path: that of the zip, and below it the folder."""

    def __init__(self, path: str | os.PathLike, archive: Archive | None = None, inside: tuple[str, ...] = ()):
        self.archive = archive or Archive(open_plain(Path(path)))
        self.inside = inside
        super().__init__(path, MOST_ENTRIES)

    def _scan(self, most: float) -> None:
        members, self.others = self.archive.members[self.inside], self.archive.kinds[self.inside]
        if len(members) > most:
            raise TooMany(f"holds more than {most:,} files")
        self.files = {name: member.file_size for name, member in members.items() if name not in self.others}

    def child(self, name: str) -> Folder:
        return ZipFolder(self.path / name, self.archive, (*self.inside, name))

    def zip(self, name: str) -> ZipFolder:
        """A zip in this one, which is kept in memory: all of them together have a limit, and hold no further ones."""
        self.archive.bytes_left -= self.files[name]
        if self.archive.within or self.archive.bytes_left < 0:
            raise Unreadable(
                "is a zip in a zip" + (" in a zip" if self.archive.within else " and too large") + ": unpack it"
            )
        archive = Archive(self.open(name))
        archive.within = True
        return ZipFolder(self.path / name, archive)

    def open(self, name: str) -> IO[bytes]:
        kind = self.others.get(name)
        if kind or name not in self.files:
            raise Unreadable(f"is a {kind}, which was not followed or opened" if kind else "is missing")
        member = self.archive.members[self.inside][name]
        if member.flag_bits & 1:
            raise Unreadable("needs a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable("is compressed in a way that is not read here: zip or deflate only")
        try:
            opened = self.archive.zip.open(member)
        except Exception as error:  # with a password, or damaged
            raise Unreadable(f"cannot be read ({printable(error, 80)})") from None
        return self._in_memory(opened) if name.lower().endswith((".pt", ".zip")) else opened

    def _in_memory(self, opened: IO[bytes]) -> IO[bytes]:
        content = io.BytesIO()
        with opened:
            try:
                while content.tell() <= MOST_IN_MEMORY:
                    part = opened.read(PIECE)
                    if not part:
                        content.seek(0)
                        return content
                    content.write(part)
            except Exception as error:
                raise Unreadable(f"cannot be read ({printable(error, 80)})") from None
        raise Unreadable(f"is larger than {MOST_IN_MEMORY / 2**20:.0f} MB: unpack the zip to check it")
