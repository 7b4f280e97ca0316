"""Model files from anybody: a good one is a model, and any other one costs one line and nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from common.console import CallError, RunError
from networks.classifier import DigitClassifier
from training import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def content(whole_run):
    """What model_epoch3.pt holds, to be spoilt."""
    return checkpoint.load(whole_run / "model_epoch3.pt")


@pytest.fixture
def refused(tmp_path):
    """refused(content) saves a dict as a model file and returns the one line that refuses it."""

    def refuse(content):
        file = tmp_path / "model.pt"
        if content is not None:
            torch.save(content, file)
        with pytest.raises(RunError) as error:
            checkpoint.load_model(file, CPU)
        line = str(error.value)
        assert "\n" not in line and str(file) in line and len(line) < 250 + len(str(file))
        return line

    return refuse


def changed(content, path: str, value) -> dict:
    """A copy of nested dicts with the value at a path such as 'spec/ddpm/schedule' replaced."""
    key, _, rest = path.partition("/")
    return {**content, key: changed(content[key], rest, value) if rest else value}


def rewritten(good: Path, new: Path, change=lambda name, data: data, method=zipfile.ZIP_STORED) -> None:
    """Copy an archive member by member."""
    with zipfile.ZipFile(good) as before, zipfile.ZipFile(new, "w", method) as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))


def test_a_model_comes_from_its_file_alone(whole_run, content):
    ddpm, found = checkpoint.load_model(whole_run / "model_epoch3.pt", CPU)
    assert found["class_names"] == [str(k) for k in range(10)] and found["epoch"] == 3
    assert ddpm.n_timesteps == 8 and ddpm.nn_model.size == (1, 28, 28) and ddpm.amp_dtype is None
    assert all(torch.equal(w, content["model"][name]) for name, w in ddpm.nn_model.state_dict().items())
    assert checkpoint.load_model(whole_run / "model_epoch3.pt", CPU, torch.bfloat16)[0].amp_dtype == torch.bfloat16


def test_a_checkpoint_gives_the_average_or_the_raw_weights(whole_run):
    file = whole_run / "checkpoint.pt"
    content = checkpoint.load(file)
    weights = {raw: checkpoint.load_model(file, CPU, raw=raw)[0].nn_model.state_dict() for raw in (False, True)}
    key = "init_conv.conv1.0.weight"
    assert torch.equal(weights[False][key], content["average"][key])
    assert torch.equal(weights[True][key], content["model"][key])
    assert not torch.equal(weights[True][key], weights[False][key])
    with pytest.raises(CallError, match="--raw needs a checkpoint.pt"):
        checkpoint.load_model(whole_run / "model_epoch3.pt", CPU, raw=True)


NAMES = [str(k) for k in range(10)]
SPOILT = [
    ("spec", None, "names no network"),
    ("spec", ["a list"], "names no network"),
    ("spec/network", "another", "names no network"),
    ("spec/network", ["unhashable"], "names no network"),
    ("spec/network_arguments", 3, "network_arguments"),
    ("spec/network_arguments/n_features", 4096, "is torch.float32"),
    ("spec/network_arguments/n_features", 10**7, "more than 4,096"),
    ("spec/network_arguments/height", [28] * 1000, "plain values"),
    ("spec/network_arguments/height", [28] * 101, "more than 100"),
    ("spec/network_arguments/n_features", 10**30, "plain values"),
    ("spec/network_arguments/n_features", "8", "not supported"),
    ("spec/network_arguments/unknown", 1, "unknown"),
    ("spec/network_arguments/height", 30, "divisible by 4"),
    ("spec/network_arguments/in_channels", 3, "is torch.float32"),
    ("spec/ddpm", None, "ddpm"),
    ("spec/ddpm/n_timesteps", 10**12, "more than 100,000"),
    ("spec/ddpm/n_timesteps", 100_001, "more than 100,000"),
    ("spec/ddpm/n_timesteps", 0, "n_timesteps"),
    ("spec/ddpm/n_timesteps", 8.5, "n_timesteps"),
    ("spec/ddpm/schedule", "x" * 10**6, "plain values"),
    ("spec/ddpm/schedule", "another", "schedule"),
    ("spec/ddpm/beta1", float("nan"), "plain values"),
    ("spec/ddpm/device", "cuda", "device"),
    ("spec/ddpm/amp_dtype", 1, "amp_dtype"),
    ("model", [1, 2], "other names"),
    ("model", {}, "other names"),
    ("model/final.0.bias", "text", "no tensor"),
    ("model/final.0.bias", torch.zeros(9), "is torch.float32 [9], not torch.float32 [8]"),
    ("model/final.0.bias", torch.zeros(8, dtype=torch.float64), "is torch.float64"),
    ("model/final.0.bias", torch.full((8,), torch.nan), "not finite"),
    ("model/final.0.bias", torch.full((8,), torch.inf), "not finite"),
    ("class_names", "0123456789", "class_names"),
    ("class_names", NAMES[:9], "class_names"),
    ("class_names", [*NAMES[:9], 9], "class_names"),
    ("class_names", [*NAMES[:9], "9" * 10**6], "class_names"),
    ("class_names", [*NAMES[:9], "8"], "not 10 different"),
    ("class_names", [*NAMES[:9], "\x1b[2J"], "no list of short words"),
    ("arguments", ["--n_classes"], "arguments"),
    ("arguments/dataset", torch.zeros(2), "arguments are no plain"),
    ("arguments/ema", {"a": 1}, "arguments are no plain"),
    ("epoch", torch.zeros(2), "epoch"),
    ("format", 99, "format 1"),
    ("format", torch.ones(2), "format 1"),
]


@pytest.mark.parametrize("path, value, message", SPOILT, ids=[f"{path}={str(v)[:20]}" for path, v, _ in SPOILT])
def test_a_spoilt_model_is_refused(content, refused, path, value, message):
    assert message in refused(changed(content, path, value))


def test_a_network_that_claims_more_than_the_file_holds_is_refused(content, refused):
    """Weights of the right shapes that all repeat a single number: a small file, 40 GB of network."""
    content["spec"]["network_arguments"]["n_features"] = 4096
    with torch.device("meta"):
        network = checkpoint.NETWORKS["conditional_unet"](**content["spec"]["network_arguments"])
    weights = {name: torch.zeros((), dtype=w.dtype).expand(w.shape) for name, w in network.state_dict().items()}
    assert "larger than the file" in refused({**content, "model": weights})


def test_a_long_list_named_many_times_fills_no_memory(content, refused):
    """The file holds it once, but written out it would be 40,000 times as large."""
    content["arguments"] = dict.fromkeys(map(str, range(40_000)), [0] * 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more than 1000" in refused(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; it would be 3 GB


@pytest.mark.parametrize("key", ["spec", "model", "arguments", "class_names", "epoch"])
def test_what_is_missing_is_named(content, refused, key):
    del content[key]
    assert f"holds no '{key}'" in refused(content)


class Payload:
    """A pickle of this runs a command when it is loaded by anything that trusts it."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("wrapped", ["plain pickle", "torch.save", "legacy torch.save", "second pickle"])
