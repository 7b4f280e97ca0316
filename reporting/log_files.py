"""The file names of a log folder, and what each figure shows: the one place to name a new figure."""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

MOMENT = r"_(?P<unit>epoch|step)(?P<number>\d{1,18})"
WEIGHT = r"(_guidance_weight(?P<weight>-?\d[\d.e+-]*))?"
GRID = re.compile(rf"(generated_images|samples){MOMENT}{WEIGHT}\.png")
ANIMATION = re.compile(rf"animation{MOMENT}{WEIGHT}\.gif")
MODEL = re.compile(rf"model{MOMENT}\.pt")
KNOWN = re.compile(
    r"config\.json|metrics\.(csv|json)|report\.html|train\.log|samples\.(log|npz)|checkpoint\.pt"
    r"|model_(epoch|step)\d+\.pt|.+\.(png|gif|csv)"
)  # every file that a script of the suite writes


def model_name(unit: str, number: int) -> str:
    return f"model_{unit}{number}.pt"


def grid_name(unit: str, number: int, weight: float | None) -> str:
    """Name of a grid of samples. weight: the guidance weight; None for a run without classes."""
    if weight is None:
        return f"samples_{unit}{number}.png"
    return f"generated_images_{unit}{number}_guidance_weight{weight:g}.png"


def animation_name(unit: str, number: int, weight: float | None) -> str:
    """Name of the animation that ends in the grid of the same arguments."""
    return f"animation_{unit}{number}" + ("" if weight is None else f"_guidance_weight{weight:g}") + ".gif"


class Caption(NamedTuple):
    """A section of the report, a short title, and a sentence or two: what the figure shows and what to look for."""

    section: str
    title: str
    text: str


SAMPLES, NOISE, MORE, MEASURED = "Samples", "From noise to image", "What else the model can do", "Measurements"

# fmt: off
CAPTIONS = {
    "samples_unconditional": Caption(SAMPLES, "Samples without a prompt",
        "What the model draws when nothing is asked for. Look for images that are clean and different from one another."),
    "samples": Caption(SAMPLES, "Samples of the trained model",
        "Drawn by sample.py; samples.log has the command. Look for clean images of the class asked for that differ from "
        "one another."),
    "data": Caption(SAMPLES, "The training data",
        "Real training images. The samples should look like these, and copy none of them."),
    "forward_process": Caption(NOISE, "Forward process",
        "Training images on their way to noise, a row for each time t. The last row should show nothing of the images: "
        "sampling starts from such noise."),
    "backward_process": Caption(NOISE, "Backward process",
        "The model's way back from the last noise of the forward process, at the same times. The result should be clean. "
        "It need not be the first image, because the noise has kept almost nothing of it."),
    "inpainting": Caption(MORE, "Completed images",
        "Originals, the part of them that the model sees, and completions of each. The visible part should be that of "
        "the original, the seam invisible, and the completions plausible and different from one another."),
    "mixture": Caption(MORE, "Mixtures of classes",
        "Single classes, and two ways to ask for something in between. A row starts from the same noise. Look for images "
        "with features of both classes."),
    "guidance_sweep": Caption(MORE, "Guidance sweep",
        "A row for each guidance weight, all from the same noise. A larger weight makes the class clearer and the images "
        "more alike; at very large weights strokes and colours are exaggerated."),
    "similarity": Caption(MORE, "Pictures and texts in the encoder's space",
        "The cosine of the vectors of each prompt (rows) and of pictures of the data (columns), the nearest to each "
        "prompt. Training uses the pictures' vectors, sampling those of the prompts: both must lie near each other."),
    "prompts": Caption(MORE, "Samples of prompts",
        "Drawn by sample.py; samples.log has the command. A column for each prompt, from the same noise. A larger w obeys "
        "the prompt more, and makes the images more alike."),
    "prompt_score": Caption(MEASURED, "How well prompts are obeyed",
        "Cosine of the samples' vectors and their prompt's, over the guidance weight; below, that with the other prompts. "
        "It should rise with w from 0; at large w images can become worse while it still rises."),
    "vector_field": Caption(MORE, "Learnt vector field",
        "Where the network moves points, at several times t. The arrows should point to the data, and to the nearer "
        "of two clusters."),
    "networks": Caption(MORE, "Networks compared",
        "Different networks, trained in the same way on the same data. The best one has the sharpest edges and the "
        "emptiest gaps."),
    "comparison": Caption(MORE, "Models compared",
        "Samples of several models from the same noise, above real images, with the size and the validation loss of "
        "each. Look for errors of the weaker one: specks, broken strokes, classes that look the same."),
    "fid": Caption(MEASURED, "Distance to the training images over the steps",
        "Distance between the features of samples and those of the training images. It should fall; lower is better. "
        "The line below the curve names the features."),
    "steps": Caption(MEASURED, "Quality against the number of steps",
        "Frechet distance (lower is better) and accuracy of samples that were drawn in few steps, by several samplers."),
    "bits_per_dim": Caption(MEASURED, "Bits per dimension by timestep",
        "What each timestep adds to the variational bound. The smallest t, which code the finest detail, add most."),
}
# The same names in a run on points of the plane mean something else.
POINTS = {
    "samples": Caption(SAMPLES, "Samples and true density",
        "Points drawn from the model, over the true density. Look for points where there should be none, and for gaps."),
    "data": Caption(SAMPLES, "The training data", "Points drawn from the true distribution."),
    "forward_process": Caption(NOISE, "Forward process",
        "Data points on their way to noise. At the end they should be a round standard Gaussian."),
    "backward_process": Caption(NOISE, "Backward process", "Noise on its way to the data, step by step."),
}
# fmt: on
POINT_DATA = (
    "tg",
    "cb",
    "two_gaussians",
    "chequerboard",
)  # points.DISTRIBUTIONS, by name: a page is made without torch


def caption(name: str, points: bool = False) -> Caption:
    """The caption of a figure by its file name; a name that is not in the table is its own title.

    `inpainting_2.png` has the caption of `inpainting.png`, and `bits_per_dim_epoch5.png` that of `bits_per_dim`.
    """
    key, rest = _key(name)
    known = (POINTS.get(key) if points else None) or CAPTIONS.get(key)
    if known is None:
        return Caption(MORE, name, "")
    return known._replace(title=f"{known.title} ({rest.replace('_', ' ')})") if rest else known


def in_order(names: Sequence[str]) -> list[str]:
    """File names in the order of the table; those that are not in it come last."""
    order = list(CAPTIONS)
    return sorted(names, key=lambda name: (order.index(key) if (key := _key(name)[0]) in order else len(order), name))


def _key(name: str) -> tuple[str, str]:
    """The entry of the table that a file name belongs to, and what the name has more; ("", name) if there is none."""
    stem = name.rpartition(".")[0] or name
    for key in CAPTIONS:
        if stem == key or stem.startswith(f"{key}_"):
            return key, stem[len(key) + 1 :]
    return "", name


MOST_COLUMNS = 20  # of a picture, unless the user asks for more
FEW = 10  # classes that a picture shows where there are more than MOST_COLUMNS


def shown_classes(n_classes: int, most: int | None = None) -> list[int]:
    """The classes that a picture shows, as indices: all of them, or else `most` that are spread evenly.

    most: None means all if there are at most 20, and 10 of more: a hundred columns cannot be read, and take long to draw.
    """
    if most is None:
        most = n_classes if n_classes <= MOST_COLUMNS else FEW
    n_shown = min(n_classes, most)
    return [i * n_classes // n_shown for i in range(n_shown)]
