"""Files that hold a model: what makes one, written atomically, read without trust.

`checkpoint.pt` continues a run; `model_epoch{E}.pt` holds the weights that made the pictures. Both carry the recipe
(`Spec`) of the network and the schedule, so that a program needs nothing but the file. They contain tensors and plain
Python values only. Files come from strangers too: what is not laid out as this suite writes it is refused before torch
sees it, and the rest is read with `weights_only=True`, so that no file can run code or fill the memory.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Sequence

import torch
import torch.nn as nn

from common.console import CallError, RunError, first_line, values_from_call
from common.files import atomic_write, finite, missing
from common.limits import INT64, MOST_TEXT, too_large, wrong_name
from datasets.sources import SOURCES
from ddpm import DDPM
from networks import Conditional_UNet, fc, unet
from reporting.model_file import check_archive, check_pickle
from reporting.run import ADJUSTABLE, FREE
from training.settings import Spec

FORMAT = 1
NETWORKS = {"conditional_unet": Conditional_UNet.UNet, "unet": unet.UNet, "fc": fc.FcNetwork}


def build(spec: Spec, device: torch.device, amp_dtype: torch.dtype | None = None) -> DDPM:
    """The DDPM that `spec` describes, with fresh weights. CallError if its arguments are impossible."""
    with values_from_call():
        network = NETWORKS[spec["network"]](**spec["network_arguments"])
        return DDPM(network, device=device, amp_dtype=amp_dtype, **spec["ddpm"])


def save(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: the file before stays until the new one is complete and on the disk."""
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load(path: Path, *needed: str, opened: IO[bytes] | None = None) -> dict[str, Any]:
    """Read a file of this suite onto the CPU; `needed` are the keys that it must hold. opened: the file, if it is open.

    RunError in one line if the file is missing, damaged, foreign, or of another kind than needed.
    """
    if opened is None and not path.is_file():
        raise RunError(missing(path))
    with contextlib.nullcontext(opened) if opened else open(path, "rb") as file:
        try:
            content = torch.load(_checked_archive(file), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
            raise RunError(f"{path} is damaged, or no checkpoint of this suite ({first_line(error)})") from None
    if not isinstance(content, dict) or not _is_plain(content.get("format"), int) or content["format"] != FORMAT:
        raise RunError(f"{path} is not a checkpoint of this suite (format {FORMAT})")
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise RunError(f"{path} is another kind of file of this suite: it holds no {lacking[0]!r}")
    return content


def load_model(
    path: Path,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    raw: bool = False,
    opened: IO[bytes] | None = None,
) -> tuple[DDPM, dict[str, Any]]:
    """The DDPM of a model_epoch{E}.pt or checkpoint.pt on `device`, and what else the file holds.

    Of a checkpoint it has the moving average of the weights, or with `raw` the weights themselves. amp_dtype: see DDPM.
    opened: the file, if it is open, as in a zip.
    content["class_names"] are as many strings as the network has classes, content["arguments"] is a dict.

    RunError in one line if the file is missing, damaged, foreign or hostile; CallError if it has no raw weights.
    """
    content = load(path, "spec", "model", "arguments", "class_names", "epoch", opened=opened)
    if raw and "average" not in content:
        raise CallError(f"{path} holds only averaged weights; --raw needs a checkpoint.pt")
    weights = content["model"] if raw else content.get("average", content["model"])
    try:
        network = _check_spec(content["spec"])
        _check_weights(weights, network, opened.seek(0, io.SEEK_END) if opened else path.stat().st_size)
        _check_class_names(content["class_names"], getattr(network, "n_classes", None) or 0)
        _plain_values(content["arguments"], "arguments", most=1000)
        if not _is_plain(content["epoch"], int):
            raise ValueError("its epoch is no number")
    except Exception as error:  # as above: constructors raise anything when they are fed anything
        raise RunError(f"{path} holds no model of this suite ({first_line(error)})") from None
    ddpm = build(content["spec"], device, amp_dtype)
    load_weights(ddpm.nn_model, weights, path)
    return ddpm, content


def data_of(ddpm: DDPM, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The data set that a model (of `load_model`) was trained on: its name and which images of it, for `datasets.load`.

    Classes are told by their names: other classes that the data may have by now do not change what is loaded. A model
    without classes has None: all that the data set has, or data_class alone. CallError for a data set unknown here.
    """
    name = content["arguments"].get("dataset")
    if type(name) is not str or name not in SOURCES or len(ddpm.sample_size()) != 3:
        raise CallError(f"the model was trained on {name!r:.100}, which is no data set of this suite that has images")
    channels, height, _ = ddpm.sample_size()
    names = content["class_names"] or None
    data_class = None if names else content["arguments"].get("data_class")
    shape = {"im_height": height, "im_channels": channels}
    return name, {"n_classes": None, "class_names": names, "data_class": data_class, **shape}


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put the weights of a file into a network. RunError in one line if they belong to another one."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError):
        raise RunError(f"the weights in {path} do not fit the network") from None


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """Put the optimiser's state of a file into an optimiser. RunError in one line if it belongs to another one."""
    try:
        optimizer.load_state_dict(state)
        for weight, values in optimizer.state.items():
            for value in values.values():
                if not isinstance(value, torch.Tensor) or (value.numel() != 1 and value.shape != weight.shape):
                    raise ValueError
    except Exception:  # it is fed what a file holds
        raise RunError(f"the state of the optimiser in {path} does not fit its network") from None


def load_run(
    path: Path,
    arguments: dict[str, Any],
    train_images: int,
    arithmetic: str,
    last_step: int,
    *,
    defaults: dict[str, Any],
    class_names: Sequence[str],
    encoder: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The content of the checkpoint.pt of a run that is resumed, and a line for each change that is allowed.

    arguments, train_images, arithmetic, last_step, class_names: of the run as it is asked for now. defaults: values of
    options that are not in the file because it is older than they are. encoder: its recipe, if the run has context
    vectors.
    CallError that names the difference if the file is another run's, or further than the run is to go.
    """
    content = load(path, "arguments", "train_images", "model", "average", "optimizer", "step", "history")
    try:
        _check_run(content)
    except Exception as error:  # as in `load_model`
        raise RunError(f"{path} holds no run of this suite ({first_line(error)})") from None
    before = {**defaults, **content["arguments"]}
    names = [name for name in arguments if name not in FREE and before.get(name) != arguments[name]]
    lines = {name: f"--{name} was {before.get(name)}, is {arguments[name]}" for name in names}
    forbidden = [line for name, line in lines.items() if name not in ADJUSTABLE]
    changes = [line for name, line in lines.items() if name in ADJUSTABLE]
    forbidden += other_condition(content, class_names, encoder)
    if content["train_images"] != train_images:
        forbidden.append(f"{content['train_images']} training images were there, now {train_images}")
    if forbidden:
        advice = "Use its arguments, or another --log_dir, or leave out --resume"
        raise CallError(f"{path} is of a run with other arguments: {'; '.join(forbidden)}. {advice}")
    if content["step"] > last_step:
        raise CallError(f"{path} stands at step {content['step']}, but the run asked for is over at step {last_step}")
    if content.get("arithmetic", arithmetic) != arithmetic:
        changes.append(f"{arithmetic} instead of {content['arithmetic']!s:.60}, so not the same bits any more")
    return content, changes


def other_condition(content: dict[str, Any], class_names: Sequence[str], encoder: dict[str, Any] | None) -> list[str]:
    """How the classes and the encoder of a file differ from those of a run, in words."""
    told, before = [], content.get("class_names") or []
    if before and class_names and before != list(class_names):
        change = next((a, b) for a, b in zip_longest(before, class_names) if a != b)
        told.append(f"the classes are others, {change[1]!r} where {change[0]!r} stood")
    if content["spec"].get("encoder") != encoder:
        told.append("the encoder is another one (other training images, another table of attributes, other weights)")
    return told


# ------------------------------------------------------------------------------------------------ distrust


def _checked_archive(file: IO[bytes]) -> IO[bytes]:
    """What torch may read: the parts of the file, packed anew. Raises unless they are laid out as torch.save lays them
    out, whole, and name nothing unknown.

    Packed anew, because a file can hold two tables of contents, of which torch would read the one not checked here.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        pickled = check_archive(archive, file.seek(0, io.SEEK_END))
        try:
            parts = {member.filename: archive.read(member) for member in members}
        except zipfile.BadZipFile:
            raise ValueError("a checksum is wrong") from None
        check_pickle(parts[pickled.filename])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as copy:
        for name, part in parts.items():
            copy.writestr(name, part)
    packed.seek(0)
    return packed


def _is_plain(value: Any, *kinds: type) -> bool:
    """Is this a value of these types that can be computed with and printed without harm?"""
    if type(value) not in kinds:
        return False
    return len(value) <= MOST_TEXT if isinstance(value, str) else value is None or abs(value) <= INT64


def _plain_values(arguments: Any, what: str, most: int = 100) -> list[Any]:
    """The values of a dict, those of its lists one by one. Raises unless these are at most so many, and plain as its keys."""
    if type(arguments) is not dict:
        raise ValueError(f"its {what} are no dict")
    lists = [value if type(value) is list else [value] for value in arguments.values()]
    if sum(map(len, lists)) > most:  # before they are joined: a file can hold one long list many times
        raise ValueError(f"its {what} are no plain values, but more than {most}")
    values = [v for some in lists for v in some]
    if not all(_is_plain(v, int, float, bool, str, type(None)) for v in [*arguments, *values]):
        raise ValueError(f"its {what} are no plain values")
    return values


def _check_class_names(names: Any, n_classes: int) -> None:
    """Raise unless `names` are n_classes different words that can stand in a figure and on a terminal."""
    if type(names) is not list or any(wrong_name(name) for name in names):
        raise ValueError("its class_names are no list of short words")
    if len(names) != n_classes or len(set(names)) != n_classes:
        raise ValueError(f"its class_names are not {n_classes} different ones")


def _check_spec(spec: Any) -> nn.Module:
    """The network of a recipe, without memory for its weights (on the meta device). Raises if the recipe is impossible."""
    if type(spec) is not dict or not _is_plain(spec.get("network"), str) or spec["network"] not in NETWORKS:
        raise ValueError("its spec names no network of this suite")
    for part in ("network_arguments", "ddpm"):
        _plain_values(spec.get(part), part)
        if too_large(spec[part]):
            raise ValueError(f"its {part} hold {too_large(spec[part])}")
    _plain_values(spec.get("encoder", {}), "encoder", most=1000)
    DDPM(nn.Identity(), device="cpu", amp_dtype=None, **spec["ddpm"])
    with torch.device("meta"):
        return NETWORKS[spec["network"]](**spec["network_arguments"])


def _check_run(content: dict[str, Any]) -> None:
    """Raise unless what a run goes on with is as `Trainer.save_checkpoint` writes it. (Weights are checked elsewhere.)"""
    _plain_values(content["arguments"], "arguments", most=1000)
    if type(content.get("spec")) is not dict:
        raise ValueError("its spec is no dict")
    for name in ("step", "train_images"):
        if not _is_plain(content[name], int) or content[name] < 0:
            raise ValueError(f"its {name} is no whole number")
    if type(content["history"]) is not list or not all(type(row) is dict for row in content["history"]):
        raise ValueError("its history is no list of rows")
    for row in content["history"]:
        _plain_values({k: v for k, v in row.items() if v == v}, "history")  # nan: the mean loss of times never drawn
    optimizer = content["optimizer"]
    if type(optimizer) is not dict or not {"state", "param_groups"} <= optimizer.keys():
        raise ValueError("its optimizer has no state")
    sums, counts = content.get("loss_sums"), content.get("loss_counts")
    if finite(content.get("train_seconds")) is None or not all(type(x) is list and len(x) == 4 for x in (sums, counts)):
        raise ValueError("its losses are not those of a run")
    if None in map(finite, [*sums, *counts]):  # type: ignore[misc]
        raise ValueError("its losses are no numbers")


def _check_weights(weights: Any, network: nn.Module, n_bytes: int) -> None:
    """Raise unless `weights` are those of `network`, finite, and together no more than the n_bytes of their file."""
    expected = network.state_dict()
    if not isinstance(weights, dict) or weights.keys() != expected.keys():
        raise ValueError("its weights have other names than those of its network")
    for name, like in expected.items():
        weight = weights[name]
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"{name} is no tensor")
        if weight.shape != like.shape or weight.dtype != like.dtype:
            raise ValueError(f"{name} is {weight.dtype} {list(weight.shape)}, not {like.dtype} {list(like.shape)}")
    # A tensor can claim any shape for a single number, repeated.
    if sum(weight.numel() * weight.element_size() for weight in weights.values()) > n_bytes:
        raise ValueError("its weights are larger than the file")
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
