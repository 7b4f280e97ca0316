"""One page that shows a log folder: `report.html`, built from nothing but the files that stand beside it.

    python report.py log/log_mnist

The training scripts write it with every set of pictures and after long epochs; this command rebuilds it. The page has
relative links only, no script, and nothing from the network, so the folder can be moved, packed and opened from disk.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import statistics
import struct
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from measured_tables import measured_tables, scroll
from utils import atomic_write, format_duration

GRID = re.compile(r"generated_images_epoch(\d+)_guidance_weight(-?\d[\d.e+-]*)\.png")
ANIMATION = re.compile(r"animation_epoch(\d+)_guidance_weight(-?\d[\d.e+-]*)\.gif")
N_LAST_EPOCHS = 10

STYLE = """
:root { --ink: #1f2328; --soft: #5c646d; --line: #dfe3e8; --tint: #f6f7f9; --accent: #1f5fa8; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 84rem; background: #fff; color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .9rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.state { font-weight: 600; margin: 0 0 .2rem; }
.state::first-letter { text-transform: uppercase; }
.soft { color: var(--soft); }
p.soft { margin: .1rem 0; }
.note { background: #fff6e0; border-left: 4px solid #d9a400; padding: .6rem .9rem; margin: 1rem 0; }
.expected { background: var(--tint); border-left: 4px solid var(--accent); padding: .6rem .9rem; margin: 1rem 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
dl.facts div { background: var(--tint); border-radius: .5rem; padding: .7rem .9rem; }
dl.facts dt { font-size: .82rem; color: var(--soft); }
dl.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.25rem; }
.pictures.pixels { display: flex; flex-wrap: wrap; }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: .25rem; }
figure.pixels img { border: 0; image-rendering: pixelated; }
@media (max-width: 700px) { figure.pixels img { width: auto; } }
figcaption { font-size: .9rem; color: var(--soft); margin-top: .35rem; overflow-wrap: anywhere; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
summary { cursor: pointer; font-weight: 600; }
details[open] summary { margin-bottom: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; }
table.numbers th, table.numbers td { text-align: right; white-space: nowrap; }
tr.changed th, tr.changed td { background: #eef4fb; font-weight: 600; }
tbody th { font-weight: normal; }
td { overflow-wrap: anywhere; }
pre { background: var(--tint); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; } a { color: inherit; } }
"""


class Pictures(NamedTuple):
    """The pictures of a log folder, by file name."""

    grids: dict[int, dict[str, str]]  # epoch -> guidance weight -> name, both in ascending order
    animations: dict[int, dict[str, str]]
    loss: str | None
    others: list[str]


def find_pictures(log_dir: str | os.PathLike) -> Pictures:
    """The PNGs and GIFs of a log folder. Hidden files, empty ones, and files of other kinds are left out."""
    paths = [path for path in Path(log_dir).iterdir() if path.suffix.lower() in (".png", ".gif")]
    names = sorted(path.name for path in paths if path.name[0] != "." and path.is_file() and path.stat().st_size)
    found: dict[str, dict[int, dict[str, str]]] = {"grid": {}, "animation": {}}
    others = []
    for name in names:
        grid, animation = GRID.fullmatch(name), ANIMATION.fullmatch(name)
        match = grid or animation
        if match:
            found["grid" if grid else "animation"].setdefault(int(match[1]), {})[match[2]] = name
        elif name != "loss.png":
            others.append(name)

    def in_order(epochs: dict) -> dict:
        return {
            epoch: dict(sorted(epochs[epoch].items(), key=lambda item: _number(item[0]) or 0))
            for epoch in sorted(epochs)
        }

    loss = "loss.png" if "loss.png" in names else None
    return Pictures(in_order(found["grid"]), in_order(found["animation"]), loss, others)


# ------------------------------------------------------------------------------------------------- reading what is there


def _number(text: Any) -> float | None:
    """A finite number, or None for anything that is not one."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _read_config(path: Path, notes: list[str]) -> dict:
    """The dict in a JSON file; {} if it is missing, or if it cannot be read, and then a note says so."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({error}), so the settings are missing here.")
        return {}
    if not isinstance(config, dict):
        notes.append(f"{path.name} does not hold an object, so the settings are missing here.")
        return {}
    return config


def _read_metrics(path: Path, notes: list[str]) -> list[dict[str, str]]:
    """The rows of metrics.csv that have an epoch; a note says so if there are others."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval="", restkey=""))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path.name} cannot be read ({error}), so the course of the training is missing here.")
        return []
    good = [row for row in rows if _number(row.get("epoch")) is not None]
    if not good:
        notes.append(f"{path.name} has no row with an epoch number.")
    elif len(good) < len(rows):
        notes.append(f"{path.name}: {len(rows) - len(good)} of {len(rows)} rows have no epoch number and are left out.")
    return good


def _dict(config: dict, key: str) -> dict:
    """A dict in the configuration; {} if it is missing or something else."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _image_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels from the head of a PNG or GIF; None if it is neither."""
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
        return struct.unpack(">II", head[16:24])
    if head[:4] == b"GIF8" and len(head) >= 10:
        return struct.unpack("<HH", head[6:10])
    return None


# ----------------------------------------------------------------------------------------------------- parts of the page


def _figure(log_dir: Path, name: str, caption: str, lazy: bool = False) -> str:
    """A picture that links to its file; small GIFs are shown at twice their size, pixel by pixel."""
    link = escape(quote(os.fsencode(name)))
    size = _image_size(log_dir / name)
    zoom = 2 if name.lower().endswith(".gif") and size and size[0] <= 480 else 1
    shape = f' width="{size[0] * zoom}" height="{size[1] * zoom}"' if size else ""
    image = f'<img src="./{link}" alt="{escape(caption)}"{shape}{" loading=lazy" if lazy else ""}>'
    css = ' class="pixels"' if zoom > 1 else ""
    return f'<figure{css}><a href="./{link}">{image}</a><figcaption>{escape(caption)}</figcaption></figure>\n'


def _pictures(figures: list[str], css: str = "pictures") -> str:
    """Figures side by side, as many as the page is wide."""
    return f'<div class="{css}">\n{"".join(figures)}</div>' if figures else ""


def _section(title: str, *parts: str) -> str:
    """A heading and its content, or nothing where there is no content."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n" if content else ""


def _samples(log_dir: Path, title: str, what: str, epochs: dict[int, dict[str, str]], css: str) -> str:
    """A picture for each guidance weight: those of the newest epoch in full, those of earlier epochs folded away."""
    blocks = []
    for epoch in sorted(epochs, reverse=True):
        caption = f"{what} after epoch {epoch}, guidance weight "
        lazy = bool(blocks)
        block = _pictures([_figure(log_dir, name, caption + w, lazy) for w, name in epochs[epoch].items()], css)
        blocks.append(f"<details><summary>Epoch {epoch}</summary>\n{block}</details>" if blocks else block)
    return _section(title, *blocks)


def _facts(config: dict, rows: list[dict[str, str]]) -> str:
    """The key figures; what is not known is left out."""
    facts = []
    speeds = [speed for speed in (_number(row.get("images_per_second")) for row in rows) if speed]
    seconds = [second for second in (_number(row.get("seconds")) for row in rows) if second]
    if speeds:
        facts.append(("images per second", f"{statistics.median(speeds):,.0f}"))
    if seconds:
        facts.append(("training time", format_duration(sum(seconds))))
    n_parameters = _number(config.get("n_parameters"))
    if n_parameters:
        facts.append(("parameters", f"{n_parameters:,.0f}"))
    for key, name in (("train_loss", "training loss"), ("val_loss", "validation loss")):
        loss = _number(rows[-1].get(key)) if rows else None
        if loss is not None:
            facts.append((f"{name}, epoch {int(float(rows[-1]['epoch']))}", f"{loss:.4g}"))
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>' if items else ""


def _state(config: dict, rows: list[dict[str, str]]) -> str:
    """How far the run has come, in words."""
    if not rows:
        return "no finished epoch yet"
    done = int(float(rows[-1]["epoch"]))
    steps = _number(_dict(config, "arguments").get("train_steps"))
    if steps is not None:
        at = int(_number(rows[-1].get("step")) or 0)
        return f"{'finished' if at >= steps else 'stopped (or still running) after'} {at} of {int(steps)} steps"
    planned = _number(_dict(config, "arguments").get("n_epochs"))
    if planned is None:
        return f"{done} epochs done"
    if done < planned:
        return f"stopped at epoch {done} of {int(planned)} (or still running)"
    return f"finished {done} of {int(planned)} epochs"


def _head(title: str, config: dict, rows: list[dict[str, str]]) -> str:
    """Title, state, and what was trained on what and when."""
    dataset = _dict(config, "dataset")
    sizes = []
    for key, name in (("train_images", "training images"), ("val_images", "validation images")):
        number = _number(dataset.get(key))
        if number:
            sizes.append(f"{number:,.0f} {name}")
    if isinstance(dataset.get("classes"), list):
        sizes.append(f"{len(dataset['classes'])} classes")
    data = str(dataset.get("name", "")) + (f" ({', '.join(sizes)})" if sizes else "")
    lines = [("Dataset", data), ("Device", config.get("device")), ("Started", config.get("started"))]
    lines.append(("Seed", config.get("seed")))
    about = "".join(
        f'<p class="soft">{name}: {escape(str(value))}</p>\n' for name, value in lines if value not in (None, "")
    )
    return (
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="state">{escape(_state(config, rows))}</p>\n{about}</header>\n'
    )


def _settings(config: dict) -> str:
    """Every argument; those that differ from their defaults are marked."""
    arguments, defaults = _dict(config, "arguments"), _dict(config, "defaults")
    lines = []
    for name, value in arguments.items():
        changed = name in defaults and value != defaults[name]
        default = f"default {defaults[name]}" if changed else ""
        cells = f'<th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td><td>{escape(default)}</td>'
        lines.append(f'<tr class="changed">{cells}</tr>' if changed else f"<tr>{cells}</tr>")
    if not lines:
        return ""
    head = '<thead><tr><th scope="col">argument</th><th scope="col">value</th><th scope="col">changed</th></tr></thead>'
    return scroll(f"<table>{head}<tbody>{''.join(lines)}</tbody></table>", "settings")


def _last_epochs(rows: list[dict[str, str]]) -> str:
    """The last rows of metrics.csv as they stand there."""
    if not rows:
        return ""
    names = [name for name in rows[0] if name]
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in names)
    lines = []
    for row in rows[-N_LAST_EPOCHS:]:
        lines.append("<tr>" + "".join(f"<td>{escape(row[name] or '')}</td>" for name in names) + "</tr>")
    table = f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    link = '<p><a href="./metrics.csv">metrics.csv</a> has every epoch.</p>'
    return scroll(table, "the last epochs") + link


def _how(log_dir: Path, config: dict) -> str:
    """What was called: command lines, commits, versions, and the weights that came of it."""
    lines = [str(config["command"])] if config.get("command") else []
    lines += [f"commit {config['commit']}"] if config.get("commit") else []
    for again in config.get("resumed") or []:
        if isinstance(again, dict):
            what = (f"{name} {again[name]}" for name in ("from_step", "started", "commit") if again.get(name))
            lines += [str(again.get("command", "resumed")), f"    resumed, {', '.join(what)}"]
    pre = f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""
    versions = ", ".join(f"{name} {version}" for name, version in _dict(config, "versions").items())
    weights = sorted(log_dir.glob("model_epoch*.pt"), key=lambda path: path.stat().st_mtime)
    weights = ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in weights)
    about = [f"{name}: {text}" for name, text in (("Versions", versions), ("Weights", weights)) if text]
    return pre + "".join(f'<p class="soft">{escape(line)}</p>\n' for line in about)


def write_report(log_dir: str | os.PathLike) -> Path:
    """Write `report.html` into a log folder from what stands in it, and return its path.

    Reads config.json, metrics.csv (a row per epoch; `seconds` is the time of that epoch), metrics.json, the PNGs and
    the GIFs. What is missing is left out; what cannot be read is named on the page. Raises NotADirectoryError if there is no such folder.
    """
    log_dir = Path(log_dir)
    if not log_dir.is_dir():
        raise NotADirectoryError(f"{log_dir} is not a folder")
    notes: list[str] = []
    config = _read_config(log_dir / "config.json", notes)
    rows = _read_metrics(log_dir / "metrics.csv", notes)
    pictures = find_pictures(log_dir)
    title = log_dir.resolve().name
    loss = _figure(log_dir, pictures.loss, "Loss of each epoch, and by timestep") if pictures.loss else ""
    figures = [_figure(log_dir, name, Path(name).stem.replace("_", " ")) for name in pictures.others]
    measured = measured_tables(log_dir / "metrics.json", notes)
    expected = config.get("expected")
    page = "".join([
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        _head(title, config, rows),
        *[f'<p class="note">{escape(note)}</p>\n' for note in notes],
        _facts(config, rows),
        f'<p class="expected">What to expect: {escape(str(expected))}</p>\n' if expected else "",
        _samples(log_dir, "Generated images", "Samples", pictures.grids, "pictures"),
        _samples(log_dir, "From noise to image", "The reverse process", pictures.animations, "pictures pixels"),
        _section("Quality", measured),
        _section("Loss", loss),
        _section("Figures", _pictures(figures)),
        _section("Last epochs", _last_epochs(rows)),
        _section("How it was run", _how(log_dir, config)),
        _section("Settings", _settings(config)),
        "</main>\n</body>\n</html>\n",
    ])  # fmt: skip
    with atomic_write(log_dir / "report.html") as temporary:
        # A lone surrogate from a damaged file has no UTF-8 form; a character reference does for it.
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return log_dir / "report.html"


def main() -> int:
    """Rebuild the report of one log folder; returns the exit status, 2 for a wrong folder."""
    parser = argparse.ArgumentParser(description="Rebuild report.html from the files of a log folder.")
    parser.add_argument("log_dir", help="the folder, for example log/log_mnist")
    log_dir = parser.parse_args().log_dir
    try:
        print(write_report(log_dir))
    except NotADirectoryError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report.py: cannot write the report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
