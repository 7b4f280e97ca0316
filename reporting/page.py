"""The page of one log folder, made from its files alone."""

from __future__ import annotations

import fnmatch
import os
import statistics
from html import escape
from pathlib import Path
from typing import Any

from common.files import atomic_write, finite, format_duration
from reporting.html import (
    animation,
    contents,
    figure,
    page,
    paragraph,
    pause_switch,
    pictures,
    scroll,
    section,
    stepper,
    table,
    term,
)
from reporting.log_files import MEASURED, MORE, NOISE, SAMPLES, caption, in_order
from reporting.run import Moment, Run, read_run
from reporting.tables import classifier_accuracy, measured_tables

N_LAST = 10  # rows of metrics.csv that are shown
MOST_SHOWN = 500  # settings, and continuations: a file can claim any number

WITH_CLASSES = (
    "Top rows: generated images, a column for each class, from the same noise for every epoch and guidance weight w. Bottom "
    "rows: real test images of these classes. Look for columns that show their class, in images that differ. w = 0 is the "
    "conditional model as it was trained; a larger w makes the class clearer and the images more alike."
)
WITH_PROMPTS = (
    "Top rows: generated images, a column for each prompt, from the same noise for every epoch and guidance weight w. Bottom "
    "rows: the training images whose vectors are nearest to the prompt's. Look for columns that show what their prompt says. "
    "A larger w obeys the prompt more, and makes the images more alike."
)
WITHOUT_CLASSES = (
    "Drawn from the same noise each time: the same place shows the same image getting better. Look for images that are "
    "sharp, complete, and different from one another."
)
REVERSE = (
    "The reverse process, from pure noise at t = T to an image. Large shapes come first, detail comes last. The last frame "
    "is the picture shown above."
)


# ------------------------------------------------------------------------------------------------- the top of the page


def _head(run: Run) -> str:
    """Title, state, data set, network, machine."""
    dataset, config = run.table("dataset"), run.config
    sizes = []
    for key, name in (("train_images", f"training {run.things}"), ("val_images", f"validation {run.things}")):
        count = finite(dataset.get(key))
        if count:
            sizes.append(f"{count:,.0f} {name}")
    classes = dataset.get("classes")
    if isinstance(classes, list) and classes and not run.table("arguments").get("prompts"):
        sizes.append(f"{len(classes)} class{'es' * (len(classes) != 1)}")
    lines = [
        ("Data", str(dataset.get("name", "")) + (f" ({', '.join(sizes)})" if sizes else "")),
        ("Network", run.network()),
        *((name.capitalize(), config.get(name)) for name in ("device", "started", "seed")),
    ]
    about = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>\n" for name, value in lines if value not in (None, "")
    )
    about = f'<dl class="about">{about}</dl>\n' if about else ""
    return f"<header>\n<h1>{escape(run.name)}</h1>\n{paragraph(run.state(), 'state')}{about}</header>\n"


def _facts(run: Run) -> str:
    """The key figures; what is not known is left out."""
    facts = []
    for key, name in (("train_loss", "training loss"), ("val_loss", "validation loss")):
        measured = [row for row in run.rows if finite(row.get(key)) is not None]
        if measured:
            when = int(finite(measured[-1].get(run.unit)) or 0)
            facts.append((f"{name}, {run.unit} {when}", f"{finite(measured[-1][key]):.4g}"))
    accuracy = classifier_accuracy(run.measured)
    if accuracy:
        w, share, n = accuracy
        of = f", n = {n:,}" if n else ""
        facts.append((f"judge accuracy, w = {w:g}{of} (claimed)", f"{share:.1%}"))
    seconds, speeds = run.numbers("seconds"), run.numbers("images_per_second")
    if any(seconds):
        speed = f", {statistics.median(speeds):,.0f} {run.things} per second" if any(speeds) else ""
        facts.append((f"training time{speed}", format_duration(sum(seconds))))
    n_parameters = finite(run.config.get("n_parameters"))
    if n_parameters:
        facts.append(("parameters", f"{n_parameters:,.0f}"))
    items = "".join(term(name, value) for name, value in facts)
    return f'<dl class="facts">{items}</dl>\n' if items else ""


