"""Draw from a trained model: classes, mixtures of classes, completions of images, other guidance weights, many for FID.

    python sample.py log/log_mnist/model_epoch20.pt                            # samples.png: a grid of its classes
    python sample.py log/log_mnist/model_epoch20.pt --classes 3 8 --g_weight 3 --animate      # ... and samples.gif
    python sample.py log/log_mnist/model_epoch20.pt --sampler sde-dpm++2m --n_steps 10        # a grid in 10 steps, not 400
    python sample.py log/log_mnist/model_epoch20.pt --mix 3+8 "3*0.7+8*0.3"    # mixture.png
    python sample.py log/log_mnist/model_epoch20.pt --guidance_sweep 0 0.5 1 2 3 5 8          # guidance_sweep.png
    python sample.py log/log_mnist/model_epoch20.pt --inpaint                  # inpainting.png, of test images
    python sample.py log/log_mnist/model_epoch20.pt --inpaint photo.jpg --mask mask.png --method repaint --classes 3
    python sample.py log/log_mnist/model_epoch20.pt --inpaint ink_on_paper.jpg --invert       # as white ink on black
    python sample.py log/log_mnist/model_epoch20.pt --npz 50000                # samples.npz, for tools that measure FID
    python sample.py log/log_celeba/model_epoch50.pt --prompts "a smiling woman" "an old man*0.7 + a hat*0.3" --g_weight 1 3 7
    python sample.py log/log_celeba/model_epoch50.pt --image_prompt photo.jpg  # prompts.png: like this picture
    python sample.py log/log_mnist_fc/model_epoch10.pt log/log_mnist/model_epoch20.pt         # comparison.png

A model is any model_epoch*.pt or checkpoint.pt of this suite; nothing else is needed. Several models are compared: samples
from the same noise, above real images, with the network, its number of parameters and its validation loss. Their
classes, images, noise schedule and loss must be the same. Results go beside the (first) model, or to --out, under the
next free name (samples.png, samples_2.png, ...). The file samples.log there says which command made them.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
import common  # noqa: F401  (it tells what a Python lacks that cannot run the suite)

# isort: split
import argparse
import hashlib
from pathlib import Path
from typing import Any, Sequence

import torch

from common.console import (
    ArgumentParser,
    CallError,
    Progress,
    as_path,
    at_least,
    expanded,
    in_range,
    number,
    run_script,
)
from common.files import free_names, open_to_append
from common.machine import command_line, commit, device_name, keep_large_buffers, now, pick_amp
from datasets.class_names import class_index, parse_mixture
from datasets.image_set import one_hot
from diffusion import inpainting
from evaluation.comparison import Model, check_comparable, comparison_figure, images_of
from evaluation.npz import export
from evaluation.prompts import prompt_figure
from evaluation.reference import finite, try_model
from evaluation.to_complete import to_complete
from figures.grids import plot_gif, plot_grid, plot_groups
from figures.images import FEW_STEPS, inpainting_figure, mixture_figure, sample_weights
from reporting.log_files import shown_classes
from reporting.page import write_report
from training import checkpoint, processes
from training.arguments import (
    add_model_arguments,
    add_resampling_arguments,
    sampler_as_asked,
    sampler_in_words,
)

# The options of each mode and their defaults. None: without this option the mode does something else.
COMPLETION = {
    **{"mask": None, "method": "input", "scale": 1.0, "invert": False},
    **{"n_resample": None, "jump_length": inpainting.JUMP_LENGTH},
}
MODES: "dict[str, dict[str, Any]]" = {
    "grid": {"classes": None, "n_samples": 4, "g_weight": 1.0, "animate": False},
    "mix": {"n_samples": 4, "g_weight": 1.0},
    "guidance_sweep": {"classes": None},
    "inpaint": {"classes": None, "n_samples": 5, "g_weight": 1.0, "data_dir": Path("./data"), **COMPLETION},
    "prompts": {"n_samples": 4, "g_weight": [1.0], "image_prompt": [], "clip_weights": None},
    "npz": {"classes": None, "g_weight": 1.0, "batch_size": 250},
    "comparison": {"classes": None, "n_samples": 2, "g_weight": 1.0, "data_dir": Path("./data")},
}
MOST_IMAGES = 2500  # in one batch: when memory runs out, many systems do not raise an error but kill the process

# ------------------------------------------------------------------------------------------------ arguments


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    text = "model_epoch*.pt or checkpoint.pt; several: compare them"
    add("models", type=as_path, nargs="+", metavar="MODEL", help=text)
    add("--classes", nargs="+", metavar="K", help="names or indices (all, or 10 of more than 20; --inpaint: no class)")
    text = "samples of each class (4; several models: 2; --inpaint: 5 of each image)"
    add("--n_samples", type=number("n_samples"), help=text)
    text = "guidance weight w (1); --prompts: or several"
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", metavar="W", help=text)
    add_model_arguments(parser)
    add("--out", type=as_path, metavar="FOLDER", help="folder of the results (that of the model)")
    add("--animate", action="store_true", default=None, help="also samples.gif, the reverse process of the grid")
    add("--batch_size", type=at_least(1), help="images in each part of --npz (250)")
    add("--data_dir", type=as_path, help="folder of the data sets, where test images are needed (./data)")
    text = "of --prompts: pictures that say what to draw, beside the texts"
    add("--image_prompt", type=as_path, nargs="+", metavar="FILE", help=text)

    modes = parser.add_mutually_exclusive_group().add_argument
    modes("--mix", nargs="+", metavar="A+B", help="mixtures of classes, such as 3+8 or 3*0.7+8*0.3")
    text = "each of these w, from the same noise"
    modes("--guidance_sweep", type=in_range(-1, 1e6), nargs="+", metavar="W", help=text)
    modes("--prompts", nargs="+", metavar="TEXT", help="of a model of train_celeba.py: what the pictures show")
    text = "complete these images (without any: test images)"
    modes("--inpaint", nargs="*", type=as_path, metavar="IMAGE", help=text)
    modes("--npz", type=at_least(1), metavar="N", help="N images as samples.npz; continues after an interruption")

    add = parser.add_argument_group("options of --inpaint").add_argument
    add(
        "--mask",
        type=expanded,
        help=f"hidden part: {', '.join(inpainting.MASKS)} (bottom), or an image file (dark = hidden)",
    )
    add("--method", choices=inpainting.METHODS, help="input (the default), mean (fastest), or repaint (slowest)")
    add("--scale", type=in_range(0, 1e6), help="strength of the correction by the methods mean and input (1)")
    add_resampling_arguments(add)
    add("--invert", action="store_true", default=None, help="use negatives: for dark ink and a model of white digits")
    return parser


def parse_arguments() -> argparse.Namespace:
    """The command line. `mode` is a key of MODES; options that are left out get the defaults of this mode."""
    args = parser().parse_args()
    if args.image_prompt and args.prompts is None:
        args.prompts = []
    named = [mode for mode in MODES if getattr(args, mode, None) is not None]
    if named and len(args.models) > 1:
        raise CallError(f"--{named[0]} takes one model, not {len(args.models)}")
    args.mode = named[0] if named else "grid" if len(args.models) == 1 else "comparison"
    args.best = args.mode == "inpaint" and not any((args.method, args.n_steps, args.n_resample, args.jump_length))
    if args.best:
        vars(args).update(inpainting.BEST)
    args.n_resample_used = args.n_resample or inpainting.N_RESAMPLE[args.method or "input"]
    useless = {
        "scale": args.method == "repaint",
        "jump_length": args.n_resample_used == 1,
        "g_weight": args.mode == "inpaint" and not args.classes,
        "data_dir": bool(args.inpaint),
        "invert": not args.inpaint,
    }
    if args.mode == "inpaint" and args.sampler:
        raise CallError("--sampler has no effect on --inpaint, whose methods have steps of their own: leave it out")
    for name in sorted({name for options in MODES.values() for name in options}):
        if getattr(args, name) is None:
            setattr(args, name, MODES[args.mode].get(name))
        elif name not in MODES[args.mode] or useless.get(name):
            plain = {"grid": "a plain grid", "comparison": "a comparison of models"}
            mode = plain.get(args.mode, f"--{args.mode}")
            raise CallError(f"--{name} has no effect on {mode} in this call: leave it out")
    if args.mode != "prompts" and isinstance(args.g_weight, list):
        if len(args.g_weight) > 1:
            raise CallError("--g_weight takes several weights only with --prompts; of classes: --guidance_sweep")
        args.g_weight = args.g_weight[0]
    args.out = args.out or args.models[0].parent
    return args


def chosen(args: argparse.Namespace, class_names: Sequence[str]) -> "list[int]":
    """The indices of --classes; without it all classes (some, if they are many). Empty for a model without classes."""
    if not class_names and (args.classes or args.mode in ("mix", "guidance_sweep")):
        raise CallError(f"--{'classes' if args.classes else args.mode}: the model has no classes")
    return [class_index(word, class_names) for word in args.classes or ()] or shown_classes(len(class_names))


def check_count(n_images: int, option: str = "--n_samples") -> int:
    """n_images. CallError if they are too many for one batch."""
    if n_images > MOST_IMAGES:
        limit = f"at most {MOST_IMAGES:,} images are drawn at once, not {n_images:,}"
        raise CallError(f"{option}: {limit}; --npz draws any number, in parts")
    return n_images


# ------------------------------------------------------------------------------------------------ modes


def draw_grid(args: argparse.Namespace, model: Model) -> "list[Path]":
    ddpm, names = model.sampler, model.content["class_names"]
    classes = chosen(args, names)
    n_columns = len(classes) or args.n_samples  # without classes the grid is a square
    n_images = check_count(args.n_samples * n_columns)
    suffixes = (".png", ".gif") if args.animate else (".png",)
    with free_names(args.out, "samples", suffixes, beside=".gif") as paths:
        with Progress(n_images) as progress:
            y, steps = ddpm.sample(
                args.n_samples if classes else n_images,
                n_classes=len(names),
                g_weight=args.g_weight,
                classes=classes or None,
                generator=torch.Generator(ddpm.device).manual_seed(args.seed),
                record=args.animate,
                progress=progress.steps(ddpm.n_timesteps),
            )
        heads = [names[k] for k in classes] or None
        plot_grid(paths[0], finite(y), None, heads, title(args, weight=bool(classes)), n_columns)
        if args.animate:
            plot_gif(paths[1], steps, ddpm.recorded_times(), n_columns, heads)
    return paths


def draw_mixtures(args: argparse.Namespace, model: Model) -> "list[Path]":
    ddpm, names = model.sampler, model.content["class_names"]
    mixtures = [parse_mixture(text, names) for text in args.mix if chosen(args, names)]
    n_images = check_count(args.n_samples * sum(len(weights) + 2 for weights in mixtures))
    above = title(args, weight=True)
    with free_names(args.out, "mixture") as paths, Progress(n_images) as progress:
        after_step = progress.steps(2 * ddpm.n_timesteps)  # two batches
        mixture_figure(paths[0], ddpm, names, mixtures, args.n_samples, args.g_weight, args.seed, above, after_step)
    return paths


def draw_sweep(args: argparse.Namespace, model: Model) -> "list[Path]":
    ddpm, names = model.sampler, model.content["class_names"]
    classes = chosen(args, names)
    n_images = check_count(len(classes) * len(args.guidance_sweep), "--guidance_sweep")
    with free_names(args.out, "guidance_sweep") as paths, Progress(n_images) as progress:
        after_step = progress.steps(ddpm.n_timesteps)
        drawn = sample_weights(ddpm, 1, len(names), classes, args.guidance_sweep, args.seed, progress=after_step)
        groups = [(f"w = {w:g}", finite(y)) for w, (y, _) in drawn.items()]
        plot_groups(paths[0], groups, [names[k] for k in classes], title(args))
    return paths


def draw_comparison(args: argparse.Namespace, models: Sequence[Model]) -> "list[Path]":
    check_comparable(models)
    classes = chosen(args, models[0].content["class_names"])
    check_count(args.n_samples * len(classes))
    test_set = images_of(models[0], args.data_dir).to(models[0].ddpm.device)
    above = title(args, weight=True)
    with free_names(args.out, "comparison") as paths:
        comparison_figure(paths[0], models, test_set, classes, args.n_samples, args.g_weight, args.seed, above)
    return paths


def draw_inpainting(args: argparse.Namespace, model: Model) -> "list[Path]":
    ddpm, names = model.sampler, model.content["class_names"]
    images, masks, heads = to_complete(model, args.inpaint, args.mask, args.invert, args.data_dir, args.seed)
    c = None
    if args.classes:
        classes = chosen(args, names)
        classes = classes * len(images) if len(classes) == 1 else classes
        if len(classes) != len(images):
            fault = f"{len(classes)} classes do not fit {len(images)} images"
            raise CallError(f"--classes: {fault}; give one, or one for each")
        c = one_hot(torch.tensor(classes), len(names))
        heads = [f"{head}, as {names[k]}" for head, k in zip(heads, classes)]
    how = f"method {args.method}" + (f", scale {args.scale:g}" if args.method != "repaint" else "")
    n_resample, jump_length = args.n_resample_used, args.jump_length
    how += f", n_resample {n_resample}, jump_length {jump_length}" if n_resample > 1 else ""
    times = inpainting.resampling_times(ddpm.n_timesteps, jump_length, n_resample)
    n_steps = sum(after < before for before, after in zip(times, times[1:]))
    n_images = check_count(args.n_samples * len(images))
    with free_names(args.out, "inpainting") as paths, Progress(n_images) as progress:
        completed = ddpm.complete_image(
            *(images, masks, args.scale, args.method, c, args.g_weight, args.n_samples),
            n_resample=n_resample,
            jump_length=jump_length,
            generator=torch.Generator(ddpm.device).manual_seed(args.seed),
            progress=progress.steps(n_steps),
        )
        inpainting_figure(paths[0], images, masks, finite(completed), heads, title(args, how, weight=c is not None))
    return paths


def draw_prompts(args: argparse.Namespace, model: Model) -> "list[Path]":
    n_columns = len(args.prompts) + len(args.image_prompt)
    check_count(args.n_samples * n_columns * len(args.g_weight))
    what = (args.prompts, args.image_prompt, args.g_weight, args.n_samples, args.seed, title(args), args.clip_weights)
    with free_names(args.out, "prompts") as paths:
        prompt_figure(paths[0], model, *what)
    return paths


def export_samples(args: argparse.Namespace, model: Model) -> "list[Path]":
    ddpm, names = model.sampler, model.content["class_names"]
    classes = chosen(args, names) if args.classes else list(range(len(names)))
    settings = {
        "n_images": args.npz,
        "batch_size": check_count(args.batch_size, "--batch_size"),
        "classes": classes,
        "g_weight": args.g_weight,
        "n_steps": ddpm.n_timesteps,
        **{name: getattr(args, name) for name in ("sampler", "placement") if getattr(args, name)},
        "seed": args.seed,
        "weights": "raw" if args.raw else "average",
        "model_sha256": hashlib.sha256(model.file.read_bytes()).hexdigest(),
        # The last bits of a sample depend on these.
        "device": ddpm.device.type,
        "precision": str(ddpm.amp_dtype or torch.float32),
        "torch": torch.__version__,
    }
    return export(args.out, ddpm, settings, names)


# ------------------------------------------------------------------------------------------------ main


def title(args: argparse.Namespace, *more: str, weight: bool = False) -> str:
    """The line above a picture: the model file, the options that matter, the seed."""
    words = [args.models[0].name if len(args.models) == 1 else "the same noise", *(["raw weights"] if args.raw else [])]
    words += [*more, *sampler_in_words(args)]
    return ", ".join([*words, *([f"guidance weight {args.g_weight:g}"] if weight else []), f"seed {args.seed}"])


def load(file: Path, device: torch.device, args: argparse.Namespace) -> Model:
    ddpm, content = checkpoint.load_model(file, device, pick_amp("auto", device), args.raw)
    if len(args.models) == 1:
        ddpm = processes.share(ddpm)
    if args.best:
        args.n_steps = min(FEW_STEPS, ddpm.n_timesteps)
    sampler = sampler_as_asked(ddpm, args.sampler, args.n_steps, args.placement)
    size = ddpm.sample_size()
    if len(size) != 3 or size[0] not in (1, 3):
        raise CallError(f"{file} draws no images of 1 or 3 channels, but {list(size)}")
    try_model(ddpm)
    return Model(file, ddpm, content, sampler)


DRAW = {
    "grid": draw_grid,
    "mix": draw_mixtures,
    "guidance_sweep": draw_sweep,
    "inpaint": draw_inpainting,
    "prompts": draw_prompts,
    "npz": export_samples,
}


@processes.together()
def main() -> None:
    args = parse_arguments()
    device = processes.start(args.device)
    keep_large_buffers()
    models = [load(file, device, args) for file in args.models]
    processes.led(lambda: draw(args, models), models[0].ddpm)


def draw(args: argparse.Namespace, models: Sequence[Model]) -> None:
    """What the call asks for, and a line about it in samples.log."""
    paths = draw_comparison(args, models) if args.mode == "comparison" else DRAW[args.mode](args, models[0])
    for path in paths:
        with open_to_append(args.out / "samples.log") as log:
            about = f"{command_line()}  {device_name(models[0].ddpm.device)}  commit {commit()}"
            log.write(f"{now()}  {path.name}  {about}\n")
        print(path, flush=True)
    if (args.out / "report.html").exists():
        write_report(args.out)


if __name__ == "__main__":
    run_script(main)
