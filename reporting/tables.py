"""What stands in metrics.json (evaluation/record.py), as tables of the report: one for each kind of measurement, a row for each result."""

from __future__ import annotations

from html import escape
from typing import Any

from common.files import finite
from reporting.html import scroll, table

# For each kind of measurement a heading, and what its figures mean.
KINDS = {
    "samples": (
        "Generated images",
        "Judge accuracy: the share in which the judge, a classifier trained on the real training images, sees "
        "the class asked for. Frechet distance of the features that the judge computes of these and of the training "
        "images: 0 is best. Precision: the share of images that lie where training images lie. Recall: the share of "
        "training images that lie where these images lie. Compare with as many real test images: fewer images give a "
        "larger distance. FID: the distance of Inception's features.",
    ),
    "completions": (
        "Completed images",
        "True class: the share of completions in which the judge, a classifier trained on the real training "
        "images, sees the class of the original. Known error: mean distance of the known pixels from what they "
        "were, in [-1, 1].",
    ),
    "points": (
        "Points of the plane",
        "Energy distance: between these points and as many fresh ones of the data; 0 is best, and points of the data "
        "themselves have what stands in their row. On permitted squares: the share of the points that lie where the "
        "chequerboard has probability.",
    ),
    "bits per dimension": (
        "Likelihood of test images",
        "Bits per dimension: the variational bound on the negative log-likelihood, on average at least that; fewer are "
        "better. It is the sum of decoder (L_0), steps (L_1 to L_T-1) and prior (L_T). The figure shows every term, and "
        "the .csv beside it has the numbers.",
    ),
}
FIRST = [
    *("model", "step", "images", "points", "n_images", "n_points", "guidance_weight"),
    *("judge_accuracy", "frechet_distance", "precision", "recall", "fid"),
]
SHARES = ("judge_accuracy", "true_class", "precision", "recall", "on_permitted_squares")
# The circumstances of a result: what is the same in all rows that have it stands under the table, once.
FROM_RUN = (
    *("completions", "bound_of", "judge_accuracy_on_real_test_images", "judge_accuracy_on_the_whole_images"),
    *("accuracy_of_a_judge_that_sees_the_visible_part", "weights", "arithmetic", "sampler"),
)
CIRCUMSTANCES = (*FROM_RUN, "features", "reference", "n_reference")
LEFT_OUT = ("precision_recall_images", "precision_recall_k")  # the same as n_images up to 10,000; always 3


def measured_tables(measured: Any, notes: list[str]) -> str:
    """The tables of metrics.json, given its content, as HTML. If that is not what the suite writes: "", and a note."""
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}  # in this order
    try:
        for run in measured:
            # Older files do not say of which kind a measurement is, and count the images in another place.
            kind = run.get("measured", "completions" if "completions" in run else "samples")
            about = {name: run[name] for name in FROM_RUN if name in run}
            if "samples_per_weight" in run:
                about["n_images"] = run["samples_per_weight"]
            rows = [{"model": run["model"], **about, **result} for result in run["results"]]
            kinds.setdefault(str(kind), []).extend(rows)
    except (KeyError, TypeError, AttributeError):
        notes.append("metrics.json is damaged and was left out.")
        return ""
    return "".join(_table(kind, rows) for kind, rows in kinds.items() if rows)


def classifier_accuracy(measured: Any) -> tuple[float, float] | None:
    """Guidance weight and accuracy of the newest samples in metrics.json, given its content: at w = 1 if that was
    measured, else at the w that is nearest to it; None where nothing was measured.
    """
    try:
        for run in reversed(measured):
            pairs = [(finite(row.get("guidance_weight")), finite(row.get("judge_accuracy"))) for row in run["results"]]
            found = [(w, accuracy) for w, accuracy in pairs if w is not None and accuracy is not None]
            if found:
                return min(reversed(found), key=lambda pair: abs(pair[0] - 1))
    except (KeyError, TypeError, AttributeError):
        pass  # the report of the folder says what is wrong with the file
    return None


def _table(kind: str, rows: list[dict[str, Any]]) -> str:
    title, meaning = KINDS.get(kind, (kind.capitalize(), ""))
    # Lists, such as the terms of a bound by timestep, have a figure and no place in a table.
    named = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, (list, dict)))
    names = [name for name in named if name not in LEFT_OUT]
    shared = {}
    for name in CIRCUMSTANCES:
        values = [row[name] for row in rows if name in row]
        if values and all(value == values[0] for value in values):
            shared[name] = values[0]
    columns = [name for name in FIRST if name in names]
    columns += [name for name in names if name not in columns and name not in CIRCUMSTANCES]
    columns += [name for name in names if name not in columns and name not in shared]
    cells = ([_value(name, row.get(name)) for name in columns] for row in rows)
    numbers = table([_words(name) for name in columns], cells)
    same = ". ".join(f"{_words(name).capitalize()}: {_value(name, value)}" for name, value in shared.items())
    about = "".join(f'<p class="soft">{escape(text)}</p>\n' for text in (meaning, f"{same}." if same else "") if text)
    return f"<h3>{escape(title)}</h3>\n{scroll(numbers, title)}\n{about}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and ("accuracy" in name or name in SHARES):
        return f"{value:.2%}" if "real" in name else f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
