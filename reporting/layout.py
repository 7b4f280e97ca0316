"""Where grids and animations show their images. Files keep it as metadata, so that their images can be cut out again."""

from __future__ import annotations

import functools
import json
import math
from typing import NamedTuple, Sequence

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties


class Layout(NamedTuple):
    """Where a page shows its images, in pixels: the image in row j and column k of group g has its upper left corner at
    y = tops[g] + j * (scale * H + gap) and x = left + k * (scale * W + gap), if images are H x W.
    """

    height: int  # of the page
    width: int
    scale: int  # every image pixel becomes scale x scale pixels
    gap: int  # between images
    left: int
    tops: list[int]
    texts: list[dict]

    def geometry(self, size: Sequence[int], n_columns: int, rows: Sequence[int], title: str | None = None) -> str:
        """Where images of size (H, W) stand, as JSON. Files keep it as metadata, so that programs can cut them out again."""
        named = {"size": list(size), "columns": n_columns, "rows": list(rows), "scale": self.scale, "gap": self.gap}
        about = {} if title is None else {"title": title}
        return json.dumps({**named, "left": self.left, "tops": self.tops, **about})


def groups_layout(
    size: Sequence[int],
    n_columns: int,
    rows: Sequence[int],
    labels: Sequence[str],
    heads: Sequence[Sequence[str]],
    title: str | None = None,
) -> Layout:
    """The page of `plot_groups` for images of size (H, W): rows, labels and heads are those of each group."""
    height, width = size
    # Every image pixel becomes `scale` x `scale` pixels: a page at most about 900 wide and, where rows are many, 1,100
    # high; cells of about 24 to 200 pixels.
    most = min(200 // max(height, width), 840 // (n_columns * width), 1100 // (sum(rows) * height))
    scale = max(1, math.ceil(24 / min(height, width)), most)
    gap, margin, font = 3, 14, 14
    label_width = max((_text_width(line, font) for label in labels for line in label.splitlines()), default=0)
    left = margin + label_width + 12 if label_width else margin
    page_width = left + n_columns * (width * scale + gap) - gap + margin
    texts, top = [], margin
    if title:
        style = {"fontsize": font + 2, "weight": "bold"}
        texts.append({"x": left, "y": margin, "s": title, "va": "top", **style})
        page_width = max(page_width, left + _text_width(title, font + 2, "bold") + margin)
        top += font + 14
    tops = []
    for n_rows, label, names in zip(rows, labels, heads):
        head_texts, top = _column_heads(names, width * scale, gap, left, top, range(font, 9, -1))
        texts += head_texts
        tile_height = n_rows * (height * scale + gap) - gap
        if label:
            middle = top + tile_height / 2
            texts.append({"x": left - 12, "y": middle, "s": label, "ha": "right", "va": "center", "fontsize": font})
        tops.append(top)
        top += tile_height + 14
    return Layout(top - 14 + margin, page_width, scale, gap, left, tops, texts)


def animation_layout(
    size: Sequence[int],
    n_columns: int,
    n_rows: int,
    most_t: int,
    class_names: Sequence[str] | None = None,
    scale: int | None = None,
) -> Layout:
    """The pages of `plot_gif` for images of size (H, W), times up to most_t, and its other arguments."""
    height, width = size
    scale = scale or max(1, math.ceil(16 / min(height, width)), min(8, 320 // (n_columns * width)))
    gap, margin, font = 2, 8, 11
    texts, top = _column_heads(class_names, width * scale, gap, margin, margin + font + 8, [font])
    tile_width = n_columns * (width * scale + gap) - gap
    page_width = margin + max(tile_width, _text_width(f"t = {most_t}", font)) + margin
    page_height = top + n_rows * (height * scale + gap) - gap + margin
    return Layout(page_height, page_width, scale, gap, margin, [top], texts)


@functools.lru_cache(maxsize=10_000)  # the heads of a hundred grids are the same
def _text_width(text: str, size: float, weight: str = "normal") -> int:
    """Width of a line of text in pixels, its font `size` in pixels."""
    font = FontProperties(size=size, weight=weight)
    return math.ceil(RendererAgg(1, 1, 72).get_text_width_height_descent(text, font, ismath=False)[0])


def _column_heads(
    names: Sequence[str] | None, cell: int, gap: int, left: int, top: int, sizes: Sequence[int]
) -> tuple[list[dict], int]:
    """Names centred over columns of `cell` pixels, in the first of the font sizes that fits, or else standing upright.

    Returns the texts for `_draw_texts` and the y at which the grid below them begins.
    """
    if not names:
        return [], top
    names = [str(name) for name in names]
    widths = {size: max(_text_width(name, size) for name in names) for size in sizes}
    size = next((size for size in sizes if widths[size] <= cell), None)
    upright = size is None
    size = size or sizes[0]
    bottom = top + (widths[size] if upright else size)
    style = {"y": bottom, "fontsize": size, "rotation": 90 if upright else 0, "ha": "center", "va": "bottom"}
    texts = [{"x": left + k * (cell + gap) + cell / 2, "s": name, **style} for k, name in enumerate(names)]
    return texts, bottom + 5
