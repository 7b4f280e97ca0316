"""The figures of an unconditional run that is counted in steps: samples, the two processes, and quality over time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import torch

from cli import command_line, device_name
from figures import process_figures
from measurements import Record, read_list, reverse_steps
from reference import Reference, draw_samples
from utils import new_figure, plain_axes, plot_animation, plot_image, write_figure

if TYPE_CHECKING:
    from trainer import Trainer

N_MEASURED = 1_000  # samples that --fid compares with the training images
N_PROCESS = 8  # images in the figures of the forward and the backward process


def draw_animal_run(run: Trainer, reference: Reference | None = None) -> None:
    """samples_step{S}.png, forward_process.png, backward_process.png and the model; at the end a GIF of the samples.
    With a reference also a row of metrics.json and fid.png.

    The noise is that of the run's seed at every moment: differences between pictures are differences of models.
    """
    final, seed = run.step == run.last_step, run.seed_for_pictures()
    generator = torch.Generator(run.device).manual_seed(seed)
    progress = lambda what: lambda t: run.sampling_progress(what, t)  # noqa: E731
    y_0, y_steps = run.averaged.sample(run.args.n_samples, classes=None, generator=generator, record=final,
                                       progress=progress("samples"))  # fmt: skip
    plot_image(run.log_dir / f"samples_{run.tail()}.png", y_0, title=f"{run.mark()}, samples")
    if final:
        plot_animation(run.log_dir / f"animation_{run.tail()}.gif", y_steps, run.averaged.recorded_times(),
                       math.ceil(math.sqrt(len(y_0))))  # fmt: skip
    images, _ = run.train_set.batch(run.order_of_epoch(0)[:N_PROCESS])  # the first of the first training batch
    process_figures(run.log_dir, run.averaged, images, seed, progress=progress("processes"))
    if reference is not None:
        measure(run, reference)
    run.save_model()  # last: a run that was stopped before makes all of these again


def measure(run: Trainer, reference: Reference) -> None:
    """Compare samples with the training images, add that to metrics.json, and plot all that stands there as fid.png."""
    seed = run.seed_for_pictures()
    images, _ = draw_samples(run.averaged, 0, N_MEASURED, 0, seed, watch=lambda t: run.heed_signals())
    file = run.log_dir / "metrics.json"
    about = {
        "command": command_line(),
        "device": device_name(run.device),
        "model": run.model_path().name,
        "weights": "moving average" if run.average else "raw",
        "sampler": f"ddpm, {run.ddpm.n_timesteps} steps, seed {run.args.seed}, {reverse_steps(run.ddpm)}",
    }
    record = Record(file, **about, measured="samples", judge_accuracy_on_real_test_images=reference.judge_accuracy)
    measured = reference.compare("samples", images, None, step=run.step)
    record.add(measured)
    rows = [row for entry in read_list(file) for row in entry["results"] if "step" in row]
    rows = [row for row in rows if row["features"] == measured["features"]]  # others are of an earlier judge
    plot_distances(run.log_dir / "fid.png", sorted(rows, key=lambda row: row["step"]))


def plot_distances(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Distance over steps: the FID if every row has one, or else the Frechet distance in the features that it names."""
    official = all("fid" in row for row in rows)
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    values = [row["fid" if official else "frechet_distance"] for row in rows]
    axes.plot([row["step"] for row in rows], values, marker="o", markersize=4, linewidth=1.6, color="#1f5fa8")
    axes.set_title(f"{'FID' if official else 'Frechet distance'} of {rows[-1]['n_images']:,} samples", fontsize=11)
    features = "Inception v3" if official else rows[-1]["features"]
    figure.text(0.5, 0.02, f"features: {features}", ha="center", fontsize=8, style="italic", color="#666666")
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0)
    plain_axes(axes)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    write_figure(path, figure)
