"""Options that several scripts share, and what follows from them: the model and the settings of a training run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import torch

from common.console import CallError, as_path, at_least, expanded, in_range, number, values_from_call
from common.machine import pick_amp
from ddpm import DDPM
from diffusion.inpainting import JUMP_LENGTH
from diffusion.objective import PREDICTIONS, WEIGHTINGS
from diffusion.samplers import SAMPLERS
from diffusion.schedules import PLACEMENTS, SCHEDULES
from training import checkpoint
from training.settings import L_RATE_SCHEDULES, About, Settings, Spec


def add_method_arguments(parser: argparse.ArgumentParser, images: bool = True) -> None:
    """Options of every training script: schedule, loss, moving average, seed; with `images` also mirroring and first weights."""
    add = parser.add_argument_group("method").add_argument
    add("--schedule", choices=list(SCHEDULES), default="linear", help="noise schedule")
    beta = in_range(0, 1, open_ends=True)
    add("--beta1", type=beta, default=1e-4, help="of the linear schedule: the variance of the first step")
    add("--beta2", type=beta, default=0.02, help="of the linear schedule: the variance of the last step")
    add("--loss", choices=["mse", "l1"], default="mse", help="distance of true and predicted noise")
    add("--predict", choices=PREDICTIONS, default="eps", help="what the network learns: the noise, or the velocity v")
    text = "how much each t counts in the loss: all the same, or by its signal-to-noise ratio, up to a limit"
    add("--weighting", choices=WEIGHTINGS, default="constant", help=text)
    text = "constant, or falling to 0 over the run, as half a period of a cosine"
    add("--l_rate_schedule", choices=L_RATE_SCHEDULES, default="constant", help=text)
    if images:
        add("--flip", choices=["on", "off"], default="off", help="mirror every second training image, left to right")
        text = "start from the weights of this model file; its network must be the same"
        add("--load_path", type=as_path, default=None, metavar="MODEL", help=text)
    average_help = "moving average of the weights, used for validation and pictures; 0: off"
    add("--ema", type=in_range(0, 0.999999), default=0.999, metavar="DECAY", help=average_help)
    add("--seed", type=number("seed"), default=0, help="decides every random draw")


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every training script: resuming, memory, device, precision, compiler."""
    add = parser.add_argument_group("running").add_argument
    text = (
        "go on from the checkpoint in the log folder, if there is one; auto: also if it is damaged (it is kept under "
        "another name, and the run begins again)"
    )
    add("--resume", nargs="?", choices=["no", "yes", "auto"], default="no", const="yes", help=text)
    text = "write a checkpoint at least this often: a computer that fails costs no more training than that"
    add("--checkpoint_every", type=in_range(0, 1e9), default=300, metavar="SECONDS", help=text)
    text = "compute the gradient of a batch in N parts one after the other, which takes less memory"
    add("--accumulate", type=at_least(1, 10**6), default=1, metavar="N", help=text)
    text = "scale gradients whose norm is larger down to this norm"
    add("--clip_grad", type=in_range(0, 1e30, open_ends=True), default=None, metavar="NORM", help=text)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    add("--amp", choices=["off", "bf16", "auto"], default="auto", help="bfloat16 network; auto: where the chip has it")
    add("--compile", choices=["off", "on", "auto"], default="auto", help="torch.compile; auto: on CUDA")


