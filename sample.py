"""Draw from a trained model: classes, mixtures of classes, completions of images, other guidance weights, many for FID.

    python sample.py log/log_mnist/model_epoch20.pt                            # samples.png: a grid of its classes
    python sample.py log/log_mnist/model_epoch20.pt --classes 3 8 --g_weight 3 --animate      # ... and samples.gif
    python sample.py log/log_mnist/model_epoch20.pt --mix 3+8 "3*0.7+8*0.3"    # mixture.png
    python sample.py log/log_mnist/model_epoch20.pt --guidance_sweep 0 0.5 1 2 3 5 8          # guidance_sweep.png
    python sample.py log/log_mnist/model_epoch20.pt --inpaint                  # inpainting.png, of test images
    python sample.py log/log_mnist/model_epoch20.pt --inpaint photo.jpg --mask mask.png --method repaint --classes 3
    python sample.py log/log_mnist/model_epoch20.pt --inpaint ink_on_paper.jpg --invert       # as white ink on black
    python sample.py log/log_mnist/model_epoch20.pt --npz 50000                # samples.npz, for tools that measure FID

The model is any model_epoch*.pt or checkpoint.pt of this suite; nothing else is needed. Results go beside it, or to
--out, under the next free name (samples.png, samples_2.png, ...), and samples.log there says which command made them.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Sequence

import torch

from common.console import CallError, Progress, RunError, at_least, in_range, run_script, values_from_call
from common.files import free_names
from common.machine import command_line, commit, device_name, keep_large_buffers, pick_amp, pick_device
from datasets import sources
from datasets.image_files import read_images, read_mask
from datasets.image_set import one_hot, to_float
from ddpm import DDPM
from diffusion import inpainting
from evaluation.npz import export
from figures.images import HIDDEN, inpainting_figure, mixture_figure, sample_weights
from reporting.log_files import shown_classes
from reporting.page import write_report
from training import checkpoint
from training.signals import ended_by_signals
from utils import plot_animation, plot_groups, plot_image

# Which options each mode has, with their defaults; None where leaving the option out means something by itself.
MODES = {
    "grid": {"classes": None, "n_samples": 4, "g_weight": 1.0, "animate": False},
    "mix": {"n_samples": 4, "g_weight": 1.0},
    "guidance_sweep": {"classes": None},
    "inpaint": {
        **{"classes": None, "n_samples": 5, "g_weight": 1.0},
        **{
            "mask": None,
            "method": "mean",
            "n_resample": None,
            "jump_length": None,
            "scale": 1.0,
            "invert": False,
            "data_dir": Path("./data"),
        },
    },
    "npz": {"classes": None, "g_weight": 1.0, "batch_size": 250},
}

MOST_IMAGES = 2500  # at once: where memory runs out, many systems do not raise an error but kill the process

# ------------------------------------------------------------------------------------------------ what the call means


def class_index(word: str, class_names: Sequence[str]) -> int:
    """The class that a name, or else an index, stands for. CallError if there is none."""
    if word in class_names:
        return list(class_names).index(word)
    if word.isdecimal() and int(word) < len(class_names):
        return int(word)
    raise CallError(f"there is no class {word!r}; the model's classes are {', '.join(class_names)}")


def parse_mixture(text: str, class_names: Sequence[str]) -> dict[int, float]:
    """'3+8' or '3*0.7+8*0.3' as {class index: weight}; without weights they are equal and add up to 1."""
    words = [word.partition("*") for word in text.split("+")]
    classes = [class_index(name.strip(), class_names) for name, _, _ in words]
    if len(words) < 2 or len(set(classes)) < len(classes):
        raise CallError(f"--mix {text}: a mixture is of two or more different classes, such as 3+8")
    if not any(star for _, star, _ in words):
        return {k: 1 / len(classes) for k in classes}
    try:
        weights = [float(weight) for _, _, weight in words]
    except ValueError:
        weights = [math.nan]
    if not all(abs(weight) <= 1e6 for weight in weights):
        raise CallError(
            f"--mix {text}: give each class a weight up to a million, such as 3*0.7+8*0.3, or none a weight"
        )
    return dict(zip(classes, weights))


def parse_arguments() -> argparse.Namespace:
    """The command line. `mode` is a key of MODES; options that were left out have the defaults of that mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, help="a model_epoch*.pt or checkpoint.pt of this suite")
    add("--classes", nargs="+", metavar="K", help="names or indices of classes (all; pictures of a model of more than 20: "
        "10 that are spread evenly); with --inpaint: the class of all images, or one for each (no class)")  # fmt: skip
    add("--n_samples", type=at_least(1), help="samples of each class or mixture (4), completions of each image (5)")
    add("--g_weight", type=in_range(-1, 1e6), metavar="W", help="guidance weight w (1)")
    add(
        "--animate", action="store_true", default=None, help="also write the reverse process of the grid as samples.gif"
    )
    add("--invert", action="store_true", default=None, help="turn the images of --inpaint to their negatives: for dark "
        "ink on white paper and a model of white digits on black. (Transparent parts of an image are white paper.)")  # fmt: skip
    add("--mask", help=f"what --inpaint hides: {', '.join(inpainting.MASKS)} (bottom), or an image file, dark = hidden")
    add("--method", choices=inpainting.METHODS, help="how --inpaint completes images: mean, the fastest (the default); "
        "input; repaint, the slowest")  # fmt: skip
    add("--scale", type=in_range(0, 1e6), help="strength of the correction of --method mean and input (1)")
    add("--n_resample", type=at_least(1), metavar="R", help="how often --inpaint walks each stretch of steps, which brings "
        "known and hidden parts to agree (1, or 5 with --method repaint)")  # fmt: skip
    add("--jump_length", type=at_least(1), metavar="J", help=f"steps in such a stretch ({inpainting.JUMP_LENGTH})")
    add("--n_steps", type=at_least(1), metavar="S", help="draw with S of the model's T steps (all); fewer are faster and "
        "worse, and have the posterior variance")  # fmt: skip
    add("--batch_size", type=at_least(1), help="images in each part of --npz (250)")
    add("--seed", type=at_least(0), default=0, help="decides every random draw (0)")
    add("--out", type=Path, metavar="FOLDER", help="where the results go (the folder of the model)")
    add("--data_dir", type=Path, help="folder of the data sets, for --inpaint without images (./data)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--raw", action="store_true", help="of a checkpoint.pt: the weights themselves, not their moving average")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--mix", nargs="+", metavar="A+B", help="mixtures of classes, such as 3+8 or 3*0.7+8*0.3")
    add("--guidance_sweep", type=in_range(-1, 1e6), nargs="+", metavar="W", help="the same noise for each of these w")
    add("--inpaint", nargs="*", type=Path, metavar="IMAGE", help="complete these images (without any: test images)")
    add("--npz", type=at_least(1), metavar="N", help="N images as samples.npz; goes on after any interruption")
    args = parser.parse_args()

    args.mode = next((mode for mode in MODES if getattr(args, mode, None) is not None), "grid")
    args.walks = args.n_resample or inpainting.N_RESAMPLE[args.method or MODES["inpaint"]["method"]]
    useless = {
        "scale": args.method == "repaint",
        "jump_length": args.walks == 1,
        "g_weight": args.mode == "inpaint" and not args.classes,
        "data_dir": bool(args.inpaint),
        "invert": not args.inpaint,
    }
    for name in sorted({name for options in MODES.values() for name in options}):
        if getattr(args, name) is None:
            setattr(args, name, MODES[args.mode].get(name))
        elif name not in MODES[args.mode] or useless.get(name):
            mode = "a plain grid" if args.mode == "grid" else f"--{args.mode}"
            raise CallError(f"--{name} has no effect on {mode} in this call: leave it out")
    args.out = args.out or args.model.parent
    return args


