"""See log folders as a grader sees them: what an assignment asks for, is it there, and can it be true?

    python check_log.py log/log_mnist                        # a table of findings; exit status 1 if there is a problem
    python check_log.py hand_ins/* --csv marks.csv --quiet   # a row for each of a hundred folders
    python check_log.py log/log_mnist --resample             # does the last model draw the grid of the smallest weight?
    python check_log.py log/log_mnist --resample all --judge # at all weights; do the images show the classes asked for?

What kind of run it is stands in its config.json. Every finding is ok, a note (allowed, but worth knowing) or a problem
(the folder fails). Nothing in a folder is executed, links are not followed, and a file that is too large, or claims to
be, is refused. Exit status: 0 all folders pass, 1 some fail, 2 a wrong call.
"""

from __future__ import annotations

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import csv
import io
from pathlib import Path
from typing import Any

from common.console import ArgumentParser, CallError, as_path, one_line, run_script
from common.files import atomic_write
from reporting.checks import (
    LEVELS,
    Check,
    check_changes,
    check_config,
    check_metrics,
    check_model_files,
    check_others,
    check_pictures,
    check_strangers,
)
from reporting.reader import MOST_ENTRIES, Folder, Unreadable, printable
from reporting.template import check_template, is_template

KINDS = {
    "classes": "class-conditional run",
    "prompts": "run with prompts",
    "steps": "run without classes",
    "points": "run on points",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


def check_folder(path: Path, resample: str | None = None, classifiers: Any = None) -> Check | None:
    """All checks of one folder. None for two things that stand among log folders: a folder of classifiers
    (evaluation/classifier.py), and the page over all folders (reporting/index.py).
    """
    if path.name == "index.html" and path.is_file():
        return None
    try:
        check = Check(Folder(path, MOST_ENTRIES))
    except Unreadable as error:
        check = Check(None)
        check.say("problem", path.name, str(error))
        return check
    names = check.folder.files
    if names and all(name.startswith("judge_") and name.endswith(".pt") for name in names) and not check.folder.others:
        return None
    try:
        _all_checks(check, resample, classifiers)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        check.say("problem", path.name, f"could not be checked to the end ({one_line(error)})")
    return check


def _all_checks(check: Check, resample: str | None, classifiers: Any) -> None:
    if is_template(check):
        check_template(check)
        check_strangers(check)
        return
    check_config(check)
    check_others(check)
    if check.known_settings is not None:
        check.say("ok", "config.json", f"{KINDS[check.settings.kind]} on {check.settings.dataset}")
        check_changes(check)
        check_metrics(check)
        check_pictures(check)
        models = check_model_files(check)
        if models:
            from evaluation.model_checks import check_models  # only now: loading torch takes seconds

            check_models(check, models, resample)
        if classifiers is not None:
            classifiers.look_at(check)
    check_strangers(check)


def verdict(check: Check) -> str:
    problems, notes = (sum(finding.level == level for finding in check.findings) for level in ("problem", "note"))
    parts = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((problems, "problem"), (notes, "note")) if n]
    return ("failed" if problems else "passed") + (f" ({', '.join(parts)})" if parts else "")


def table(path: Path, check: Check, quiet: bool) -> str:
    """The findings on one folder, a line for each: the problems first."""
    shown = [finding for level in reversed(LEVELS) for finding in check.findings if finding.level == level]
    shown = [finding for finding in shown if not quiet or finding.level != "ok"]
    lines = [f"{printable(path)}: {verdict(check)}"]
    return "\n".join(lines + [f"  {level:<8} {what}: {text}" for level, what, text in shown])


def row(path: Path, check: Check) -> dict[str, Any]:
    """The same as a row of the table of many folders."""
    settings = check.known_settings
    texts = {
        level: "; ".join(f"{what}: {text}" for of, what, text in check.findings if of == level) for level in LEVELS
    }
    return {
        "folder": printable(path),
        "verdict": verdict(check).split(" ")[0],
        "kind": KINDS[settings.kind] if settings else "",
        "dataset": printable(settings.dataset) if settings else "",
        "done": check.done if settings else "",
        "of": f"{settings.last} {settings.unit}s" if settings else "",
        **{key: check.facts.get(key, "") for key in ("train_loss", "redrawn_difference")},
        "judge_accuracy": "; ".join(
            f"{key[16:]}: {value:.0%}" for key, value in check.facts.items() if key.startswith("judge_accuracy")
        ),
        "problems": texts["problem"],
        "notes": texts["note"],
    }


def as_csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for line in rows:
        writer.writerow({key: "'" + v if str(v).startswith(FORMULA) else v for key, v in line.items()})
    return out.getvalue()


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", type=as_path, nargs="+", metavar="FOLDER", help="log folders")
    add("--quiet", action="store_true", help="only notes and problems")
    add(
        "--csv",
        type=as_path,
        metavar="FILE",
        help="also a table with one row per folder; - writes it, and nothing else",
    )
    add(
        "--resample",
        nargs="?",
        const="one",
        choices=["one", "all"],
        help="draw the last grid of the smallest guidance weight (or of all) again and compare; a minute or more on a CPU",
    )
    add("--judge", action="store_true", help="let a judge, trained once on the real images, look at the last grids")
    add("--data_dir", type=as_path, default=Path("./data"), help="of --judge: folder of the data sets (./data)")
    add(
        "--judge_dir",
        type=as_path,
        default=Path("./log/judges"),
        help="of --judge: where judges are kept (./log/judges)",
    )
    return parser


def main() -> None:
    args = parser().parse_args()
    missing = [path for path in args.folders if not path.exists()]
    if missing:
        raise CallError(f"there is no folder {printable(missing[0])}")
    classifiers = None
    if args.judge:
        from evaluation.model_checks import Classifiers  # only now: loading torch takes seconds

        classifiers = Classifiers(args.data_dir, args.judge_dir)
    to_stdout = args.csv is not None and str(args.csv) == "-"
    rows, failed = [], 0
    for path in args.folders:
        check = check_folder(path, args.resample, classifiers)
        if check is None:
            print(
                f"{printable(path)}: no log folder, left out (classifiers, or the page over all folders)",
                file=sys.stderr,
            )
            continue
        failed += "problem" in [finding.level for finding in check.findings]
        rows.append(row(path, check))
        if not to_stdout:
            print(table(path, check, args.quiet), flush=True)
    if args.csv and rows:
        if to_stdout:
            print(as_csv(rows), end="")
        else:
            with atomic_write(args.csv) as temporary:
                temporary.write_text(as_csv(rows), encoding="utf-8")
    if len(rows) > 1 and not to_stdout:
        print(f"{len(rows) - failed} of {len(rows)} folders pass")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_script(main)
