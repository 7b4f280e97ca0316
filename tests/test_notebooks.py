"""Every notebook runs from its first cell to its last, and its executed copy is of this source."""

from __future__ import annotations

import pytest
from run_notebooks import ROOT, SOURCES, run_notebook

NO_NETWORK = "http://127.0.0.1:9"  # a proxy that is not there: data that are not in data/ are replaced by drawn ones
# What each notebook's first cell sets, replaced by the least with which the other cells run.
LEAST = {
    "animal_faces": {"T": "10", "STEPS": "4", "EVERY": "2"},
    "completing_images": {
        "N_IMAGES": "100",
        "N_VALIDATION": "20",
        "EPOCHS": "2",
        "N_FEATURES": "8",
        "N_STEPS": "4",
        "N_RESAMPLE": "2",
        "JUMP": "2",
    },
    "guidance": {"ddpm": "full.respaced(5)"},
    "points_and_likelihood": {"N_POINTS": "4000", "T": "40"},
    "unconditional_and_conditional": {
        "N_IMAGES": "100",
        "N_VALIDATION": "20",
        "EPOCHS": "1",
        "N_FEATURES": "16",
        "N_STEPS": "2",
    },
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs(source, monkeypatch):
    jupytext, nbformat, _ = map(pytest.importorskip, ("jupytext", "nbformat", "nbclient"))
    for name, value in {"QUICK": "1", "http_proxy": NO_NETWORK, "https_proxy": NO_NETWORK}.items():
        monkeypatch.setenv(name, value)
    notebook = jupytext.read(source)
    (first,) = (i for i, cell in enumerate(notebook.cells) if "QUICK = " in cell.source)
    least = LEAST[source.stem]
    code = [", ".join(least), *(f"{name} = {value}" for name, value in least.items())]  # NameError if it is not set
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell("\n".join(code)))
    notebook = run_notebook(notebook)
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_executed_copy_is_of_this_source_and_names_no_path(source):
    jupytext = pytest.importorskip("jupytext")
    file = source.with_suffix(".ipynb")
    executed = jupytext.read(file)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in jupytext.read(source).cells]
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    text = file.read_text(encoding="utf-8")
    assert "/tmp/" not in text and "/home/" not in text and str(ROOT) not in text


def test_progress_in_a_notebook_is_one_line_that_changes(monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = """
import time
from common.console import Progress
with Progress(3, "steps") as progress:
    for _ in range(3):
        time.sleep(0.25)
        progress.advance(1)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    text = "".join(output["text"] for output in notebook.cells[0].outputs)
    assert "2 of 3 steps" in text and "\n" not in text
    lines = text.split("\r")  # each is written over the one before, and the last is blank
    assert len(lines) >= 4 and not lines[-1].strip() and not lines[-2].strip()
