"""What is measured of points in the plane: how far samples are from the data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

import torch

from common.machine import command_line, device_name
from datasets.points import Chequerboard, energy_distance
from ddpm import DDPM
from evaluation.record import Record, reverse_steps
from figures.points import Distribution
from training.trainer import Trainer

Measured = Dict[str, float]  # of samples, by the names of metrics.json


def measure(samples: torch.Tensor, distribution: Distribution, seed: int) -> Measured:
    """The distance of points [N, 2] to as many fresh points of the data, and the share on permitted squares."""
    fresh = distribution.sample(len(samples), torch.Generator().manual_seed(seed + 1))
    result: Measured = {"n_points": len(samples)}
    if isinstance(distribution, Chequerboard):
        result["on_permitted_squares"] = distribution.permitted(samples).double().mean().item()
    return {**result, "energy_distance": energy_distance(samples, fresh)}


def write_measured(
    log_dir: Path, run: Trainer, sampler: DDPM, network: str, measured: Measured, of_data: Measured | None = None
) -> None:
    """Add a row for samples of a run to metrics.json in log_dir, and one for true points, to compare it with.

    sampler: the model as it samples. measured, of_data: the results of `measure` for the samples and for true points.
    """
    model = os.path.relpath(run.model_path(), log_dir)
    about = {"command": command_line(), "device": device_name(run.device), "model": model}
    how = f"{sampler.sampler}, {sampler.n_timesteps} steps, {reverse_steps(sampler)}"
    record = Record(log_dir / "metrics.json", **about, measured="points", sampler=how)
    record.add({"points": f"{network} network", "step": run.step, **measured})
    if of_data is not None:
        record.add({"points": "the data themselves", "step": run.step, **of_data})


def in_words(measured: Measured) -> str:
    share = measured.get("on_permitted_squares")
    return (f"{share:.1%} on permitted squares, " if share is not None else "") + (
        f"energy distance {measured['energy_distance']:.1e}"
    )
