"""Train an unconditional DDPM on faces of one kind of animal (AFHQ), counted in steps, and fill a log folder.

    python train_afhq.py                                       # the exercise: 10,000 steps at 32 x 32, log/log_afhq
    python train_afhq.py --resume                              # the same command after an interruption
    python train_afhq.py --train_steps 1000 --save_and_sample_every 500 --fid
    python train_afhq.py --data_class all --data_path ./data/afhq/train        # every class, from this folder
    python train_afhq.py --load_path log/log_afhq/model_step10000.pt --save_folder log/longer   # begin with its weights
    python train_afhq.py --visualize --load_path log/log_afhq/model_step10000.pt --save_folder log/pictures

The images are files in <data_path>/afhq/train/<class>/ (and .../test/<class>/ or .../val/<class>/, if you have them;
otherwise some are held out). `--fid` measures the FID if clean-fid is installed (requirements-fid.txt), and in any case
the Frechet distance in the features of a small network that is first trained to tell how the images were turned.
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

import torch

from common.console import (
    ArgumentParser,
    CallError,
    HelpFormatter,
    as_path,
    at_least,
    in_range,
    number,
    run_script,
    values_from_call,
)
from common.machine import command_line, device_name, pick_amp
from datasets import sources
from datasets.image_set import ImageSet
from evaluation.record import Record, read_list, reverse_steps
from evaluation.reference import Reference, draw_samples
from figures.curves import plot_distances
from figures.images import process_figures
from training import checkpoint, processes
from training.arguments import (
    about,
    add_method_arguments,
    add_running_arguments,
    add_sampler_arguments,
    new_model,
    process_of,
    sampler_as_asked,
    settings_of,
)
from training.class_conditional import draw_data
from training.pictures import N_PROCESS, draw_without_classes
from training.seeds import PICTURES, order_of_epoch, seed_for
from training.settings import Plan
from training.trainer import Trainer

EXPECTED = (
    "The loss falls fast in the first hundreds of steps and then hardly at all, while faces become faces: judge "
    "progress by the samples."
)


N_FID = 1_000  # samples that --fid compares with the training images


def parser() -> argparse.ArgumentParser:
    """The exercise's names, and beside them those of the other scripts, which messages of the suite use."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add, count = parser.add_argument_group("the exercise's arguments").add_argument, at_least(1)
    add("--batch_size", type=count, default=32, help="images per training step")
    add("--train_steps", type=number("train_steps"), default=10_000, help="length of the training")
    text = "model and pictures every S steps, and at the end"
    add("--save_and_sample_every", type=count, default=1000, metavar="S", help=text)
    add("--data_class", default="cat", help="which animal: the name of a folder; all: all of them")
    add(
        "--image_size",
        "--im_height",
        type=number("im_height"),
        default=32,
        dest="im_height",
        help="height and width of the images",
    )
    add(
        "--time_steps",
        "--n_timesteps",
        type=number("n_timesteps"),
        default=50,
        dest="n_timesteps",
        help="T, the number of diffusion steps",
    )
    text = "width of the network's first level, a multiple of 8"
    add("--unet_dim", "--n_features", type=number("n_features"), default=16, help=text)
    text = "width of each level as a multiple"
    add("--unet_dim_mults", type=number("dim_mults"), nargs="+", default=[1, 2, 4, 8], metavar="M", help=text)
    rate = in_range(0, 1e30, open_ends=True)
    add("--learning_rate", "--l_rate", type=rate, default=1e-3, dest="l_rate", help="of Adam, constant")
    text = "folder of everything that the run writes"
    add("--save_folder", "--log_dir", type=as_path, default=Path("./log/log_afhq"), dest="log_dir", help=text)
    add(
        "--data_path",
        "--data_dir",
        type=as_path,
        default=Path("./data"),
        dest="data_dir",
        help="folder of the data sets, or of the images: .../train with a folder for each class in it",
    )
    text = "threads that decode image files, at the first start"
    add("--dataloader_workers", "--n_workers", type=at_least(0), default=0, dest="n_workers", help=text)
    add("--n_samples", type=number("n_samples"), default=64, help="pictures in a grid of samples")
    text = "with the pictures: how far samples, drawn in all steps, are from the training images"
    add("--fid", action="store_true", help=text)
    add("--n_fid", type=at_least(4, 100_000), default=N_FID, help="of --fid: how many samples")
    text = "no training: the forward and the backward process of the model at --load_path"
    add("--visualize", action="store_true", help=text)
    add("--judge_dir", type=as_path, default=Path("./log/judges"), help="where the judges of --fid are kept")
    add_method_arguments(parser)
    add_sampler_arguments(parser, "--sample_steps")
    add_running_arguments(parser)
    parser.set_defaults(schedule="cosine", loss="l1", ema=0.995, dataset="afhq")
    return parser


