"""CelebA as torchvision lays it out, without torchvision's own download.

<data_dir>/celeba/img_align_celeba/000001.jpg ...
<data_dir>/celeba/list_eval_partition.txt           "000001.jpg 0": 0 training, 1 validation, 2 test
<data_dir>/celeba/list_attr_celeba.txt              40 attributes, for an encoder of attributes
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from common.console import DataError
from datasets.image_folder import ImageFile

FOLDER, PARTITION = "img_align_celeba", "list_eval_partition.txt"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def list_celeba(root: Path, train: bool) -> tuple[Path, list[str], list[ImageFile]]:
    """As `image_folder.list_split`: the folder, one class, the files in an order that is the same everywhere."""
    if not (root / FOLDER).is_dir() or not (root / PARTITION).is_file():
        raise DataError(f"{root} must hold the folder {FOLDER} and {PARTITION}, both from {PAGE}")
    lines = [line.split() for line in (root / PARTITION).read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [line for line in lines if len(line) != 2 or line[1] not in "012" or os.path.basename(line[0]) != line[0]]
    if wrong:
        raise DataError(f"{root / PARTITION} has a row {' '.join(wrong[0])[:60]!r}, not a file name and 0, 1 or 2")
    files = []
    for name, part in lines:
        if part != ("0" if train else "2"):
            continue
        path = f"{FOLDER}/{name}"
        try:
            stat = os.stat(root / path)
            state = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        except OSError:  # decoding will fail, and say so
            state = 0, 0, 0
        files.append(ImageFile(hashlib.sha256(os.fsencode(path)).hexdigest(), path, 0, state))
    if not files:
        raise DataError(f"{root / PARTITION} names no {'training' if train else 'test'} images")
    return root, ["face"], sorted(files)
