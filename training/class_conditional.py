"""What the class-conditional training scripts share: their arguments, and the way from these to a training run."""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import Any, Sequence

import torch

from common.console import (
    ArgumentParser,
    CallError,
    HelpFormatter,
    as_path,
    at_least,
    in_range,
    number,
    values_from_call,
)
from common.limits import MOST_WEIGHTS
from datasets import sources
from datasets.image_folder import class_folders
from datasets.image_set import ImageSet
from figures.images import (
    N_PROCESS,
    data_figure,
    draw_completions,
    draw_mixtures,
    first_of_each,
    process_figures,
    real_rows,
)
from networks import fc
from reporting.log_files import FEW, MOST_COLUMNS, shown_classes
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
from training.checkpoint import NETWORKS
from training.pictures import draw_at_each_weight, draw_without_classes
from training.settings import Plan, Spec
from training.trainer import Trainer


def training_parser(doc: str | None, datasets: list[str], **defaults: Any) -> argparse.ArgumentParser:
    """The arguments that every class-conditional training script takes; `defaults` are the script's own."""
    parser = ArgumentParser(description=doc, formatter_class=HelpFormatter)
    count = at_least(1)
    add = parser.add_argument_group("the exercise's arguments").add_argument
    add("--batch_size", type=count, default=256, help="images per training step")
    add("--n_epochs", type=number("n_epochs"), default=20, help="passes over the training images")
    add("--log_dir", type=as_path, help="folder of everything that the run writes")
    add("--n_workers", type=number("n_workers"), default=0, help="threads that decode image files, at the first start")
    add("--l_rate", type=in_range(0, 1e30, open_ends=True), default=3e-4, help="learning rate of Adam, constant")
    text = "guidance weights w of the pictures, as in (1 + w) eps(x, c) - w eps(x, no class)"
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", default=[0, 1, 3], metavar="W", help=text)
    add("--n_classes", type=number("n_classes"), default=10, help="train on the first n classes")
    add(
        "--n_features",
        type=number("n_features"),
        default=32,
        help="width of the network's first level, a multiple of 8",
    )
    add("--n_timesteps", type=number("n_timesteps"), default=400, help="T, the number of diffusion steps")
    add("--n_samples", type=number("n_samples"), default=4, help="pictures of each class in a grid")
    add("--im_height", type=number("im_height"), default=28, help="height and width of the images, divisible by 4")
    add("--im_channels", type=int, choices=[1, 3], default=1, help="channels of the images")
    add("--drop_prob", type=in_range(0, 1), default=0.1, help="how often training hides the class")
    add("--unconditional", action="store_true", help="a model without classes; --n_samples is then the whole grid")

    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=datasets, default=datasets[0], help="what to train on")
    add("--data_dir", type=as_path, default=Path("./data"), help="folder of the data sets")
    add("--limit", type=count, default=None, metavar="N", help="train on the first N images only")
    text = (
        "train on (x * 255 + u) / 256 in place of x in [0, 1], u uniform and new in every step; auto: with `fc`, as "
        "its exercise has it. Validation and evaluate.py always use the 8-bit images, so that models compare"
    )
    add("--dequantise", choices=["off", "on", "auto"], default="auto", help=text)

    add = parser.add_argument_group("network").add_argument
    text = "the exercise's U-Net; the larger kind with residual blocks and attention; or fully connected layers"
    add("--network", choices=list(NETWORKS), default="conditional_unet", help=text)
    text = "width of each level of `unet` as a multiple of n_features"
    add("--dim_mults", type=number("dim_mults"), nargs="+", default=[1, 2, 4], metavar="M", help=text)
    add("--dropout", type=in_range(0, 0.999), default=0.0, help="of `unet`, in its residual blocks")
    text = (
        "of `fc`: residual blocks with a way past them for the noise; these on waves of the input; or plain, the "
        "exercise's two hidden layers, which cannot pass the noise of an image on and draw noise (see networks/fc.py)"
    )
    add("--fc_kind", choices=fc.KINDS, default="residual", help=text)
    add("--num_hidden", type=number("num_hidden"), default=256, help="width of `fc`, which has no use for n_features")

    add_method_arguments(parser)
    add_sampler_arguments(parser, "--sample_steps")
    add_running_arguments(parser)
    add = parser.add_argument_group("log folder").add_argument
    add("--save_every", type=count, default=5, metavar="E", help="model and pictures every E epochs, and at the end")
    text = "GIFs with the pictures of every E-th epoch, and at the end"
    add("--animate_every", type=count, default=1, metavar="E", help=text)
    text = f"pictures show at most N classes, spread evenly; by default all up to {MOST_COLUMNS}, and {FEW} of more"
    add("--show_classes", type=count, default=None, metavar="N", help=text)
    parser.set_defaults(**defaults)
    return parser


# What each network has of the options that not all of them have. Its constructor gets those of a new network by name.
NETWORK_OPTIONS = {
    "conditional_unet": ("n_features",),
    "unet": ("n_features", "dim_mults", "dropout"),
    "fc": ("fc_kind", "num_hidden"),
}


