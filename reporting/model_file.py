"""Reads the files that hold a model (training/checkpoint.py writes them) without torch, and without trust."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from typing import IO, Any, NamedTuple

import numpy as np

from reporting.reader import PIECE, Unreadable, printable

MOST_PICKLE = 4 * 2**20  # bytes
MOST_WEIGHTS = 512 * 2**20  # bytes that are read for a digest
SKETCH = 64  # first numbers of each weight that stand for it
# All that the pickle in a file of this suite names. Others are foreign or hostile: some that torch itself would let
# through reserve memory, and old releases of it could be made to run code (CVE-2025-32434).
STORAGES = ["Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in STORAGES)}


class Weight(NamedTuple):
    """A tensor of which only the place in the file is known."""

    kind: str  # of STORAGES
    key: str  # the file "data/<key>" has its numbers
    size: tuple[int, ...]


class ModelFile(NamedTuple):
    """content: what the file holds, with `Weight`s for tensors. digest: of the (averaged) weights, "" for very large files.

    sketch: the first numbers of each of these weights, float32. n_parameters: how many numbers they are, without the
    running statistics of a batch normalisation.
    """

    content: dict[str, Any]
    digest: str
    sketch: np.ndarray
    n_parameters: int


def check_archive(archive: zipfile.ZipFile, n_bytes: int) -> zipfile.ZipInfo:
    """The pickle of a torch file of `n_bytes`. ValueError unless the file is laid out as torch.save does it."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its parts are compressed, which torch never does")
    if sum(member.file_size for member in members) > n_bytes:  # parts that lie on top of each other
        raise ValueError("its parts are larger than the file")
    pickles = [member for member in members if member.filename.lower().endswith(".pkl")]
    if len(pickles) != 1:
        raise ValueError("it is not one torch.save")
    return pickles[0]


def check_pickle(content: bytes) -> None:
    """ValueError if a pickle names anything unknown."""
    import pickletools  # here, since check_log.py --help need not wait for it

    for n, (operation, argument, _) in enumerate(pickletools.genops(content)):
        # Whatever looks up a name: GLOBAL, and those that torch does not use (STACK_GLOBAL, INST, EXT1 ...).
        looks_up = "GLOBAL" in operation.name or operation.name.startswith(("INST", "EXT"))
        if looks_up and argument not in NAMES:
            raise ValueError(f"it names {argument!r:.100}")
        if "PUT" in operation.name and isinstance(argument, int) and argument > n:  # a memo that large takes memory
            raise ValueError("its pickle counts wrongly")


class _Unpickler(pickle.Unpickler):
    """Of a pickle that `check_pickle` passed: tensors become `Weight`s."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in NAMES:
            raise ValueError(f"it names {module}.{name}")
        if name == "OrderedDict":
            return OrderedDict
        return _weight if name == "_rebuild_tensor_v2" else name[: -len("Storage")]

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, *_ = pid
        return str(kind), str(key)


def _weight(storage: tuple[str, str], offset: int, size: tuple[int, ...], *_: Any) -> Weight:
    if offset or not all(type(n) is int and 0 <= n < 2**31 for n in size):
        raise ValueError("a tensor is not laid out as in a file of this suite")
    return Weight(*storage, tuple(size))


def read_model(file: IO[bytes]) -> ModelFile:
    """Unreadable, in one line, if the file is damaged, foreign or hostile."""
    try:
        n_bytes = file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            pickled = check_archive(archive, n_bytes)
            if pickled.file_size > MOST_PICKLE:
                raise ValueError("its pickle is too large")
            content = archive.read(pickled)
            check_pickle(content)
            found = _Unpickler(io.BytesIO(content)).load()
            if not isinstance(found, dict) or found.get("format") != 1:
                raise ValueError("it has another format")
            weights = found.get("average", found.get("model"))
            if not isinstance(weights, dict) or not all(type(w) is Weight for w in weights.values()) or not weights:
                raise ValueError("it holds no model of this suite")
            stem = pickled.filename[: -len("data.pkl")]
            return ModelFile(found, *_digest(archive, stem, weights, n_bytes), _count(weights))
    except Exception as error:  # a damaged or hostile file makes these libraries raise anything
        raise Unreadable(f"is damaged, or no model of this suite ({printable(error, 100) or 'no reason'})") from None


def _count(weights: dict[str, Weight]) -> int:
    learnt = (w for name, w in weights.items() if not str(name).endswith(("running_mean", "running_var", "_tracked")))
    return sum(int(np.prod(w.size, dtype=object)) for w in learnt)


def _digest(archive: zipfile.ZipFile, stem: str, weights: dict[str, Weight], n_bytes: int) -> tuple[str, np.ndarray]:
    digest, sketch = hashlib.sha1(), []
    if n_bytes > MOST_WEIGHTS:
        return "", np.zeros(0, np.float32)
    for weight in weights.values():
        rest = int(np.prod(weight.size, dtype=object)) * {"Float": 4, "Long": 8}.get(weight.kind, 2)
        with archive.open(f"{stem}data/{weight.key}") as part:
            first = part.read(min(rest, PIECE))
            piece = first
            while piece:
                digest.update(piece)
                if weight.kind == "Float" and not np.isfinite(np.frombuffer(piece[: len(piece) // 4 * 4], "<f4")).all():
                    raise ValueError("its weights are not finite")
                rest -= len(piece)
                piece = part.read(min(rest, PIECE)) if rest > 0 else b""
        if rest:
            raise ValueError("a weight is shorter than it says")
        if weight.kind == "Float":
            sketch.append(np.frombuffer(first[: 4 * SKETCH], "<f4"))
    return digest.hexdigest(), np.concatenate(sketch) if sketch else np.zeros(0, np.float32)