def chosen(words: Sequence[str] | None, class_names: Sequence[str]) -> list[int]:
    """The classes of --classes: those that any picture shows if it was left out, none if the model has none."""
    if words and not class_names:
        raise CallError("--classes: the model has no classes")
    return [class_index(word, class_names) for word in words] if words else shown_classes(len(class_names))


def check_count(n_images: int, option: str = "--n_samples") -> int:
    """n_images, if the network may see so many at once; CallError if not."""
    if n_images > MOST_IMAGES:
        raise CallError(f"{option}: at most {MOST_IMAGES:,} images are drawn at once, not {n_images:,}; "
                        "--npz draws any number, in parts")  # fmt: skip
    return n_images


# ------------------------------------------------------------------------------------------------ modes


def draw_grid(args: argparse.Namespace, ddpm: DDPM, names: Sequence[str], content: dict[str, Any]) -> list[Path]:
    classes = chosen(args.classes, names)
    n_columns = len(classes) or args.n_samples  # a square of samples without class
    generator = torch.Generator(ddpm.device).manual_seed(args.seed)
    suffixes = (".png", ".gif") if args.animate else (".png",)
    n_images = check_count(args.n_samples * n_columns)
    with free_names(args.out, "samples", suffixes, beside=".gif") as paths:
        with Progress(n_images) as progress:
            y, steps = ddpm.sample(
                args.n_samples if classes else n_images,
                n_classes=len(names),
                g_weight=args.g_weight,
                classes=classes or None,
                generator=generator,
                record=args.animate,
                progress=lambda t: progress.advance(n_images / ddpm.n_timesteps),
            )
        heads = [names[k] for k in classes] or None
        plot_image(paths[0], y, None, heads, title(args, weight=bool(classes)), n_columns)
        if args.animate:
            plot_animation(paths[1], steps, ddpm.recorded_times(), n_columns, heads)
    return paths