# ------------------------------------------------------------------------------------------------- the pictures


def _title(what: str, moment: Moment, weight: str) -> str:
    """The caption of a picture in words."""
    return f"Guidance weight {weight}" if weight else f"{what} after {moment}"


def _grids(run: Run) -> str:
    """The grids of samples: guidance weights side by side, epochs one after the other."""
    steps, grids = [], run.pictures.grids
    for moment, weights in grids.items():
        figures = []
        for weight, name in weights.items():
            rows = f", guidance weight {weight}, generated rows above real ones" if weight else ""
            figures.append(
                figure(run.folder, name, _title("Samples", moment, weight), alt=f"Samples after {moment}{rows}")
            )
        steps.append((str(moment.number), str(moment).capitalize(), pictures(figures, "weights")))
    if not steps:
        return ""
    about = WITH_CLASSES if any(weight for weights in grids.values() for weight in weights) else WITHOUT_CLASSES
    about = WITH_PROMPTS if run.table("arguments").get("prompts") else about
    return paragraph(about) + stepper("grid", "Samples", list(grids)[-1].unit, steps)


def _animations(run: Run) -> str:
    """The GIFs, with a switch that pauses them all, epochs one after the other."""
    found, steps = run.pictures, []
    for moment, weights in found.animations.items():
        figures = []
        for weight, name in weights.items():
            alt = f"The reverse process after {moment}" + (f", guidance weight {weight}" if weight else "")
            title = _title("The way to the samples", moment, weight)
            figures.append(animation(run.folder, name, found.still(name), title, alt))
        steps.append((str(moment.number), str(moment).capitalize(), pictures(figures, "animations")))
    others = [name for name in found.others if name.lower().endswith(".gif")]
    more = []
    for name in others:
        title, text = caption(name)[1:] if not found.still(name) else (Path(name).stem, "The way to these samples.")
        more.append(animation(run.folder, name, found.still(name), title, title, text))
    if not steps and not more:
        return ""
    unit = list(found.animations)[-1].unit if steps else ""
    shown = [name for weights in found.animations.values() for name in weights.values()] + others
    paired = ", ".join(name for name in shown if found.still(name))
    return "".join(
        [
            paragraph(REVERSE),
            pause_switch("pause"),
            stepper("animation", "Animations", unit, steps) if steps else "",
            paragraph(f"Not printed, as they end in pictures shown above: {paired}" if paired else "", "print soft"),
            pictures(more, "animations"),
        ]
    )


def _figures(run: Run) -> dict[str, str]:
    """The other figures, by the section of the page that they belong to."""
    found: dict[str, list[str]] = {}
    for name in in_order(run.pictures.others):
        if not name.lower().endswith(".gif"):
            place, title, text = caption(name, run.things == "points")
            found.setdefault(place, []).append(figure(run.folder, name, title, text, alt=title))
    return {place: pictures(figures) for place, figures in found.items()}


# ------------------------------------------------------------------------------------------------- numbers and settings


def _curves(run: Run) -> str:
    """loss.png, and the last rows of metrics.csv."""
    text = (
        "Mean loss, and training loss by timestep. The mean stops falling long before training is done: look at the "
        f"timesteps (small t: fine detail) and at the {'points' if run.things == 'points' else 'samples'}."
    )
    loss = pictures([figure(run.folder, "loss.png", "Loss curves", text)] if run.pictures.loss else [])
    if not run.rows:
        return loss
    names = [name for name in run.rows[0] if name]
    rows = [[row[name] or "" for name in names] for row in run.rows[-N_LAST:]]
    what = f"The last {run.unit}s" if len(run.rows) > N_LAST else f"Each {run.unit}"
    numbers = scroll(table([name.replace("_", " ") for name in names], rows), what)
    return f'{loss}<h3>{what}</h3>\n{numbers}<p><a href="./metrics.csv">metrics.csv</a> has every row.</p>\n'


