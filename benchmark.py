"""How fast is the suite, against the same network used plainly?

    python benchmark.py            # about 5 minutes on 2 CPU cores

Plain training step: eager, float32, contiguous layout, the system's own allocator, a fixed batch. Plain sampling: the exercise template's loop, with the
doubled batch at any w and a copy to the CPU in every step. Suite and plain take turns, so that a machine whose speed
drifts is fair to both; medians are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import torch

from common.console import at_least, run_script
from common.machine import device_name, keep_large_buffers, pick_amp, pick_device
from datasets.image_set import ImageSet
from ddpm import DDPM
from training.checkpoint import build
from training.class_conditional import training_parser
from training.log_folder import LogFolder
from training.trainer import Trainer


def seconds(function: Callable[[], object], device: torch.device, plain: bool = False) -> float:
    """How long a call takes. plain: with the allocator as it is for somebody who does nothing about it."""
    keep_large_buffers(not plain)
    function()  # not counted: the first call after the other one finds other buffers
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def plain_step(ddpm: DDPM, y: torch.Tensor, c: torch.Tensor) -> Callable[[], None]:
    """A training step as the exercise's template has it, on one batch."""
    optimizer = torch.optim.Adam(ddpm.parameters(), lr=3e-4)

    def step() -> None:
        loss = ddpm.train()(y, c)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bare_step(trainer: Trainer, y: torch.Tensor, c: torch.Tensor) -> Callable[[], None]:
    """The suite's training step without all that surrounds it: one batch, no moving average, no metrics."""
    t, noise, c = trainer.ddpm.draw(y, c)

    def step() -> None:
        losses = trainer.training_losses(y, c, t, noise)
        trainer.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        trainer.optimizer.step()

    return step


@torch.no_grad()
def plain_sample(ddpm: DDPM, n: int, n_steps: int) -> None:
    """The first n_steps of the template's loop at w = 0: both halves computed, every picture copied to the CPU."""
    ddpm.eval()
    x = torch.randn(n * 10, *ddpm.nn_model.size, device=ddpm.device)
    c = torch.eye(10, device=ddpm.device).repeat(n, 1)
    both, pictures, w = torch.cat([c, torch.zeros_like(c)]), [], 0
    for t in range(ddpm.n_timesteps, ddpm.n_timesteps - n_steps, -1):
        time_ = torch.full((2 * len(x), 1, 1, 1), t / ddpm.n_timesteps, device=ddpm.device)
        eps_c, eps_0 = ddpm.nn_model(torch.cat([x, x]), time_, both).chunk(2)
        eps = (1 + w) * eps_c - w * eps_0
        x = ddpm.one_over_sqrt_alpha_t[t] * (x - ddpm.one_minus_alpha_t_over_sqrt_1_minus_alpha_bar_t[t] * eps)
        x = x + ddpm.sqrt_beta_t[t] * torch.randn_like(x)
        pictures.append(x.cpu())


class Enough(Exception):
    """Ends the suite's sampling after so many steps."""


def suite_sample(ddpm: DDPM, n: int, n_steps: int) -> None:
    """The first n_steps of DDPM.sample at w = 0."""

    def progress(t: int) -> None:
        if t <= ddpm.n_timesteps - n_steps + 1:
            raise Enough

    with contextlib.suppress(Enough):
        ddpm.sample(n, progress=progress)


def show(what: str, plain: list[float], suite: list[float], unit: Callable[[float], str]) -> None:
    """One line: the medians of both, and the median of the ratios of pairs."""
    ratio = statistics.median(p / s for p, s in zip(plain, suite))
    print(f"{what}: plain {unit(statistics.median(plain))}, suite {unit(statistics.median(suite))}, ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=["off", "bf16", "auto"], default="auto")
    parser.add_argument("--compile", choices=["off", "on", "auto"], default="auto")
    parser.add_argument("--rounds", type=at_least(1), default=10, help="measurements of each kind (10)")
    args = parser.parse_args()
    device = pick_device(args.device)

    spec = {"network": "conditional_unet", "network_arguments": {"in_channels": 1, "height": 28}, "ddpm": {}}
    torch.manual_seed(0)
    plain = build(spec, device)
    plain.to(memory_format=torch.contiguous_format)
    suite = build(spec, device, pick_amp(args.amp, device))
    suite.nn_model.load_state_dict(plain.nn_model.state_dict())
    precision = "bf16" if suite.amp_dtype else "float32"
    print(f"{device_name(device)}, torch {torch.__version__}, suite in {precision}, compile {args.compile}", flush=True)

    images = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8)
    train_set = ImageSet(images, torch.arange(60_000) % 10, [str(k) for k in range(10)], "noise")
    with tempfile.TemporaryDirectory() as folder:
        words = ["--log_dir", folder, "--device", args.device, "--compile", args.compile]
        arguments = training_parser(None, ["noise"]).parse_args(words)
        trainer = Trainer(suite, spec, train_set, train_set, arguments, {}, "", draw=lambda run: None)
        trainer.folder = LogFolder(Path(folder), resume=False)
        trainer.compile_losses()
        y, c = trainer.train_set.batch(torch.arange(256))
        plain_trained, bare = plain_step(plain, y, c), bare_step(trainer, y, c)
        times = [
            [seconds(plain_trained, device, plain=True), seconds(trainer.train_step, device), seconds(bare, device)]
            for _ in range(args.rounds)
        ]
        plain_times, suite_times, bare_times = zip(*times)
        show("training, batch 256", plain_times, suite_times, lambda s: f"{256 / s:.0f} images/s")
        overhead = statistics.median(a / b for a, b in zip(suite_times, bare_times)) - 1
        print(f"everything around the bare step (data, moving average, metrics): {overhead:+.1%}", flush=True)

    steps = 20
    times = [
        [
            seconds(lambda: plain_sample(plain, 4, steps), device, plain=True),
            seconds(lambda: suite_sample(suite, 4, steps), device),
        ]
        for _ in range(args.rounds)
    ]
    show("sampling 40 images, w = 0, T = 400", *zip(*times), lambda s: f"{s * 400 / steps:.0f} s")
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB")


if __name__ == "__main__":
    run_script(main)
