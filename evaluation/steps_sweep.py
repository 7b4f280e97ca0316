"""Quality against the number of steps: samplers and placements of their steps, side by side."""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

from matplotlib.ticker import PercentFormatter

from common.console import CallError
from common.files import free_names, write_csv
from datasets.image_set import ImageSet
from ddpm import DDPM
from diffusion.fitted_times import fitted_times
from diffusion.samplers import SAMPLERS
from diffusion.schedules import PLACEMENTS
from evaluation.measure import start_comparison
from evaluation.reference import draw_samples
from figures.curves import new_figure, plain_axes, write_figure

COLOURS = ("#1f5fa8", "#d1495b", "#35a06b", "#b8860b", "#7b4fa0", "#444444")


class Way(NamedTuple):
    """A sampler and the placement of its steps."""

    sampler: str
    placement: str

    def __str__(self) -> str:
        return self.sampler if self.placement == "uniform" else f"{self.sampler}:{self.placement}"


def as_way(text: str) -> Way:
    """An argparse type: 'ddim' or 'ddim:fitted'."""
    sampler, _, placement = text.partition(":")
    placement = placement or "uniform"
    if sampler not in SAMPLERS or placement not in PLACEMENTS:
        names = f"one of {', '.join(SAMPLERS)}, with a placement or without, such as ddpm:fitted"
        raise argparse.ArgumentTypeError(f"{text!r} is not {names} ({', '.join(PLACEMENTS)})")
    return Way(sampler, placement)


def measure_steps(
    ddpm: DDPM, n_classes: int, train_set: ImageSet, test_set: ImageSet, args: argparse.Namespace, about: dict[str, Any]
) -> None:
    """For each number of steps and each sampler: the Frechet distance at w = 0 and the classifier's accuracy at w = 1.

    They go into steps_<model>.csv and .png, written anew after each row. All T steps are taken by Algorithm 2 alone.
    """
    T = ddpm.n_timesteps
    numbers = sorted(set(args.steps_sweep))
    ways = args.samplers or [Way("ddpm", "uniform"), Way("ddpm", "fitted"), Way("sde-dpm++2m", "fitted")]
    few = [n for n in numbers if n < T]
    if numbers[-1] > T:
        raise CallError(f"--steps_sweep {numbers[-1]}: the model has {T} steps")
    if not n_classes:
        raise CallError("--steps_sweep measures the accuracy of classes, but the model has none")
    n_samples = args.n_samples or 30
    about = {**about, "sampler": f"several, 1 to {T} of {T} steps, seed {args.seed}"}
    reference, record = start_comparison(train_set, test_set, n_samples * n_classes, args, about)
    real = record.entry["results"][0] if record.entry["results"] else None
    fitted = any(way.placement == "fitted" for way in ways)
    fits = fitted_times(ddpm, few) if fitted and few else {}
    jobs = [(n, way) for n in few for way in ways] + [(T, Way("ddpm", "uniform"))] * (T in numbers)
    rows: list[dict[str, Any]] = []
    with free_names(args.out, f"steps_{args.source.stem}", (".png", ".csv")) as paths:
        for n, way in jobs:
            sampler = ddpm.respaced(fits[n] if n < T and way.placement == "fitted" else n, way.sampler, way.placement)
            row: dict[str, Any] = {"sampler": str(way), "steps": n}
            for w, wanted in ((0, "frechet_distance"), (1, "judge_accuracy")):
                began = time.perf_counter()
                images, labels = draw_samples(sampler, n_classes, n_samples, w, args.seed)
                row[f"seconds_w{w}"] = round(time.perf_counter() - began, 1)
                about_row = {"sampler": str(way), "steps": n, "guidance_weight": w}
                result = reference.compare(f"{way} in {n} steps", images, labels, **about_row)
                record.add(result)
                row[f"{wanted}_w{w}"] = result[wanted]
            rows.append(row)
            write_csv(paths[1], rows)
            title = f"{args.source.name}: {n_samples * n_classes:,} samples in few steps"
            steps_figure(paths[0], rows, real, title)
    print(paths[0], flush=True)


def steps_figure(path: Any, rows: list[dict[str, Any]], real: dict[str, Any] | None, title: str) -> None:
    """Write quality against steps: a line for each sampler, dashed lines for all steps and for real test images."""
    figure = new_figure(11, 4.4)
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    for axes, key, label, of_real in (
        (panels[0], "frechet_distance_w0", "Frechet distance at w = 0 (lower is better)", "frechet_distance"),
        (panels[1], "judge_accuracy_w1", "classifier's accuracy at w = 1 (higher is better)", "judge_accuracy"),
    ):
        for name, colour in zip(names, COLOURS * len(names)):
            points = [(row["steps"], row[key]) for row in rows if row["sampler"] == name]
            axes.plot(*zip(*points), marker="o", markersize=4, linewidth=1.4, color=colour, label=name)
        if real:
            axes.axhline(real[of_real], linestyle=":", color="#888888", label="real test images")
        axes.set_xscale("log")
        ticks = sorted({row["steps"] for row in rows})
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_xlabel("steps")
        axes.set_title(label, fontsize=11)
        plain_axes(axes)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    write_figure(path, figure)
