"""Classifiers of real images, which measure generated images. Each is trained once per data set and kept in a file.

    classifier, accuracy = load_or_train(Path("log/judges") / file_name(train_set), train_set, test_set)
    classes = classify(classifier, y)                        # y [N, C, H, W] in [-1, 1] -> int64 [N]
    features = features_of(classifier, train_set.images)     # uint8 [N, C, H, W] -> float32 [N, D], for metrics.py

There are three recipes: for digits, which may be shifted but neither mirrored nor cropped; for clothes, which may be
mirrored too; and for photographs. If a data set has a single class, its classifier is trained to predict by how many
quarter turns an image was rotated (Gidaris et al. 2018, arXiv:1803.07728). It has to recognise what an image shows to
do so, and therefore its features describe images, too.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from common.console import CallError, Progress, RunError
from common.files import check_writable, format_duration
from common.machine import pick_amp
from datasets.image_set import ImageSet, to_float, to_uint8
from diffusion.fast_network import for_inference
from networks import layout_on
from networks.classifier import Classifier, DigitClassifier, PhotoClassifier
from training import checkpoint

AT_ONCE = 500  # images of 32 x 32 pixels in a batch; fewer if they are larger
ENOUGH = 100  # test images; fewer cannot show whether a classifier is better than chance


class Recipe(NamedTuple):
    """How a classifier is trained. `recipe._replace(epochs=1)` is the same recipe with one epoch."""

    network: Callable[[int, int, int], Classifier]  # called with in_channels, n_classes, n_features
    n_features: int
    epochs: int
    batch_size: int
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float  # the highest learning rate of the one-cycle schedule (Smith and Topin 2018, arXiv:1708.07120)
    weight_decay: float
    label_smoothing: float
    flips: bool  # mirror half of the images, left to right, and the other half in the next epoch
    crop: int = 0  # shift each image by up to height / crop; 0: roll whole batches by up to 2 pixels
    whiten: bool = False  # initialise the first layer with the principal components of the patches


def _sgd(parameters: Iterable[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings)


DIGITS = Recipe(DigitClassifier, 32, 4, 128, torch.optim.Adam, 4e-3, 1e-5, 0.05, flips=False)
CLOTHES = DIGITS._replace(flips=True)
PHOTOS = Recipe(PhotoClassifier, 64, 16, 128, _sgd, 0.1, 1.2e-3, 0.1, flips=True, crop=16, whiten=True)


def recipe_for(image_set: ImageSet) -> Recipe:
    return {"mnist": DIGITS, "rendered": DIGITS, "fashion_mnist": CLOTHES}.get(image_set.name, PHOTOS)


def tells_rotations(image_set: ImageSet) -> bool:
    """Whether the classifier of this set predicts rotations, because there is only one class."""
    return image_set.n_classes < 2


# ------------------------------------------------------------------------------------------------ names


def file_name(train_set: ImageSet) -> str:
    """The file of this set's classifier, such as judge_mnist_10x28x1.pt or judge_afhq_cat_1x32x3.pt."""
    channels, height = train_set.images.shape[1:3]
    which = f"{train_set.class_names[0]}_" if tells_rotations(train_set) else ""
    return f"judge_{train_set.name}_{which}{train_set.n_classes}x{height}x{channels}.pt"


def features_name(classifier: Classifier, train_set: ImageSet) -> str:
    """What the features are, for a table: only distances in the same features can be compared. Ends in a hash of the
    weights."""
    told, width = f"{train_set.n_classes} classes", list(classifier.modules())[-1].in_features
    if tells_rotations(train_set):
        told = f"the rotations of {' '.join(train_set.class_names) or 'images'}"
    number = _hash(classifier.state_dict().values())[:8]
    return f"{width} features of a {classifier.name_in_files} that tells {told} ({train_set.name}), no. {number}"


def trained_on(train_set: ImageSet) -> str:
    """The recipe and a hash of the images: what the weights depend on. It is kept in the classifier's file."""
    recipe = [getattr(value, "name_in_files", getattr(value, "__name__", value)) for value in recipe_for(train_set)]
    return f"{' '.join(map(str, recipe))}, images {_hash([train_set.images, train_set.labels])}"


