"""Every notebook runs from its first cell to its last with QUICK, and its executed copy is of this source."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs(source, monkeypatch):
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("QUICK", "1")
    notebook = jupytext.read(source)
    # The folder is that of the notebook, as in Jupyter: the first cell must find the suite.
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_executed_copy_is_of_this_source_and_names_no_path(source):
    jupytext = pytest.importorskip("jupytext")
    executed = source.with_suffix(".ipynb")
    assert [cell.source for cell in jupytext.read(executed).cells] == [
        cell.source for cell in jupytext.read(source).cells
    ]
    text = executed.read_text(encoding="utf-8")
    assert '"outputs": [{' in text.replace("\n", "").replace(" ", "").replace('"outputs":[{', '"outputs": [{')
    assert "/tmp/" not in text and "/home/" not in text and str(ROOT) not in text
