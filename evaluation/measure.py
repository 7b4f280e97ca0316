"""What evaluate.py measures: samples, completions and the likelihood of a model, or the images of an .npz."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from typing import Any, Callable, Iterator, Sequence

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
from evaluation.prompt_score import measure_prompts
from evaluation.record import Record, reverse_steps
from evaluation.reference import AT_ONCE, Reference, draw_samples, finite, try_model
from figures.images import bits_figure
from networks.classifier import Classifier
from training import checkpoint, processes
from training.arguments import sampler_as_asked

COMPLETED_AT_ONCE = 100  # images

# ------------------------------------------------------------------------------------------------ what the call asks for


def evaluate_npz(args: argparse.Namespace, about: dict[str, Any], device: torch.device) -> None:
    """Compare the images of an .npz with the data set that the call names. Of several processes only rank 0 works."""
    if processes.rank():
        return
    images, labels, names = read_npz(args.source)
    if args.dataset in sources.GREY and (images == images[:, :1]).all():
        images = images[:, :1]  # grey images, which such files hold as RGB
    channels, height = images.shape[1:3]
    which = {"n_classes": None, "data_class": args.data_class, "im_height": height, "im_channels": channels}
    if names and not args.data_class:
        which["class_names"] = names  # labels are positions in this list, whatever the order in the data set
    train_set, test_set = real_images(args, device, args.dataset, which)
    n_classes = train_set.n_classes
    if labels is not None and not tells_rotations(train_set) and labels.max() >= n_classes:
        raise RunError(f"{args.source} has labels up to {labels.max()}, but {args.dataset} has {n_classes} classes")
    reference, record = start_comparison(train_set, test_set, len(images), args, about)
    record.add(reference.compare("samples", images, labels))


def evaluate_model(
    args: argparse.Namespace, about: dict[str, Any], device: torch.device, of_samples: Callable[..., None]
) -> None:
    """Measure a model, with the data set that it was trained on.

    of_samples: `measure_samples` or another function of these arguments, for calls that ask for nothing else.
    """
    # The likelihood is computed in float32: its first terms depend on noise that is too small for bfloat16.
    amp_dtype = None if args.bits_per_dim else pick_amp("auto", device)
    ddpm, content = checkpoint.load_model(args.source, device, amp_dtype, args.raw)
    try_model(ddpm)
    ddpm = processes.share(ddpm)
    processes.led(lambda: measure_model(ddpm, content, args, about, of_samples), ddpm)


def measure_model(
    ddpm: DDPM,
    content: dict[str, Any],
    args: argparse.Namespace,
    about: dict[str, Any],
    of_samples: Callable[..., None],
) -> None:
    """Measure what the call asks for. content: what else the file of the model holds."""
    steps = f"{ddpm.n_timesteps} steps"
    if args.n_steps:
        steps = f"{args.n_steps} of {steps}"
    placed = f", placed by {args.placement}" if args.placement else ""
    ddpm = sampler_as_asked(ddpm, args.sampler, args.n_steps, args.placement)
    n_classes = len(content["class_names"])
    about = {
        **about,
        "epoch": content["epoch"],
        "weights": "raw" if args.raw or not content["arguments"].get("ema") else "moving average",
        # Completions do not use the reverse steps of plain sampling.
        "sampler": f"{args.sampler or 'ddpm'}, {steps}{placed}, seed {args.seed}"
        + ("" if args.inpaint else f", {reverse_steps(ddpm)}"),
    }
    if args.prompts:
        measure_prompts(ddpm, content, args, about)
        return
    train_set, test_set = real_images(args, ddpm.device, *checkpoint.data_of(ddpm, content))
    if args.bits_per_dim:
        measure_bits(ddpm, n_classes, test_set, args, about)
    elif args.inpaint:
        measure_completions(ddpm, train_set, test_set, args, about)
    else:
        of_samples(ddpm, n_classes, train_set, test_set, args, about)


def real_images(
    args: argparse.Namespace, device: torch.device, name: str, which: dict[str, Any]
) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a data set. which: arguments of `sources.load`."""
    with values_from_call():
        train_set, test_set = (sources.load(name, args.data_dir, train=train, **which) for train in (True, False))
    return train_set.to(device), test_set.to(device)