def add_sampler_arguments(parser: argparse.ArgumentParser, n_steps: str = "--n_steps") -> None:
    """How samples are drawn."""
    add = parser.add_argument_group("sampler (docs/sampling.md says which for how many steps)").add_argument
    add("--sampler", choices=list(SAMPLERS), help="way to take a step (ddpm, Algorithm 2)")
    add(n_steps, type=number("n_timesteps"), metavar="S", help="sample in S of the T steps (all)")
    text = "how these S are spaced: evenly in t (uniform), in its root (quadratic), in log-SNR, or fitted to the model"
    add("--placement", choices=PLACEMENTS, help=text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """How sample.py and evaluate.py use a trained model."""
    add_sampler_arguments(parser)
    add = parser.add_argument
    add("--seed", type=number("seed"), default=0, help="seed of all random numbers (0)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--raw", action="store_true", help="the last weights of a checkpoint.pt, not their moving average")
    add(
        "--clip_weights",
        type=expanded,
        metavar="FILE",
        help="of --prompts: CLIP's weights, if they are not where they were in training",
    )


def add_resampling_arguments(add: Callable[..., Any]) -> None:
    """Of --inpaint: how often steps are taken."""
    text = "resampling: take all steps R times (1; repaint: 5)"
    add("--n_resample", type=number("n_resample"), metavar="R", help=text)
    text = f"resampling: go back J steps at a time ({JUMP_LENGTH})"
    add("--jump_length", type=number("jump_length"), metavar="J", help=text)


def new_model(spec: Spec, args: argparse.Namespace, device: torch.device) -> DDPM:
    """The model to train. Its first weights depend on --seed; everything random after that has generators of its own.

    CallError if samples cannot be drawn as asked.
    """
    torch.manual_seed(args.seed)
    ddpm = checkpoint.build(spec, device, pick_amp(args.amp, device))
    # Before the training; steps are fitted only when the model is there.
    sampler_as_asked(ddpm, args.sampler, args.sample_steps, args.placement and "uniform")
    return ddpm


def sampler_as_asked(ddpm: DDPM, sampler: str | None, n_steps: int | None, placement: str | None) -> DDPM:
    """The model, sampling as the options of `add_sampler_arguments` say. CallError if that is impossible."""
    if placement and not n_steps:
        raise CallError("--placement needs a number of steps, which it places")
    with values_from_call():
        return ddpm.respaced(n_steps or ddpm.n_timesteps, sampler, placement or "uniform")


def sampler_in_words(args: argparse.Namespace) -> list[str]:
    """How samples are drawn, in words for a title; nothing for Algorithm 2 in all steps."""
    words = [args.sampler, f"{args.n_steps} steps" if args.n_steps else None]
    return [word for word in [*words, args.placement and f"placed by {args.placement}"] if word]


def refuse_useless(
    parser: argparse.ArgumentParser, args: argparse.Namespace, options: Mapping[str, Sequence[str]]
) -> None:
    """CallError if the call changes an option that has no effect on its network.

    options: for each choice of --network, the names of those of its options that not all networks have.
    """
    for name in sorted({name for names in options.values() for name in names} - set(options.get(args.network, ()))):
        if getattr(args, name) != parser.get_default(name):
            others = " or ".join(network for network, names in options.items() if name in names)
            raise CallError(f"--{name} does nothing for --network {args.network}: leave it out, or take {others}")


def process_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `DDPM` that every training script has. CallError if a beta is given that has no effect."""
    for name in ("beta1", "beta2"):
        if args.schedule == "cosine" and getattr(args, name) != parser.get_default(name):
            raise CallError(f"--{name} does nothing for --schedule cosine: leave it out, or take linear")
    process = {name: getattr(args, name) for name in ("n_timesteps", "schedule", "loss", "beta1", "beta2")}
    if args.schedule == "cosine":
        process["clip_x0"] = True  # or the step from T makes an error 30 times larger, and only noise comes out
    for name in ("predict", "weighting"):  # as by default they are left out, for older models do not have them
        if getattr(args, name) != parser.get_default(name):
            process[name] = getattr(args, name)
    return process


def settings_of(args: argparse.Namespace, dequantise: bool = False) -> Settings:
    """The settings that the arguments of any training script ask for."""
    # Points have neither of these two options.
    flip, load_path = getattr(args, "flip", "off") == "on", getattr(args, "load_path", None)
    names = {field.name for field in dataclasses.fields(Settings)} - {"flip", "load_path", "dequantise"}
    others: dict[str, Any] = {name: getattr(args, name) for name in names}
    return Settings(flip=flip, load_path=load_path, dequantise=dequantise, **others)


def about(parser: argparse.ArgumentParser, args: argparse.Namespace, spec: Spec, expected: str) -> About:
    """What a run writes down of its call. expected: what a healthy run looks like, in words."""
    return About(spec, plain_arguments(args), plain_arguments(parser.parse_args([])), expected)


def plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments as a dict of plain values, for files."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
