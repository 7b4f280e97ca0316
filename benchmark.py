"""How fast is the suite, compared with the same network in a plain training and sampling loop?

    python benchmark.py                                  # about 5 minutes on 2 CPU cores
    python benchmark.py --rounds 5 --threads 1 --json speed.json

Plain is the exercise's template. Training: eager, float32, contiguous memory layout, the system's own allocator, always
the same batch. Sampling: both halves of the guidance at any w, and a copy to the CPU after every step. The network is
that of train_mnist.py, the images are noise. All variants take turns in one process, so that a machine whose speed
changes is fair to each. Printed are medians over the rounds; a ratio is the median of the ratios within the rounds.
"""

from __future__ import annotations

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from common.console import ArgumentParser, as_path, at_least, run_script
from common.files import write_json
from common.machine import device_name, keep_large_buffers, pick_amp, pick_device
from datasets.image_set import ImageSet
from ddpm import DDPM
from training.arguments import settings_of
from training.checkpoint import build
from training.class_conditional import spec_of, training_parser
from training.settings import About, Plan
from training.trainer import Trainer

N_SAMPLE = 4  # of each of 10 classes


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=at_least(1), default=10, help="measurements of each variant (10)")
    add("--threads", type=at_least(1), help="CPU threads of torch (its default)")
    add("--json", type=as_path, metavar="FILE", help="also write every measured time to this file")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--amp", choices=["off", "bf16", "auto"], default="auto", help="precision of the suite (auto)")
    add("--batch_size", type=at_least(1), default=256, help="images in a training step (256)")
    add("--sampling_steps", type=at_least(1), default=20, help="steps measured of the 400 of sampling (20)")
    return parser


def suite_trainer(args: argparse.Namespace, device: torch.device, log_dir: Path) -> Trainer:
    """The Trainer of train_mnist.py with its default settings, on noise instead of digits."""
    its_parser = training_parser(None, ["noise"], log_dir=log_dir, batch_size=args.batch_size)
    arguments = its_parser.parse_args([])
    spec = spec_of(its_parser, arguments)
    noise = ImageSet(
        torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8),
        torch.arange(60_000) % 10,
        [str(k) for k in range(10)],
        "noise",
    ).to(device)
    torch.manual_seed(0)
    ddpm = build(spec, device, pick_amp(args.amp, device))
    about = About(spec, arguments={}, defaults={}, expected="")
    trainer = Trainer(ddpm, noise, noise, settings_of(arguments), Plan("epoch", 20, 5), about, draw=lambda run: None)
    trainer.begin()
    trainer.prepare()
    return trainer


def bare_step(
    losses: Callable[..., Tensor], ddpm: DDPM, adam: torch.optim.Adam, batch: tuple[Tensor, Tensor | None]
) -> None:
    """A training step with nothing around it: forward, backward, Adam."""
    t, noise, c = ddpm.train().draw(*batch)
    adam.zero_grad()
    losses(batch[0], c, t, noise).mean().backward()
    adam.step()


@torch.no_grad()
def plain_sampling(ddpm: DDPM) -> None:
    """Algorithm 2 as in the template, at w = 0."""
    ddpm.eval()
    x, w = torch.randn(N_SAMPLE * 10, 1, 28, 28, device=ddpm.device), 0
    c = torch.eye(10, device=ddpm.device).repeat(N_SAMPLE, 1)
    for t in range(ddpm.n_timesteps, 0, -1):
        time_ = torch.full((2 * len(x), 1, 1, 1), t / ddpm.n_timesteps, device=ddpm.device)
        eps_c, eps_0 = ddpm.nn_model(torch.cat([x, x]), time_, torch.cat([c, torch.zeros_like(c)])).chunk(2)
        eps = (1 + w) * eps_c - w * eps_0
        alpha, alpha_bar = ddpm.alpha_t[t], ddpm.alpha_bar_t[t]
        x = (x - (1 - alpha) / (1 - alpha_bar).sqrt() * eps) / alpha.sqrt() + (1 - alpha).sqrt() * torch.randn_like(x)
        x.cpu()


def seconds(function: Callable[[], object], device: torch.device, plain: bool) -> float:
    """How long the second of two calls takes: the first one finds the buffers of another variant."""
    keep_large_buffers(not plain)
    for _ in range(2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = suite_trainer(args, device, Path(folder))
        suite, plain = trainer.ddpm, build(trainer.about.spec, device)
        plain.to(memory_format=torch.contiguous_format)
        machine = f"{device_name(device)}, torch {torch.__version__}, suite in {suite.amp_dtype or torch.float32}"
        print(machine, flush=True)
        batch = trainer.train_set.batch(torch.arange(args.batch_size))
        adam = torch.optim.Adam(plain.parameters(), lr=3e-4)
        few, few_plain = (ddpm.respaced(args.sampling_steps) for ddpm in (suite, plain))
        variants: dict[str, Callable[[], object]] = {
            "plain step": lambda: bare_step(plain.training_losses, plain, adam, batch),
            "suite step": trainer.train_step,
            "suite bare step": lambda: bare_step(trainer.training_losses, suite, trainer.optimizer, batch),
            "plain sampling": lambda: plain_sampling(few_plain),
            "suite sampling": lambda: few.sample(N_SAMPLE),
        }
        rounds = [{k: seconds(f, device, "plain" in k) for k, f in variants.items()} for _ in range(args.rounds)]

    def median(name: str, per: str = "") -> float:
        return statistics.median(times[name] / (times[per] if per else 1) for times in rounds)

    sampled = N_SAMPLE * 10 * args.sampling_steps / suite.n_timesteps  # whole samples in that time
    print(f"{'':<22}{'plain':>10}{'suite':>10}{'ratio':>10}")
    for what, kind, n in (("training, images/s", "step", args.batch_size), ("samples/s, w = 0", "sampling", sampled)):
        rates = "".join(f"{n / median(f'{side} {kind}'):10.3g}" for side in ("plain", "suite"))
        print(f"{what:<22}{rates}{median(f'plain {kind}', f'suite {kind}'):10.2f}")
    around = median("suite step", "suite bare step") - 1
    print(f"data, moving average and metrics add {around:+.1%} to the suite's bare step")
    if args.json:
        write_json(args.json, {"machine": machine, "arguments": vars(args), "seconds": rounds})


if __name__ == "__main__":
    run_script(main)
