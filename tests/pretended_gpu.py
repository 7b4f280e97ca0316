"""A pretended second device: tensors that compute on the CPU, but say that they are elsewhere.

    with PretendedGPU() as gpu:
        x = torch.randn(3, device=gpu.device)      # x.device is not the CPU
        x + torch.randn(3)                         # RuntimeError: mixes devices
        x.sum().item()                             # goes into gpu.waits, as everything for which a CPU waits for a GPU

Its device is called "meta", because torch lets tensors of that device take part in everything without a GPU.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ROOT = str(Path(__file__).resolve().parents[1])
ITEM = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")


class Elsewhere(torch.Tensor):
    """A tensor of the pretended device; `inside` is the tensor of the CPU that holds its numbers."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> Elsewhere:
        layout = {"strides": inside.stride(), "storage_offset": inside.storage_offset(), "dtype": inside.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inside.shape, device="meta", **layout)

    def __init__(self, inside: torch.Tensor):
        self.inside = inside

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        copied = Elsewhere(self.inside.detach().clone(memory_format=torch.preserve_format))
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the pretended device")


class PretendedGPU(TorchDispatchMode):
    device = torch.device("meta")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []  # what waited, and the line of the suite that asked for it
        self.operations = 0

    def wait(self, what: str) -> None:
        lines = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ROOT)]
        places = [f for f in lines if "pretended_gpu" not in f.filename and "/tests/" not in f.filename]
        place = places[-1] if places else lines[0]
        self.waits.append(f"{what} at {Path(place.filename).name}: {place.line}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        values = tree_flatten((args, kwargs))[0]
        there = [v for v in values if isinstance(v, Elsewhere)]
        here = [v for v in values if isinstance(v, torch.Tensor) and not isinstance(v, Elsewhere) and v.ndim]
        self.operations += bool(there)
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if (name == "_to_copy" and there and target == "cpu") or (
            name == "copy_" and there and values[0] is not there[0]
        ):
            self.wait("copy to the CPU")
        elif name in ITEM and there:
            self.wait(name)
        elif name == "index" and any(isinstance(v, Elsewhere) and v.dtype == torch.bool for v in args[1]):
            self.wait("index by bool")
        elif there and here and name not in ("copy_", "_to_copy", "index"):  # as torch, which copies an index
            raise RuntimeError(f"{func} mixes devices: {[list(v.shape) for v in here]} are on the CPU")
        if target == "meta":
            kwargs["device"] = torch.device("cpu")
        inside = lambda v: v.inside if isinstance(v, Elsewhere) else v  # noqa: E731
        out = func(*tree_map(inside, args), **tree_map(inside, kwargs))
        if (
            target == "cpu"
            or not (there or target == "meta")
            or (name == "copy_" and not isinstance(args[0], Elsewhere))
        ):
            return out
        same = {id(v.inside): v for v in there}  # an operation in place returns the tensor that it was given
        return tree_map(lambda v: same.get(id(v), Elsewhere(v)) if isinstance(v, torch.Tensor) else v, out)
