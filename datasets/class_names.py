"""Classes and mixtures of classes as a user names them."""

from __future__ import annotations

import math
from typing import Sequence

from common.console import CallError


def class_index(word: str, class_names: Sequence[str]) -> int:
    """The index of a class, from its name or from the index itself. CallError if there is none."""
    if word in class_names:
        return list(class_names).index(word)
    if word.isdecimal() and int(word) < len(class_names):
        return int(word)
    raise CallError(f"there is no class {word!r}; the model's classes are {', '.join(class_names)}")


def parse_mixture(text: str, class_names: Sequence[str]) -> dict[int, float]:
    """'3+8' or '3*0.7+8*0.3' as {class index: weight}. Without weights all are equal and add up to 1."""
    if "," in text and not any("," in name for name in class_names):
        raise CallError(f"--mix {text}: classes are joined by +, as in {text.replace(',', '+')}")
    words = [word.partition("*") for word in text.split("+")]
    classes = [class_index(name.strip(), class_names) for name, _, _ in words]
    if len(words) < 2 or len(set(classes)) < len(classes):
        raise CallError(f"--mix {text}: name two or more different classes, such as 3+8")
    if not any(star for _, star, _ in words):
        return {k: 1 / len(classes) for k in classes}
    try:
        weights = [float(weight) for _, _, weight in words]
    except ValueError:
        weights = [math.nan]
    if not all(abs(weight) <= 1e6 for weight in weights):
        raise CallError(f"--mix {text}: give each class a weight up to a million, such as 3*0.7+8*0.3, or no weights")
    return dict(zip(classes, weights))
