"""Measure a trained model, or generated images in an .npz: do they look like the real ones, all of them, and as asked?

    python evaluate.py log/log_mnist/model_epoch20.pt                       # 30 samples of each class at w = 0 1 3
    python evaluate.py log/log_mnist/model_epoch20.pt --g_weight 2 --n_samples 1000 --fid
    python evaluate.py log/log_mnist/samples.npz --dataset mnist            # what sample.py --npz drew
    python evaluate.py log/log_mnist/model_epoch20.pt --inpaint 100         # half of 100 test images, completed
    python evaluate.py log/log_mnist/model_epoch20.pt --bits_per_dim 100    # the variational bound of 100 test images

The judge is a small classifier trained on the real training images, once; it is kept in `--judge_dir`. Samples are
compared with all training images by its features: Frechet distance, precision and recall (quality.py), and, of a model
with classes, the share in which it sees the class asked for. As many real test images get the same figures: these are
what to compare with. `--fid` adds the standard FID. Every result goes into metrics.json beside the model at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

import checkpoint
import datasets
from cli import (
    CallError,
    Progress,
    RunError,
    command_line,
    device_name,
    keep_large_buffers,
    number,
    pick_amp,
    pick_device,
    run_script,
    values_from_call,
    whole,
)
from completions import judge_completions, masked
from datasets import ImageSet, one_hot
from ddpm import DDPM
from figures import bits_figure
from inpainting import JUMP_LENGTH, MASKS, METHODS, N_RESAMPLE, mask_named
from judging import accuracy_of, judge_name, tells_rotations, trusted_judge
from log_folder import free_names
from measurements import Record, read_list, reverse_steps
from npz_images import read_npz
from quality import NEIGHBOURS
from reference import AT_ONCE, Reference, draw_samples
from report import write_report
from utils import write_csv

# ------------------------------------------------------------------------------------------------ what the call means


def parse_arguments() -> argparse.Namespace:
    """The command line. CallError for options that would have no effect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="FILE",
        help="a model_epoch*.pt or checkpoint.pt of this suite, or an .npz of images",
    )
    add("--data_dir", type=Path, default=Path("./data"), help="folder of the data sets")
    add("--judge_dir", type=Path, default=Path("./log/judges"), help="where judges are kept")
    add("--g_weight", type=number(-1, 1e6), nargs="+", metavar="W", help="guidance weights (0 1 3)")
    add("--n_samples", type=whole(1), help="samples of each class (30), of a model without classes altogether (300)")
    add("--fid", action="store_true", help="also the standard FID (pip install -r requirements-fid.txt)")
    add("--n_steps", type=whole(1), metavar="S", help="draw with S of the model's T steps (all), fewer than T with the "
        "posterior variance")  # fmt: skip
    add("--mask", choices=MASKS, help="what --inpaint hides (bottom)")
    add("--method", choices=METHODS, nargs="+", help="how --inpaint completes (all methods)")
    add(
        "--n_resample",
        type=whole(1),
        metavar="R",
        help="how often --inpaint walks each stretch of steps (1; repaint: 5)",
    )
    add("--jump_length", type=whole(1), metavar="J", help=f"steps in such a stretch ({JUMP_LENGTH})")
    add("--seed", type=whole(0), default=0, help="decides every random draw (0)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--raw", action="store_true", help="of a checkpoint.pt: the weights themselves, not their moving average")
    add("--dataset", choices=sorted(datasets.SOURCES), help="of an .npz: the real images to compare with")
    add("--data_class", metavar="NAME", help="of an .npz: only this class of them")
    add("--out", type=Path, help="where the results go (metrics.json beside FILE)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--inpaint", type=whole(1), metavar="N", help="instead of samples judge completions of the first N test images")
    add(
        "--bits_per_dim",
        type=whole(1),
        metavar="N",
        help="instead of samples the likelihood of the first N test images",
    )
    args = parser.parse_args()

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
        refuse(args, "stretches that are walked once", "jump_length")
    args.out = args.out or args.source.parent / "metrics.json"
    return args


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise CallError(f"--{name} has no effect on {what}: leave it out")


