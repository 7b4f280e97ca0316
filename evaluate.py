"""Measure a trained model, or generated images in an .npz: do they look like the real ones, all of them, and as asked?

    python evaluate.py log/log_mnist/model_epoch20.pt                       # 30 samples of each class at w = 0 1 3
    python evaluate.py log/log_mnist/model_epoch20.pt --g_weight 2 --n_samples 1000 --fid
    python evaluate.py log/log_mnist/samples.npz --dataset mnist            # what sample.py --npz drew
    python evaluate.py log/log_mnist/model_epoch20.pt --inpaint 100         # half of 100 test images, completed
    python evaluate.py log/log_mnist/model_epoch20.pt --bits_per_dim 100    # the variational bound of 100 test images

The judge is a small classifier trained on the real training images, once; it is kept in `--judge_dir`. Samples are
compared with all training images by its features: Frechet distance, precision and recall (evaluation/metrics.py), and, of a model
with classes, the share in which it sees the class asked for. As many real test images get the same figures: these are
what to compare with. `--fid` adds the standard FID. Every result goes into metrics.json beside the model at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.console import ArgumentParser, CallError, as_path, at_least, in_range, number, run_script
from common.machine import command_line, device_name, keep_large_buffers, pick_device
from datasets import sources
from diffusion.inpainting import JUMP_LENGTH, MASKS, METHODS, N_RESAMPLE
from evaluation.measure import evaluate_model, evaluate_npz
from evaluation.record import read_list
from reporting.page import write_report

# ------------------------------------------------------------------------------------------------ what the call means


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "source",
        type=as_path,
        metavar="FILE",
        help="a model_epoch*.pt or checkpoint.pt of this suite, or an .npz of images",
    )
    add("--data_dir", type=as_path, default=Path("./data"), help="folder of the data sets")
    add(
        "--judge_dir",
        type=as_path,
        default=Path("./log/judges"),
        help="where the classifiers that judge samples are kept",
    )
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", metavar="W", help="guidance weights (0 1 3)")
    add("--n_samples", type=at_least(1), help="samples of each class (30), of a model without classes altogether (300)")
    add("--fid", action="store_true", help="also the standard FID (pip install -r requirements-fid.txt)")
    add(
        "--n_steps",
        type=number("n_timesteps"),
        metavar="S",
        help="draw with S of the model's T steps (all), fewer than T with the posterior variance",
    )
    add("--mask", choices=MASKS, help="what --inpaint hides (bottom)")
    add("--method", choices=METHODS, nargs="+", help="how --inpaint completes (all methods)")
    add(
        "--n_resample",
        type=number("n_resample"),
        metavar="R",
        help="how often --inpaint goes through each jump of steps (1; repaint: 5)",
    )
    add("--jump_length", type=number("jump_length"), metavar="J", help=f"steps in such a jump ({JUMP_LENGTH})")
    add("--seed", type=number("seed"), default=0, help="decides every random draw (0)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--raw", action="store_true", help="of a checkpoint.pt: the weights themselves, not their moving average")
    add("--dataset", choices=sorted(sources.SOURCES), help="of an .npz: the real images to compare with")
    add("--data_class", metavar="NAME", help="of an .npz: only this class of them")
    add("--out", type=as_path, help="where the results go (metrics.json beside FILE)")
    add = parser.add_mutually_exclusive_group().add_argument
    add(
        "--inpaint",
        type=at_least(1),
        metavar="N",
        help="instead of samples measure completions of the first N test images",
    )
    add(
        "--bits_per_dim",
        type=at_least(1),
        metavar="N",
        help="instead of samples the likelihood of the first N test images",
    )
    return parser


def parse_arguments() -> argparse.Namespace:
    """The command line. CallError for options that would have no effect."""
    args = parser().parse_args()
    if args.source.suffix == ".npz":
        refuse(args, "an .npz", "g_weight", "n_samples", "n_steps", "raw", "inpaint", "bits_per_dim")
        if args.dataset is None:
            raise CallError(f"{args.source} does not say what its images show: name the data set by --dataset")
    else:
        refuse(args, "a model, which knows its data", "dataset", "data_class")
    if args.inpaint or args.bits_per_dim:
        refuse(args, "a measurement without samples", "g_weight", "n_samples", "fid")
    if args.bits_per_dim:
        refuse(args, "a likelihood, which is that of all steps", "n_steps")
    if not args.inpaint:
        refuse(args, "anything but --inpaint", "mask", "method", "n_resample", "jump_length")
    elif all((args.n_resample or N_RESAMPLE[method]) == 1 for method in args.method or METHODS):
        refuse(args, "steps that are gone through once", "jump_length")
    args.out = args.out or args.source.parent / "metrics.json"
    return args


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise CallError(f"--{name} has no effect on {what}: leave it out")


# ------------------------------------------------------------------------------------------------ measurements


def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    keep_large_buffers()
    read_list(args.out)  # now, so that a file that cannot be added to is found before the work is done
    about = {"command": command_line(), "device": device_name(device), "model": args.source.name}
    measure = evaluate_npz if args.source.suffix == ".npz" else evaluate_model
    measure(args, about, device)
    print(f"added to {args.out}")
    if (args.out.parent / "report.html").exists():
        write_report(args.out.parent)


if __name__ == "__main__":
    run_script(main)
