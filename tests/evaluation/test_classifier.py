"""The classifiers: what they are shown in training, that they learn, that they are kept, and their features."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.console import CallError, RunError
from datasets.image_set import ImageSet, to_float
from datasets.rendered_digits import render_digits
from evaluation import classifier as classifiers
from evaluation.classifier import (
    CLOTHES,
    DIGITS,
    PHOTOS,
    accuracy_of,
    classify,
    features_of,
    load_or_train,
    random_crops,
    recipe_for,
    rotated,
    train,
)
from networks.classifier import DigitClassifier, PhotoClassifier

SMALL = PHOTOS._replace(n_features=8, epochs=4, batch_size=32)


def coloured(n, n_classes=3, seed=0):
    """A set of noisy images of 16 x 16 pixels: class k is bright in channel k, and every image is brighter at the top."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    images = 60 + 40 * torch.randn(n, 3, 16, 16, generator=generator)
    images[torch.arange(n), labels] += 60
    images[:, :, :8] += 60
    return ImageSet(images.clamp(0, 255).to(torch.uint8), labels, [f"class {k}" for k in range(n_classes)], "folder")


# ------------------------------------------------------------------------------------------------ the networks


def test_files_keep_their_meaning():
    """Names and shapes of the weights are those of the files that exist."""
    weights = DigitClassifier().state_dict()
    norms = [
        f"layers.{i}.{part}" for i in (1, 4, 8, 11, 15) for part in ["weight", "bias", "running_mean", "running_var"]
    ]
    norms += [f"layers.{i}.num_batches_tracked" for i in (1, 4, 8, 11, 15)]
    convolutions = [f"layers.{i}.weight" for i in (0, 3, 7, 10, 14)]
    assert set(weights) == {*norms, *convolutions, "layers.20.weight", "layers.20.bias"}
    assert weights["layers.20.weight"].shape == (10, 128) and weights["layers.14.weight"].shape == (128, 64, 3, 3)


@pytest.mark.parametrize(
    "classifier, width", [(DigitClassifier(1, 10), 128), (PhotoClassifier(3, 4), 256), (PhotoClassifier(3, 2, 8), 32)]
)
def test_features_are_what_the_last_layer_sees(classifier, width):
    classifier.eval()
    x = torch.randn(5, classifier.layers[0].in_channels, 28, 28)
    with torch.no_grad():
        features = classifier.features(x)
        assert features.shape == (5, width)
        scale = 8 if isinstance(classifier, PhotoClassifier) else 1
        torch.testing.assert_close(classifier.layers[-1](features) / scale, classifier(x))


def test_the_photo_classifier_takes_any_size_from_9_on():
    classifier = PhotoClassifier(3, 10, 8)
    assert [classifier(torch.zeros(2, 3, size, size)).shape for size in (9, 28, 33)] == [(2, 10)] * 3
    assert sum(p.numel() for p in PhotoClassifier().parameters()) == 1_972_826


# ------------------------------------------------------------------------------------------------ what they are shown


def test_crops_are_cut_out_of_the_reflected_image():
    y = torch.randn(300, 2, 6, 5)
    moved = random_crops(y, 2, torch.Generator().manual_seed(0))
    padded = F.pad(y, [2] * 4, mode="reflect")
    seen = set()
    for image, wide in zip(moved, padded):
        (where,) = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, wide[:, i : i + 6, j : j + 5])]
        seen.add(where)
    assert len(seen) == 25
    assert torch.equal(moved, random_crops(y, 2, torch.Generator().manual_seed(0)))
    assert torch.equal(random_crops(y, 0), y)


def test_rotations():
    y = torch.randn(3, 2, 4, 4)
    turned, labels = rotated(y)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(turned[:3], y) and torch.equal(turned[6:9], y.flip((2, 3)))
    assert torch.equal(turned[3:6], y.transpose(2, 3).flip(2)) and torch.equal(turned[9:], y.transpose(2, 3).flip(3))


