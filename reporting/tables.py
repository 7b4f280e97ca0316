"""metrics.json (evaluation/record.py) as tables of the report: one for each kind of measurement, a row for each result."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from common.files import finite
from reporting.html import paragraph, scroll, table

# For each kind of measurement a heading, and what its figures mean.
KINDS = {
    "samples": (
        "Generated images",
        "Judge accuracy: in how many of the n images the judge, a classifier trained on the real training images, sees "
        "the class asked for. Frechet distance: between the features that the judge computes of these images and of the "
        "training images; 0 is best. Precision: the share of these images that lie where training images lie. Recall: the "
        "share of training images that lie where these images lie. Compare with as many real test images, because fewer "
        "images give a larger distance. FID: the distance of Inception's features.",
    ),
    "completions": (
        "Completed images",
        "True class: in how many completions the judge, a classifier trained on the real training images, sees the class "
        "of the original. Known error: mean distance of the known pixels from the original, in [-1, 1].",
    ),
    "prompts": (
        "Samples of prompts",
        "Score: mean cosine of the vectors of a prompt's samples and its own vector; and the same with the vectors of the "
        "other prompts, which should be lower. With CLIP, 100 times the cosine is the CLIP score.",
    ),
    "ratings": (
        "Ratings of the samples of prompts",
        "Rating low, rating high: the mean rating of samples whose prompt asks for that end of an attribute, by a "
        "regressor trained on the real images. Difference of real quarters: the same between the lowest and the highest "
        "quarter of the real training images. Share of real: the one difference by the other.",
    ),
    "points": (
        "Points of the plane",
        "Energy distance: between these points and as many new ones of the data; 0 is best. The row of the data "
        "themselves shows what chance alone gives. On permitted squares: the share of the points where the chequerboard "
        "has probability.",
    ),
    "bits per dimension": (
        "Likelihood of test images",
        "Bits per dimension: the variational bound on the negative log-likelihood; fewer are better. It is the sum of "
        "decoder (L_0), steps (L_1 to L_T-1) and prior (L_T). The figure shows every term, and the .csv beside it has the "
        "numbers.",
    ),
}
CLAIMED = (
    "Claimed: these figures are copied from metrics.json, which was written where the model was measured. "
    "python check_log.py FOLDER --judge measures again."
)
FIRST = [
    *("model", "step", "images", "points", "n_images", "n_points", "guidance_weight"),
    *("judge_accuracy", "frechet_distance", "precision", "recall", "fid"),
]
SHARES = ("judge_accuracy", "true_class", "precision", "recall", "on_permitted_squares")
# How a result was measured. What is the same in all rows stands once, below the table.
FROM_RUN = (
    *("completions", "bound_of", "judge_accuracy_on_real_test_images", "judge_accuracy_on_the_whole_images"),
    *("accuracy_of_a_judge_that_sees_the_visible_part", "weights", "arithmetic", "sampler", "vectors_by"),
)
CIRCUMSTANCES = (*FROM_RUN, "features", "reference", "n_reference")
LEFT_OUT = ("precision_recall_images", "precision_recall_k")  # the same as n_images up to 10,000; always 3
MOST_ROWS, MOST_COLUMNS, MOST_TEXT = 200, 40, 300  # of a table; characters of a cell: a file can claim any number


def measured_tables(measured: Any, notes: list[str]) -> str:
    """The tables of metrics.json, given its content, as HTML. If that is not what the suite writes: "", and a note."""
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}  # in this order
    try:
        for run in measured[:MOST_ROWS]:
            # Older files do not say of which kind a measurement is, and count the images in another place.
            kind = run.get("measured", "completions" if "completions" in run else "samples")
            about = {name: run[name] for name in FROM_RUN if name in run}
            if "samples_per_weight" in run:
                about["n_images"] = run["samples_per_weight"]
            rows = [{"model": run["model"], **about, **result} for result in run["results"][:MOST_ROWS]]
            kinds.setdefault(str(kind)[:MOST_TEXT], []).extend(rows)
    except (KeyError, TypeError, AttributeError):
        notes.append("metrics.json is damaged and was left out.")
        return ""
    tables = "".join(_table(kind, rows, notes) for kind, rows in list(kinds.items())[:MOST_COLUMNS] if rows)
    return paragraph(CLAIMED) + tables if tables else ""


def classifier_accuracy(measured: Any) -> tuple[float, float, int] | None:
    """Guidance weight, accuracy and number of images (0: unknown) of the newest samples in metrics.json, given its
    content. Of several weights the one nearest to 1. None where nothing was measured.
    """
    try:
        for run in measured[: -MOST_ROWS - 1 : -1]:
            found = []
            for row in run["results"][:MOST_ROWS]:
                w, accuracy = finite(row.get("guidance_weight")), finite(row.get("judge_accuracy"))
                if w is not None and accuracy is not None:
                    found.append((w, accuracy, _n({**run, **row})))
            if found:
                return min(reversed(found), key=lambda row: abs(row[0] - 1))
    except (KeyError, TypeError, AttributeError):
        pass  # the report of the folder says what is wrong with the file
    return None


def _n(row: dict[str, Any]) -> int:
    """Of how many images or points a share is; 0 if that is unknown."""
    counts = [row.get(name) for name in ("n_images", "n_points", "samples_per_weight")]
    number = re.search(r"\d{1,9}", str(row.get("completions", ""))[:MOST_TEXT])  # "the first 100 test images"
    counts += [int(number[0])] if number else []
    return next((n for n in counts if type(n) is int and 0 < n < 10**9), 0)


def _table(kind: str, rows: list[dict[str, Any]], notes: list[str]) -> str:
    title, meaning = KINDS.get(kind, (kind.capitalize(), ""))
    if len(rows) > MOST_ROWS or any(len(row) > MOST_COLUMNS for row in rows):
        notes.append(f"metrics.json: of {title!r} the first {MOST_ROWS} rows and {MOST_COLUMNS} columns are shown.")
        rows = [dict(list(row.items())[:MOST_COLUMNS]) for row in rows[:MOST_ROWS]]
    # Lists, such as the terms of a bound by timestep, have a figure and no place in a table.
    named = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, (list, dict)))
    names = [name for name in list(named)[: 2 * MOST_COLUMNS] if name not in LEFT_OUT]
    shared = {}
    for name in CIRCUMSTANCES:
        values = [row[name] for row in rows if name in row]
        if values and all(value == values[0] for value in values):
            shared[name] = values[0]
    columns = [name for name in FIRST if name in names]
    columns += [name for name in names if name not in columns and name not in CIRCUMSTANCES]
    columns += [name for name in names if name not in columns and name not in shared]
    columns = columns[:MOST_COLUMNS]
    cells = ([_value(name, row.get(name), _n(row)) for name in columns] for row in rows)
    numbers = table([_words(name) for name in columns], cells)
    same = ". ".join(f"{_words(name).capitalize()}: {_value(name, value)}" for name, value in shared.items())
    return f"<h3>{escape(title)}</h3>\n{scroll(numbers, title)}\n{paragraph(meaning)}{paragraph(same and same + '.')}"


def _words(name: str) -> str:
    return name.replace("_", " ")[:MOST_TEXT]


def _value(name: str, value: Any, n: int = 0) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and ("accuracy" in name or name in SHARES):
        share = f"{value:.2%}" if "real" in name else f"{value:.1%}"
        return f"{share} (n = {n:,})" if n and name in SHARES else share
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**20 else str(value)[:MOST_TEXT]
