"""Train a DDPM on points of the plane whose density is known, and fill a log folder.

    python train_toy.py                                  # a sharp chequerboard, log/log_toy_chequerboard
    python train_toy.py --data two_gaussians
    python train_toy.py --network all                    # the three networks, and networks.png to compare them
    python train_toy.py --n_timesteps 500 --log_dir log/toy500
    python train_toy.py --resume                         # the same command after an interruption

`--network plain` is the exercise's network; `residual` and `fourier` are answers to its question how the architecture
can improve the fit (see networks/fc.py). With `all` the first of them, fourier, is trained in the log folder itself, the
others in network_plain and network_residual inside it.
"""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch

from common.console import HelpFormatter, at_least, in_range, run_script
from common.machine import command_line, device_name, pick_amp, pick_device
from datasets.points import DISTRIBUTIONS, Chequerboard, PointSet, energy_distance
from ddpm import DDPM
from evaluation.record import Record, reverse_steps
from figures.points import N_SAMPLES, Distribution, plot_field, plot_processes, plot_samples
from reporting.page import write_report
from training import checkpoint
from training.arguments import add_method_arguments, add_running_arguments, refuse_useless
from training.losses import VALIDATION_IMAGES
from training.trainer import Trainer, plain_arguments

if TYPE_CHECKING:
    from training.trainer import Trainer

NETWORKS = ("fourier", "residual", "plain")  # the first is trained in the log folder itself
NETWORK_OPTIONS = {  # of those that not all of them have
    "plain": (),
    "residual": ("n_blocks",),
    "fourier": ("n_blocks", "n_frequencies"),
    "all": ("n_blocks", "n_frequencies"),
}
EXPECTED = (
    "The loss falls fast at first and then hardly at all: most of the noise of a point cannot be known. Judge progress by "
    "the samples, and by the energy distance, which for true points stands beside it."
)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument_group("the exercise's arguments").add_argument
    add("--data", choices=sorted(DISTRIBUTIONS), default="chequerboard", dest="dataset", help="which distribution")
    add("--network", choices=[*NETWORKS, "all"], default="fourier", help="the kind of network; all: compare them")
    add("--num_hidden", type=at_least(1), default=96, help="width of the network's hidden layers")
    add("--n_blocks", type=at_least(1), default=3, help="of `residual` and `fourier`: residual blocks")
    add("--n_frequencies", type=at_least(1), default=6, help="of `fourier`: frequencies of each coordinate")
    add("--n_timesteps", type=at_least(1), default=100, help="T, the number of diffusion steps")
    add("--n_points", type=at_least(1), default=100_000, help="points to train on, drawn once")
    add("--batch_size", type=at_least(1), default=512, help="points per training step")
    add("--train_steps", type=at_least(1), default=12_000, help="length of the training")
    add("--save_and_sample_every", type=at_least(1), default=4000, metavar="S",
        help="model and samples every S steps, and at the end")  # fmt: skip
    add("--l_rate", type=in_range(0, 1e30, open_ends=True), default=2e-3, help="learning rate of Adam, constant")
    add("--log_dir", type=Path, default=None, help="folder of everything that the run writes; log/log_toy_<data>")
    add_method_arguments(parser, images=False)
    add_running_arguments(parser)
    # A network this small gains nothing by bfloat16, whose 8 bits would blur the edges of the squares.
    parser.set_defaults(schedule="cosine", ema=0.9995, amp="off")
    return parser


def train_one(args: argparse.Namespace, distribution: Distribution) -> tuple[Trainer, torch.Tensor, dict[str, Any]]:
    """Train the network of args.network in args.log_dir, to the end. Returns the run, and its last samples and what was
    measured of them (see `draw_point_run`)."""
    device = pick_device(args.device)
    layers = {name: getattr(args, name) for name in ("num_hidden", "n_blocks", "n_frequencies")}
    network_arguments = {"input_dim": 2, "kind": args.network, **layers}
    ddpm_arguments = {"n_timesteps": args.n_timesteps, "schedule": args.schedule, "loss": args.loss,
                      "variance": "posterior", "clip_x0": distribution.bounded}  # fmt: skip
    spec = {"network": "fc", "network_arguments": network_arguments, "ddpm": ddpm_arguments}
    torch.manual_seed(args.seed)  # the first weights; everything after has generators of its own
    ddpm = checkpoint.build(spec, device, pick_amp(args.amp, device))

    generator = torch.Generator().manual_seed(args.seed)
    train_set, val_set = (
        PointSet(distribution.sample(n, generator), args.dataset) for n in (args.n_points, VALIDATION_IMAGES)
    )
    defaults = {**plain_arguments(parser().parse_args([])), "log_dir": str(log_dir_of(args))}
    last = {}

    def draw(run: Trainer) -> None:
        last["samples"], last["measured"] = draw_point_run(run, distribution)

    run = Trainer(ddpm, spec, train_set, val_set, args, defaults, EXPECTED, draw)
    run.run()
    return run, last["samples"], last["measured"]


