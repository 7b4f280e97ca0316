"""How fast is the suite, beside the same network in a plain loop and beside two libraries for diffusion models?

    python benchmark.py                                     # plain loop and suite; the libraries if they are installed
    python benchmark.py --rounds 5 --threads 1 --json speed.json
    python benchmark.py --table speed.json                  # the table again, from the file
    python benchmark.py --growth growth.png                 # the suite alone: more images, larger ones, more steps

plain       the exercise's template. Training: eager, float32, contiguous memory layout.
            Sampling: both halves of the guidance at any w, and a copy to the CPU after every step.
suite       the trainer of train_mnist.py, with all that surrounds a step, and DDPM.sample
diffusers   UNet2DModel and DDPMScheduler (pip install -r requirements-bench.txt)
lucidrains  Unet and GaussianDiffusion of denoising-diffusion-pytorch, without classes (from the same file)

Suite and plain have the network of train_mnist.py, the libraries one of about its size. The images are noise, T is 400, w
is 0. All take turns in one process, with the suite's setting of the allocator, so that a machine whose speed changes is
fair to each. Shown are medians over the rounds; a ratio is the median of the ratios within the rounds. On one CPU thread,
times are the CPU time of the process, which other processes disturb least.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import ctypes
import functools
import json
import math
import os
import re
import tempfile
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.console import ArgumentParser, CallError, RunError, as_path, at_least, run_script
from common.files import check_writable, write_json
from common.machine import device_name, keep_large_buffers, pick_amp, pick_device
from datasets.image_set import ImageSet
from ddpm import DDPM
from figures.growth import growth_lines, plot_growth
from networks.Conditional_UNet import UNet as Conditional_UNet
from reporting.speed import speed_table
from training.arguments import settings_of
from training.checkpoint import build
from training.class_conditional import spec_of, training_parser
from training.settings import About, Plan
from training.trainer import Trainer

N_SAMPLE = 4  # of each of 10 classes
T = 400
FACTORS = (1, 2, 4, 8, 16)  # of --growth: how many times as many images or steps
HEIGHTS = (16, 24, 32, 48, 64)  # of --growth: pixels
MATRIX = 2048  # rows and columns of the matrices whose product shows the machine's peak


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=at_least(1), default=10, help="measurements of each side (10)")
    add("--threads", type=at_least(1), help="CPU threads of torch (its default)")
    add("--json", type=as_path, metavar="FILE", help="also write everything that was measured to this file")
    add("--table", type=as_path, metavar="FILE", help="measure nothing; show the table of such a file")
    text = "draw how the time of the suite grows with the number of images, their size and the steps"
    add("--growth", type=as_path, metavar="FILE", help=text)
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--amp", choices=["off", "bf16", "auto"], default="auto", help="precision of all sides but `plain` (auto)")
    add("--batch_size", type=at_least(1), default=256, help="images in a training step (256)")
    add("--sampling_steps", type=at_least(1), default=20, help=f"steps of sampling, of {T} (20)")
    return parser


# ------------------------------------------------------------------------------------------------ the sides


class Side(NamedTuple):
    network: nn.Module
    forward: Callable[[], object]  # one pass of the network over the batch
    step: Callable[[], object]  # one training step
    sample: Callable[[], object]  # N_SAMPLE images of each class


PACKAGES = {"diffusers": "diffusers", "lucidrains": "denoising-diffusion-pytorch"}


def suite_trainer(args: argparse.Namespace, device: torch.device, log_dir: Path) -> Trainer:
    """The Trainer of train_mnist.py with its default settings, on noise instead of digits."""
    its_parser = training_parser(None, ["noise"], log_dir=log_dir, batch_size=args.batch_size)
    arguments = its_parser.parse_args([])
    spec = spec_of(its_parser, arguments)
    pictures = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8)
    noise = ImageSet(pictures, torch.arange(60_000) % 10, list("0123456789"), "noise").to(device)
    torch.manual_seed(0)
    ddpm = build(spec, device, pick_amp(args.amp, device))
    about = About(spec, arguments={}, defaults={}, expected="")
    trainer = Trainer(ddpm, noise, noise, settings_of(arguments), Plan("epoch", 20, 5), about, draw=lambda run: None)
    trainer.begin()
    trainer.prepare()
    return trainer


def bare_step(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A training step with nothing around it: forward, backward, Adam."""
    adam = torch.optim.Adam(network.parameters(), lr=3e-4)

    def step() -> None:
        network.train()
        adam.zero_grad()
        loss().backward()
        adam.step()

    return step


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