def test_digits_are_never_mirrored_but_clothes_and_photographs_are():
    images, labels = render_digits(4, seed=0)
    digits = ImageSet(images, labels, list("0123456789"), "rendered")
    assert recipe_for(digits) == DIGITS and not DIGITS.flips and not DIGITS.crop
    assert not classifiers.new_classifier(digits, DIGITS).mirrors
    generator = torch.Generator().manual_seed(0)
    y, _ = classifiers.training_batch(digits, torch.arange(4), None, DIGITS, generator)
    moves = [to_float(images).roll((dy, dx), dims=(2, 3)) for dy in range(-2, 3) for dx in range(-2, 3)]
    assert any(torch.equal(y, move) for move in moves)  # moved, as a whole, and that is all

    clothes = dataclasses.replace(digits, name="fashion_mnist")  # neither cropped nor coloured, but mirrored
    assert recipe_for(clothes) == CLOTHES and CLOTHES.flips and not CLOTHES.crop
    classifier = classifiers.new_classifier(clothes, CLOTHES)
    assert type(classifier) is DigitClassifier and classifier.layers[0].in_channels == 1 and classifier.mirrors
    flip = torch.tensor([True, False, True, False])
    y, _ = classifiers.training_batch(clothes, torch.arange(4), flip, CLOTHES, generator)
    seen = to_float(images)
    seen[flip] = seen[flip].flip(3)
    assert any(torch.equal(y, seen.roll((dy, dx), dims=(2, 3))) for dy in range(-2, 3) for dx in range(-2, 3))

    photographs = coloured(1)
    assert recipe_for(photographs) == PHOTOS and PHOTOS.flips
    assert not classifiers.new_classifier(coloured(6, n_classes=1), SMALL).mirrors  # a mirrored quarter turn is another
    y, _ = classifiers.training_batch(photographs, torch.tensor([0]), torch.tensor([True]), PHOTOS, generator)
    padded = F.pad(to_float(photographs.images).flip(3), [1] * 4, mode="reflect")  # 16 pixels: moved by one at most
    assert any(torch.equal(y, padded[:, :, i : i + 16, j : j + 16]) for i in range(3) for j in range(3))


@pytest.mark.parametrize("flips", [True, False])
def test_in_training_an_image_is_mirrored_by_turns(flips, monkeypatch):
    shown, changed = [], classifiers.training_batch

    def watched(image_set, index, flip, *rest):
        shown.append((index, flip))
        return changed(image_set, index, flip, *rest)

    monkeypatch.setattr(classifiers, "training_batch", watched)
    train(coloured(40), SMALL._replace(epochs=3, batch_size=20, flips=flips))
    shown = shown[2:]  # after two trials, which tell how long it takes
    assert len(shown) == 6
    if flips:
        epochs = [torch.cat([flip for _, flip in shown[i : i + 2]]) for i in (0, 2, 4)]
        orders = [torch.cat([index for index, _ in shown[i : i + 2]]) for i in (0, 2, 4)]
        first, second, third = (flip[order.argsort()] for flip, order in zip(epochs, orders))
        assert torch.equal(second, ~first) and torch.equal(third, first) and 10 < first.sum() < 30
        assert not torch.equal(orders[0], orders[1])
    else:
        assert all(flip is None for _, flip in shown)


def test_the_first_layer_whitens_the_patches():
    """What the first filters make of the patches is uncorrelated, of falling variance, and there in both signs."""
    y = to_float(coloured(50).images)
    conv = nn.Conv2d(3, 60, 3, padding=1, bias=False)
    random = conv.weight.detach().clone()
    classifiers.start_with_principal_components(conv, y)
    weight = conv.weight.detach()
    patches = F.unfold(y, 3).transpose(0, 1).flatten(1)
    covariance = torch.cov(weight[:27].flatten(1) @ patches)
    torch.testing.assert_close(covariance, covariance.diag().diag(), rtol=0, atol=1e-4)
    assert (covariance.diag().diff() <= 1e-4).all() and covariance[0, 0] > 5 * covariance[5, 5]
    assert torch.equal(weight[27:54], -weight[:27]) and torch.equal(weight[54:], random[54:])
    narrow = nn.Conv2d(3, 8, 3, bias=False)
    classifiers.start_with_principal_components(narrow, y)
    torch.testing.assert_close(narrow.weight, weight[:8])


