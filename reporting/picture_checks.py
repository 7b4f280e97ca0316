"""The pictures of a log folder: are they there, do they show what they should, and do they fit one another?"""

from __future__ import annotations

import numpy as np

from common.files import finite
from reporting import known
from reporting.checks import Check, check_figure
from reporting.grids import ends_elsewhere, flat, read_images, title_of, what_is_wrong, wrong_images
from reporting.log_files import animation_name, grid_name
from reporting.run import Settings

POINT_FIGURES = ("samples.png", "forward_process.png", "backward_process.png", "vector_field.png")
ORDER = 1.25  # a grid may be at most this many times as far away as one that should be farther
IN_PLACE = 0.3  # share of the images that must be nearest to the image in the same place of another grid


def check_pictures(check: Check) -> None:
    """The figures, grids and animations that this kind of run should have written."""
    settings, finished = check.settings, check.finished
    check_figure(check, "loss.png")
    if settings.kind == "points":
        for name in POINT_FIGURES:
            check_figure(check, name)
    elif settings.kind == "steps":
        for name in ("forward_process.png", "backward_process.png"):
            check_figure(check, name)
        if settings.config["arguments"].get("fid"):
            check_figure(check, "fid.png")
    elif settings.kind == "prompts":
        for name in ("similarity.png", "forward_process.png", "backward_process.png"):
            check_figure(check, name)
        if finished:
            check_figure(check, "samples_unconditional.png")
    elif finished:
        for name in ("inpainting.png", "mixture.png")[: 2 if len(settings.class_names) > 1 else 1]:
            check_figure(check, name, "problem" if settings.dataset in ("mnist", "rendered") else "note")
        for name in ("data.png", "forward_process.png", "backward_process.png"):
            check_figure(check, name, "note")
    if settings.kind != "points":
        _check_samples(check)


def _check_samples(check: Check) -> None:
    settings = check.settings
    for mark in settings.due(min(check.done, settings.last)):
        final = mark == settings.last
        animated = final or (settings.labelled and mark % settings.animate_every == 0)
        # What a continued run drew before it was continued may have been asked for with other arguments.
        row = check.rows[mark - 1] if mark <= len(check.rows) else {}
        steps = mark if settings.unit == "step" else int(finite(row.get("step")) or 0)
        level = "note" if steps <= settings.resumed_at and not final else "problem"
        for w in settings.g_weights or (None,):
            name = grid_name(settings.unit, mark, w)
            title = f"{settings.unit} {mark}, " + ("samples" if w is None else f"guidance weight {w:g}")
            if check.there(name, level):
                _check_grid(check, name, level, title)
            if animated:
                gif = animation_name(settings.unit, mark, w)
                if check.there(gif, level):
                    _check_animation(check, gif, check.generated.get(name), level)