def real_images(name: str, which: dict[str, Any], data_dir: Path, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a data set. which: arguments of `datasets.load`."""
    with values_from_call():
        train_set, test_set = (datasets.load(name, data_dir, train=train, **which) for train in (True, False))
    return train_set.to(device), test_set.to(device)


# ------------------------------------------------------------------------------------------------ measurements


def evaluate_npz(args: argparse.Namespace, about: dict[str, Any], device: torch.device) -> None:
    """The images of an .npz against the data set that the call names."""
    images, labels = read_npz(args.source)
    if args.dataset in datasets.GREY and (images == images[:, :1]).all():
        images = images[:, :1]  # grey, which such files hold three times
    channels, height = images.shape[1:3]
    which = {"n_classes": None, "data_class": args.data_class, "im_height": height, "im_channels": channels}
    train_set, test_set = real_images(args.dataset, which, args.data_dir, device)
    n_classes = train_set.n_classes
    if labels is not None and not tells_rotations(train_set) and labels.max() >= n_classes:
        raise RunError(f"{args.source} has labels up to {labels.max()}, but {args.dataset} has {n_classes} classes")
    reference, record = start_comparison(train_set, test_set, len(images), args, about)
    record.add(reference.compare("samples", images, labels))


def evaluate_model(args: argparse.Namespace, about: dict[str, Any], device: torch.device) -> None:
    """The samples of a model, or what else the call asks for, against the data set that it was trained on."""
    # A likelihood is measured in float32: bfloat16 cannot hold the little noise that decides its first terms.
    amp_dtype = None if args.bits_per_dim else pick_amp("auto", device)
    ddpm, content = checkpoint.load_model(args.source, device, amp_dtype, args.raw)
    steps = f"{ddpm.n_timesteps} steps"
    if args.n_steps:
        steps = f"{args.n_steps} of {steps}"
        with values_from_call():
            ddpm = ddpm.respaced(args.n_steps)
    n_classes = len(content["class_names"])
    train_set, test_set = real_images(*checkpoint.data_of(ddpm, content), args.data_dir, device)
    about = {
        **about,
        "epoch": content["epoch"],
        "weights": "raw" if args.raw or not content["arguments"].get("ema") else "moving average",
        # Completions have steps of their own.
        "sampler": f"ddpm, {steps}, seed {args.seed}" + ("" if args.inpaint else f", {reverse_steps(ddpm)}"),
    }
    if args.bits_per_dim:
        measure_bits(ddpm, n_classes, test_set, args, about)
    elif args.inpaint:
        measure_completions(ddpm, train_set, test_set, args, about)
    else:
        measure_samples(ddpm, n_classes, train_set, test_set, args, about)


def start_comparison(
    train_set: ImageSet, test_set: ImageSet, n: int, args: argparse.Namespace, about: dict[str, Any]
) -> tuple[Reference, Record]:
    """What n samples are compared with, and the record of it, which begins with as many real test images.

    These are drawn at random, equally many of each class, as samples are.
    """
    if min(n, len(train_set)) <= NEIGHBOURS:
        raise CallError(f"{n} images and {len(train_set)} real ones: more than {NEIGHBOURS} of each are needed")
    reference = Reference(train_set, test_set, args.judge_dir, args.data_dir if args.fid else None)
    record = Record(args.out, **about, measured="samples", judge_accuracy_on_real_test_images=reference.judge_accuracy)
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(args.seed))
    classes = one_hot(test_set.labels.cpu()[order], test_set.n_classes)
    rank = (classes.cumsum(0) * classes).sum(1)  # 1 for the first image of each class, 2 for the second, ...
    chosen = order[rank.argsort(stable=True)][:n].to(test_set.images.device)
    if len(chosen) > NEIGHBOURS:
        record.add(reference.compare("real test images", test_set.images[chosen], test_set.labels[chosen]))
    else:
        print(f"{len(chosen)} real test images are too few to compare with", flush=True)
    return reference, record


def measure_samples(
    ddpm: DDPM,
    n_classes: int,
    train_set: ImageSet,
    test_set: ImageSet,
    args: argparse.Namespace,
    about: dict[str, Any],
) -> None:
    """Samples at each guidance weight, or, of a model without classes, just samples."""
    if args.g_weight and not n_classes:
        raise CallError("--g_weight: the model has no classes, and so no guidance")
    n_samples = args.n_samples or (30 if n_classes else 300)
    reference, record = start_comparison(train_set, test_set, n_samples * max(1, n_classes), args, about)
    for w in args.g_weight or ([0, 1, 3] if n_classes else [0]):
        images, labels = draw_samples(ddpm, n_classes, n_samples, w, args.seed)
        record.add(reference.compare("samples", images, labels, **({"guidance_weight": w} if n_classes else {})))


def measure_completions(
    ddpm: DDPM, train_set: ImageSet, test_set: ImageSet, args: argparse.Namespace, about: dict[str, Any]
) -> None:
    """A part of the first test images hidden, and completed by each method (completions.py).

    For comparison: what the judge says of the whole images, and what one says that was trained to see nothing but the
    visible part (what can be known of the class from there).
    """
    if tells_rotations(train_set):
        raise CallError("--inpaint asks for the true class of completions, but there are no classes to tell")
    judge, accuracy = trusted_judge(args.judge_dir / judge_name(train_set), train_set, test_set)
    images, labels = test_set.images[: args.inpaint], test_set.labels[: args.inpaint]
    first = dataclasses.replace(test_set, images=images, labels=labels)
    hidden = args.mask or "bottom"
    mask = mask_named(hidden, *images.shape[2:], torch.Generator().manual_seed(args.seed))
    which = f"{hidden}{args.seed}" if hidden == "random" else hidden  # each random mask has a judge of its own
    half_judge_file = args.judge_dir / f"{which}_hidden_{judge_name(train_set)}"
    _, half_accuracy = trusted_judge(half_judge_file, masked(train_set, mask), masked(first, mask))
    whole_accuracy = accuracy_of(judge, first)
    print(f"{hidden} hidden, {len(first)} test images: the judge is right on {whole_accuracy:.1%} of the whole ones; "
          f"a judge of visible parts on {half_accuracy:.1%}", flush=True)  # fmt: skip
    record = Record(
        args.out,
        **about,
        measured="completions",
        judge_accuracy_on_real_test_images=accuracy,
        completions=f"the first {len(first)} test images, {hidden} hidden, no class given",
        judge_accuracy_on_the_whole_images=whole_accuracy,
        accuracy_of_a_judge_that_sees_the_visible_part=half_accuracy,
    )
    how = (args.method or METHODS, args.n_resample, args.jump_length or JUMP_LENGTH)
    for result in judge_completions(ddpm, judge, first, mask, args.seed, *how):
        record.add(result)


def measure_bits(
    ddpm: DDPM,
    n_classes: int,
    test_set: ImageSet,
    args: argparse.Namespace,
    about: dict[str, Any],
) -> None:
    """The variational bound (likelihood.py) of the first test images, of the p_theta that samples are drawn from.

    Of every model the discrete decoder on the 256 levels, also of one that was trained on dequantised images: the bound
    is then one on the same probabilities, and comparable. The terms go into bits_per_dim_<model>.png and .csv.
    """
    y, c = test_set.batch(torch.arange(min(args.bits_per_dim, len(test_set))))
    generator = torch.Generator(ddpm.device).manual_seed(args.seed)
    with Progress(math.ceil(len(y) / AT_ONCE) * ddpm.n_timesteps, "steps") as progress:
        advance = lambda t: progress.advance(1)  # noqa: E731
        bound = ddpm.variational_bound(y, c if n_classes else None, generator, batch_size=AT_ONCE, progress=advance)
    terms = bound.terms.mean(dim=0) / (y[0].numel() * math.log(2))  # [T + 1]
    result = {
        "bits_per_dim": bound.bits_per_dim.mean().item(),
        "standard_error": bound.bits_per_dim.std().item() / math.sqrt(len(y)) if len(y) > 1 else None,
        "decoder": terms[0].item(),
        "steps": terms[1:-1].sum().item(),
        "prior": terms[-1].item(),
    }
    of = f"the first {len(y)} test images{', each given its class' if n_classes else ''}"
    print(f"bits per dimension of {of}: at most {result['bits_per_dim']:.4f} = {result['decoder']:.4f} (L_0, the "
          f"decoder) + {result['steps']:.4f} (L_1 .. L_{ddpm.n_timesteps - 1}, the steps) + {result['prior']:.2g} "
          f"(L_{ddpm.n_timesteps}, the prior)", flush=True)  # fmt: skip
    with free_names(args.out.parent, f"bits_per_dim_{args.source.stem}", (".png", ".csv")) as paths:
        write_csv(paths[1], [{"term": f"L_{k}", "bits_per_dim": bits} for k, bits in enumerate(terms.tolist())])
        bits_figure(paths[0], terms.numpy(), f"{args.source.name}: at most {result['bits_per_dim']:.3f} bits per "
                    f"dimension, {len(y)} test images")  # fmt: skip
    result["figure"] = paths[0].name  # and beside it, as .csv, its numbers
    Record(args.out, **about, measured="bits per dimension", bound_of=of, arithmetic="float32").add(result)


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
