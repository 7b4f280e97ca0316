"""Download data sets, such as on a login node: compute nodes often have no network.

    python datasets/fetch.py mnist cifar10
    python datasets/fetch.py cifar100 --data_dir /scratch/me/data

What is there already is only checked. The code is that of training, so a run with the same --data_dir finds all it needs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder of the suite, not this one

from common.console import ArgumentParser, HelpFormatter, as_path, run_script
from datasets import sources

NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100")


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=f"{', '.join(NAMES)}")
    parser.add_argument("--data_dir", type=as_path, default=Path("./data"), help="folder of the data sets")
    return parser


def main() -> None:
    args = parser().parse_args()
    for name in args.names:
        shape: dict[str, Any] = {
            "im_channels": 1 if name in sources.GREY else 3,
            "im_height": 28 if name in sources.GREY else 32,
        }
        train, test = (sources.load(name, args.data_dir, split, n_classes=None, **shape) for split in (True, False))
        print(f"{name}: {len(train):,} training and {len(test):,} test images in {args.data_dir}", flush=True)


if __name__ == "__main__":
    run_script(main)
