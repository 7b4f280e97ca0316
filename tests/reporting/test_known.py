"""Are real images recognised as those of a known data set, and copies of them among the generated ones?"""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from reporting import known

# 3 of each of 2 classes, then 6 others.
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
TEST, TRAIN, NEW = IMAGES[:6].reshape(2, 3, 8, 8, 3), IMAGES[6:9], IMAGES[9:]


def as_grid(*rows) -> np.ndarray:
    return np.stack([np.stack(row) for row in rows])  # uint8 [rows, columns, H, W, 3]


def what_is_wrong(real, generated, name="cifar10", shown=(0, 1)):
    lists = {f"{other}_{part}": np.zeros((2, 1), np.uint64) for other in known.NAMES for part in ("test", "train")}
    lists["cifar10_test"] = np.stack([known.hashes(images) for images in TEST])
    lists["cifar10_train"] = known.hashes(TRAIN)
    settings = SimpleNamespace(dataset=name, class_names=known.CIFAR, shown=shown, height=32, config={"dataset": {}})
    with mock.patch.object(known, "table", return_value=lists):
        return known.what_is_wrong(settings, real, generated)


SOUND = as_grid((TEST[0, 0], TEST[1, 0]), (TEST[0, 2], TEST[1, 1]))  # in no order: CIFAR-10 in folders has none


@pytest.mark.parametrize(
    ("real", "generated", "more", "found"),
    [
        (SOUND, as_grid(NEW[:2]), {}, None),
        (SOUND, as_grid((NEW[0], TRAIN[1])), {}, "1 of its 2 generated images are images of CIFAR-10"),
        (SOUND, as_grid((NEW[0], TEST[1, 2])), {}, "1 of its 2 generated images are images of CIFAR-10"),
        (SOUND[:, ::-1], as_grid(NEW[:2]), {}, "4 of its real images show other classes"),
        (SOUND, as_grid(NEW[:2]), {"shown": (1, 0)}, "4 of its real images show other classes"),
        (SOUND, as_grid(NEW[:2]), {"name": "cifar100"}, "test images of CIFAR-10, not of cifar100"),
        (SOUND, as_grid(NEW[:2]), {"name": "folder"}, None),
        (as_grid(NEW[:2]), as_grid(TRAIN[:1]), {"name": "folder"}, None),
    ],
)
def test_images_of_cifar10(real, generated, more, found):
    wrong = what_is_wrong(real, generated, **more)
    assert (wrong is None) if found is None else (wrong is not None and found in wrong)


def test_a_grey_image_has_one_hash():
    grey = IMAGES[..., 0]
    assert (known.hashes(grey) == known.hashes(np.repeat(grey[..., None], 3, -1))).all()
    assert (known.hashes(grey) != known.hashes(IMAGES)).all()


def test_the_list_that_comes_with_the_suite():
    known.table.cache_clear()
    lists = known.table()
    assert {name: lists[f"{name}_test"].shape for name in known.NAMES} == {
        "mnist": (10, 10),
        "fashion_mnist": (10, 10),
        "rendered": (10, 10),
        "cifar10": (10, 1000),
    }
    assert len(lists["cifar10_train"]) == 49_923
