"""See hand-ins as a grader sees them: is everything there that the sheet asks for, and can it be true?

    python check_log.py log/log_mnist                        # a table of findings; exit status 1 if there is a problem
    python check_log.py hand_ins/*                           # folders or zips, their log folders below: one verdict each,
                                                             # and who shares what with whom
    python check_log.py hand_ins/* --problems --csv marks.csv   # only what fails, a line each; a row for each log folder
    python check_log.py hand_ins/* --models --data_dir data  # have the models the losses that they claim? 10 s a model
    python check_log.py log/log_mnist --resample             # do the models draw their grids again? a minute a grid
    python check_log.py log/log_mnist --judge                # do the images show the classes asked for?

What kind of run it is stands in config.json. Every finding is ok, a note (allowed, but worth knowing) or a problem (the
folder fails). Nothing in a folder is executed, links are not followed, zips are not unpacked, and a file that is too large, or
claims to be, is refused. Exit status: 0 all hand-ins pass, 1 some fail, 2 a wrong call. See docs/grading.md.
"""

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

from common.console import ArgumentParser, CallError, as_path, live_line, run_script
from common.files import atomic_write, check_writable
from reporting.checks import Check
from reporting.hand_ins import HandIn, is_nothing
from reporting.reader import printable
from reporting.sharing import OWN, Own, Print, compare, print_of
from reporting.sharing import table as sharing_table
from reporting.verdict import More, check_folder, check_sheet, count, problems, row, table

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


class Checked:
    """A hand-in and what was found: in its files beside the log folders, and in each of these."""

    def __init__(self, hand_in: HandIn, own: Own, more: More):
        self.hand_in, self.sheet = hand_in, check_sheet(hand_in)
        self.checks: list[tuple[Path, Check]] = []
        self.prints: list[tuple[Check, Print]] = []
        for folder in hand_in.folders:
            if own.is_untouched(folder):
                self.sheet.say("note", folder.path.name, "is one of the suite's own runs, and does not count")
                continue
            check = check_folder(folder, more)
            own.look_at(check)
            found = None if folder.path in own else print_of(str(folder.path), hand_in.path, check)
            if found:
                self.prints.append((check, found))
            check.let_go()
            self.checks.append((folder.path, check))
        if hand_in.folders and not self.checks:
            self.sheet.say("problem", hand_in.path.name, "holds no run of its own")

    @property
    def failed(self) -> bool:
        return self.sheet.failed or any(check.failed for _, check in self.checks)

    def text(self, quiet: bool) -> str:
        parts = [table(str(path), check, quiet) for path, check in self.checks]
        if self.hand_in.itself and parts:
            return "\n".join(parts)
        n = sum(not check.failed for _, check in self.checks)
        verdict = "failed" if self.failed else "passed"
        head = f"{verdict}, {n} of {len(self.checks)} log folders pass" if self.checks else count(self.sheet)
        return "\n".join([table(str(self.hand_in.path), self.sheet, quiet, head), *parts])

    def problems(self) -> "list[str]":
        lines = [problems(str(path), check) for path, check in [(self.hand_in.path, self.sheet), *self.checks]]
        return [line for some in lines for line in some]

    def rows(self) -> "list[dict[str, Any]]":
        checks = self.checks or [(self.hand_in.path, self.sheet)]
        return [row(path, self.hand_in.path, check) for path, check in checks]


def as_csv(rows: "list[dict[str, Any]]") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for line in rows:
        writer.writerow({key: "'" + v if str(v).startswith(FORMULA) else v for key, v in line.items()})
    return out.getvalue()


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", type=as_path, nargs="+", metavar="HAND_IN", help="log folders, folders of these, or zips of either")
    add("--quiet", action="store_true", help="only notes and problems")
    add("--problems", action="store_true", help="only problems, one line each")
    add(
        "--csv",
        type=as_path,
        metavar="FILE",
        help="also a table with one row per log folder; - writes it, and nothing else",
    )
    add(
        "--models",
        action="store_true",
        help="measure the validation loss of every model, and compare its images with the training images; some 10 s a "
        "model on a CPU",
    )
    add(
        "--resample",
        nargs="?",
        const="all",
        choices=["one", "all"],
        help="draw the grids of every epoch and weight again and compare, or only the last one of the smallest weight; "
        "a minute or more for each grid on a CPU",
    )
    add(
        "--judge",
        action="store_true",
        help="let a classifier look at the last grids; training it takes minutes, once for each data set",
    )
    add(
        "--data_dir",
        type=as_path,
        default=Path("./data"),
        help="of --models and --judge: folder of the data sets (./data)",
    )
    add(
        "--judge_dir",
        type=as_path,
        default=Path("./log/judges"),
        help="of --judge: where judges are kept (./log/judges)",
    )
    return parser


def main() -> None:
    args = parser().parse_args()
    missing = [path for path in args.folders if not path.exists() and not path.is_symlink()]
    if missing:
        raise CallError(f"there is no folder {printable(missing[0])}")
    if args.csv and str(args.csv) != "-":
        check_writable(args.csv)  # now, and not after hours of judging
    more: More = None
    if args.models or args.resample or args.judge:
        from evaluation.model_checks import Classifiers, ModelChecks  # only now: loading torch takes seconds

        classifiers = Classifiers(args.data_dir, args.judge_dir) if args.judge else None
        more = ModelChecks(args.data_dir, args.models, args.resample, classifiers)
    own, checked = Own(OWN), []
    for i, path in enumerate(args.folders):
        if is_nothing(path) or (args.csv and path.is_file() and path.resolve() == args.csv.resolve()):
            print(f"{printable(path)}: no hand-in, left out", file=sys.stderr)
            continue
        live_line(f"{i + 1} of {len(args.folders)}: {printable(path)}")
        checked.append(Checked(HandIn(path), own, more))
    live_line("")
    sharing = compare([pair for one in checked for pair in one.prints])
    show(checked, sharing_table(sharing), args)
    sys.exit(1 if any(one.failed for one in checked) else 0)


def show(checked: "list[Checked]", sharing: str, args: argparse.Namespace) -> None:
    """Print the findings, and write the table of --csv."""
    rows = [row for one in checked for row in one.rows()]
    if args.csv and str(args.csv) == "-":
        print(as_csv(rows) if rows else "", end="")
        return
    for one in checked:
        lines = one.problems() if args.problems else [one.text(args.quiet)]
        for line in lines:
            print(line)
    if sharing and not args.problems:
        print(sharing)
    if len(checked) > 1:
        print(f"{sum(not one.failed for one in checked)} of {len(checked)} hand-ins pass")
    if args.csv and rows:
        with atomic_write(args.csv) as temporary:
            temporary.write_text(as_csv(rows), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
