"""Encoders: pictures and texts become context vectors in one space. A model trained on the vectors of pictures then obeys
those of texts.

    class Encoder                       name, dimension D
        encode_images(files)            image files -> float32 [N, D]
        encode_texts(texts)             prompts -> float32 [N, D]
        recipe()                        plain values from which `encoder_from` makes the encoder again

Here is the one that needs no download, `Attributes`: a table of numbers beside the images. `datasets/clip.py` has CLIP.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import io
import re
from pathlib import Path
from typing import Any, Protocol, Sequence

import numpy as np
import torch
from torch import Tensor

from common.console import CallError, DataError

TABLES = ("attributes.csv", "list_attr_celeba.txt")  # names of a table beside the images; the second is CelebA's own
# Words for the two ends of an attribute, if the table has it; a column's own name and "not ..." need no entry.
WORDS: dict[str, list[tuple[str, int]]] = {
    "old": [("age", 1), ("young", -1)],
    "young": [("age", -1)],
    "short-haired": [("long-haired", -1)],
    "light-haired": [("hair-color", 1), ("blond hair", 1)],
    "dark-haired": [("hair-color", -1), ("black hair", 1)],
    "male": [("gender", 1)],
    "female": [("gender", -1), ("male", -1)],
    "indoors": [("outdoors", -1)],
}
# Both ends of attributes that are seen at once in a face, for `Attributes.examples`.
ENDS = [
    ("happy", "not happy"),
    ("smiling", "not smiling"),
    ("old", "young"),
    ("long-haired", "short-haired"),
    ("light-haired", "dark-haired"),
]
# What `encoder_from` reads of each kind, and of which type.
RECIPES = {"attributes": (list, {"names", "mean", "std", "low", "high"}), "clip": (str, {"model", "weights", "sha256"})}


class Encoder(Protocol):
    """What training and sampling need of an encoder; see the head of this file."""

    name: str
    dimension: int

    def encode_images(self, files: Sequence[Path]) -> Tensor: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...

    def recipe(self) -> dict[str, Any]: ...


class Attributes:
    """A context vector has a place for each attribute: how far the picture is above the mean of the training images.

    It counts in standard deviations, divided by sqrt(D), so that vectors have length about 1. In a prompt such as "old,
    not happy" an attribute stands for the mean of the upper quarter of the training images, with "not" of the lower
    quarter, and those that are not named are at the mean.

    names: of the D attributes. mean, std, low, high: one number for each. table: {key of a file: its D numbers}.
    """

    def __init__(
        self,
        names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        table: dict[str, list[float]] | None = None,
    ):
        self.names, self.table = list(names), table or {}
        self.mean, self.std, self.low, self.high = (torch.tensor(list(v)).double() for v in (mean, std, low, high))
        self.name, self.dimension = "attributes", len(self.names)
        if not self.names or any(len(v) != self.dimension for v in (self.mean, self.std, self.low, self.high)):
            raise ValueError("an encoder of attributes needs mean, std, low and high for each of its names")
        if not all(type(name) is str for name in self.names) or not (self.std > 0).all():
            raise ValueError("an encoder of attributes needs texts as names, and std above 0")

    @classmethod
    def of(cls, table_file: Path, files: Sequence[Path]) -> Attributes:
        """The encoder of a table, with mean, deviation and quarters of these (training) images."""
        names, table = read_table(table_file)
        keys = collections.Counter(key_of(file.name) for file in files)
        twice = [str(file) for file in files if keys[key_of(file.name)] > 1]
        if twice:
            raise DataError(f"{twice[0]} and another training image have one name for the table: rename one")
        v = np.array([row_of(table, file) for file in files])  # [N, D]
        mean, std = v.mean(0), v.std(0)
        constant = [name for name, same in zip(names, v.max(0) == v.min(0)) if same]
        if constant:
            fault = f"all {len(files)} training images have the same value of {constant[0]}"
            raise DataError(f"{table_file}: {fault}: remove the column")
        # Means of the quarters. Of an attribute with two values, of which one is rare, a quarter holds both: hence the mean.
        low, high = (
            [float(x[(x <= q) & (x < m) if sign < 0 else (x >= q) & (x > m)].mean()) for x, q, m in zip(v.T, at, mean)]
            for sign, at in ((-1, np.quantile(v, 0.25, axis=0)), (1, np.quantile(v, 0.75, axis=0)))
        )
        return cls(names, mean.tolist(), std.tolist(), low, high, table)

    def recipe(self) -> dict[str, Any]:
        numbers = {key: getattr(self, key).tolist() for key in ("mean", "std", "low", "high")}
        return {"kind": "attributes", "names": self.names, **numbers}

    def scaled(self, values: Tensor) -> Tensor:
        """Values of the table, [N, D], as context vectors."""
        return ((values - self.mean) / self.std / self.dimension**0.5).float()

    def encode_images(self, files: Sequence[Path]) -> Tensor:
        folders = {file.parent for file in files}
        tables = {folder: self.table or columns_of(beside(folder), self.names) for folder in folders}
        rows = [row_of(tables[file.parent], file) for file in files]
        return self.scaled(torch.tensor(rows).double().view(-1, self.dimension))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """CallError for a word that no attribute has."""
        rows = self.mean.repeat(len(texts), 1)
        for row, text in zip(rows, texts):
            for k, sign in self.meaning(text).items():
                row[k] = (self.high if sign > 0 else self.low)[k]
        return self.scaled(rows)

    def meaning(self, text: str) -> dict[int, int]:
        """The attributes that a prompt names, as {index: 1 for high, -1 for low}."""
        known = {plain(name): (k, 1) for k, name in enumerate(self.names)}
        for word, meanings in WORDS.items():
            there = [(known[name][0], sign) for name, sign in meanings if name in known]
            if there and word not in known:
                known[word] = there[0]
        found: dict[int, int] = {}
        for phrase in text.split(","):
            word = plain(phrase)
            negated = word.startswith("not ")
            if (word[4:] if negated else word) not in known:
                raise CallError(
                    f"the prompt {text!r} says {phrase.strip()!r}; the words are {', '.join(known)}, not ..."
                )
            k, sign = known[word[4:] if negated else word]
            sign = -sign if negated else sign
            if found.get(k, sign) != sign:
                raise CallError(f"the prompt {text!r} asks for both ends of {self.names[k]}")
            found[k] = sign
        return found

    def examples(self) -> list[str]:
        """Prompts for both ends of three attributes: first those in ENDS, then as the table has them."""
        found: dict[int, tuple[str, str]] = {}
        for ends in [*ENDS, *((plain(name), f"not {plain(name)}") for name in self.names)]:
            with contextlib.suppress(CallError):
                k, _ = (next(iter(self.meaning(word))) for word in ends)
                found.setdefault(k, ends)
        return [word for ends in list(found.values())[:3] for word in ends]


def plain(name: str) -> str:
    """'Blond_Hair' as 'blond hair'."""
    return " ".join(name.replace("_", " ").lower().split())


def key_of(name: str) -> str:
    """What a file is called in a table: 'faces/0001.png', '0001.jpg', '0001' and '1' are one."""
    return re.sub(r"^.*[/\\]|\.[A-Za-z]+$", "", name.strip()).lstrip("0") or "0"


def row_of(table: dict[str, list[float]], file: Path) -> list[float]:
    if key_of(file.name) not in table:
        raise DataError(f"the table of attributes has no row for {file}")
    return table[key_of(file.name)]


def beside(folder: Path) -> Path:
    """The table of attributes in a folder or in one of the three above it. DataError if there is none."""
    for place in [folder.absolute(), *folder.absolute().parents][:4]:
        for name in TABLES:
            if (place / name).is_file():
                return place / name
    fault = f"there is no {' or '.join(TABLES)} in {folder} or above it"
    raise DataError(f"{fault}: put one there (train_celeba.py also takes --attributes FILE)")


def columns_of(file: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """{key of a file: its numbers} of a table, for these attributes. DataError if it lacks one of them."""
    there, table = read_table(file)
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(f"{file} has no attribute {missing[0]}, with which the model was trained")
    columns = [there.index(name) for name in names]
    return {key: [row[k] for k in columns] for key, row in table.items()}


def read_table(file: Path) -> tuple[list[str], dict[str, list[float]]]:
    """The attributes of a table, and {key of a file: its numbers}.

    Either a CSV whose first column names the files and whose first row names the attributes (with semicolons or tabs, too,
    and then with decimal commas), or CelebA's text file: the number of rows, the attributes, and then rows with a file name
    and 1 or -1 for each. DataError if it is neither.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
        if file.suffix == ".txt":
            names, *rows = [line.split() for line in text.splitlines() if line.strip()][1:] or [[]]
        else:
            mark = max(",;\t", key=text.partition("\n")[0].count)
            lines = [[cell.strip() for cell in line] for line in csv.reader(io.StringIO(text, ""), delimiter=mark)]
            (_, *names), *rows = [line for line in lines if any(line)] or [[""]]
            rows = rows if mark == "," else [[row[0], *(cell.replace(",", ".") for cell in row[1:])] for row in rows]
        return names, _table(names, rows)
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{file} is no table of attributes ({error})") from None


