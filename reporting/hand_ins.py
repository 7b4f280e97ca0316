"""Where the log folders of a hand-in are: the folder itself, folders below it, or zip files of either."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

from reporting.archive import ZipFolder
from reporting.reader import MOST_ENTRIES, Folder, TooMany, Unreadable, is_system_file

DEPTH = 8  # folders below the hand-in's own: home/anna/course/sheet5/log/log_mnist
MOST_FOLDERS = 2000  # that are looked into, of one hand-in
FOREIGN = {"site-packages", "node_modules", "__pycache__"}  # folders of installed software
MARKS = ("config.json", "metrics.csv", "report.html")  # a folder with one of these is a log folder
WEAK = {"config.json", "report.html"}  # ... but these alone are not enough where log folders stand below
ANSWERS = re.compile(r"(?i)(answer|antwort|solution|loesung|exercise).*|.+\.(pdf|docx?|odt|tex|ipynb)")


class HandIn:
    """What one person handed in.

    follow: may `path` be a link? folders: the log folders, in order. scripts, answers, readme: names of the sheet's other files. unread: {path: reason} of
    folders and zips that cannot be read; skipped: likewise, of those too large to look through. itself: is the hand-in a log folder itself?
    """

    def __init__(self, path: Path, follow: bool = False):
        self.path, self.looked_into = path, 0
        self.folders: list[Folder] = []
        self.scripts: list[str] = []
        self.answers: list[str] = []
        self.readme: list[str] = []
        self.unread: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        try:
            if path.is_symlink() and not follow:
                raise Unreadable("is a link, which was not followed: name the folder itself")
            root = ZipFolder(path) if path.is_file() else Folder(path, MOST_ENTRIES)
        except Unreadable as error:
            self.unread[path.name] = str(error)
            return
        self._look(root, DEPTH)
        self.folders.sort(key=lambda folder: folder.path)

    @property
    def itself(self) -> bool:
        return [folder.path for folder in self.folders] == [self.path]

    def _look(self, folder: Folder, depth: int) -> None:
        """Add the log folders at and below `folder`, and the other files on the way."""
        self.looked_into += 1
        if self.looked_into > MOST_FOLDERS:
            self.skipped[self.path.name] = f"holds more than {MOST_FOLDERS:,} folders, and was not read to its end"
            return
        marks = {name for name in folder.files if name in MARKS or name.startswith("generated_images_")}
        before = len(self.folders)
        if not marks or marks <= WEAK:
            for below in self._below(folder, depth):
                self._look(below, depth - 1)
        if marks and len(self.folders) == before:
            self.folders.append(folder)
            return
        for name in folder.files:
            if name.lower().startswith("readme"):
                self.readme.append(name)
            elif name.endswith((".py", ".ipynb")):
                self.scripts.append(name)
            if ANSWERS.fullmatch(name):
                self.answers.append(name)

    def _below(self, folder: Folder, depth: int) -> Iterator[Folder]:
        """The folders and zips in `folder`. Links, hidden folders and installed software are passed over."""
        zips = [name for name in folder.files if name.lower().endswith(".zip")]
        for name in sorted([*folder.others, *zips]) if depth else []:
            if name.startswith(".") or name in FOREIGN or (name not in zips and folder.others[name] != "folder"):
                continue
            try:
                if name not in zips:
                    yield folder.child(name)
                else:
                    yield folder.zip(name) if isinstance(folder, ZipFolder) else ZipFolder(folder.path / name)
            except Unreadable as error:
                found = self.skipped if isinstance(error, TooMany) else self.unread
                found[str((folder.path / name).relative_to(self.path))] = str(error)


class HandIns(HandIn):
    """All hand-ins in one folder, for the page over them: the root is none itself, and each entry has limits of its own."""

    def __init__(self, root: Path):
        super().__init__(root, follow=True)

    def _look(self, folder: Folder, depth: int) -> None:
        if folder.path.parent == self.path:
            self.looked_into = 0
        super()._look(folder, depth)


def is_nothing(path: Path) -> bool:
    """Is this one of the things that stand among hand-ins: a system file, the page over all folders, trained judges?"""
    if is_system_file(path.name) or (path.name == "index.html" and path.is_file()):
        return True
    if not path.is_dir() or path.is_symlink():
        return False
    try:
        folder = Folder(path, MOST_ENTRIES)
    except Unreadable:
        return False
    judges = all(name.startswith("judge_") and name.endswith(".pt") for name in folder.files)
    return bool(folder.files) and judges and not folder.others
