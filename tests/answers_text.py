"""Reading the Markdown pages: their sections, links and formulas, and computing what a formula says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = sorted((ROOT / "answers").glob("*.md"))
PAGES = [*ROOT.glob("*.md"), *ANSWERS, *sorted((ROOT / "docs").glob("*.md"))]
TAG = r"\\tag\{(\w+)\}"


# ------------------------------------------------------------ pages


def without_code(text: str) -> str:
    """The text without fenced blocks and `code`."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchor(heading: str) -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def sections(page: Path) -> dict[str, str]:
    """The text below each ## heading, by the heading's anchor."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {anchor(heading): text for heading, text in zip(parts[1::2], parts[2::2])}


def links(page: Path) -> list[str]:
    """The addresses of all links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))


def displays(text: str) -> list[str]:
    """The formulas that stand alone."""
    return re.findall(r"\$\$(.+?)\$\$", without_code(text), flags=re.DOTALL)


def tags(text: str) -> list[str]:
    return re.findall(TAG, text)


def formulas() -> dict[str, str]:
    """Every numbered formula of the answers, by its number."""
    displayed = [formula for page in ANSWERS for formula in displays(page.read_text("utf-8"))]
    found = [(tag, re.sub(TAG, "", formula).strip()) for formula in displayed for tag in tags(formula)]
    assert len(dict(found)) == len(found), "a number is given twice"
    return dict(found)


# ------------------------------------------------------------ the value of a formula


def value(tag: str, known: dict[str, Any], side: int = -1) -> Any:
    """One side of the numbered formula (sides are divided by = and "at most"), computed from what is known.

    known: {LaTeX as it stands there: number or tensor}. What is not known and no arithmetic is an error.
    """
    return _Formula(_sides(formulas()[tag])[side], known).all()


def n_sides(tag: str) -> int:
    return len(_sides(formulas()[tag]))


def _sides(formula: str) -> list[str]:
    sides, depth = [""], 0
    for piece in re.findall(r"\\le(?![a-z])|\\[a-zA-Z]+|.", formula):
        depth += (piece == "{") - (piece == "}")
        if piece in ("=", r"\le") and depth == 0:
            sides.append("")
        else:
            sides[-1] += piece
    return sides


class _Formula:
    """Recursive descent: sum, product (of what stands side by side), power, fraction, root, logarithm, brackets."""

    def __init__(self, text: str, known: dict[str, Any]):
        self.rest = re.sub(r"\\(left|right|quad|cdot)(?![a-z])", " ", text).strip()
        self.known = dict(sorted(known.items(), key=lambda item: -len(item[0])))  # the longest name that fits

    def all(self) -> Any:
        result = self.sum()
        assert not self.rest, f"cannot compute {self.rest!r}"
        return result

    def take(self, *starts: str) -> str | None:
        for start in starts:
            if self.rest.startswith(start):
                self.rest = self.rest[len(start) :].lstrip()
                return start
        return None

    def sum(self) -> Any:
        result = -self.product() if self.take("-") else self.product()
        while sign := self.take("+", "-"):
            result = result + self.product() if sign == "+" else result - self.product()
        return result

    def product(self) -> Any:
        result = self.power()
        while self.rest and self.rest[0] not in "+-)}]" and not self.rest.startswith(r"\rVert"):
            result = result * self.power()
        return result

    def power(self) -> Any:
        base = self.single()
        return base ** self.argument() if self.take("^") else base

    def argument(self) -> Any:
        """What a command or ^ applies to: {...}, or one character."""
        if self.take("{"):
            result = self.sum()
            assert self.take("}")
            return result
        character, self.rest = self.rest[0], self.rest[1:].lstrip()
        return float(character) if character.isdigit() else self.known[character]

    def single(self) -> Any:
        name = self.take(*self.known)
        if name is not None:
            return self.known[name]
        if self.take(r"\frac"):
            above = self.argument()
            return above / self.argument()
        if self.take(r"\sqrt"):
            return self.argument() ** 0.5
        if self.take(r"\pi"):
            return math.pi
        function = self.take(r"\log", r"\exp")
        if function:
            x = self.power()
            return getattr(x, function[1:])() if hasattr(x, "log") else getattr(math, function[1:])(x)
        if self.take(r"\lVert"):  # of one-dimensional data, or known as a whole
            result = abs(self.sum())
            assert self.take(r"\rVert")
            return result
        if self.take("("):
            result = self.sum()
            assert self.take(")")
            return result
        number = re.match(r"[\d.]+", self.rest)
        assert number, f"cannot compute {self.rest!r}"
        self.take(number[0])
        return float(number[0])