def _table(names: list[str], rows: list[list[str]]) -> dict[str, list[float]]:
    """ValueError for columns without a name or of one name, for rows of one file, and for what is no number."""
    wrong = [name for name, n in collections.Counter(map(plain, names)).items() if n > 1 or not name]
    if wrong or not names or not rows:
        several = f"two columns are called {wrong[0]!r}" if wrong and wrong[0] else "a column has no name"
        raise ValueError(several if wrong else "it holds no rows of a file name and numbers")
    table: dict[str, list[float]] = {}
    for name, *cells in rows:
        values = [_number(cell) for cell in cells]
        odd = [cell for cell, value in zip(cells, values) if not abs(value) <= 1e30]
        if len(cells) != len(names) or odd:
            what = f"{odd[0][:40]!r}, which is no number" if odd else f"{len(cells)} values, not {len(names)}"
            raise ValueError(f"the row of {name[:40]!r} has {what}")
        if table.setdefault(key_of(name), values) is not values:
            raise ValueError(f"there are two rows of {name[:40]!r}")
    return table


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def encoder_from(recipe: dict[str, Any], device: torch.device | str = "cpu", weights: str | None = None) -> Encoder:
    """The encoder of a trained model, from its `recipe`. weights: of CLIP, if they are not where they were.

    RunError if it cannot be made, ValueError if the recipe is none.
    """
    kind, rest = str(recipe.get("kind")), {key: value for key, value in recipe.items() if key != "kind"}
    if kind not in RECIPES:
        raise ValueError(f"there is no encoder {kind!r:.40}")
    of, keys = RECIPES[kind]
    if set(rest) != keys or not all(type(value) is of for value in rest.values()):
        raise ValueError(f"the recipe of the model's encoder must hold {', '.join(sorted(keys))}, and nothing else")
    if kind == "attributes":
        return Attributes(**rest)
    from datasets.clip import Clip  # needs a package that not everybody has

    return Clip(**{**rest, "weights": weights or rest["weights"]}, device=device)