@processes.together()
def main() -> None:
    args = parser().parse_args()
    if args.data_dir.name == "train":  # as the exercise's script has it: the folder of the classes itself
        args.dataset, args.data_dir = "folder", args.data_dir.parent
    if args.data_class == "all":
        args.data_class = None
    device = processes.start(args.device)
    if args.visualize:
        visualize(args, device)
        return
    network = {"in_channels": 3, "height": args.im_height, "dim": args.unet_dim, "dim_mults": list(args.unet_dim_mults)}
    # The exercise's sampler: x_0 clamped, mean and variance of the posterior.
    spec = {
        "network": "unet",
        "network_arguments": network,
        "ddpm": {**process_of(parser(), args), "variance": "posterior", "clip_x0": True},
    }
    ddpm = new_model(spec, args, device)

    which = {"n_classes": None, "data_class": args.data_class, "im_height": args.im_height, "im_channels": 3}
    with values_from_call(), processes.one_by_one():
        train_set, val_set = (
            sources.load(args.dataset, args.data_dir, train, n_workers=args.n_workers, **which).to(device)
            for train in (True, False)
        )
    reference = None
    if args.fid and not processes.rank():  # which alone draws and measures
        if args.resume != "no":
            read_list(args.log_dir / "metrics.json")  # a damaged file is found now, not at the first pictures
        reference = Reference(train_set, val_set, args.judge_dir, args.data_dir)
    plan = Plan("step", args.train_steps, args.save_and_sample_every)
    draw_first = functools.partial(draw_data, train_set=train_set)
    draw = functools.partial(draw_animal_run, train_set=train_set, args=args, reference=reference)
    told = about(parser(), args, spec, EXPECTED)
    Trainer(ddpm, train_set, val_set, settings_of(args), plan, told, draw, draw_first).run()


def draw_animal_run(
    run: Trainer, train_set: ImageSet, args: argparse.Namespace, reference: "Reference | None" = None
) -> None:
    """The pictures of a run without classes, at the end with a GIF, and the model. With a reference also a row of
    metrics.json and fid.png, from samples of Algorithm 2 in all steps, so that runs compare.
    """
    run.expect_pictures(2 if reference is None else 3)
    sampler = sampler_as_asked(run.averaged, args.sampler, args.sample_steps, args.placement)
    draw_without_classes(run, sampler, train_set, args.n_samples, animate=run.step == run.plan.last_step)
    if reference is not None and run.missing("fid.png"):
        measure(run, reference, args.n_fid)
        run.watch.lap("measuring")
    if run.missing(run.model_path().name):
        run.save_model()


def visualize(args: argparse.Namespace, device: torch.device) -> None:
    """forward_process.png and backward_process.png of the model at args.load_path, without training."""
    if args.load_path is None:
        raise CallError("--visualize needs --load_path, a model file of this script")
    if args.sampler or args.sample_steps or args.placement:
        raise CallError("--visualize shows all steps of Algorithm 2: leave out --sampler, --sample_steps, --placement")
    if (args.log_dir / "config.json").exists() and args.load_path.parent.resolve() != args.log_dir.resolve():
        raise CallError(
            f"{args.log_dir} holds another run, whose figures would be replaced: give another --save_folder"
        )
    ddpm, content = checkpoint.load_model(args.load_path, device, pick_amp(args.amp, device))
    name, which = checkpoint.data_of(ddpm, content)
    with values_from_call():
        train_set = sources.load(name, args.data_dir, True, n_workers=args.n_workers, **which).to(device)
    args.log_dir.mkdir(parents=True, exist_ok=True)
    images, _ = train_set.batch(order_of_epoch(len(train_set), args.seed, 0)[:N_PROCESS])
    process_figures(args.log_dir, ddpm, images, seed_for(args.seed, PICTURES))
    print(f"{args.log_dir / 'forward_process.png'}, {args.log_dir / 'backward_process.png'}")


def measure(run: Trainer, reference: Reference, n_fid: int) -> None:
    """Compare samples with the training images, add that to metrics.json, and plot all that stands there as fid.png."""
    seed = run.seed_for_pictures
    images, _ = draw_samples(run.averaged, 0, n_fid, 0, seed, watch=lambda t: run.heed_signals())
    file = run.log_dir / "metrics.json"
    about = {
        "command": command_line(),
        "device": device_name(run.device),
        "model": run.model_path().name,
        "weights": "moving average" if run.settings.ema else "raw",
        "sampler": f"ddpm, {run.ddpm.n_timesteps} steps, seed {run.settings.seed}, {reverse_steps(run.ddpm)}",
    }
    record = Record(file, **about, measured="samples", judge_accuracy_on_real_test_images=reference.judge_accuracy)
    measured = reference.compare("samples", images, None, step=run.step)
    record.add(measured)
    rows = [row for entry in read_list(file) for row in entry["results"] if "step" in row]
    rows = [row for row in rows if row["features"] == measured["features"]]  # others are of an earlier classifier
    plot_distances(run.log_dir / "fid.png", sorted(rows, key=lambda row: row["step"]))


if __name__ == "__main__":
    run_script(main)