def _check_grid(check: Check, name: str, level: str, title: str) -> None:
    """One grid, which says of itself in its metadata that it has this title."""
    picture = check.use(check.folder.picture, name)
    if picture is None:
        return
    settings, grid = check.settings, check.settings.grid()
    groups = what_is_wrong(picture.pixels) or read_images(picture.pixels, picture.geometry, grid)
    if isinstance(groups, str):
        check.say(level, name, groups)
        return
    generated, own = _only_samples(groups[0], settings).copy(), groups[1].copy() if len(groups) > 1 else None
    wrong = wrong_images(generated, own)
    if wrong is None and title_of(picture.geometry) not in (None, title):
        wrong = "was drawn as another picture: its metadata name another epoch, step or guidance weight"
    same = [other for other, images in check.generated.items() if np.array_equal(images, generated)]
    if wrong is None and same:
        wrong = f"shows the same generated images as {same[0]}"
    if wrong is None and own is not None:
        if check.real is not None and not np.array_equal(own, check.real[1]):
            wrong = f"shows other real images than {check.real[0]}"
        wrong = wrong or known.what_is_wrong(settings, own, generated)
        check.real = check.real or (name, own)
    check.generated[name] = generated
    check.remember(name, generated.tobytes())
    shown = " and ".join(f"{n} rows of {kind}" for n, kind in zip(grid.rows, ("generated", "real"))) + " images"
    check.say(level if wrong else "ok", name, wrong or shown)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Median over the images of the mean difference of two grids of the same noise, in grey levels of 255."""
    if one.shape != other.shape:
        return np.inf
    return float(np.median(np.abs(flat(one) - flat(other)).mean(axis=(1, 2))))


def _check_animation(check: Check, name: str, generated: np.ndarray | None, level: str) -> None:
    animation = check.use(check.folder.animation, name)
    if animation is None:
        return
    grid = check.settings.grid()
    grid = grid._replace(rows=grid.rows[:1])
    first, last = (read_images(x, animation.geometry, grid, animated=True) for x in (animation.first, animation.last))
    wrong: str | None = None
    if animation.n_frames < 2:
        wrong = "does not move: it has one frame"
    elif not animation.moves:
        wrong = f"does not move: its {animation.n_frames} frames are the same"
    elif isinstance(first, str) or isinstance(last, str):
        wrong = str(last)
    else:
        start, end = (_only_samples(groups[0], check.settings) for groups in (first, last))
        wrong = ends_elsewhere(end, generated) if generated is not None else None
        if wrong is None and ends_elsewhere(end, start) is None:
            wrong = "hardly moves: its first frame shows the images of its last"
    check.say(level if wrong else "ok", name, wrong or f"{animation.n_frames} frames, from noise to the grid's images")


def _only_samples(images: np.ndarray, settings: Settings) -> np.ndarray:
    """uint8 [rows, columns, H, W, 3] without the blanks that fill up the last row of a run without classes."""
    return images if settings.labelled else images.reshape(-1, 1, *images.shape[2:])[: settings.n_samples]


# ------------------------------------------------------------------------------------------------ grids of the same noise


def check_drift(check: Check) -> None:
    """Every epoch and guidance weight starts from the same noise. So the grids change smoothly with both."""
    settings = check.settings
    marks = settings.due(min(check.done, settings.last))
    weights: list[float | None] = sorted(settings.g_weights) or [None]  # type: ignore[assignment]

    def images(mark: int, w: float | None) -> np.ndarray | None:
        return check.generated.get(grid_name(settings.unit, mark, w))

    for mark in marks:  # the first weight against larger and larger ones
        names = [grid_name(settings.unit, mark, w) for w in weights]
        _check_order(check, [name for name in names if name in check.generated], "guidance weights")
    for w in weights if not settings.resumed_at else []:  # a continued run may have had other settings before
        names = [grid_name(settings.unit, mark, w) for mark in reversed(marks)]
        _check_order(check, [name for name in names if name in check.generated], f"{settings.unit}s")


def _check_order(check: Check, names: list[str], what: str) -> None:
    """The distance of each grid from the first should rise from name to name."""
    if len(names) < 2:
        return
    first, *others = (check.generated[name] for name in names)
    far = [distance(first, other) for other in others]
    for i, (near, farther) in enumerate(zip(far, far[1:])):
        if near > ORDER * farther:
            text = f"and {names[i + 2]} are not in the order of their {what}: they differ from {names[0]} by {near:.1f} and "
            check.say("problem", names[i + 1], f"{text}{farther:.1f} grey levels, but the second should differ more")
    for name, other in zip(names[1:], others):
        rows, columns = other.shape[:2]
        if columns > 3 and first.shape == other.shape:
            a, b = (flat(x).reshape(rows, columns, -1) for x in (first, other))
            place = np.abs(a[:, :, None] - b[:, None]).mean(axis=3).argmin(axis=2)  # [rows, columns]
            if (place == np.arange(columns)).mean() < IN_PLACE:
                check.say(
                    "problem",
                    name,
                    f"has its images in other columns than {names[0]}, though both start from the same noise",
                )