def draw_mixtures(args: argparse.Namespace, ddpm: DDPM, names: Sequence[str], content: dict[str, Any]) -> list[Path]:
    if not names:
        raise CallError("--mix: the model has no classes")
    mixtures = [parse_mixture(text, names) for text in args.mix]
    n_columns = sum(len(weights) + 2 for weights in mixtures)
    n_images = check_count(args.n_samples * n_columns)
    with free_names(args.out, "mixture") as paths, Progress(n_images) as progress:
        advance = lambda t: progress.advance(n_images / 2 / ddpm.n_timesteps)  # noqa: E731
        mixture_figure(paths[0], ddpm, names, mixtures, args.n_samples, args.g_weight, args.seed,
                       title(args, weight=True), advance)  # fmt: skip
    return paths


def draw_sweep(args: argparse.Namespace, ddpm: DDPM, names: Sequence[str], content: dict[str, Any]) -> list[Path]:
    if not names:
        raise CallError("--guidance_sweep: the model has no classes")
    classes = chosen(args.classes, names)
    n_images = check_count(len(classes) * len(args.guidance_sweep), "--guidance_sweep")
    with free_names(args.out, "guidance_sweep") as paths:
        with Progress(n_images) as progress:
            advance = lambda t: progress.advance(n_images / ddpm.n_timesteps)  # noqa: E731
            drawn = sample_weights(ddpm, 1, len(names), classes, args.guidance_sweep, args.seed, progress=advance)
        groups = [(f"w = {w:g}", y) for w, (y, _) in drawn.items()]
        plot_groups(paths[0], groups, [names[k] for k in classes], title(args))
    return paths


def draw_inpainting(args: argparse.Namespace, ddpm: DDPM, names: Sequence[str], content: dict[str, Any]) -> list[Path]:
    size = ddpm.nn_model.size
    if args.inpaint:
        images = to_float(read_images(args.inpaint, size, args.invert))
        hidden = [args.mask or "bottom"] * len(images)
    else:
        images = first_test_images(len(HIDDEN), args.data_dir, ddpm, content)
        hidden = [args.mask] * len(images) if args.mask else HIDDEN[: len(images)]
    masks = torch.cat(masks_of(hidden, *size[1:], args.seed))
    heads = [f"{name} hidden" if name in inpainting.MASKS else Path(name).name for name in hidden]
    c = None
    if args.classes:
        classes = chosen(args.classes, names)
        classes = classes * len(images) if len(classes) == 1 else classes
        if len(classes) != len(images):
            raise CallError(
                f"--classes: {len(classes)} classes do not fit {len(images)} images; give one, or one for each"
            )
        c = one_hot(torch.tensor(classes), len(names))
        heads = [f"{head}, as {names[k]}" for head, k in zip(heads, classes)]
    how = f"method {args.method}" + (f", scale {args.scale:g}" if args.method != "repaint" else "")
    walks = {"n_resample": args.walks, "jump_length": args.jump_length or inpainting.JUMP_LENGTH}
    how += "".join(f", {name} {value}" for name, value in walks.items()) if args.walks > 1 else ""
    times = inpainting.resampling_times(ddpm.n_timesteps, walks["jump_length"], walks["n_resample"])
    n_steps = sum(after < before for before, after in zip(times, times[1:]))
    n_images = check_count(args.n_samples * len(images))
    with free_names(args.out, "inpainting") as paths, Progress(n_images) as progress:
        advance = lambda t: progress.advance(n_images / n_steps)  # noqa: E731
        generator = torch.Generator(ddpm.device).manual_seed(args.seed)
        completed = ddpm.complete_image(images, masks, args.scale, args.method, c, args.g_weight, args.n_samples,
                                        generator=generator, progress=advance, **walks)  # fmt: skip
        inpainting_figure(paths[0], images, masks, completed, heads, title(args, how, weight=c is not None))
    return paths