# ------------------------------------------------------------------------------------------------ samples


def start_comparison(
    train_set: ImageSet, test_set: ImageSet, n: int, args: argparse.Namespace, about: dict[str, Any]
) -> tuple[Reference, Record]:
    """The reference for n samples, and a record that begins with the results of up to n real test images.

    These are drawn at random, with equally many of each class, as samples are.
    """
    if min(n, len(train_set)) <= NEIGHBOURS:
        raise CallError(f"{n} images and {len(train_set)} real ones: more than {NEIGHBOURS} of each are needed")
    reference = Reference(train_set, test_set, args.judge_dir, args.data_dir if args.fid else None)
    record = Record(
        args.record, **about, measured="samples", judge_accuracy_on_real_test_images=reference.judge_accuracy
    )
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
    """Samples at each guidance weight; of a model without classes, just samples."""
    if args.g_weight and not n_classes:
        raise CallError("--g_weight: the model has no classes, and so no guidance")
    n_samples = args.n_samples or (30 if n_classes else 300)
    reference, record = start_comparison(train_set, test_set, n_samples * max(1, n_classes), args, about)
    for w in args.g_weight or ([0, 1, 3] if n_classes else [0]):
        images, labels = draw_samples(ddpm, n_classes, n_samples, w, args.seed)
        record.add(reference.compare("samples", images, labels, **({"guidance_weight": w} if n_classes else {})))


# ------------------------------------------------------------------------------------------------ completions


def measure_completions(
    ddpm: DDPM, train_set: ImageSet, test_set: ImageSet, args: argparse.Namespace, about: dict[str, Any]
) -> None:
    """Hide a part of the first test images, and complete them by each method (diffusion/inpainting.py).

    To compare with: the classifier's accuracy on the whole images, and that of a classifier which was trained to see
    only the visible part. The latter says how much of the class can be known from there.
    """
    if tells_rotations(train_set):
        raise CallError("--inpaint asks for the class of completions, but the data set has only one class")
    classifier, accuracy = load_or_train(args.judge_dir / file_name(train_set), train_set, test_set)
    images, labels = test_set.images[: args.inpaint], test_set.labels[: args.inpaint]
    first = dataclasses.replace(test_set, images=images, labels=labels)
    hidden, (height, width) = args.mask or "bottom", images.shape[2:]
    mask = mask_named(hidden, height, width, torch.Generator().manual_seed(args.seed))
    which = f"{hidden}{args.seed}" if hidden == "random" else hidden  # each random mask has a classifier of its own
    file = args.judge_dir / f"{which}_hidden_{file_name(train_set)}"
    _, visible_accuracy = load_or_train(file, masked(train_set, mask), masked(first, mask))
    whole_accuracy = accuracy_of(classifier, first)
    print(
        f"{hidden} hidden, {len(first)} test images: the classifier is right on {whole_accuracy:.1%} of the whole "
        f"images, a classifier of the visible parts on {visible_accuracy:.1%}",
        flush=True,
    )
    record = Record(
        args.record,
        **about,
        measured="completions",
        judge_accuracy_on_real_test_images=accuracy,
        completions=f"the first {len(first)} test images, {hidden} hidden, no class given",
        judge_accuracy_on_the_whole_images=whole_accuracy,
        accuracy_of_a_judge_that_sees_the_visible_part=visible_accuracy,
    )
    how = (args.method or METHODS, args.n_resample, args.jump_length or JUMP_LENGTH)
    for result in completed(ddpm, classifier, first, mask, args.seed, *how):
        record.add(result)


def masked(image_set: ImageSet, mask: Tensor) -> ImageSet:
    """The same images, black where the mask, [1, 1, H, W], is 0."""
    images = image_set.images
    return dataclasses.replace(image_set, images=images * mask.to(images.device, torch.uint8))