def test_images_too_small_are_refused():
    for network, recipe in ((DigitClassifier, DIGITS), (PhotoClassifier, SMALL)):
        least = network.least
        small = dataclasses.replace(coloured(4), images=torch.zeros(4, 3, least - 1, 40, dtype=torch.uint8))
        with pytest.raises(CallError, match=f"at least {least} x {least} pixels, not {least - 1} x 40"):
            train(small, recipe)
        assert network(3, 2, 8)(torch.zeros(2, 3, least, least)).shape == (2, 2)


# ------------------------------------------------------------------------------------------------ they learn


def test_the_photo_classifier_learns_classes():
    classifier = train(coloured(300), SMALL)
    first = train(coloured(40), SMALL._replace(epochs=0)).layers[0].weight
    assert torch.equal(first[12:], -first[:12])  # principal components and their negatives
    assert isinstance(classifier, PhotoClassifier) and accuracy_of(classifier, coloured(90, seed=1)) > 0.95


def test_the_classifier_learns_digits(capsys):
    images, labels = render_digits(2_000, seed=0)
    names = [str(k) for k in range(10)]
    classifier = train(ImageSet(images[:1800], labels[:1800], names, "rendered"), DIGITS._replace(n_features=16))
    assert isinstance(classifier, DigitClassifier) and not classifier.training
    assert (classify(classifier, images[1800:]) == labels[1800:]).float().mean() > 0.9
    first, second, *_ = capsys.readouterr().out.splitlines()  # what it does, and how long that takes, comes first
    assert (
        re.search(r"training a classifier on 1,800 real images, about \d+ (s|min|h)", first) and "epoch 1/4" in second
    )


def test_training_has_one_outcome_and_any_length():
    """Sets smaller than a batch, and five steps, which torch's one-cycle schedule cannot divide."""
    for recipe in (SMALL, SMALL._replace(epochs=5, batch_size=5)):
        first, second = (train(coloured(5), recipe).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_classifier_no_better_than_chance_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "PHOTOS", SMALL)
    train_set, test_set = coloured(300), coloured(150, seed=1)
    mislabelled = dataclasses.replace(test_set, labels=test_set.labels.roll(1))
    with pytest.raises(RunError, match="no better than chance"):
        load_or_train(tmp_path / "classifier.pt", train_set, mislabelled)
    _, accuracy = load_or_train(tmp_path / "classifier.pt", train_set, test_set)
    assert accuracy > 0.5


def test_without_classes_it_learns_rotations():
    train_set, test_set = coloured(300, n_classes=1), coloured(60, n_classes=1, seed=1)
    classifier = train(train_set, SMALL)
    assert classifier.layers[-1].out_features == 4 and accuracy_of(classifier, test_set) > 0.95
    y, labels = rotated(to_float(test_set.images))
    assert (classify(classifier, y) == labels).float().mean().item() == accuracy_of(classifier, test_set)


@pytest.mark.parametrize("mirrors", [False, True])
def test_a_classifier_of_mirrored_images_answers_by_the_mean_over_both(mirrors, monkeypatch):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    classifier.mirrors = mirrors
    y = to_float(coloured(60).images)
    plain, mirrored = classifier(y), classifier(y.flip(3))
    expected = (plain + mirrored if mirrors else plain).argmax(1)
    monkeypatch.setattr(classifiers, "AT_ONCE", 7)
    assert torch.equal(classify(classifier, y), expected) and not torch.equal(expected, mirrored.argmax(1))
    assert torch.equal(classify(classifier, y.flip(3)), expected) == mirrors


