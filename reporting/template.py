"""Checks of a log folder that the exercise's own script wrote: generated_images_epoch6_guidance_weight1.0.png and so on."""

from __future__ import annotations

import re

from reporting.checks import Check, check_figure
from reporting.log_files import MODEL

PICTURES = re.compile(r"generated_(images|gif)_epoch(\d+)_guidance_weight(-?[\d.]+)\.(png|gif)")


def is_template(check: Check) -> bool:
    """Does the folder hold pictures of the template, and nothing that says what the run was?

    Models may have our names, which are the obvious ones, if there is a GIF of the template's.
    """
    files = check.folder.files
    if {"config.json", "metrics.csv"} & files.keys():
        return False
    kinds = {match[1] for match in map(PICTURES.fullmatch, files) if match}
    return "gif" in kinds or ("images" in kinds and not any(MODEL.fullmatch(name) for name in files))


def check_template(check: Check) -> None:
    """What can be checked: pictures decode and show something, GIFs move, each grid has its GIF, there is a loss curve."""
    files = sorted(check.folder.files)
    found = [match for match in map(PICTURES.fullmatch, files) if match]
    epochs = sorted({int(match[2]) for match in found})
    text = (
        "not written by this suite, but as the exercise's template does: settings, metrics and models are not checked"
    )
    check.say("note", "the folder", f"{text}. Pictures of epochs {', '.join(map(str, epochs))}")
    for name in files:
        if name.endswith(".png"):
            check_figure(check, name)
        elif name.endswith(".gif"):
            animation = check.use(check.folder.animation, name)
            if animation is not None:
                moves = animation.n_frames > 1 and animation.moves
                check.say(
                    "ok" if moves else "problem", name, f"{animation.n_frames} frames" if moves else "does not move"
                )
        elif name.endswith((".pt", ".pth")):
            check.say("note", name, "a model of another format, which was not opened")
    for match in found:
        if match[1] == "images":
            check.there(f"generated_gif_epoch{match[2]}_guidance_weight{match[3]}.gif")
    if not any("loss" in name.lower() and name.endswith(".png") for name in files):
        check.say("problem", "the loss curve", "is missing: no picture has loss in its name")
