"""Files that hold a model: what makes one, written atomically, read without trust.

`checkpoint.pt` continues a run; `model_epoch{E}.pt` holds the weights that made the pictures. Both carry the recipe
(`Spec`) of the network and the schedule, so that a program needs nothing but the file. They contain tensors and plain
Python values only and are read with `weights_only=True`, so that no file can run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import torch
import torch.nn as nn

from cli import CallError, RunError
from ddpm import DDPM
from networks.Conditional_UNet import UNet
from utils import atomic_write

FORMAT = 1
NETWORKS = {"conditional_unet": UNet}

# {"network": a key of NETWORKS, "network_arguments": {...}, "ddpm": {...}}: arguments of the two constructors.
Spec = Dict[str, Any]

# Arguments that may differ between a run and its continuation: none of them changes what training computes.
FREE = set("n_epochs log_dir data_dir n_workers g_weight n_samples resume save_every device compile".split())
# These do, but after a loss that became infinite one of them is what the user has to change.
ADJUSTABLE = {"l_rate", "amp"}


def build(spec: Spec, device: torch.device, amp_dtype: torch.dtype | None = None) -> DDPM:
    """The DDPM that `spec` describes, with fresh weights. CallError if its arguments are impossible."""
    try:
        network = NETWORKS[spec["network"]](**spec["network_arguments"])
        return DDPM(network, device=device, amp_dtype=amp_dtype, **spec["ddpm"])
    except ValueError as error:
        raise CallError(str(error)) from None


def save(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: the file before stays until the new one is complete and on the disk."""
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load(path: Path, *needed: str) -> dict[str, Any]:
    """Read a file of this suite onto the CPU; `needed` are the keys that it must hold.

    RunError in one line if the file is missing, damaged, foreign, or of another kind than needed.
    """
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path} is damaged, or no checkpoint of this suite ({reason[:120]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of this suite (format {FORMAT})")
    missing = [key for key in needed if key not in content]
    if missing:
        raise RunError(f"{path} is another kind of file of this suite: it holds no {missing[0]!r}")
    return content


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put the weights of a file into a network. RunError in one line if they belong to another one."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError):
        raise RunError(f"the weights in {path} do not fit its network") from None


def differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The arguments that decide training and differ, as '--n_timesteps was 400, is 100': forbidden, adjustable."""
    names = [name for name in now if name not in FREE and before.get(name) != now[name]]
    lines = {name: f"--{name} was {before.get(name)}, is {now[name]}" for name in names}
    forbidden = [line for name, line in lines.items() if name not in ADJUSTABLE]
    return forbidden, [line for name, line in lines.items() if name in ADJUSTABLE]
