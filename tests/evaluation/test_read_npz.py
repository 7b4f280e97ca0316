"""Reading images from an .npz: what it holds comes back, and nothing else is taken for images."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from common.console import RunError
from evaluation.npz import read_npz

GOOD = np.zeros((5, 8, 8, 3), np.uint8)


def refused(file):
    with pytest.raises(RunError) as error:
        read_npz(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "arrays, reason",
    [
        ({"images": GOOD}, "There is no item named 'arr_0.npy'"),
        ({"arr_0": GOOD.astype(np.float32)}, "not float32"),
        ({"arr_0": GOOD[:, :, :4]}, "arr_0 must be uint8"),
        ({"arr_0": GOOD[..., :1]}, "arr_0 must be uint8"),
        ({"arr_0": GOOD[:, :4, :4]}, "with H from 8 to 512"),
        ({"arr_0": GOOD[0]}, "arr_0 must be uint8"),
        ({"arr_0": GOOD[:0]}, "arr_0 must be uint8"),
        ({"arr_0": np.array([print, 1], dtype=object)}, "no .npz of images"),
        ({"arr_0": GOOD, "arr_1": np.zeros(4, int)}, "arr_1 must be 5 whole numbers"),
        ({"arr_0": GOOD, "arr_1": np.zeros(5)}, "arr_1 must be 5 whole numbers"),
        ({"arr_0": GOOD, "arr_1": np.array([0, 1, -1, 2, 3])}, "arr_1 must be 5 whole numbers"),
        ({"arr_0": GOOD, "arr_1": np.array([0, 1, 2, 2, 2**63], np.uint64)}, "classes from 0 on"),
        ({"arr_0": GOOD, "arr_1": np.array(["a"] * 5, dtype=object)}, "no .npz of images"),
        ({"arr_0": GOOD, "arr_1": np.arange(5), "class_names": np.array(["a", "b"])}, "class_names must be"),
        ({"arr_0": GOOD, "arr_1": np.arange(5), "class_names": np.arange(5)}, "class_names must be"),
        ({"arr_0": GOOD, "arr_1": np.zeros(5, int), "class_names": np.array(["a\n"])}, "class_names must be"),
        ({"arr_0": GOOD, "arr_1": np.zeros(5, int), "class_names": np.array(["a", "a"])}, "class_names must be"),
    ],
)
def test_arrays_that_are_no_images_and_labels(tmp_path, arrays, reason):
    np.savez(tmp_path / "a.npz", **arrays)
    assert reason in refused(tmp_path / "a.npz")


def test_damaged_and_hostile_archives(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, arr_0=GOOD)
    whole = file.read_bytes()
    middle = whole.index(b"\x93NUMPY") + 500
    np.savez_compressed(file, arr_0=GOOD)
    contents = [b"", b"hello", whole[:300], whole[:middle] + b"\x01" + whole[middle + 1 :], file.read_bytes()]
    for shape in ((10**12, 8, 8, 3), (6, 8, 8, 3), (-5, -8, 8, 3)):  # headers that lie about the pixels after them
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("arr_0.npy", stream.getvalue() + GOOD.tobytes())
        contents.append(file.read_bytes())
    for content in contents:
        file.write_bytes(content)
        assert "is damaged, or no .npz of images" in refused(file)


def test_what_an_npz_holds_comes_back(tmp_path):
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    pixels = images.permute(0, 2, 3, 1).numpy()
    for more in (
        {},
        {"arr_1": np.arange(5, dtype=np.int16)},
        {"arr_1": np.arange(5), "class_names": np.array(list("abcde"))},
    ):
        np.savez(tmp_path / "a.npz", arr_0=pixels, **more)
        found, classes, names = read_npz(tmp_path / "a.npz")
        assert torch.equal(found, images) and (classes is None) == ("arr_1" not in more)
        assert names == list(more.get("class_names", []))
    assert classes.dtype == torch.int64 and classes.tolist() == [0, 1, 2, 3, 4]