@pytest.mark.parametrize("n_classes", [1, 3])
def test_a_classifier_is_trained_once(n_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "PHOTOS", SMALL._replace(epochs=1))
    file, train_set, test_set = tmp_path / "classifier.pt", coloured(64, n_classes), coloured(20, n_classes, seed=1)
    classifier, accuracy = load_or_train(file, train_set, test_set)
    monkeypatch.setattr(classifiers, "train", None)  # a second training would fail
    again, same = load_or_train(file, train_set, test_set)
    assert accuracy == same and not again.training
    assert torch.equal(features_of(classifier, test_set.images), features_of(again, test_set.images))
    for other in (coloured(64, n_classes, seed=2), coloured(63, n_classes)):
        with pytest.raises(RunError, match="other images.*delete the file"):
            load_or_train(file, other, test_set)
    monkeypatch.setattr(classifiers, "PHOTOS", SMALL._replace(epochs=2))
    with pytest.raises(RunError, match="recipe of another version"):
        load_or_train(file, train_set, test_set)


def test_a_folder_that_cannot_be_written_is_found_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "judges").write_text("no folder")
    monkeypatch.setattr(classifiers, "train", None)
    with pytest.raises(OSError, match="judges"):
        load_or_train(tmp_path / "judges" / "classifier.pt", coloured(64), coloured(20))


# ------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("classifier", [DigitClassifier(3), PhotoClassifier(3, 10, 8)])
def test_features_of_images(classifier, monkeypatch):
    monkeypatch.setattr(classifiers, "AT_ONCE", 3)  # 12 of these images
    for module in classifier.modules():  # BatchNorms that do something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = coloured(23).images
    features = features_of(classifier, images)
    assert features.shape == (23, classifier.layers[-1].in_features) and features.dtype == torch.float32
    assert features.device.type == "cpu" and classifier.training  # the classifier is left as it was
    with torch.no_grad():
        torch.testing.assert_close(features, classifier.eval().features(to_float(images)), rtol=1e-4, atol=1e-5)
    y = to_float(images)
    assert torch.equal(features_of(classifier, y + 0.003), features)  # less than half a level of 256
    assert torch.equal(
        features_of(classifier, y.clamp(-1, 1) * 1e3), features_of(classifier, y.sign())
    )  # beyond white is white


def test_classifiers_have_files_of_their_own():
    assert classifiers.file_name(coloured(3)) == "judge_folder_3x16x3.pt"
    assert classifiers.file_name(coloured(3, n_classes=1)) == "judge_folder_class 0_1x16x3.pt"
    digits = ImageSet(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.arange(3), list("0123456789"), "mnist")
    assert classifiers.file_name(digits) == "judge_mnist_10x28x1.pt"  # as in files that exist
    recipe, number = classifiers.trained_on(digits).split(", images ")
    assert recipe == "Judge 32 4 128 Adam 0.004 1e-05 0.05 False 0 False" and number == "3cfe85e95dfbe1fd"
    recipe, _ = classifiers.trained_on(coloured(3)).split(", images ")
    assert recipe == "PhotographJudge 64 16 128 _sgd 0.1 0.0012 0.1 True 16 True"


def test_features_have_a_name():
    classifier, other = PhotoClassifier(3, 3, 8), PhotoClassifier(3, 3, 8)
    name, number = classifiers.features_name(classifier, coloured(3)).split(", no. ")
    assert name == "32 features of a PhotographJudge that tells 3 classes (folder)"
    assert len(number) == 8 and not classifiers.features_name(other, coloured(3)).endswith(number)  # other weights
    other.load_state_dict(classifier.state_dict())
    assert classifiers.features_name(other, coloured(3)).endswith(number)
    name = classifiers.features_name(PhotoClassifier(3, 4, 8), coloured(3, n_classes=1))
    assert name.startswith("32 features of a PhotographJudge that tells the rotations of class 0 (folder), no. ")


def test_large_images_are_judged_in_smaller_batches(monkeypatch):
    sizes = []
    monkeypatch.setattr(classifiers, "to_float", lambda y: sizes.append(len(y)) or to_float(y))
    classifier = PhotoClassifier(3, 3, 8).eval()
    for height in (16, 32, 320):
        features_of(classifier, torch.zeros(7 if height > 32 else 501, 3, height, height, dtype=torch.uint8))
    assert sizes == [500, 1, 500, 1, 5, 2]