def _hash(tensors: Iterable[Tensor]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        hashed.update(tensor.cpu().reshape(-1).numpy().data)
    return hashed.hexdigest()


# ------------------------------------------------------------------------------------------------ training


def load_or_train(file: Path, train_set: ImageSet, test_set: ImageSet) -> tuple[Classifier, float]:
    """The classifier in `file`, and its accuracy on the test images. If there is no such file, train it and write it.

    RunError if it was trained on other images or by another recipe, or if it is no better than chance.
    """
    if file.exists():
        content = checkpoint.load(file, "model")
        if content.get("trained_on") != trained_on(train_set):
            raise RunError(
                f"{file} was trained on other images, or by the recipe of another version: delete the file "
                "to train the classifier again, or choose another --judge_dir"
            )
        classifier = new_classifier(train_set, recipe_for(train_set)).eval()
        checkpoint.load_weights(classifier, content["model"], file)
    else:
        check_writable(file)
        classifier = train(train_set)
        checkpoint.save(file, {"model": classifier.state_dict(), "trained_on": trained_on(train_set)})
    accuracy, n, chance = accuracy_of(classifier, test_set), len(test_set), 1 / _n_outputs(train_set)
    if n >= ENOUGH and accuracy < chance + 2 * math.sqrt(chance * (1 - chance) / n):  # two standard deviations
        raise RunError(
            f"the classifier {file} is right on {accuracy:.1%} of {n:,} real test images, no better than chance, and "
            "cannot measure anything: check the labels of the data set, then delete the file to train it again"
        )
    return classifier, accuracy


def _n_outputs(train_set: ImageSet) -> int:
    return 4 if tells_rotations(train_set) else train_set.n_classes


def new_classifier(train_set: ImageSet, recipe: Recipe) -> Classifier:
    """The untrained classifier of a data set, on its device. CallError if the images are too small for it."""
    channels, height, width = train_set.images.shape[1:]
    classifier = recipe.network(channels, _n_outputs(train_set), recipe.n_features)
    if min(height, width) < classifier.least:
        raise CallError(
            f"the classifier needs images of at least {classifier.least} x {classifier.least} pixels, "
            f"not {height} x {width}"
        )
    # A mirror image shows the same class, but another quarter turn.
    classifier.mirrors = recipe.flips and not tells_rotations(train_set)
    return classifier.to(train_set.device).to(memory_format=layout_on(train_set.device))


def train(train_set: ImageSet, recipe: Recipe | None = None) -> Classifier:
    """A classifier in eval mode, trained on `train_set`. recipe: by default the one for this data set."""
    recipe = recipe or recipe_for(train_set)
    torch.manual_seed(0)
    classifier = new_classifier(train_set, recipe)
    if recipe.whiten:
        stride = max(1, train_set.images[:, 0].numel() // 1_000_000)  # a million pixels are enough
        y, _ = train_set.batch(torch.arange(0, len(train_set), stride))
        start_with_principal_components(cast(nn.Conv2d, classifier.layers[0]), y)
    batch = max(1, recipe.batch_size // 4) if tells_rotations(train_set) else recipe.batch_size
    steps = max(1, len(train_set) // batch)
    duration = format_duration(seconds_per_step(classifier, train_set, batch, recipe) * steps * recipe.epochs)
    print(f"first, once: training a classifier on {len(train_set):,} real images, about {duration}", flush=True)
    torch.manual_seed(0)  # the dropout
    optimizer = recipe.optimizer(classifier.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    total = max(10, recipe.epochs * steps)  # OneCycleLR divides by zero for 5 steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=total, pct_start=0.2)
    generator = torch.Generator().manual_seed(0)
    # Each image is mirrored in every second epoch: two epochs then show more than two independent random draws would
    # (K. Jordan, arXiv:2404.00498).
    mirrored = torch.rand(len(train_set), generator=torch.Generator().manual_seed(1)) < 0.5
    with Progress(recipe.epochs * steps, "steps of the classifier") as progress:
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(train_set), generator=generator)
            for index in order[: steps * batch].split(batch):
                flip = mirrored[index].to(train_set.device) if recipe.flips else None
                loss = loss_of(classifier, *training_batch(train_set, index, flip, recipe, generator), recipe)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.advance(1)
            mirrored = ~mirrored
            print(f"classifier: epoch {epoch + 1}/{recipe.epochs}  loss {loss.item():.4f}", flush=True)
    return classifier.eval()


def loss_of(classifier: Classifier, y: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    dtype = pick_amp("auto", y.device)
    with torch.autocast(y.device.type, dtype=dtype) if dtype else contextlib.nullcontext():
        logits = classifier(y)
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)


def seconds_per_step(classifier: Classifier, train_set: ImageSet, batch: int, recipe: Recipe) -> float:
    """How long a training step takes here, measured on a copy of the classifier."""
    trial, index = copy.deepcopy(classifier), torch.arange(min(batch, len(train_set)))
    for _ in range(2):  # the first step also loads libraries and takes memory
        began = time.perf_counter()
        loss = loss_of(trial, *training_batch(train_set, index, None, recipe, torch.Generator()), recipe)
        torch.autograd.grad(loss, list(trial.parameters()))[0].sum().item()  # waits for the device
    return time.perf_counter() - began


@torch.no_grad()
def start_with_principal_components(conv: nn.Conv2d, y: Tensor) -> None:
    """Initialise filters with the principal components of the patches of images y, and with their negatives.

    With the BatchNorm after it, the layer then whitens the patches, so that later layers need not decorrelate
    neighbouring pixels (K. Jordan, arXiv:2404.00498, section 3.2). y: [N, C, H, W], the layer's input. If there are more
    filters than that, the others stay random.
    """
    patches = F.unfold(y, conv.kernel_size).transpose(0, 1).flatten(1)  # [C kh kw, N * places]
    covariance = torch.cov(patches).cpu()  # Apple GPUs compute no eigenvectors
    directions = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)  # rows, largest variance first
    filters = torch.cat([directions, -directions])[: conv.out_channels]  # the ReLU keeps one sign, so both are needed
    conv.weight[: len(filters)] = filters.view(-1, *conv.weight.shape[1:])


def training_batch(
    image_set: ImageSet, index: Tensor, flip: Tensor | None, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The images at `index`, mirrored where `flip` is true and shifted at random, and their labels (`_examples`)."""
    y, c = image_set.batch(index, flip)
    if recipe.crop:
        y = random_crops(y, max(1, y.shape[2] // recipe.crop), generator)
    else:
        dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
        y = y.roll((dy, dx), dims=(2, 3))
    return _examples(image_set, y, c)


def _examples(image_set: ImageSet, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Images y and their labels, int64; for a classifier of rotations every image in all four rotations."""
    return rotated(y) if tells_rotations(image_set) else (y, c.argmax(1))


def random_crops(y: Tensor, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image of y [N, C, H, W] by up to `most` pixels each way; reflection fills the border.

    generator: on the CPU, whatever device y is on.
    """
    n, channels, height, width = y.shape
    padded = F.pad(y, [most] * 4, mode="reflect")
    top, left = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator).to(y.device)
    rows = top + torch.arange(height, device=y.device)  # [N, H]
    columns = left + torch.arange(width, device=y.device)  # [N, W]
    image, channel = torch.arange(n, device=y.device), torch.arange(channels, device=y.device)
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def rotated(y: Tensor) -> tuple[Tensor, Tensor]:
    """Square images [N, C, H, H] -> all of them turned by 0, 90, 180, 270 degrees [4 N, C, H, H]; quarter turns int64."""
    labels = torch.arange(4, device=y.device).repeat_interleave(len(y))
    return torch.cat([y.rot90(k, dims=(2, 3)) for k in range(4)]), labels


# ------------------------------------------------------------------------------------------------ use


@torch.inference_mode()
def classify(classifier: Classifier, images: Tensor) -> Tensor:
    """The predicted class of each image, int64 [N], on the classifier's device. images: as in `features_of`.

    If `classifier.mirrors`, the logits are averaged over each image and its mirror image.
    """
    fast = for_inference(classifier)
    answers = []
    for y in _as_in_files(classifier, images):
        logits = fast(y) + fast(y.flip(3)) if classifier.mirrors else fast(y)
        answers.append(logits.argmax(1))
    return torch.cat(answers)


def accuracy_of(classifier: Classifier, image_set: ImageSet) -> float:
    """Accuracy of the classifier on these images, from 0 to 1."""
    correct = []
    for index in torch.arange(len(image_set)).split(_at_once(image_set.images)):
        y, labels = _examples(image_set, *image_set.batch(index))
        correct += (classify(classifier, y) == labels).tolist()
    return sum(correct) / len(correct)


@torch.inference_mode()
def features_of(classifier: Classifier, images: Tensor) -> Tensor:
    """The input of the classifier's last layer for each image: float32 [N, D], on the CPU.

    images: [N, C, H, W] on any device, uint8 or float in [-1, 1]. Floats are first rounded to the 256 levels of an image
    file, so that samples have the same features before and after they were saved.
    """
    fast = cast(Classifier, for_inference(classifier))
    return torch.cat([fast.features(y) for y in _as_in_files(classifier, images)]).cpu()


def _at_once(images: Tensor) -> int:
    """The batch size for images [N, C, H, W] of this size."""
    return max(1, min(AT_ONCE, AT_ONCE * 32**2 // images[0, 0].numel()))


def _as_in_files(classifier: Classifier, images: Tensor) -> Iterator[Tensor]:
    """Batches of the images, float in [-1, 1] on the classifier's device, rounded as in an image file."""
    device = next(classifier.parameters()).device
    for part in images.split(_at_once(images)):
        part = part.to(device)
        yield to_float(part if part.dtype == torch.uint8 else to_uint8(part))
