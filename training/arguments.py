"""Arguments that all training scripts share."""

from __future__ import annotations

import argparse
from typing import Sequence

from common.console import CallError, at_least, in_range


def add_method_arguments(parser: argparse.ArgumentParser, images: bool = True) -> None:
    """How any training script trains: schedule, loss, moving average, seed; and what can be done with images only."""
    add = parser.add_argument_group("method").add_argument
    add("--schedule", choices=["linear", "cosine"], default="linear", help="noise schedule")
    add("--loss", choices=["mse", "l1"], default="mse", help="distance of true and predicted noise")
    if images:
        add("--flip", choices=["on", "off"], default="off", help="mirror every second training image, left to right")
    add("--ema", type=in_range(0, 0.999999), default=0.999, metavar="DECAY",
        help="moving average of the weights, used for validation and pictures; 0: off")  # fmt: skip
    add("--seed", type=at_least(0), default=0, help="decides every random draw")


def add_running_arguments(parser: argparse.ArgumentParser) -> None:
    """How any training script runs: resuming, device, precision, compiler."""
    add = parser.add_argument_group("running").add_argument
    add("--resume", action="store_true", help="go on from the checkpoint in the log folder, if there is one")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    add("--amp", choices=["off", "bf16", "auto"], default="auto", help="bfloat16 network; auto: where the chip has it")
    add("--compile", choices=["off", "on", "auto"], default="auto", help="torch.compile; auto: on CUDA")


def refuse_useless(
    parser: argparse.ArgumentParser, args: argparse.Namespace, options: dict[str, Sequence[str]]
) -> None:
    """CallError if the call gives an option another value than its default, and its network does not have that option.

    options: for each choice of --network, the names of those of its options that not all networks have.
    """
    for name in sorted({name for names in options.values() for name in names} - set(options[args.network])):
        if getattr(args, name) != parser.get_default(name):
            others = " or ".join(network for network, names in options.items() if name in names)
            raise CallError(f"--{name} does nothing for --network {args.network}: leave it out, or take {others}")
