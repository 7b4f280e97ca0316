"""One page over many log folders: a row and a picture for each."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from pathlib import Path

from common.files import atomic_write, finite
from reporting.archive import ZipFolder
from reporting.checks import Check
from reporting.hand_ins import HandIns
from reporting.html import POLICY, STYLE, link, page, paragraph, scroll
from reporting.reader import Folder
from reporting.run import Pictures, Run, read_run
from reporting.sharing import OWN, Own, compare, print_of
from reporting.tables import classifier_accuracy
from reporting.verdict import check_folder, count

MAX_PIXELS = 20_000_000  # a larger picture is not shown: a hundred of them on one page would choke the browser

INDEX_STYLE = """
table.index { width: 100%; } table.index th, table.index td { vertical-align: middle; padding: .3rem .45rem; }
table.index td.number { text-align: right; }
table.index img { display: block; width: 9rem; height: auto; border: 1px solid var(--line); }
.bad { color: var(--bad); } .good { color: var(--good); } table.index td:nth-child(2) { min-width: 10.5rem; }
table.index td:nth-child(4) { min-width: 5.2rem; }
table.index td:nth-child(3) { min-width: 11rem; max-width: 24rem; } table.index th[data-sort=number] { text-align: right; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: .2rem; margin: -.2rem; cursor: pointer;
  text-align: inherit; }
th button::after { content: " \\2195"; } th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.filter input { font: inherit; padding: .25rem .5rem; margin: 0 .7rem; color: inherit; background: var(--tint);
  border: 1px solid var(--soft); }
@media print { th button::after { content: ""; } .filter { display: none; } table.index img { width: 30mm; } }
"""
# Sorts the table by a column, and shows only the rows that contain some words. The Content-Security-Policy names the hash
# of this script and allows no other. Without scripts the table is sorted by name.
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
const table = document.querySelector("table.index");
if (table) {
  const label = document.createElement("label"), input = document.createElement("input");
  const shown = document.createElement("span"), bar = document.createElement("p");
  input.type = "search";
  shown.setAttribute("role", "status");
  label.append("Show only rows with", input);
  bar.className = "filter";
  bar.append(label, shown);
  table.parentNode.before(bar);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(" "), rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  });
}
"""
COLUMNS = (
    ("newest samples", ""),
    ("folder", "text"),
    ("verdict", "text"),
    ("state", "text"),
    ("data and network", "text"),
    ("done", "number"),
    ("training loss", "number"),
    ("validation loss", "number"),
    ("judge accuracy", "number"),
)


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


def _name(root: Path, folder: Folder) -> str:
    """The cell with the folder's name: a link to its report, or to the folder if it has none."""
    name, has_report = folder.path.relative_to(root), "report.html" in folder.files
    if isinstance(folder, ZipFolder):
        return _cell(f"{name.as_posix()} (in a zip)", name.as_posix())
    address = link(name / "report.html" if has_report else name)
    note = "" if has_report else '<br><span class="soft">no report.html</span>'
    return f'<td data-key="{escape(name.as_posix())}"><a href="{address}">{escape(name.as_posix())}</a>{note}</td>'


def _picture(root: Path, run: Run) -> str:
    folder, name = run.folder.path.relative_to(root), newest_grid(run.pictures)
    size = run.folder.image_size(name) if name else None
    if not name or not size or size[0] * size[1] > MAX_PIXELS or isinstance(run.folder, ZipFolder):
        return _cell("none", "")
    source = link(folder / name)
    image = f'<img src="{source}" alt="{escape(f"Newest samples of {folder.as_posix()}")}"'
    image += f' width="{size[0]}" height="{size[1]}" loading="lazy">'
    return f'<td data-key=""><a href="{source}">{image}</a></td>'


def _row(root: Path, folder: Folder, check: Check) -> list[str]:
    """The cells of one run."""
    run = read_run(folder)
    done, planned = run.progress()
    finished = planned is not None and done >= planned
    state = "finished" if finished else "stopped or running" if run.rows else "no figures"
    count = f"{done:,}" + (f" of {planned:,}" if planned is not None else "") + f" {run.unit}s"
    accuracy = classifier_accuracy(run.measured)
    losses = [run.last("train_loss"), run.last("val_loss")]
    return [
        _picture(root, run),
        _name(root, folder),
        _verdict(check),
        _cell("; ".join([state, *run.notes]), css="" if finished else "bad"),
        _cell(f"{run.table('dataset').get('name', '')} {run.network()}"),
        _number(float(done) if run.rows else None, count),
        *(_number(loss, f"{loss or 0:.4g}") for loss in losses),
        _number(accuracy and accuracy[1], "{1:.1%} (w = {0:g}, n = {2:,})".format(*accuracy) if accuracy else ""),
    ]


def _verdict(check: Check) -> str:
    """What check_log.py says of the folder, and its first problems."""
    found = [f"{what}: {text}" for level, what, text in check.findings if level == "problem"]
    more = f" ... and {len(found) - 2} more" if len(found) > 2 else ""
    text = escape(count(check)) + (
        f'<br><span class="soft">{escape("; ".join(found[:2]) + more)}</span>' if found else ""
    )
    return f'<td data-key="{escape(count(check))}" class="{"bad" if found else "good"}">{text}</td>'


def write_index(root: str | os.PathLike) -> Path:
    """Write `index.html` into `root`, a table of the log folders in and below it, and return its path.

    Nothing in the folders is changed or trusted. A folder that cannot be read gets a row that says so. Raises
    NotADirectoryError.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    rows, checks, prints, own = [], [], [], Own(OWN)
    for folder in HandIns(root).folders:
        check = check_folder(folder)
        own.look_at(check)
        checks.append((folder, check))
        place = folder.path.relative_to(root)
        found = None if folder.path in own else print_of(place.as_posix(), Path(*place.parts[:1]), check)
        if found:
            prints.append((check, found))
        check.let_go()
    compare(prints)
    for folder, check in checks:
        try:
            cells = _row(root, folder, check)
        except Exception as error:  # whatever is wrong with one folder, the table of the others is needed
            cells = [_cell("") for _ in COLUMNS]
            cells[1:4] = _name(root, folder), _verdict(check), _cell(f"cannot be read: {error}"[:300], css="bad")
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    heads = "".join(
        f'<th scope="col"{f" data-sort={kind}" if kind else ""}>{escape(name)}</th>' for name, kind in COLUMNS
    )
    name = root.resolve().name
    grid = f'<table class="index"><thead><tr>{heads}</tr></thead><tbody>\n{"".join(rows)}</tbody></table>'
    about = f"{len(checks)} log folder{'s' * (len(checks) != 1)}. The verdict is that of check_log.py without a model. "
    about += "Losses and judge accuracy are claimed: they stand in the folders."
    body = [f"<h1>{escape(name)}</h1>\n", paragraph(about), scroll(grid, "Log folders") if rows else ""]
    body.append(f"<script>{SCRIPT}</script>\n")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    text = page(f"Log folders in {name}", body, f"{POLICY}; script-src 'sha256-{digest}'", STYLE + INDEX_STYLE)
    with atomic_write(root / "index.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return root / "index.html"