def diffusers_side(y: Tensor, amp: "torch.dtype | None", n_steps: int) -> Side:
    diffusers = import_module("diffusers")
    sizes: dict[str, Any] = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 1}
    sizes.update(block_out_channels=(32, 48, 48), norm_num_groups=8, num_class_embeds=11)  # 10 classes, and "no class"
    sizes.update(down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
    network = diffusers.UNet2DModel(**sizes).to(y.device)
    scheduler = diffusers.DDPMScheduler(T)
    labels = torch.arange(len(y), device=y.device) % 10

    def eps(x: Tensor, t: "Tensor | int", classes: Tensor) -> Tensor:
        with torch.autocast(x.device.type, amp or torch.bfloat16, enabled=amp is not None):
            return network(x, t, class_labels=classes).sample.float()

    def loss() -> Tensor:
        noise, t = torch.randn_like(y), torch.randint(0, T, labels.shape, device=y.device)
        classes = torch.where(torch.rand(labels.shape, device=y.device) < 0.1, 10, labels)
        return nn.functional.mse_loss(eps(scheduler.add_noise(y, noise, t), t, classes), noise)

    @torch.no_grad()
    def sample() -> Tensor:
        network.eval()
        scheduler.set_timesteps(n_steps)
        x = torch.randn(N_SAMPLE * 10, 1, 28, 28, device=y.device)
        classes = torch.arange(10, device=y.device).repeat(N_SAMPLE)
        for t in scheduler.timesteps:
            x = scheduler.step(eps(x, t, classes), t, x).prev_sample
        return x.cpu()

    return Side(network, lambda: eps(y, 1, labels), bare_step(network, loss), sample)


def lucidrains_side(y: Tensor, amp: "torch.dtype | None", n_steps: int) -> Side:
    library = import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    vars(library).update(tqdm=lambda times, **about: times)  # no progress bars
    network = library.Unet(dim=18, dim_mults=(1, 2, 3), channels=1)
    method = library.GaussianDiffusion(network, image_size=28, timesteps=T, sampling_timesteps=n_steps).to(y.device)
    autocast = torch.autocast(y.device.type, amp or torch.bfloat16, enabled=amp is not None)
    loss = autocast(lambda: method((y + 1) / 2))  # images in [0, 1]
    sample = autocast(lambda: method.eval().sample(10 * N_SAMPLE).cpu())
    t = torch.ones(len(y), device=y.device)
    return Side(network, lambda: network(y, t), bare_step(network, loss), sample)


def all_sides(trainer: Trainer, args: argparse.Namespace) -> "dict[str, Side]":
    y, c = trainer.train_set.batch(torch.arange(args.batch_size))
    suite, plain = trainer.ddpm, build(trainer.about.spec, y.device).to(memory_format=torch.contiguous_format)
    few, few_plain = (ddpm.respaced(args.sampling_steps) for ddpm in (suite, plain))

    def plain_loss() -> Tensor:
        t, noise, kept = plain.draw(y, c)
        return plain.training_losses(y, kept, t, noise).mean()

    step = bare_step(plain.nn_model, plain_loss)
    sides = {
        "plain": Side(plain.nn_model, lambda: plain.eps(y, T, c), step, lambda: plain_sampling(few_plain)),
        "suite": Side(suite.nn_model, lambda: suite.eps(y, T, c), trainer.train_step, lambda: few.sample(N_SAMPLE)),
    }
    for name, make in (("diffusers", diffusers_side), ("lucidrains", lucidrains_side)):
        try:
            sides[name] = make(y, suite.amp_dtype, args.sampling_steps)
        except ImportError as error:
            print(f"{name} is left out ({error}): pip install -r requirements-bench.txt", flush=True)
    return sides


# ------------------------------------------------------------------------------------------------ measuring


def seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long the second of two calls takes: the first one finds the caches of another side."""
    for _ in range(2):
        start = clock()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return clock() - start


def peak_memory(function: Callable[[], object], device: torch.device) -> "int | None":
    """Bytes that a second call needs at its peak, beyond what was in use before. None where the system does not tell."""
    function()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is kept from earlier calls goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size is forgotten
        before = resident("VmRSS")
        function()
        return resident("VmHWM") - before
    except (OSError, AttributeError, TypeError):
        return None


def resident(name: str) -> int:
    return 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def facts_of(name: str, side: Side, args: argparse.Namespace, device: torch.device) -> "dict[str, Any]":
    """What is the same in every round. FLOPs: of convolutions and matrix products, for one image; an addition is one."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        side.forward()
    dtype = (name != "plain" and pick_amp(args.amp, device)) or torch.float32
    return {
        "version": metadata.version(PACKAGES[name]) if name in PACKAGES else "",
        "dtype": str(dtype)[len("torch.") :],
        "parameters": sum(p.numel() for p in side.network.parameters()),
        "forward_flops": counter.get_total_flops() // args.batch_size,
        "peak_bytes": {"step": peak_memory(side.step, device), "sample": peak_memory(side.sample, device)},
    }


def prepare(args: argparse.Namespace) -> "tuple[torch.device, Callable[[], float], dict[str, Any]]":
    """The device, the clock, and what a file says of them."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    keep_large_buffers()  # for all sides: what one of them has freed is there for the next
    device = pick_device(args.device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    about = {"machine": f"{device_name(device)}, torch {torch.__version__}", "clock": "CPU time" if alone else "time"}
    return device, clock, about


def measure(args: argparse.Namespace, folder: Path) -> "dict[str, Any]":
    device, clock, about = prepare(args)
    sides = all_sides(suite_trainer(args, device, folder), args)
    facts = {name: facts_of(name, side, args, device) for name, side in sides.items()}
    load_now = getattr(os, "getloadavg", lambda: [math.nan])  # Windows has none
    loads, rounds = [load_now()[0]], []
    for _ in range(args.rounds):
        times = {
            name: {"step": seconds(side.step, clock), "sample": seconds(side.sample, clock)}
            for name, side in sides.items()
        }
        for dtype in {facts[name]["dtype"] for name in sides}:
            a = torch.randn(MATRIX, MATRIX, device=device).to(getattr(torch, dtype))
            times[dtype] = {"product": min(seconds(functools.partial(torch.mm, a, a), clock) for _ in range(3))}
        rounds.append(times)
        loads.append(load_now()[0])
    return {
        **about,
        "load": f"{min(loads):.1f} to {max(loads):.1f}",
        "matrix": MATRIX,
        "n_sampled": 10 * N_SAMPLE,
        "batch_size": args.batch_size,
        "sampling_steps": args.sampling_steps,
        "sides": facts,
        "seconds": rounds,
    }


def growth(args: argparse.Namespace) -> "dict[str, Any]":
    """Seconds of sampling and of training steps of the exercise's network, in each round, as one size grows."""
    device, clock, about = prepare(args)
    amp = pick_amp(args.amp, device)

    def model(height: int = 28) -> DDPM:
        return DDPM(Conditional_UNet(1, height=height), n_timesteps=T, device=device, amp_dtype=amp)

    def sampling(ddpm: DDPM, images: int, steps: int) -> Callable[[], object]:
        return lambda: ddpm.sample(images // 10, n_steps=steps)

    def training(ddpm: DDPM, images: int, height: int = 28) -> Callable[[], None]:
        y = torch.randn(images, 1, height, height, device=device)
        c = torch.eye(10, device=device)[torch.arange(images, device=device) % 10]
        return bare_step(ddpm.nn_model, lambda: ddpm(y, c))

    digits, scans = model(), {height: model(height) for height in HEIGHTS}
    n_steps = args.sampling_steps
    work: dict[str, dict[str, dict[int, Callable[[], object]]]] = {
        "images at once": {
            "sampling": {10 * k: sampling(digits, 10 * k, n_steps) for k in FACTORS},
            "training step": {10 * k: training(digits, 10 * k) for k in FACTORS},
        },
        "pixels of an image": {
            "sampling": {height**2: sampling(ddpm, 20, n_steps) for height, ddpm in scans.items()},
            "training step": {height**2: training(ddpm, 20, height) for height, ddpm in scans.items()},
        },
        "steps": {"sampling": {n_steps * k: sampling(digits, 20, n_steps * k) for k in FACTORS}},
    }
    found: dict[str, Any] = {
        axis: {what: {size: [] for size in calls} for what, calls in lines.items()} for axis, lines in work.items()
    }
    for _ in range(args.rounds):
        for axis, lines in work.items():
            for what, calls in lines.items():
                for size, call in calls.items():
                    found[axis][what][size].append(seconds(call, clock))
    return {**about, "sampling_steps": n_steps, "seconds": found}


def main() -> None:
    args = parser().parse_args()
    most = T // FACTORS[-1] if args.growth else T
    if args.sampling_steps > most:
        raise CallError(f"--sampling_steps must be at most {most}, not {args.sampling_steps}")
    if args.growth and args.growth.suffix != ".png":
        raise CallError(f"--growth writes a picture: its name must end in .png, not {args.growth}")
    if args.table:
        try:
            print(speed_table(json.loads(args.table.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise RunError(f"{args.table} is not a file of benchmark.py --json without --growth") from None
        return
    for file in filter(None, (args.json, args.growth)):
        check_writable(file)
    if args.growth:
        found = growth(args)
        print("\n".join(growth_lines(found)))
        if args.json:
            write_json(args.json, found)
        plot_growth(args.growth, found)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print(speed_table(found))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    run_script(main)
