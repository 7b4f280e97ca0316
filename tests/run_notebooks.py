"""Runs notebooks. `make notebooks` calls this file, which writes notebooks/*.ipynb with their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def run_notebook(notebook: Any) -> Any:
    """The notebook with its outputs, as they look at the end: lines that were overwritten are gone, and so is where the
    suite is."""
    import nbclient

    # The folder is that of the notebooks, as in Jupyter: the first cell must find the suite.
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = nbclient.NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=resources)
    client.coalesce_streams, client.record_timing = True, False
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                output["text"] = output["text"].replace(str(ROOT), ".").strip(" \r")
    return notebook


if __name__ == "__main__":
    import jupytext

    for source in SOURCES:
        print(source.name, flush=True)
        jupytext.write(run_notebook(jupytext.read(source)), source.with_suffix(".ipynb"))
