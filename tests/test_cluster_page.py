"""The table of faults in docs/cluster.md: every row names its tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
TABLE = re.search(r"^\| fault .*\n\| -.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TABLE.group(1).splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_tests_that_exist(row):
    fault, happens, lost, tests = row
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert fault and happens and lost and named
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
