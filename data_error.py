"""The error of everything that reads data, in a file of its own because every reader raises it."""

from __future__ import annotations

import textwrap


class DataError(RuntimeError):
    """Data are missing or damaged. The message is one line: what is wrong, and what to do about it."""


def one_line(error: BaseException) -> str:
    """An exception of a library as part of such a message: its type and the beginning of what it says."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
