"""Running a script of the suite in this process."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Sequence
from unittest import mock

from common.console import run_script


def run_here(script: ModuleType, words: Sequence[str]) -> int:
    """`python SCRIPT.py` with these words; returns the exit status."""
    with mock.patch.object(sys, "argv", [f"{script.__name__}.py", *words]):
        try:
            run_script(script.main)
        except SystemExit as end:
            return end.code
    return 0
