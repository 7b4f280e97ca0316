"""What evaluate.py measures."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor

from common.console import CallError, Progress, RunError, values_from_call
from common.files import free_names, write_csv
from common.machine import pick_amp
from datasets import sources
from datasets.image_set import ImageSet, one_hot, to_float
from ddpm import DDPM
from diffusion.inpainting import JUMP_LENGTH, METHODS, N_RESAMPLE, mask_named
from evaluation.classifier import accuracy_of, classify, file_name, load_or_train, tells_rotations
from evaluation.metrics import NEIGHBOURS
from evaluation.npz import read_npz
from evaluation.record import Record, reverse_steps
from evaluation.reference import AT_ONCE, Reference, draw_samples
from figures.images import bits_figure
from networks.classifier import Classifier
from training import checkpoint


def real_images(name: str, which: dict[str, Any], data_dir: Path, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a data set. which: arguments of `datasets.load`."""
    with values_from_call():
        train_set, test_set = (sources.load(name, data_dir, train=train, **which) for train in (True, False))
    return train_set.to(device), test_set.to(device)


def evaluate_npz(args: argparse.Namespace, about: dict[str, Any], device: torch.device) -> None:
    """The images of an .npz against the data set that the call names."""
    images, labels = read_npz(args.source)
    if args.dataset in sources.GREY and (images == images[:, :1]).all():
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
    judge, accuracy = load_or_train(args.judge_dir / file_name(train_set), train_set, test_set)
    images, labels = test_set.images[: args.inpaint], test_set.labels[: args.inpaint]
    first = dataclasses.replace(test_set, images=images, labels=labels)
    hidden = args.mask or "bottom"
    height, width = images.shape[2:]
    mask = mask_named(hidden, height, width, torch.Generator().manual_seed(args.seed))
    which = f"{hidden}{args.seed}" if hidden == "random" else hidden  # each random mask has a judge of its own
    half_judge_file = args.judge_dir / f"{which}_hidden_{file_name(train_set)}"
    _, half_accuracy = load_or_train(half_judge_file, masked(train_set, mask), masked(first, mask))
    whole_accuracy = accuracy_of(judge, first)
    print(
        f"{hidden} hidden, {len(first)} test images: the judge is right on {whole_accuracy:.1%} of the whole ones; "
        f"a judge of visible parts on {half_accuracy:.1%}",
        flush=True,
    )
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
    result: dict[str, Any] = {
        "bits_per_dim": bound.bits_per_dim.mean().item(),
        "standard_error": bound.bits_per_dim.std().item() / math.sqrt(len(y)) if len(y) > 1 else None,
        "decoder": terms[0].item(),
        "steps": terms[1:-1].sum().item(),
        "prior": terms[-1].item(),
    }
    of = f"the first {len(y)} test images{', each given its class' if n_classes else ''}"
    print(
        f"bits per dimension of {of}: at most {result['bits_per_dim']:.4f} = {result['decoder']:.4f} (L_0, the "
        f"decoder) + {result['steps']:.4f} (L_1 .. L_{ddpm.n_timesteps - 1}, the steps) + {result['prior']:.2g} "
        f"(L_{ddpm.n_timesteps}, the prior)",
        flush=True,
    )
    with free_names(args.out.parent, f"bits_per_dim_{args.source.stem}", (".png", ".csv")) as paths:
        write_csv(paths[1], [{"term": f"L_{k}", "bits_per_dim": bits} for k, bits in enumerate(terms.tolist())])
        bits_figure(
            paths[0],
            terms.numpy(),
            f"{args.source.name}: at most {result['bits_per_dim']:.3f} bits per dimension, {len(y)} test images",
        )
    result["figure"] = paths[0].name  # and beside it, as .csv, its numbers
    Record(args.out, **about, measured="bits per dimension", bound_of=of, arithmetic="float32").add(result)


COMPLETED_AT_ONCE = 100  # images


def masked(image_set: ImageSet, mask: Tensor) -> ImageSet:
    """The same images with nothing (black) where the mask, [1, 1, H, W], is 0."""
    images = image_set.images
    return dataclasses.replace(image_set, images=images * mask.to(images.device, torch.uint8))


def judge_completions(
    ddpm: DDPM,
    judge: Classifier,
    test_set: ImageSet,
    mask: Tensor,
    seed: int,
    methods: Sequence[str] = METHODS,
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
) -> Iterator[dict[str, Any]]:
    """Each of these methods of `DDPM.complete_image` completes the test images without a class; a result for each, for JSON:

    n_resample   how often each stretch of jump_length steps was walked; None takes the method's own default
    true_class   the share of completions in which the judge sees the class of the original
    known_error  how far the known pixels ended from what they were: mean distance, in [-1, 1]
    seconds      that it took

    mask: float [1, 1, H, W], 1 where the images are known. seed: decides the noise, the same for every method.
    """
    y, labels = to_float(test_set.images).to(ddpm.device), test_set.labels.to(ddpm.device)
    mask = mask.to(ddpm.device)
    for method in methods:
        walks = N_RESAMPLE[method] if n_resample is None else n_resample
        how: dict[str, Any] = {"method": method, "n_resample": walks, "jump_length": jump_length}
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        began = time.perf_counter()
        found = torch.cat(
            [ddpm.complete_image(part, mask, generator=generator, **how) for part in y.split(COMPLETED_AT_ONCE)]
        )
        seconds = time.perf_counter() - began
        true_class = (classify(judge, found) == labels).float().mean().item()
        off = ((found - y).abs() * mask).sum().item() / mask.expand_as(y).sum().item()
        print(
            f"{method}, n_resample {walks}: {true_class:.1%} show the true class; known pixels off by {off:.4f}; {seconds:.0f} s",
            flush=True,
        )
        yield {**how, "true_class": true_class, "known_error": off, "seconds": seconds}