def spec_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Spec:
    """The recipe of network and noise schedule that the arguments ask for."""
    size = [args.im_channels, args.im_height, args.im_height]
    network: dict[str, Any] = {"n_classes": 0 if args.unconditional else args.n_classes}
    if args.network == "fc":
        network.update(input_dim=math.prod(size), num_hidden=args.num_hidden, size=size)
        network.update(kind=args.fc_kind, skip=args.fc_kind != "plain")
    else:
        network.update(in_channels=args.im_channels, height=args.im_height)
    if args.network == "unet":
        network.update(dim=args.n_features, dim_mults=list(args.dim_mults), dropout=args.dropout)
    elif args.network != "fc":
        network.update({name: getattr(args, name) for name in NETWORK_OPTIONS.get(args.network, ())})
    ddpm = {**process_of(parser, args), "drop_prob": args.drop_prob}
    return {"network": args.network, "network_arguments": network, "ddpm": ddpm}


def refuse_classes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """CallError if an option about classes is changed for a model without classes."""
    for name in ("g_weight", "drop_prob", "show_classes"):
        if args.unconditional and getattr(args, name) != parser.get_default(name):
            raise CallError(f"--{name} does nothing with --unconditional: leave one of them out")


def check_weights(weights: Sequence[float]) -> None:
    """CallError for guidance weights whose pictures would have the same name, or that are too many."""
    names = [f"{w:g}" for w in weights]
    twice = [name for name in names if names.count(name) > 1]
    if twice or len(names) > MOST_WEIGHTS:
        raise CallError(
            f"--g_weight: {f'{twice[0]} stands there twice' if twice else f'at most {MOST_WEIGHTS} weights'}"
        )


@processes.together()
def train_classes(parser: argparse.ArgumentParser, expected: str) -> None:
    """Train as the command line says, and fill the log folder. `expected`: what a healthy run looks like, in words."""
    args = parser.parse_args()
    refuse_useless(parser, args, NETWORK_OPTIONS)
    refuse_classes(parser, args)
    check_weights(args.g_weight)
    if args.n_classes is None:
        args.n_classes = len(class_folders(args.data_dir / "train"))
    device = processes.start(args.device)
    spec = spec_of(parser, args)
    ddpm = new_model(spec, args, device)

    shape = {"n_classes": args.n_classes, "im_height": args.im_height, "im_channels": args.im_channels}
    with values_from_call(), processes.one_by_one():
        train_set, val_set = (
            sources.load(args.dataset, args.data_dir, train, limit=limit, n_workers=args.n_workers, **shape).to(device)
            for train, limit in ((True, args.limit), (False, None))
        )
    dequantise = args.dequantise == "on" or (args.dequantise == "auto" and args.network == "fc")
    settings = settings_of(args, dequantise)
    plan = Plan("epoch", args.n_epochs, args.save_every)
    draw_first = functools.partial(draw_data, train_set=train_set)
    draw = functools.partial(draw_class_run, train_set=train_set, val_set=val_set, args=args)
    Trainer(ddpm, train_set, val_set, settings, plan, about(parser, args, spec, expected), draw, draw_first).run()


def draw_data(run: Trainer, train_set: ImageSet) -> None:
    """data.png: what a run is going to learn from."""
    data_figure(run.log_dir / "data.png", train_set)
    run.watch.lap("other figures")


def draw_class_run(run: Trainer, train_set: ImageSet, val_set: ImageSet, args: argparse.Namespace) -> None:
    """The pictures of a class-conditional training run: samples, some of them animated, and the two processes; at the
    end what else the model can do.

    Every weight and epoch has the same noise, that of the run's seed: pictures differ because models differ.
    """
    final, seed, report, mark = run.step == run.plan.last_step, run.seed_for_pictures, run.sampling_progress, run.mark()
    animate = final or run.step // run.plan.unit_steps % args.animate_every == 0
    sampler = sampler_as_asked(run.averaged, args.sampler, args.sample_steps, args.placement)
    run.expect_pictures(2 + final if args.unconditional else len(args.g_weight) + 1 + 2 * final)
    if args.unconditional:
        draw_without_classes(run, sampler, train_set, args.n_samples, animate)
        if final and run.missing("inpainting.png"):
            draw_completions(run.log_dir, run.averaged, val_set, mark, seed, report("completions"))
            run.watch.lap("other figures")
        if run.missing(run.model_path().name):
            run.save_model()
        return
    classes = shown_classes(val_set.n_classes, args.show_classes)
    names = [val_set.class_names[k] for k in classes]
    real = real_rows(val_set, args.n_samples, classes)
    conditions = torch.eye(val_set.n_classes)[classes]
    draw_at_each_weight(run, sampler, conditions, args.g_weight, args.n_samples, real, names, animate)
    if run.missing(run.model_path().name):
        run.save_model()
    if run.missing("forward_process.png", "backward_process.png"):
        few = [classes[i] for i in shown_classes(len(classes), N_PROCESS)]
        images, c, few_names = first_of_each(train_set, few)
        process_figures(run.log_dir, run.averaged, images, seed, c, few_names, progress=report("processes"))
    if final and run.missing("inpainting.png"):
        draw_completions(run.log_dir, run.averaged, val_set, mark, seed, report("completions"))
    if final and run.missing("mixture.png"):
        draw_mixtures(run.log_dir, run.averaged, val_set, mark, seed, report("mixtures"))
    run.watch.lap("other figures")
