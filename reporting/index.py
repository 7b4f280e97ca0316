"""One page over many log folders: a row and a picture for each."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from pathlib import Path

from common.files import atomic_write, finite
from reporting.html import POLICY, STYLE, link, page, paragraph, scroll
from reporting.run import Pictures, Run, read_run
from reporting.tables import classifier_accuracy

DEPTH = 4  # folders below the root: hand_ins/group/person/log/log_mnist
MARKS = ("config.json", "metrics.csv", "report.html")  # a folder with one of these is a log folder
MAX_PIXELS = 20_000_000  # a larger picture is not shown: a hundred of them on one page would choke the browser

INDEX_STYLE = """
table.index { width: 100%; } table.index th, table.index td { vertical-align: middle; }
table.index td.number { text-align: right; white-space: nowrap; }
table.index img { display: block; width: 11rem; height: auto; border: 1px solid var(--line); }
table.index .bad { color: #a3121f; } table.index td:nth-child(2) { min-width: 12rem; }
table.index td:nth-child(3) { min-width: 8.2rem; } table.index td:nth-child(4), table.index td:nth-child(5) { min-width: 9.2rem; }
table.index th[data-sort=number] { text-align: right; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: .2rem; margin: -.2rem; cursor: pointer;
  text-align: inherit; }
th button::after { content: " \\2195"; } th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
@media print { th button::after { content: ""; } table.index img { width: 30mm; } }
"""
# Sorts the table by a column. The Content-Security-Policy names the hash of this script and allows no other. Without scripts
# the table is sorted by name.
SCRIPT = """
for (const head of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending", body = head.closest("table").tBodies[0];
    const key = row => row.cells[head.cellIndex].dataset.key;
    const compare = (a, b) => head.dataset.sort === "number" ? key(a) - key(b) : key(a).localeCompare(key(b));
    const known = [...body.rows].filter(row => key(row) !== ""), unknown = [...body.rows].filter(row => key(row) === "");
    known.sort((a, b) => down ? compare(b, a) : compare(a, b));
    body.append(...known, ...unknown);
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
"""
COLUMNS = (
    ("newest samples", ""),
    ("folder", "text"),
    ("data", "text"),
    ("network", "text"),
    ("state", "text"),
    ("done", "number"),
    ("training loss", "number"),
    ("validation loss", "number"),
    ("judge accuracy", "number"),
)


def find_log_folders(root: Path) -> list[Path]:
    """The log folders at or below `root`, in order. Links, hidden folders and what cannot be opened are passed over."""
    found = []
    for place, folders, files in os.walk(root):  # follows no links
        below = len(Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if name[0] != "." and below < DEPTH)
        if any(mark in files for mark in MARKS) or any(name.startswith("generated_images_") for name in files):
            found.append(Path(place))
    return sorted(found)


def newest_grid(pictures: Pictures) -> str | None:
    """The grid that stands for a run: of its newest epoch, at the weight nearest to 1; or else samples.png."""
    if pictures.grids:
        weights = pictures.grids[max(pictures.grids, key=lambda moment: moment.number)]
        return weights[min(weights, key=lambda w: abs((finite(w) or 0) - 1))]
    return next((name for name in pictures.others if name == "samples.png"), None)


def _cell(text: str, key: str | float | None = None, css: str = "") -> str:
    """A cell that is sorted by its key, or by its text."""
    key = text if key is None else key
    return f'<td data-key="{escape(str(key))}"{f" class={css}" if css else ""}>{escape(text)}</td>'


def _number(value: float | None, text: str) -> str:
    return _cell("" if value is None else text, "" if value is None else value, "number")


def _name(root: Path, folder: Path) -> str:
    """The cell with the folder's name: a link to its report, or to the folder if it has none."""
    name, has_report = folder.relative_to(root), (folder / "report.html").is_file()
    address = link(name / "report.html" if has_report else name)
    note = "" if has_report else '<br><span class="soft">no report.html</span>'
    return f'<td data-key="{escape(name.as_posix())}"><a href="{address}">{escape(name.as_posix())}</a>{note}</td>'


def _picture(root: Path, run: Run) -> str:
    folder, name = run.folder.path.relative_to(root), newest_grid(run.pictures)
    size = run.folder.image_size(name) if name else None
    if not name or not size or size[0] * size[1] > MAX_PIXELS:
        return _cell("none", "")
    source = link(folder / name)
    image = f'<img src="{source}" alt="{escape(f"Newest samples of {folder.as_posix()}")}"'
    image += f' width="{size[0]}" height="{size[1]}" loading="lazy">'
    return f'<td data-key=""><a href="{source}">{image}</a></td>'


def _row(root: Path, folder: Path) -> list[str]:
    """The cells of one run."""
    run = read_run(folder)
    done, planned = run.progress()
    finished = planned is not None and done >= planned
    state = "finished" if finished else "stopped or running" if run.rows else "no figures"
    count = f"{done:,}" + (f" of {planned:,}" if planned is not None else "") + f" {run.unit}s"
    accuracy = classifier_accuracy(run.measured)
    return [
        _picture(root, run),
        _name(root, folder),
        _cell(str(run.table("dataset").get("name", ""))),
        _cell(run.network()),
        _cell("; ".join([state, *run.notes]), css="" if finished else "bad"),
        _number(float(done) if run.rows else None, count),
        *(_number(loss, f"{loss or 0:.4g}") for loss in (run.last("train_loss"), run.last("val_loss"))),
        _number(accuracy and accuracy[1], "{1:.1%} (w = {0:g}, n = {2:,})".format(*accuracy) if accuracy else ""),
    ]


def write_index(root: str | os.PathLike) -> Path:
    """Write `index.html` into `root`, a table of the log folders in and below it, and return its path.

    Nothing in the folders is changed or trusted. A folder that cannot be read gets a row that says so. Raises
    NotADirectoryError.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    folders, rows = find_log_folders(root), []
    for folder in folders:
        try:
            cells = _row(root, folder)
        except Exception as error:  # whatever is wrong with one folder, the table of the others is needed
            cells = [_cell("") for _ in COLUMNS]
            cells[1], cells[4] = _name(root, folder), _cell(f"cannot be read: {error}"[:300], css="bad")
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    heads = "".join(
        f'<th scope="col"{f" data-sort={kind}" if kind else ""}>{escape(name)}</th>' for name, kind in COLUMNS
    )
    name = root.resolve().name
    grid = f'<table class="index"><thead><tr>{heads}</tr></thead><tbody>\n{"".join(rows)}</tbody></table>'
    about = f"{len(folders)} log folder{'s' * (len(folders) != 1)}. Judge accuracy where evaluate.py has measured it."
    body = [f"<h1>{escape(name)}</h1>\n", paragraph(about), scroll(grid, "Log folders") if rows else ""]
    body.append(f"<script>{SCRIPT}</script>\n")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    text = page(f"Log folders in {name}", body, f"{POLICY}; script-src 'sha256-{digest}'", STYLE + INDEX_STYLE)
    with atomic_write(root / "index.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return root / "index.html"