def completed(
    ddpm: DDPM,
    classifier: Classifier,
    test_set: ImageSet,
    mask: Tensor,
    seed: int,
    methods: Sequence[str] = METHODS,
    n_resample: int | None = None,
    jump_length: int = JUMP_LENGTH,
) -> Iterator[dict[str, Any]]:
    """Complete the test images by each of these methods of `DDPM.complete_image`, without a class. A dict for each:

    n_resample   how often the steps were taken; None takes the method's own default
    true_class   the share of completions in which the classifier finds the class of the original image
    known_error  mean distance of the known pixels from their true values, which are in [-1, 1]
    seconds      the time that it took

    mask: float [1, 1, H, W], 1 where the images are known. seed: decides the noise, which is the same for every method.
    """
    y, labels = to_float(test_set.images).to(ddpm.device), test_set.labels.to(ddpm.device)
    mask = mask.to(ddpm.device)
    for method in methods:
        times = N_RESAMPLE[method] if n_resample is None else n_resample
        how: dict[str, Any] = {"method": method, "n_resample": times, "jump_length": jump_length}
        generator = torch.Generator(ddpm.device).manual_seed(seed)
        began = time.perf_counter()
        parts = [ddpm.complete_image(part, mask, generator=generator, **how) for part in y.split(COMPLETED_AT_ONCE)]
        images = finite(torch.cat(parts))
        seconds = time.perf_counter() - began
        true_class = (classify(classifier, images) == labels).float().mean().item()
        error = ((images - y).abs() * mask).sum().item() / mask.expand_as(y).sum().item()
        words = f"{true_class:.1%} show the true class; error of the known pixels {error:.4f}; {seconds:.0f} s"
        print(f"{method}, n_resample {times}: {words}", flush=True)
        yield {**how, "true_class": true_class, "known_error": error, "seconds": seconds}


# ------------------------------------------------------------------------------------------------ likelihood


def measure_bits(
    ddpm: DDPM, n_classes: int, test_set: ImageSet, args: argparse.Namespace, about: dict[str, Any]
) -> None:
    """The variational bound (diffusion/likelihood.py) of the first test images, for the p_theta that samples come from.

    Every model gets the discrete decoder with 256 levels, also one that was trained on dequantised images: so all bounds
    are on the same probabilities and can be compared. The terms are written to bits_per_dim_<model>.png and .csv.
    """
    y, c = test_set.batch(torch.arange(min(args.bits_per_dim, len(test_set))))
    generator = torch.Generator(ddpm.device).manual_seed(args.seed)
    with Progress(math.ceil(len(y) / AT_ONCE) * ddpm.n_timesteps, "steps") as progress:
        after_step = progress.steps(progress.total)
        bound = ddpm.variational_bound(y, c if n_classes else None, generator, batch_size=AT_ONCE, progress=after_step)
    terms = finite(bound.terms).mean(dim=0) / (y[0].numel() * math.log(2))  # [T + 1]
    bits, T = bound.bits_per_dim, ddpm.n_timesteps
    result: dict[str, Any] = {
        "bits_per_dim": bits.mean().item(),
        "standard_error": bits.std().item() / math.sqrt(len(y)) if len(y) > 1 else None,
        "decoder": terms[0].item(),
        "steps": terms[1:-1].sum().item(),
        "prior": terms[-1].item(),
    }
    of = f"the first {len(y)} test images{', each given its class' if n_classes else ''}"
    print(
        f"bits per dimension of {of}: at most {result['bits_per_dim']:.4f} = {result['decoder']:.4f} (L_0, the decoder) "
        f"+ {result['steps']:.4f} (L_1 .. L_{T - 1}, the steps) + {result['prior']:.2g} (L_{T}, the prior)",
        flush=True,
    )
    with free_names(args.out, f"bits_per_dim_{args.source.stem}", (".png", ".csv")) as paths:
        write_csv(paths[1], [{"term": f"L_{k}", "bits_per_dim": value} for k, value in enumerate(terms.tolist())])
        title = f"{args.source.name}: at most {result['bits_per_dim']:.3f} bits per dimension, {len(y)} test images"
        bits_figure(paths[0], terms.numpy(), title)
    result["figure"] = paths[0].name  # its numbers are in the .csv of the same name
    Record(args.record, **about, measured="bits per dimension", bound_of=of, arithmetic="float32").add(result)
