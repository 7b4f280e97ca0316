"""Context vectors of images and prompts: tables of attributes, CelebA's layout, the cache."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_folders import write_celeba, write_folder

from common.console import CallError, DataError
from datasets import sources
from datasets.context import encode_prompts, load_images, with_context
from datasets.encoders import Attributes, encoder_from, read_table

FILES = [Path(f"{i:04}.png") for i in range(1, 9)]


@pytest.fixture
def table(tmp_path):
    """age 10, 20 .. 80 of the files 0001.png .. 0008.png; long-haired for one of four."""
    rows = [f"{i},{10 * i},{100 if i % 4 == 0 else 0}" for i in range(1, 9)]
    file = tmp_path / "attributes.csv"
    file.write_text("\n".join(["face,age,long-haired", *rows]))
    return file


@pytest.fixture
def encoder(table):
    return Attributes.of(table, FILES)


# ------------------------------------------------------------ attributes


def test_a_picture_counts_in_standard_deviations(encoder):
    found = encoder.encode_images(FILES)
    ages = torch.arange(10.0, 90, 10)
    torch.testing.assert_close(found[:, 0], (ages - 45) / ages.std(unbiased=False) / 2**0.5)
    torch.testing.assert_close(found.square().sum(1).mean(), torch.tensor(1.0))  # vectors of length about 1
    assert found.dtype == torch.float32 and encoder.dimension == 2


def test_a_prompt_is_the_mean_of_a_quarter_and_of_all_where_it_says_nothing(encoder):
    old, young, both, not_old = encoder.encode_texts(["old", "young", "young, Long-Haired", "not old"])
    ends = encoder.scaled(torch.tensor([[75.0, 25], [15, 25], [15, 100]]).double())  # means of 70 80, of 10 20
    torch.testing.assert_close(torch.stack([old, young, both]), ends)
    assert torch.equal(young, not_old) and old[1] == 0


@pytest.mark.parametrize("prompt, word", [("happy", "happy"), ("old, , young", "''"), ("old, young", "both ends")])
def test_a_prompt_that_the_table_cannot_answer(encoder, prompt, word):
    with pytest.raises(CallError, match=word):
        encoder.encode_texts([prompt])


def test_celebas_own_table(tmp_path):
    root = write_celeba(tmp_path, [0] * 8) / "celeba"
    encoder = Attributes.of(root / "list_attr_celeba.txt", [root / f"{i:06}.jpg" for i in range(1, 9)])
    prompts = encoder.encode_texts(["smiling", "not Blond Hair", "light-haired"])
    # Of a rare attribute the upper quarter holds both values, but the word means the one.
    rows = torch.tensor([[1, -0.5], [0, -1], [0, 1]]).double()
    torch.testing.assert_close(prompts, encoder.scaled(rows))


def test_the_recipe_makes_the_same_encoder(encoder, table):
    again = encoder_from(encoder.recipe())
    assert torch.equal(again.encode_texts(["old"]), encoder.encode_texts(["old"]))
    picture = table.parent / "0003.png"  # of which the table beside it knows
    assert torch.equal(again.encode_images([picture]), encoder.encode_images([picture]))
    with pytest.raises(DataError, match="no row for .*0099.png"):
        again.encode_images([table.parent / "0099.png"])


def test_columns_are_found_by_their_names(tmp_path, encoder):
    picture = tmp_path / "more" / "0003.png"
    picture.parent.mkdir()
    (picture.parent / "attributes.csv").write_text("face,hat,long-haired,age\n3,1,0,30\n")
    again = encoder_from(encoder.recipe())
    assert torch.equal(again.encode_images([picture, tmp_path / "0003.png"]), encoder.encode_images([FILES[2]] * 2))
    (picture.parent / "attributes.csv").write_text("face,hat,age\n3,1,30\n")
    with pytest.raises(DataError, match="no attribute long-haired"):
        again.encode_images([picture])


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile;age;Hat\r\ntrain/a/0001.png;1,5;-1\r\n2;2;0\r\n;;\r\n",  # of a spreadsheet
        "file\tage\tHat\n001\t1.5\t-1\n002\t2\t0\n\n",
        'file, age, Hat\n"1.jpg", 1.5, -1\nc\\2.jpg, 2, 0',
    ],
)
def test_tables_as_programs_write_them(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "a.csv") == (["age", "Hat"], {"1": [1.5, -1], "2": [2, 0]})


def test_an_attribute_that_all_have(tmp_path):
    (tmp_path / "a.csv").write_text("face,age\n" + "".join(f"{i},0.1\n" for i in range(1, 9)))
    with pytest.raises(DataError, match="the same value of age"):
        Attributes.of(tmp_path / "a.csv", FILES)


def test_pictures_that_a_table_cannot_tell_apart(table):
    with pytest.raises(DataError, match="a/0001.png .* one name"):
        Attributes.of(table, [*FILES[1:], Path("a/0001.png"), Path("b/1.jpg")])


def test_prompts_for_whoever_gives_none(encoder, tmp_path):
    assert encoder.examples() == ["old", "young", "long-haired", "short-haired"]
    root = write_celeba(tmp_path, [0] * 8) / "celeba"
    celeba = Attributes.of(root / "list_attr_celeba.txt", [root / f"{i:06}.jpg" for i in range(1, 9)])
    assert celeba.examples() == ["smiling", "not smiling", "blond hair", "not blond hair"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", "face,age\n1,old"),
        ("a.csv", "face,age\n1,nan"),
        ("a.csv", "face,age\n1,"),
        ("a.csv", "face,age\n1,3,4"),
        ("a.csv", "face,age\n1,3\n01.png,4"),
        ("a.csv", "face,age,Age\n1,3,4"),
        ("a.csv", "face,age,\n1,3,"),
        ("a.csv", "face,age"),
        ("a.csv", ""),
        ("a.txt", "1"),
        ("a.txt", "1\nSmiling\n1.jpg"),
    ],
)
def test_what_is_no_table(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no table of attributes"):
        read_table(tmp_path / name)


# ------------------------------------------------------------ prompts


def test_mixtures_of_prompts(encoder):
    old, hair = encoder.encode_texts(["old", "long-haired"])
    found = encode_prompts(encoder, ["old", "old + long-haired", "old*0.7 + long-haired*-0.2"])
    torch.testing.assert_close(found, torch.stack([old, (old + hair) / 2, 0.7 * old - 0.2 * hair]))


@pytest.mark.parametrize(
    "prompts, word",
    [
        ([], "no prompt"),
        ([" "], "empty"),
        (["old\n"], "cannot be shown"),
        (["old + "], "empty"),
        (["old", "old"], "twice"),
        (["old*x + young"], "weight"),
    ],
)
def test_prompts_that_are_refused(encoder, prompts, word):
    with pytest.raises(CallError, match=word):
        encode_prompts(encoder, prompts)


# ------------------------------------------------------------ data sets


def test_the_parts_of_celeba(tmp_path):
    write_celeba(tmp_path, [0, 2, 0, 1, 0, 2])
    for train, numbers in ((True, {1, 3, 5}), (False, {2, 6})):
        images, files = load_images("celeba", tmp_path, train, 32)
        assert {int(file.stem) for file in files} == numbers
        for image, file in zip(images.images, files):
            assert np.array_equal(image.permute(1, 2, 0), imageio.imread(file))
        loaded = sources.load("celeba", tmp_path, train, n_classes=None, im_height=32, im_channels=3)
        assert torch.equal(loaded.images, images.images)


@pytest.mark.parametrize("damage", ["1.png 3", "../1.png 0", "1.png"])
def test_a_partition_that_makes_no_sense(tmp_path, damage):
    (write_celeba(tmp_path, [0, 2]) / "celeba" / "list_eval_partition.txt").write_text(damage)
    with pytest.raises(DataError, match="list_eval_partition.txt has a row"):
        load_images("celeba", tmp_path, True, 32)


def test_celeba_is_not_there(tmp_path):
    with pytest.raises(DataError, match="img_align_celeba"):
        load_images("celeba", tmp_path, True, 32)


class Counting:
    """An encoder that says which file it was, and counts what it was asked."""

    dimension, asked = 2, 0

    def __init__(self, name="counting", version=1):
        self.name, self.version = name, version

    def encode_images(self, files):
        self.asked += len(files)
        return torch.tensor([[float(file.stem), self.version] for file in files])

    def recipe(self):
        return {"version": self.version}


def load(data_dir, encoder, limit=None):
    images, files = load_images("folder", data_dir, True, 8, limit)
    return with_context(images, files, encoder, data_dir, True), files


def test_vectors_belong_to_their_images_and_are_computed_once(tmp_path, capsys):
    write_folder(tmp_path, ["a"], 20, size=8)
    (tmp_path / "train" / "a" / "007.png").write_bytes(b"no picture")
    others = [f"more{i}" for i in range(6)]
    write_folder(tmp_path, others, 20, size=8)  # so that one damaged file is less than one in 100
    encoder = Counting()
    images, files = load(tmp_path, encoder, 30)
    assert len(images) == len(files) == encoder.asked == 30 and images.context.dtype == torch.float16
    y, c = images.to("cpu").batch(torch.tensor([4, 2]))
    assert c.dtype == torch.float32 and c[:, 0].tolist() == [float(files[4].stem), float(files[2].stem)]
    pixels = torch.from_numpy(imageio.imread(files[4])).permute(2, 0, 1)
    assert torch.equal(y[0], pixels / 127.5 - 1)

    again = Counting()
    assert torch.equal(load(tmp_path, again, 30)[0].context, images.context)
    assert again.asked == 0
    other = Counting(version=2)  # as if of other weights
    assert load(tmp_path, other, 30)[0].context[0, 1] == 2
    assert other.asked == 30 and "another encoder" in capsys.readouterr().out
    (tmp_path / "context_train_counting.npz").write_bytes(b"damaged")
    assert load(tmp_path, again, 30)[0].context[0, 1] == 1


def test_a_table_that_changes(tmp_path):
    """Two values are swapped: the mean and the quarters stay."""
    write_folder(tmp_path, ["a"], 20, size=8)
    images, files = load_images("folder", tmp_path, True, 8)
    found = []
    for swapped in (False, True):
        ages = {int(file.stem): k for k, file in enumerate(files)}
        if swapped:
            ages[int(files[0].stem)], ages[int(files[1].stem)] = 1, 0
        (tmp_path / "attributes.csv").write_text("\n".join(["face,age", *(f"{i},{v}" for i, v in ages.items())]))
        encoder = Attributes.of(tmp_path / "attributes.csv", files)
        found.append(with_context(images, files, encoder, tmp_path, True).context)
    assert torch.equal(found[0][[1, 0]], found[1][:2]) and torch.equal(found[0][2:], found[1][2:])


def test_the_nearest_images(tmp_path):
    write_folder(tmp_path, ["a"], 20, size=8)
    images, _files = load(tmp_path, Counting())
    images.context = torch.tensor([[k == 3, k != 3] for k in range(len(images))]).half()
    assert images.nearest(torch.tensor([[2.0, 0], [0, 0.5]]), 2)[0] == 3
    assert 3 not in images.nearest(torch.tensor([[0.0, 1]]), len(images) - 1)