def masks_of(hidden: Sequence[str], height: int, width: int, seed: int) -> list[torch.Tensor]:
    """For each word, a name in inpainting.MASKS or an image file, a mask [1, 1, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for word in hidden:
        if word in inpainting.MASKS:
            masks.append(inpainting.mask_named(word, height, width, generator))
        elif Path(word).is_file():
            mask = read_mask(Path(word), height, width)
            if mask.all():
                raise CallError(f"--mask {word} hides nothing: dark parts are hidden, transparent ones count as white")
            masks.append(mask)
        else:
            raise CallError(f"--mask {word} is neither a file nor one of {', '.join(inpainting.MASKS)}")
    return masks


def first_test_images(n: int, data_dir: Path, ddpm: DDPM, content: dict[str, Any]) -> torch.Tensor:
    """The first n test images of the data set that a model was trained on, float32 [n, C, H, W] in [-1, 1]."""
    name, which = checkpoint.data_of(ddpm, content)
    with values_from_call():
        return to_float(sources.load(name, data_dir, train=False, limit=n, **which).images)


def export_samples(args: argparse.Namespace, ddpm: DDPM, names: Sequence[str], content: dict[str, Any]) -> list[Path]:
    classes = chosen(args.classes, names) if args.classes else list(range(len(names)))
    settings = {
        "n_images": args.npz,
        "batch_size": check_count(args.batch_size, "--batch_size"),
        "classes": classes,
        "g_weight": args.g_weight,
        "n_steps": ddpm.n_timesteps,
        "seed": args.seed,
        "weights": "raw" if args.raw else "average",
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        # On these depend the last bits of a sample.
        "device": ddpm.device.type,
        "precision": str(ddpm.amp_dtype or torch.float32),
        "torch": torch.__version__,
    }
    return export(args.out, ddpm, settings)


# ------------------------------------------------------------------------------------------------ results


def title(args: argparse.Namespace, *more: str, weight: bool = False) -> str:
    """What stands above a picture: the model file, what decides the picture, the seed."""
    more = (*more, *([f"{args.n_steps} steps"] if args.n_steps else []))
    more = (*more, *([f"guidance weight {args.g_weight:g}"] if weight else []), f"seed {args.seed}")
    return ", ".join([args.model.name, *(["raw weights"] if args.raw else []), *more])


def refuse_nan(network: torch.nn.Module, inputs: Any, eps: torch.Tensor) -> None:
    """A hook of the network, which its faster copies keep: RunError if what it predicts is no longer a number."""
    if not eps.isfinite().all():
        raise RunError("the model predicts values that are not finite: it diverged in training; take an earlier one")


@ended_by_signals()
def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    keep_large_buffers()
    ddpm, content = checkpoint.load_model(args.model, device, pick_amp("auto", device), args.raw)
    with values_from_call():
        ddpm = ddpm.respaced(args.n_steps) if args.n_steps else ddpm
    size = ddpm.nn_model.size
    if len(size) != 3 or size[0] not in (1, 3):
        raise CallError(f"{args.model} draws no images of 1 or 3 channels, but {list(size)}")
    ddpm.nn_model.register_forward_hook(refuse_nan)
    draw = {
        "grid": draw_grid,
        "mix": draw_mixtures,
        "guidance_sweep": draw_sweep,
        "inpaint": draw_inpainting,
        "npz": export_samples,
    }[args.mode]
    for path in draw(args, ddpm, content["class_names"], content):
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        with open(args.out / "samples.log", "a", encoding="utf-8") as log:
            log.write(f"{now}  {path.name}  {command_line()}  {device_name(device)}  commit {commit()}\n")
        print(path, flush=True)
    if (args.out / "report.html").exists():
        write_report(args.out)


if __name__ == "__main__":
    run_script(main)