def train_all(args: argparse.Namespace, distribution: Distribution) -> None:
    """Train the three networks one after the other, and put their samples side by side in networks.png.

    What was measured of the second and third also goes to metrics.json of the first.
    """
    panels = []
    for network in NETWORKS:
        one = copy.copy(args)
        one.network = network
        if network != NETWORKS[0]:
            one.log_dir = args.log_dir / f"network_{network}"
        run, samples, measured = train_one(one, distribution)
        if network != NETWORKS[0]:
            write_measured(args.log_dir, run, distribution, measured)
        n_parameters = sum(p.numel() for p in run.ddpm.nn_model.parameters())
        panels.append((f"{network}: {n_parameters:,} parameters\n{in_words(measured)}", samples))
    plot_samples(args.log_dir / "networks.png", distribution, panels[::-1])
    write_report(args.log_dir)


def log_dir_of(args: argparse.Namespace) -> Path:
    return args.log_dir or Path("log") / f"log_toy_{args.dataset}"


def main() -> None:
    args = parser().parse_args()
    refuse_useless(parser(), args, NETWORK_OPTIONS)
    args.flip = "off"  # the trainer asks; points have no left and right
    args.log_dir = log_dir_of(args)
    train = train_all if args.network == "all" else train_one
    train(args, DISTRIBUTIONS[args.dataset]())


def draw_point_run(run: Trainer, distribution: Distribution) -> tuple[torch.Tensor, dict[str, Any]]:
    """samples.png, a row of metrics.json and the model; at the end also the two processes and the vector field.

    Returns the samples, float32 [N, 2] on the CPU, and what `measure` says of them.
    """
    seed = run.seed_for_pictures()
    progress = lambda what: lambda t: run.sampling_progress(what, t)  # noqa: E731
    samples = draw_points(run.averaged, seed, progress("samples"))
    true = distribution.sample(N_SAMPLES, torch.Generator().manual_seed(seed))
    measured, of_data = (measure(points, distribution, seed) for points in (samples, true))
    panels = [
        (f"{run.args.network}, {run.mark()}\n{in_words(measured)}", samples),
        (f"{len(true):,} points of the data\n{in_words(of_data)}", true),
    ]
    plot_samples(run.log_dir / "samples.png", distribution, panels)
    write_measured(run.log_dir, run, distribution, measured, of_data)
    run.save_model()
    if run.step == run.last_step:
        plot_processes(run.log_dir, run.averaged, distribution, seed, progress("processes"))
        plot_field(run.log_dir / "vector_field.png", run.averaged, distribution, seed)
    return samples, measured


def draw_points(ddpm: DDPM, seed: int, progress: Callable[[int], None] | None = None) -> torch.Tensor:
    """N_SAMPLES points of the model, float32 [N, 2] on the CPU."""
    generator = torch.Generator(ddpm.device).manual_seed(seed)
    y, _ = ddpm.sample(N_SAMPLES, classes=None, generator=generator, record=False, progress=progress)
    return y.cpu()


def measure(samples: torch.Tensor, distribution: Distribution, seed: int) -> dict[str, Any]:
    """How far points [N, 2] are from as many fresh points of the data, and the share on permitted squares."""
    fresh = distribution.sample(len(samples), torch.Generator().manual_seed(seed + 1))
    result: dict[str, Any] = {"n_points": len(samples)}
    if isinstance(distribution, Chequerboard):
        result["on_permitted_squares"] = distribution.permitted(samples).double().mean().item()
    return {**result, "energy_distance": energy_distance(samples, fresh)}


def write_measured(
    log_dir: Path,
    run: Trainer,
    distribution: Distribution,
    measured: dict[str, Any],
    of_data: dict[str, Any] | None = None,
) -> None:
    """A row of metrics.json in log_dir for samples of a run, and one for true points, which is what to compare with.

    measured, of_data: what `measure` says of either.
    """
    model = os.path.relpath(run.model_path(), log_dir)
    about = {"command": command_line(), "device": device_name(run.device), "model": model}
    record = Record(log_dir / "metrics.json", **about, measured="points", sampler=reverse_steps(run.ddpm))
    record.add({"points": f"{run.args.network} network", "step": run.step, **measured})
    if of_data is not None:
        record.add({"points": "the data themselves", "step": run.step, **of_data})


def in_words(measured: dict[str, Any]) -> str:
    share = measured.get("on_permitted_squares")
    return (f"{share:.1%} on permitted squares, " if share is not None else "") + (
        f"energy distance {measured['energy_distance']:.1e}"
    )


if __name__ == "__main__":
    run_script(main)
