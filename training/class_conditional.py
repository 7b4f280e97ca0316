"""What the class-conditional training scripts share: their arguments, and the way from these to a training run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.console import HelpFormatter, at_least, in_range, values_from_call
from common.machine import pick_amp, pick_device
from datasets import sources
from figures.images import (
    N_PROCESS,
    data_figure,
    draw_animations,
    draw_completions,
    draw_grids,
    draw_mixtures,
    first_of_each,
    process_figures,
    real_rows,
    sample_weights,
)
from networks import fc
from reporting.log_files import FEW, MOST_COLUMNS, shown_classes
from training.arguments import add_method_arguments, add_running_arguments, refuse_useless
from training.checkpoint import Spec, build
from training.trainer import Trainer, plain_arguments

if TYPE_CHECKING:
    from training.trainer import Trainer


def training_parser(doc: str | None, datasets: list[str], **defaults: Any) -> argparse.ArgumentParser:
    """The arguments that every class-conditional training script takes; `defaults` are the script's own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpFormatter)
    add = parser.add_argument_group("the exercise's arguments").add_argument
    add("--batch_size", type=at_least(1), default=256, help="images per training step")
    add("--n_epochs", type=at_least(1), default=20, help="passes over the training images")
    add("--log_dir", type=Path, help="folder of everything that the run writes")
    add("--n_workers", type=at_least(0), default=0, help="threads that decode image files, at the first start")
    add("--l_rate", type=in_range(0, 1e30, open_ends=True), default=3e-4, help="learning rate of Adam, constant")
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", default=[0, 1, 3], metavar="W",
        help="guidance weights w of the pictures, as in (1 + w) eps(x, c) - w eps(x, no class)")  # fmt: skip
    add("--n_classes", type=at_least(1), default=10, help="train on the first n classes")
    add("--n_features", type=at_least(8), default=32, help="width of the network's first level, a multiple of 8")
    add("--n_timesteps", type=at_least(1), default=400, help="T, the number of diffusion steps")
    add("--n_samples", type=at_least(1), default=4, help="pictures of each class in a grid")
    add("--im_height", type=at_least(8), default=28, help="height and width of the images, divisible by 4")
    add("--im_channels", type=int, choices=[1, 3], default=1, help="channels of the images")
    add("--drop_prob", type=in_range(0, 1), default=0.1, help="how often training hides the class")

    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=datasets, default=datasets[0], help="what to train on")
    add("--data_dir", type=Path, default=Path("./data"), help="folder of the data sets")
    add("--limit", type=at_least(1), default=None, metavar="N", help="train on the first N images only")
    add("--dequantise", choices=["off", "on", "auto"], default="auto",
        help="train on (x * 255 + u) / 256 in place of x in [0, 1], u uniform and new in every step; auto: with `fc`, as "
        "its exercise has it. Validation and evaluate.py see the 8-bit images all the same, so that models compare")  # fmt: skip

    add = parser.add_argument_group("network").add_argument
    add("--network", choices=["conditional_unet", "unet", "fc"], default="conditional_unet",
        help="the exercise's U-Net; the larger kind with residual blocks and attention; or fully connected layers")  # fmt: skip
    add("--dim_mults", type=at_least(1), nargs="+", default=[1, 2, 4], metavar="M",
        help="width of each level of `unet` as a multiple of n_features")  # fmt: skip
    add("--dropout", type=in_range(0, 0.999), default=0.0, help="of `unet`, in its residual blocks")
    add("--fc_kind", choices=fc.KINDS, default="residual",
        help="of `fc`: residual blocks with a way past them for the noise; these on waves of the input; or plain, the "
        "exercise's two hidden layers, which cannot pass the noise of an image on and draw noise (see networks/fc.py)")  # fmt: skip
    add("--num_hidden", type=at_least(1), default=256, help="width of `fc`, which has no use for n_features")

    add_method_arguments(parser)
    add_running_arguments(parser)
    add = parser.add_argument_group("log folder").add_argument
    add(
        "--save_every",
        type=at_least(1),
        default=5,
        metavar="E",
        help="model and pictures every E epochs, and at the end",
    )
    add(
        "--animate_every",
        type=at_least(1),
        default=1,
        metavar="E",
        help="GIFs with the pictures of every E-th epoch, and at the end",
    )
    add("--show_classes", type=at_least(1), default=None, metavar="N",
        help=f"pictures show at most N classes, spread evenly; by default all up to {MOST_COLUMNS}, and {FEW} of more")  # fmt: skip
    parser.set_defaults(**defaults)
    return parser


