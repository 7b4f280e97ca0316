"""What the functions that write pictures return, so that a notebook shows the picture."""

from __future__ import annotations

import os
from pathlib import Path


class Picture:
    """A picture file that was just written. A notebook shows it as the last line of a cell, or by `display`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Picture({self.path.name!r})"

    def _repr_png_(self) -> bytes:
        # Also for GIFs: browsers look at the data, and some pages that show notebooks know no other type.
        return self.path.read_bytes()
