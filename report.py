"""Pages that show log folders, built from nothing but the files that stand in them.

    python report.py log/log_mnist              # writes log/log_mnist/report.html, the page of one run; or of several
    python report.py --index log                # writes log/index.html, a table of all log folders below log
    python report.py hand_ins/*/ --index hand_ins       # both: the reports anew, then the table that links to them

A folder may also hold log folders, at any of eight levels. The training scripts write report.html with every set of pictures
and after long epochs; this command writes it again. The pages have relative links only and need no network, so the folder can
be moved, packed and opened from disk. Links are not followed. A folder that cannot be read stops neither the others nor the
table. `make index` is the second line.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import os
from pathlib import Path

from common.console import ArgumentParser, as_path, run_script
from reporting.hand_ins import HandIn
from reporting.index import write_index
from reporting.page import write_report
from reporting.reader import Unreadable


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "a log folder, or a folder of these: write report.html again"
    parser.add_argument("log_dirs", type=as_path, nargs="*", metavar="FOLDER", help=text)
    text = "write index.html there, a table of the log folders below it"
    parser.add_argument("--index", type=as_path, metavar="FOLDER", help=text)
    return parser


def write_reports(name: str) -> "list[Path]":
    """Write the page of a log folder, or of each log folder below it. Raises NotADirectoryError."""
    if not os.path.isdir(name):
        raise NotADirectoryError(f"{name} is not a folder")
    hand_in = HandIn(Path(name))
    if hand_in.unread and not hand_in.folders:
        raise Unreadable("; ".join(f"{path} {reason}" for path, reason in hand_in.unread.items()))
    below = [folder.path for folder in hand_in.folders if folder.path.is_dir()]
    return [write_report(folder) for folder in below or [Path(name)]]


def main() -> int:
    """Write the pages that the command line asks for; returns the exit status: 2 for a wrong folder, 1 if writing failed."""
    args = parser().parse_args()
    if not args.log_dirs and not args.index:
        parser().error("name a log folder, or --index and the folder that holds several")
    status = 0
    for write, folders in ((write_reports, args.log_dirs), (write_index, [args.index] if args.index else [])):
        for folder in folders:
            try:
                pages = write(folder)
                print(*(pages if isinstance(pages, list) else [pages]), sep="\n")
            except NotADirectoryError as error:
                print(f"report.py: {error}", file=sys.stderr)
                status = 2
            except (OSError, Unreadable) as error:
                print(f"report.py: cannot write the page of {folder}: {error}", file=sys.stderr)
                status = status or 1
    return status


if __name__ == "__main__":
    run_script(lambda: sys.exit(main()))