# What each network has of the options that not all of them have.
NETWORK_OPTIONS = {
    "conditional_unet": ("n_features",),
    "unet": ("n_features", "dim_mults", "dropout"),
    "fc": ("fc_kind", "num_hidden"),
}


def spec_of(args: argparse.Namespace) -> Spec:
    """The recipe of network and schedule that the arguments ask for."""
    network_arguments = {"in_channels": args.im_channels, "n_classes": args.n_classes, "height": args.im_height}
    if args.network == "unet":
        network_arguments.update(dim=args.n_features, dim_mults=list(args.dim_mults), dropout=args.dropout)
    elif args.network == "fc":
        size = [args.im_channels, args.im_height, args.im_height]
        network_arguments = {"input_dim": math.prod(size), "num_hidden": args.num_hidden, "n_classes": args.n_classes,
                             "kind": args.fc_kind, "size": size, "skip": args.fc_kind != "plain"}  # fmt: skip
    else:
        network_arguments.update(n_features=args.n_features)
    names = ("n_timesteps", "drop_prob", "schedule", "loss")
    return {
        "network": args.network,
        "network_arguments": network_arguments,
        "ddpm": {name: getattr(args, name) for name in names},
    }


def train_classes(parser: argparse.ArgumentParser, expected: str) -> None:
    """Train as the command line says, and fill the log folder. `expected`: what a healthy run looks like, in words."""
    args = parser.parse_args()
    refuse_useless(parser, args, NETWORK_OPTIONS)
    device = pick_device(args.device)
    spec = spec_of(args)
    torch.manual_seed(args.seed)  # the first weights; everything after has generators of its own
    ddpm = build(spec, device, pick_amp(args.amp, device))

    shape = {"n_classes": args.n_classes, "im_height": args.im_height, "im_channels": args.im_channels}
    with values_from_call():
        train_set, val_set = (
            sources.load(args.dataset, args.data_dir, train, limit=limit, n_workers=args.n_workers, **shape)
            for train, limit in ((True, args.limit), (False, None))
        )
    defaults = plain_arguments(parser.parse_args([]))
    dequantised = args.dequantise == "on" or (args.dequantise == "auto" and args.network == "fc")
    draw = (draw_class_run, draw_data)
    Trainer(ddpm, spec, train_set, val_set, args, defaults, expected, *draw, dequantised=dequantised).run()


def draw_data(run: Trainer) -> None:
    """data.png: what a run is going to learn from."""
    data_figure(run.log_dir / "data.png", run.train_set)


def draw_class_run(run: Trainer) -> None:
    """The pictures of a class-conditional training run: samples, now and then animated, and the two processes; at the
    end what else it can do.

    The noise is that of the run's seed for every weight and epoch: differences between pictures are differences of models.
    """
    args, final = run.args, run.step == run.last_step
    seed = run.seed_for_pictures()
    animate = final or run.step // run.unit_steps % args.animate_every == 0
    classes = shown_classes(run.val_set.n_classes, args.show_classes)
    names = [run.val_set.class_names[k] for k in classes]
    report = lambda what: lambda t: run.sampling_progress(what, t)  # noqa: E731
    drawn = sample_weights(run.averaged, args.n_samples, run.val_set.n_classes, classes, args.g_weight, seed, animate,
                           report("samples"))  # fmt: skip
    real = real_rows(run.val_set, args.n_samples, classes)
    draw_grids(run.log_dir, {w: y for w, (y, _) in drawn.items()}, real, names, run.mark())
    if animate:
        steps = {w: steps for w, (_, steps) in drawn.items()}
        draw_animations(run.log_dir, steps, run.averaged.recorded_times(), names, run.mark())
    run.save_model()
    few = [classes[i] for i in shown_classes(len(classes), N_PROCESS)]
    images, c, few_names = first_of_each(run.train_set, few)
    process_figures(run.log_dir, run.averaged, images, seed, c, few_names, progress=report("processes"))
    if final:
        draw_completions(run.log_dir, run.averaged, run.val_set, run.mark(), seed, report("completions"))
        draw_mixtures(run.log_dir, run.averaged, run.val_set, run.mark(), seed, report("mixtures"))