def _settings(run: Run) -> str:
    """Every argument: first those that differ from their defaults, beside these; then the others."""
    arguments, defaults = dict(list(run.table("arguments").items())[:MOST_SHOWN]), run.table("defaults")
    if not arguments:
        return ""
    changed = [name for name, value in arguments.items() if name in defaults and value != defaults[name]]
    rows = "".join(
        f'<tr class="changed"><th scope="row">{escape(name)}</th><td>{escape(_text(arguments[name]))}</td>'
        f"<td>{escape(_text(defaults[name]))}</td></tr>"
        for name in changed
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("argument", "this run", "default"))
    top = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    rest = "".join(term(name, _text(value)) for name, value in arguments.items() if name not in changed)
    count = f"{len(changed)} of {len(arguments)} arguments differ from the script's defaults."
    return (
        paragraph(count if defaults else "The defaults of the script are not known.")
        + (scroll(top, "Settings that differ from the defaults") if changed else "")
        + (f'<h3>{"As by default" if defaults else "Arguments"}</h3>\n<dl class="rest">{rest}</dl>\n' if rest else "")
    )


def _text(value: Any) -> str:
    """A setting as it is typed: lists without brackets."""
    plain = isinstance(value, list) and all(isinstance(item, (int, float, str)) for item in value)
    return (" ".join(map(str, value)) if plain else str(value))[:1000]


def _how(run: Run) -> str:
    """Command lines, commits, versions, and the files with weights."""
    config = run.config
    lines = [str(config["command"])] if config.get("command") else []
    lines += [f"commit {config['commit']}"] if config.get("commit") else []
    resumed = config.get("resumed")
    for again in resumed[:MOST_SHOWN] if isinstance(resumed, list) else []:
        if isinstance(again, dict):
            what = (f"{name} {again[name]}" for name in ("from_step", "started", "commit") if again.get(name))
            lines += [str(again.get("command", "resumed")), f"    resumed, {', '.join(what)}"]
    versions = ", ".join(f"{name} {version}" for name, version in run.table("versions").items())
    files = sorted(fnmatch.filter(run.folder.files, "model_*.pt"), key=lambda name: (len(name), name))  # 5 before 10
    weights = ", ".join(f"{name} ({run.folder.files[name] / 1e6:.1f} MB)" for name in files)
    about = [("Versions", versions), ("Weights", weights)]
    return (f"<pre>{escape(chr(10).join(lines))}</pre>\n" if lines else "") + "".join(
        paragraph(f"{name}: {text}") for name, text in about if text
    )


# ------------------------------------------------------------------------------------------------- the page


def write_report(log_dir: str | os.PathLike) -> Path:
    """Write `report.html` into a log folder from what stands in it, and return its path.

    Reads config.json, metrics.csv, metrics.json, and the names and sizes of the pictures. The page leaves out what is
    missing, and names what cannot be read. Raises NotADirectoryError if there is no such folder.
    """
    run = read_run(log_dir)
    figures = _figures(run)
    measured = measured_tables(run.measured, run.notes)
    expected = run.config.get("expected")
    parts = {
        SAMPLES: (_grids(run), figures.get(SAMPLES, "")),
        NOISE: (_animations(run), figures.get(NOISE, "")),
        "Curves": (_curves(run),),
        MORE: (figures.get(MORE, ""),),
        MEASURED: (measured, figures.get(MEASURED, "")),
        "Settings": (_settings(run),),
        "How it was called": (_how(run),),
    }
    sections = [section(title, *content) for title, content in parts.items()]
    body = [
        _head(run),
        *(paragraph(note, "note") for note in run.notes),
        _facts(run),
        paragraph(f"What to expect: {expected}" if expected else "", "expected"),
        contents(sections, list(parts)),
        *sections,
    ]
    path = run.folder.path / "report.html"
    with atomic_write(path) as temporary:
        # A lone surrogate from a damaged file has no UTF-8 form; a character reference does for it.
        text = page(run.name, body)
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return path
