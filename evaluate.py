"""Measure a trained model, or generated images in an .npz: are they realistic and varied, and do they show their class?

    python evaluate.py log/log_mnist/model_epoch20.pt                       # 30 samples of each class at w = 0 1 3
    python evaluate.py log/log_mnist/model_epoch20.pt --g_weight 2 --n_samples 1000 --fid
    python evaluate.py log/log_mnist/samples.npz --dataset mnist            # what sample.py --npz drew
    python evaluate.py log/log_mnist/model_epoch20.pt --steps_sweep 3 5 10 400      # quality against steps, as a figure
    python evaluate.py log/log_mnist/model_epoch20.pt --inpaint 100         # half of 100 test images, completed
    python evaluate.py log/log_celeba/model_epoch50.pt --prompts "a smiling woman" "an old man"     # as words ask
    python evaluate.py log/log_mnist/model_epoch20.pt --bits_per_dim 100    # the variational bound of 100 test images

A small classifier is trained once on the real training images, and is kept in `--judge_dir`. In its features, samples are
compared with all training images: Frechet distance, precision and recall (evaluation/metrics.py). If the model has
classes, the classifier also counts how many samples show the class that was asked for. As many real test images are
measured in the same way, to compare with. `--fid` adds the standard FID. Every result is added at once to metrics.json
beside the model.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
from pathlib import Path

from common.console import ArgumentParser, CallError, as_path, at_least, in_range, number, run_script
from common.files import check_writable
from common.machine import command_line, device_name, keep_large_buffers
from datasets import sources
from diffusion.inpainting import MASKS, METHODS, N_RESAMPLE
from evaluation.measure import evaluate_model, evaluate_npz, measure_samples
from evaluation.record import read_list
from evaluation.steps_sweep import as_way, measure_steps
from reporting.page import write_report
from training import processes
from training.arguments import add_model_arguments, add_resampling_arguments

STEPS = ("sampler", "n_steps", "placement")

# ------------------------------------------------------------------------------------------------ arguments


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=as_path, metavar="FILE", help="a model_epoch*.pt or checkpoint.pt, or an .npz of images")
    add("--data_dir", type=as_path, default=Path("./data"), help="folder of the data sets")
    add("--judge_dir", type=as_path, default=Path("./log/judges"), help="folder where the classifiers are kept")
    text = "guidance weights (0 1 3; --prompts: 0 1 3 7)"
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", metavar="W", help=text)
    text = "samples of each class or prompt (30); without classes: of all (300)"
    add("--n_samples", type=at_least(1, 10**6), help=text)
    add("--fid", action="store_true", help="also the standard FID (pip install -r requirements-fid.txt)")
    add_model_arguments(parser)
    add("--dataset", choices=sorted(sources.SOURCES), help="for an .npz: the real images to compare with")
    add("--data_class", metavar="NAME", help="for an .npz: only this class of the real images")
    text = "folder of the results, which are added to its metrics.json (that of the model)"
    add("--out", type=as_path, metavar="FOLDER", help=text)
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--bits_per_dim", type=at_least(1), metavar="N", help="measure the likelihood of the first N test images")
    instead("--inpaint", type=at_least(1), metavar="N", help="measure completions of the first N test images")
    text = "of a model of train_celeba.py: measure how well samples show what these ask for"
    instead("--prompts", nargs="+", metavar="TEXT", help=text)
    text = "measure few steps: Frechet distance at w = 0 and accuracy at w = 1 for each number of steps"
    instead("--steps_sweep", type=number("n_timesteps"), nargs="+", metavar="S", help=text)
    text = "samplers of --steps_sweep, such as ddim or ddpm:fitted (ddpm ddpm:fitted sde-dpm++2m:fitted)"
    add("--samplers", type=as_way, nargs="+", metavar="SAMPLER[:PLACEMENT]", help=text)
    add = parser.add_argument_group("options of --inpaint").add_argument
    add("--mask", choices=MASKS, help="hidden part (bottom)")
    add("--method", choices=METHODS, nargs="+", help="methods that complete the images (all)")
    add_resampling_arguments(add)
    return parser


def parse_arguments() -> argparse.Namespace:
    """The command line. CallError for options that have no effect."""
    args = parser().parse_args()
    if args.source.suffix == ".npz":
        of_models = ("g_weight", "n_samples", *STEPS, "raw", "inpaint", "bits_per_dim", "prompts", "steps_sweep")
        refuse(args, "an .npz", *of_models)
        if args.dataset is None:
            raise CallError(f"{args.source} does not say of which data set its images are: add --dataset NAME")
    else:
        refuse(args, "a model, whose file names its data set", "dataset", "data_class")
    if args.inpaint or args.bits_per_dim:
        refuse(args, "a measurement without samples", "g_weight", "n_samples", "fid")
    if args.bits_per_dim:
        refuse(args, "the likelihood, which needs all steps", *STEPS)
    if args.prompts:
        refuse(args, "prompts", "fid")
    else:
        refuse(args, "anything but --prompts", "clip_weights")
    if args.inpaint:
        refuse(args, "completions, whose methods have steps of their own", "sampler")
    if args.steps_sweep:
        refuse(args, "--steps_sweep", "g_weight", "fid", *STEPS)
    else:
        refuse(args, "anything but --steps_sweep", "samplers")
    if not args.inpaint:
        refuse(args, "anything but --inpaint", "mask", "method", "n_resample", "jump_length")
    elif all((args.n_resample or N_RESAMPLE[method]) == 1 for method in args.method or METHODS):
        refuse(args, "steps that are taken only once", "jump_length")
    if args.out and args.out.suffix == ".json":
        raise CallError(f"--out is the folder of the results, not the file {args.out}: --out {args.out.parent}")
    args.out = args.out or args.source.parent
    args.record = args.out / "metrics.json"
    return args


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise CallError(f"--{name} has no effect on {what}: leave it out")


# ------------------------------------------------------------------------------------------------ measurements


@processes.together()
def main() -> None:
    args = parse_arguments()
    device = processes.start(args.device)
    keep_large_buffers()
    read_list(args.record)  # now: a file that cannot be added to is found before the work begins
    check_writable(args.record)
    about = {"command": command_line(), "device": device_name(device), "model": args.source.name}
    if args.source.suffix == ".npz":
        evaluate_npz(args, about, device)
    else:
        evaluate_model(args, about, device, measure_steps if args.steps_sweep else measure_samples)
    if processes.rank():
        return
    print(f"added to {args.record}")
    if (args.out / "report.html").exists():
        write_report(args.out)


if __name__ == "__main__":
    run_script(main)
