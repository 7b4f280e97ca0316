"""--load_path: a run that begins with the weights of another run's model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.console import RunError
from ddpm import DDPM
from training import checkpoint
from training.settings import About, Spec

OF_SAMPLING = ("variance", "clip_x0")  # arguments of DDPM that do not change what is learnt


def read(
    path: Path, network: Mapping[str, Tensor], about: About, class_names: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in a model file, on the CPU, and a line for each setting that the run that made them had otherwise.

    network: the state_dict of the network that takes them. about, class_names: of the run that begins. RunError if the
    file holds no model, or one of another network.
    """
    before, content = checkpoint.load_model(path, torch.device("cpu"))
    weights = before.nn_model.state_dict()
    was, now = _facts(content["arguments"], content["spec"]), _facts(about.arguments, about.spec)
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    others = [f"{name} {was.get(name)}, and this run has {now.get(name)}" for name in names]
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in network.items()}:
        raise RunError(f"the weights in {path} do not fit the network: it was trained with {'; '.join(others)}")
    conditions = checkpoint.other_condition(content, class_names, about.spec.get("encoder"))
    return weights, [f"{path} was trained with {other}" for other in others] + [f"{path}: {c}" for c in conditions]


def _facts(arguments: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """What the weights of a run depend on, apart from its encoder and its classes."""
    constructor = checkpoint.NETWORKS[spec["network"]]
    process = _with_defaults(DDPM.__init__, spec["ddpm"])
    return {
        **{name: arguments.get(name) for name in ("dataset", "data_class")},
        "network": spec["network"],
        **_with_defaults(constructor, spec["network_arguments"]),
        **{name: value for name, value in process.items() if name not in OF_SAMPLING},
    }


def _with_defaults(constructor: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a constructor gets, also those that it is not given."""
    parameters = inspect.signature(constructor).parameters.values()
    known = {**{p.name: p.default for p in parameters if p.default not in (p.empty, None)}, **arguments}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
