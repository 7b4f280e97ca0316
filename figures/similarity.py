"""What an encoder such as CLIP does: how near pictures and texts are in its space."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from datasets.context import ContextSet
from figures.curves import new_figure, write_figure
from figures.grids import to_unit
from figures.picture import Picture


def similarity_figure(path: Path, images: ContextSet, vectors: torch.Tensor, texts: Sequence[str]) -> Picture:
    """Write the cosines of the texts' vectors, float [K, D], and of K pictures, the nearest to each text.

    A cosine of 1 is the same direction. In the rows of a good encoder the largest stands on the diagonal.
    """
    index = images.nearest(vectors, 1)
    context = F.normalize(images.context.cpu()[index.cpu()].float())  # [K, D]
    cosines = (F.normalize(vectors.cpu().float()) @ context.T).numpy()  # [K texts, K pictures]
    pixels = np.asarray(to_unit(images.batch(index)[0].cpu().numpy())).transpose(0, 2, 3, 1)
    n = len(texts)
    side, left, top = 0.85, 0.12 * max(map(len, texts)) + 0.4, 1.35  # inches
    width, height = left + n * side + 1.2, top + n * side + 0.5
    figure = new_figure(width, height)
    axes = figure.add_axes((left / width, 0.3 / height, n * side / width, n * side / height))
    drawn = axes.imshow(cosines, cmap="viridis")
    axes.set_yticks(range(n), texts)
    axes.set_xticks([])
    middle = (cosines.max() + cosines.min()) / 2
    for k in range(n):
        for j in range(n):
            colour = "black" if cosines[k, j] > middle else "white"
            axes.text(j, k, f"{cosines[k, j]:.2f}", ha="center", va="center", fontsize=9, color=colour)
        x = (left + (k + 0.06) * side) / width
        picture = figure.add_axes((x, (0.36 + n * side) / height, 0.88 * side / width, 0.88 * side / height))
        picture.imshow(pixels[k])
        picture.set_axis_off()
    bar = figure.add_axes(((left + (n + 0.15) * side) / width, 0.3 / height, 0.15 / width, n * side / height))
    figure.colorbar(drawn, cax=bar)
    figure.text(0.5, 1 - 0.12 / height, "Cosine of texts and pictures", ha="center", va="top", weight="bold")
    return write_figure(path, figure)
