"""Running sample.py in this process."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_script import run_here

import sample
from common.machine import pick_amp
from ddpm import DDPM
from training import checkpoint


def run_sample(file: Path, out: Path | None, more: str = "") -> int:
    """`python sample.py FILE --out OUT` and `more`; returns the exit status."""
    words = [str(file), "--device", "cpu", *(["--out", str(out)] if out else []), *more.split()]
    return run_here(sample, words)


def loaded(file: Path, raw: bool = False) -> DDPM:
    """The model as sample.py has it: in bfloat16 where this processor computes in it."""
    cpu = torch.device("cpu")
    return checkpoint.load_model(file, cpu, pick_amp("auto", cpu), raw)[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