def test_no_code_of_a_file_runs(content, refused, tmp_path, whole_run, wrapped):
    exploded, file = tmp_path / "exploded", tmp_path / "model.pt"
    if wrapped == "plain pickle":
        file.write_bytes(pickle.dumps({**content, "more": Payload(exploded)}))
    elif wrapped == "second pickle":  # constants.pkl would make torch take the file for a program
        rewritten(whole_run / "model_epoch3.pt", file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(archive.namelist()[0].split("/")[0] + "/constants.pkl", pickle.dumps(Payload(exploded)))
    else:
        options = {"_use_new_zipfile_serialization": wrapped == "torch.save"}
        torch.save({**content, "more": Payload(exploded)}, file, **options)
    line = refused(None)
    assert not exploded.exists()
    assert {"torch.save": "posix system", "second pickle": "not one torch.save"}.get(wrapped, "zip") in line
    if wrapped != "second pickle":  # the payload does work where it is trusted
        torch.load(file, weights_only=False) if "torch" in wrapped else pickle.loads(file.read_bytes())
        assert exploded.exists()


def test_names_that_torch_would_let_through_are_refused(content, refused):
    """Even with weights_only=True torch makes a bytearray of any size that a file asks for."""
    assert "bytearray" in refused({**content, "more": bytearray(3)})
    assert "Parameter" in refused({**content, "more": torch.nn.Parameter(torch.zeros(2))}).title()


def test_a_compressed_archive_is_refused(refused, whole_run, tmp_path):
    rewritten(whole_run / "model_epoch3.pt", tmp_path / "model.pt", method=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(None)


def test_parts_that_share_their_bytes_are_refused(refused, whole_run, tmp_path):
    """An archive can list the same bytes under many names, and so be small and huge."""
    file = tmp_path / "model.pt"
    rewritten(whole_run / "model_epoch3.pt", file)
    with zipfile.ZipFile(file, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        archive.filelist += [largest] * 100
        archive.writestr("a", b"")  # makes it write the list anew
    assert "larger than the file" in refused(None)


def with_two_tables(read_by_torch: bytes, read_here: bytes) -> bytes:
    """One archive with the parts of two, which have equally long tables of contents: torch goes by the place that the
    zip64 record names, Python's zipfile takes the table to stand right before that record.
    """

    def parts(archive, shift):
        """The members, their table with all positions shifted, and how many there are."""
        end = archive.rindex(b"PK\x05\x06")
        n, size, offset = struct.unpack("<HII", archive[end + 10 : end + 20])
        table, at = bytearray(archive[offset : offset + size]), 0
        while at < size:
            name, extra, comment, position = struct.unpack("<HHH8xI", table[at + 28 : at + 46])
            table[at + 42 : at + 46] = struct.pack("<I", position + shift)
            at += 46 + name + extra + comment
        return archive[:offset], bytes(table), n

    first, first_table, n = parts(read_by_torch, 0)
    size = len(first_table)
    second, second_table, _ = parts(read_here, len(first) - size)  # zipfile adds how far it is from the place named
    assert len(second_table) == size
    at = len(first) + len(second)
    ending = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, n, n, size, at)
    ending += struct.pack("<IIQI", 0x07064B50, 0, at + 2 * size, 1)
    ending += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, n, n, size, at, 0)
    return first + second + first_table + second_table + ending


def test_torch_reads_what_was_checked(content, tmp_path):
    """What is checked are the parts in one table of contents; torch by itself would follow the other one."""
    file, hostile, good = tmp_path / "model.pt", io.BytesIO(), io.BytesIO()
    torch.save({**content, "more": 2}, hostile)
    torch.save({**content, "more": 1}, good)
    file.write_bytes(with_two_tables(hostile.getvalue(), good.getvalue()))
    assert torch.load(file, weights_only=True)["more"] == 2
    with contextlib.suppress(RunError):  # a stricter zipfile refuses it, which is as good
        assert checkpoint.load(file)["more"] == 1


@pytest.mark.parametrize("kind", ["a flipped bit", "truncated", "text", "empty", "folder", "missing", "judge"])
def test_files_that_are_no_models(refused, whole_run, tmp_path, kind):
    file, good = tmp_path / "model.pt", (whole_run / "model_epoch3.pt").read_bytes()
    if kind == "a flipped bit":
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            largest = max(archive.infolist(), key=lambda member: member.file_size)
        middle = largest.header_offset + largest.file_size // 2
        file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    elif kind == "folder":
        file.mkdir()
    elif kind == "judge":
        checkpoint.save(file, {"model": DigitClassifier(1, 10).state_dict()})
    elif kind != "missing":
        file.write_bytes({"truncated": good[: len(good) // 2], "text": b"hello\n", "empty": b""}[kind])
    messages = {"a flipped bit": "checksum", "folder": "no file", "missing": "no file", "judge": "holds no 'spec'"}
    assert messages.get(kind, "damaged") in refused(None)
