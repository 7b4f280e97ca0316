"""Train a DDPM on points of the plane whose density is known, and fill a log folder.

    python train_toy.py                                  # the sheet: two Gaussians, its network, T = 1000; log/log_toy_tg
    python train_toy.py --data cb                        # its chequerboard of 3 x 3
    python train_toy.py --recipe sharp                   # a better network, schedule and sampler on a 4 x 4 chequerboard
    python train_toy.py --recipe sharp --data two_gaussians
    python train_toy.py --recipe sharp --network all     # the three networks, and networks.png to compare them
    python train_toy.py --recipe sharp --resume          # the same command after an interruption

`--recipe` chooses the defaults of all other options. `sheet`: what the sheet says, sigma^2 = beta, a linear schedule, the
plain network, no clipping, no moving average, one pass over ten million points. `sharp`: what we found to be better.
`--network plain` is the exercise's network; `residual` and `fourier` are answers to its question how the architecture
can improve the fit (see networks/fc.py). With `all` the first of them, fourier, is trained in the log folder itself, the
others in network_plain and network_residual inside it.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
from common.console import listen

if __name__ == "__main__":
    listen()  # before the imports that take seconds

import argparse
import functools
from pathlib import Path
from typing import Callable

import torch

from common.console import ArgumentParser, HelpFormatter, as_path, at_least, in_range, number, run_script
from datasets.points import DISTRIBUTIONS, PointSet
from ddpm import DDPM
from diffusion.likelihood import VARIANCES
from evaluation.points import in_words, measure, write_measured
from figures.points import N_SAMPLES, Distribution, plot_field, plot_processes, plot_samples
from networks import count_parameters
from reporting.page import write_report
from training import processes
from training.arguments import (
    about,
    add_method_arguments,
    add_running_arguments,
    add_sampler_arguments,
    new_model,
    process_of,
    refuse_useless,
    sampler_as_asked,
    settings_of,
)
from training.losses import VALIDATION_IMAGES
from training.settings import Plan
from training.trainer import Trainer

NETWORKS = ("fourier", "residual", "plain")  # the first is trained in the log folder itself
NETWORK_OPTIONS = {  # of those that not all of them have
    "plain": (),
    "residual": ("n_blocks",),
    "fourier": ("n_blocks", "n_frequencies"),
    "all": ("n_blocks", "n_frequencies"),
}
RECIPES = {
    "sheet": {
        **{"dataset": "tg", "network": "plain", "num_hidden": 64, "n_timesteps": 1000, "schedule": "linear"},
        **{"n_points": 10_000_000, "batch_size": 10_000, "train_steps": 1000, "save_and_sample_every": 500},
        **{"l_rate": 1e-3, "ema": 0.0, "variance": "beta", "clip_x0": "off"},
    },
    "sharp": {
        **{"dataset": "chequerboard", "network": "fourier", "num_hidden": 96, "n_timesteps": 100, "schedule": "cosine"},
        **{"n_points": 100_000, "batch_size": 512, "train_steps": 12_000, "save_and_sample_every": 4000},
        **{"l_rate": 2e-3, "ema": 0.9995, "variance": "posterior", "clip_x0": "auto"},
    },
}
EXPECTED = (
    "The loss falls fast at first and then hardly at all: most of the noise of a point cannot be known. Judge progress by "
    "the samples, and by the energy distance, which for true points stands beside it."
)


def parser(recipe: str = "sheet") -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add, count = parser.add_argument_group("the exercise's arguments").add_argument, at_least(1)
    add("--recipe", choices=list(RECIPES), help="which defaults the other options have; see above")
    text = "which distribution; tg, cb: the sheet's; two_gaussians, chequerboard: sharper ones"
    add("--data", choices=list(DISTRIBUTIONS), dest="dataset", help=text)
    add("--network", choices=[*NETWORKS, "all"], help="the kind of network; all: compare them")
    add("--num_hidden", type=number("num_hidden"), help="width of the network's hidden layers")
    add("--n_blocks", type=number("n_blocks"), default=3, help="of `residual` and `fourier`: residual blocks")
    text = "of `fourier`: frequencies of each coordinate"
    add("--n_frequencies", type=number("n_frequencies"), default=6, help=text)
    add("--n_timesteps", type=number("n_timesteps"), help="T, the number of diffusion steps")
    add("--n_points", type=number("n_points"), help="points to train on, drawn once")
    add("--batch_size", "--batch-size", type=count, help="points per training step")
    add("--train_steps", type=number("train_steps"), help="length of the training")
    text = "the same in passes over the points, instead of --train_steps"
    add("--epochs", type=number("n_epochs"), default=None, metavar="N", help=text)
    text = "model and samples every S steps, and at the end"
    add("--save_and_sample_every", type=count, metavar="S", help=text)
    add("--l_rate", "--lr", type=in_range(0, 1e30, open_ends=True), help="learning rate of Adam, constant")
    text = "sigma^2 of a step of `ddpm`: beta_t, or that of the posterior, which few steps always have"
    add("--variance", choices=VARIANCES, help=text)
    text = "whether sampling clamps the predicted x_0 to [-1, 1]; auto: where the data are bounded"
    add("--clip_x0", choices=["off", "on", "auto"], help=text)
    add("--log_dir", type=as_path, default=None, help="folder of everything that the run writes; log/log_toy_<data>")
    add_sampler_arguments(parser, "--sample_steps")
    add_method_arguments(parser, images=False)
    add_running_arguments(parser)
    # A network this small gains nothing by bfloat16, whose 8 bits would blur the edges of the squares.
    parser.set_defaults(amp="off", recipe=recipe, **RECIPES[recipe])
    return parser


def parse() -> "tuple[argparse.ArgumentParser, argparse.Namespace]":
    """The parser whose defaults are those of the recipe that the call names, and what it makes of the call."""
    its_parser = parser(parser().parse_args().recipe)
    args = its_parser.parse_args()
    refuse_useless(its_parser, args, NETWORK_OPTIONS)
    if args.epochs is not None:
        args.train_steps = args.epochs * (args.n_points // min(args.batch_size, args.n_points))
    args.epochs = None
    return its_parser, args


@processes.together()
def main() -> None:
    its_parser, args = parse()
    distribution = DISTRIBUTIONS[args.dataset]
    log_dir = args.log_dir or Path("log") / f"log_toy_{args.dataset}"
    if args.network == "all":
        train_all(its_parser, args, log_dir, distribution)
    else:
        train_one(its_parser, args, args.network, log_dir, distribution)


def train_all(
    its_parser: argparse.ArgumentParser, args: argparse.Namespace, log_dir: Path, distribution: Distribution
) -> None:
    """Train the three networks one after the other, and put their samples side by side in networks.png.

    What was measured of the second and third also goes to metrics.json of the first.
    """
    panels = []
    for network in NETWORKS:
        own_dir = log_dir if network == NETWORKS[0] else log_dir / f"network_{network}"
        run = train_one(its_parser, args, network, own_dir, distribution)
        if processes.rank():
            continue
        sampler = sampler_of(run.average.ddpm, args)
        samples = draw_points(sampler, run.seed_for_pictures)  # those of its samples.png
        measured = measure(samples, distribution, run.seed_for_pictures)
        if own_dir != log_dir:
            write_measured(log_dir, run, sampler, network, measured)
        panels.append((f"{network}: {count_parameters(run.ddpm.nn_model):,} parameters\n{in_words(measured)}", samples))
    if panels:
        plot_samples(log_dir / "networks.png", distribution, panels[::-1])
        write_report(log_dir)


def train_one(
    its_parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    network: str,
    log_dir: Path,
    distribution: Distribution,
) -> Trainer:
    """Train a network in log_dir to the end. Returns the run."""
    args = argparse.Namespace(**{**vars(args), "network": network, "log_dir": log_dir})
    device = processes.start(args.device)
    layers = {name: getattr(args, name) for name in ("num_hidden", "n_blocks", "n_frequencies")}
    clip_x0 = distribution.bounded if args.clip_x0 == "auto" else args.clip_x0 == "on"
    spec = {
        "network": "fc",
        "network_arguments": {"input_dim": 2, "kind": network, **layers},
        "ddpm": {**process_of(its_parser, args), "variance": args.variance, "clip_x0": clip_x0},
    }
    ddpm = new_model(spec, args, device)
    generator = torch.Generator().manual_seed(args.seed)
    train_set, val_set = (
        PointSet(distribution.sample(n, generator), args.dataset).to(device) for n in (args.n_points, VALIDATION_IMAGES)
    )
    plan = Plan("step", args.train_steps, args.save_and_sample_every)
    told = about(its_parser, args, spec, EXPECTED)
    draw = functools.partial(draw_point_run, distribution=distribution, args=args)
    run = Trainer(ddpm, train_set, val_set, settings_of(args), plan, told, draw)
    run.run()
    return run


def sampler_of(ddpm: DDPM, args: argparse.Namespace) -> DDPM:
    return sampler_as_asked(ddpm, args.sampler, args.sample_steps, args.placement)


def draw_point_run(run: Trainer, distribution: Distribution, args: argparse.Namespace) -> None:
    """samples.png, a row of metrics.json and the model; at the end also the two processes and the vector field."""
    seed, final = run.seed_for_pictures, run.step == run.plan.last_step
    run.expect_pictures(3 if final else 1)
    if run.missing("samples.png", run.model_path().name):
        sampler = sampler_of(run.averaged, args)
        samples = draw_points(sampler, seed, run.sampling_progress("samples"))
        true = distribution.sample(N_SAMPLES, torch.Generator().manual_seed(seed))
        run.watch.lap("samples")
        measured, of_data = (measure(points, distribution, seed) for points in (samples, true))
        run.watch.lap("measuring")
        panels = [
            (f"{args.network}, {run.mark()}\n{in_words(measured)}", samples),
            (f"{len(true):,} points of the data\n{in_words(of_data)}", true),
        ]
        plot_samples(run.log_dir / "samples.png", distribution, panels)
        write_measured(run.log_dir, run, sampler, args.network, measured, of_data)
        run.save_model()
        run.watch.lap("samples")
    if final and run.missing("forward_process.png", "backward_process.png"):
        plot_processes(run.log_dir, run.averaged, distribution, seed, run.sampling_progress("processes"))
    if final and run.missing("vector_field.png"):
        plot_field(run.log_dir / "vector_field.png", run.averaged, distribution, seed)
        run.watch.lap("other figures")


def draw_points(ddpm: DDPM, seed: int, progress: "Callable[[int], None] | None" = None) -> torch.Tensor:
    """N_SAMPLES points of the model, float32 [N, 2] on the CPU."""
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    y, _ = ddpm.sample(N_SAMPLES, classes=None, generator=generator, record=False, progress=progress)
    return y.cpu()


if __name__ == "__main__":
    run_script(main)
