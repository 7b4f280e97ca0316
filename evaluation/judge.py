"""Judges: small classifiers of real images, trained once per data set and kept, that say what generated images show.

    judge, accuracy = trusted_judge(Path("log/judges/judge_cifar10.pt"), train_set, test_set)
    classes = classify(judge, y)                            # y [N, C, H, W] in [-1, 1] -> int64 [N]
    features = features_of(judge, train_set.images)         # uint8 [N, C, H, W] -> float32 [N, D], for evaluation/metrics.py

Three recipes: digits, which may be moved but neither mirrored nor cropped; clothes, which may be mirrored too; and
photographs. Where a data set has a single class there is none to tell, and its judge tells by which quarter turns an
image was turned (Gidaris et al. 2018, arXiv:1803.07728). To do that it has to know what stands where in an image, and so
its features describe images too.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from common.console import CallError, Progress, RunError
from common.machine import pick_amp
from datasets.image_set import ImageSet, to_float, to_uint8
from diffusion.fast_network import for_inference
from networks import layout_on
from networks.classifier import Judge, PhotographJudge
from training import checkpoint

AT_ONCE = 500  # images of 32 x 32 pixels that are judged together, and fewer larger ones


class Recipe(NamedTuple):
    """How a judge is trained. `recipe._replace(epochs=1)` is the same recipe with one epoch."""

    network: type[nn.Module]
    n_features: int  # its width
    epochs: int
    batch_size: int
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float  # the highest of a one-cycle learning rate (Smith and Topin 2018, arXiv:1708.07120)
    weight_decay: float
    label_smoothing: float
    flips: bool  # mirror half of the images, left to right, and the other half in the next epoch
    crop: int = 0  # move each image by up to height / crop; 0: whole batches by up to 2, with what leaves coming back
    whiten: bool = False  # begin the first layer with the principal components of the images' patches


def _sgd(parameters, **settings) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings)


DIGITS = Recipe(Judge, 32, 4, 128, torch.optim.Adam, 4e-3, 1e-5, 0.05, flips=False)
CLOTHES = DIGITS._replace(flips=True)
PHOTOGRAPHS = Recipe(PhotographJudge, 64, 16, 128, _sgd, 0.1, 1.2e-3, 0.1, flips=True, crop=16, whiten=True)


def recipe_for(image_set: ImageSet) -> Recipe:
    return {"mnist": DIGITS, "rendered": DIGITS, "fashion_mnist": CLOTHES}.get(image_set.name, PHOTOGRAPHS)


def tells_rotations(image_set: ImageSet) -> bool:
    """Does the judge of this set tell rotations? It does where there are no classes to tell."""
    return image_set.n_classes < 2


def judge_name(train_set: ImageSet) -> str:
    """The name of the file of this set's judge, such as judge_mnist_10x28x1.pt or judge_afhq_cat_1x32x3.pt."""
    channels, height = train_set.images.shape[1:3]
    which = f"{train_set.class_names[0]}_" if tells_rotations(train_set) else ""
    return f"judge_{train_set.name}_{which}{train_set.n_classes}x{height}x{channels}.pt"


def features_name(judge: nn.Module, train_set: ImageSet) -> str:
    """What the features are, for a table: figures of different features do not compare. It ends in a number by which one
    can tell judges apart that were trained differently."""
    told, width = f"{train_set.n_classes} classes", list(judge.modules())[-1].in_features
    if tells_rotations(train_set):
        told = f"the rotations of {' '.join(train_set.class_names) or 'images'}"
    return f"{width} features of a {type(judge).__name__} that tells {told} ({train_set.name}), no. {_hash(judge.state_dict().values())[:8]}"


def trained_on(train_set: ImageSet) -> str:
    """What decides a judge: the recipe and the images."""
    recipe = " ".join(getattr(value, "__name__", str(value)) for value in recipe_for(train_set))
    return f"{recipe}, images {_hash([train_set.images, train_set.labels])}"


def _hash(tensors: Iterable[Tensor]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        hashed.update(tensor.cpu().reshape(-1).numpy())
    return hashed.hexdigest()


# ------------------------------------------------------------------------------------------------ training


def new_judge(train_set: ImageSet, recipe: Recipe) -> nn.Module:
    """The untrained judge of a data set, on its device. CallError if the images are too small for it."""
    height, width = train_set.images.shape[2:]
    if min(height, width) < recipe.network.least:
        raise CallError(
            f"a judge needs images of {recipe.network.least} pixels or more each way, not {height} x {width}"
        )
    n_classes = 4 if tells_rotations(train_set) else train_set.n_classes
    judge = recipe.network(train_set.images.shape[1], n_classes, recipe.n_features)
    judge.to(train_set.device, memory_format=layout_on(train_set.device))
    judge.mirrors = recipe.flips and not tells_rotations(train_set)  # a mirrored quarter turn is another quarter turn
    return judge


def train_judge(train_set: ImageSet, seed: int = 0, recipe: Recipe | None = None) -> nn.Module:
    """A judge in eval mode, trained on `train_set`. recipe: None takes the one for this data set."""
    recipe = recipe or recipe_for(train_set)
    torch.manual_seed(seed)
    judge = new_judge(train_set, recipe)
    if recipe.whiten:
        stride = max(1, train_set.images[:, 0].numel() // 1_000_000)  # a million pixels are ample
        some = torch.arange(0, len(train_set), stride)
        begin_with_principal_components(judge.layers[0], train_set.batch(some)[0])
    _train(judge, train_set, seed, recipe)
    return judge.eval()


def _train(judge: nn.Module, train_set: ImageSet, seed: int, recipe: Recipe) -> None:
    """One rise and fall of the learning rate."""
    torch.manual_seed(seed)  # the dropout
    batch = max(1, recipe.batch_size // 4) if tells_rotations(train_set) else recipe.batch_size
    steps = max(1, len(train_set) // batch)
    optimizer = recipe.optimizer(judge.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    total = max(10, recipe.epochs * steps)  # 10: it divides by zero for 5
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=total, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    dtype = pick_amp("auto", train_set.device)
    # Each image by turns as it is and mirrored: two epochs show more than with a new throw of the coin each time
    # (K. Jordan, arXiv:2404.00498).
    mirrored = torch.rand(len(train_set), generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    with Progress(recipe.epochs * steps, "steps of the judge") as progress:
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(train_set), generator=generator)
            for index in order[: steps * batch].split(batch):
                flip = mirrored[index].to(train_set.device) if recipe.flips else None
                examples = _training_examples(train_set, index, flip, recipe, generator)
                loss = _train_step(judge, examples, optimizer, recipe, dtype)
                schedule.step()
                progress.advance(1)
            mirrored = ~mirrored
            print(f"judge: epoch {epoch + 1}/{recipe.epochs}  loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def begin_with_principal_components(conv: nn.Conv2d, y: Tensor) -> None:
    """Let the first filters of a layer be the directions in which patches of the images y vary, and their opposites.

    Followed by a BatchNorm these whiten the patches, which spares the layers above the decorrelating of neighbouring
    pixels (K. Jordan, arXiv:2404.00498, section 3.2). y: [N, C, H, W], the layer's input. Further filters stay random.
    """
    patches = F.unfold(y, conv.kernel_size).transpose(0, 1).flatten(1)  # [C kh kw, N * places]
    covariance = torch.cov(patches).cpu()  # Apple GPUs know no eigenvectors
    directions = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)  # rows, greatest variance first
    filters = torch.cat([directions, -directions])[: conv.out_channels]  # the ReLU keeps one side: so both signs
    conv.weight[: len(filters)] = filters.view(-1, *conv.weight.shape[1:])


def _train_step(
    judge: nn.Module,
    examples: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    dtype: torch.dtype | None,
) -> Tensor:
    y, labels = examples
    with torch.autocast(y.device.type, dtype=dtype) if dtype else contextlib.nullcontext():
        logits = judge(y)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _examples(image_set: ImageSet, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Images y of a set, with what the judge is to say of them, int64 [len(y)].

    For a judge of rotations these are four times the images given: each of them in each rotation.
    """
    return rotated(y) if tells_rotations(image_set) else (y, c.argmax(1))


def _training_examples(
    image_set: ImageSet, index: Tensor, flip: Tensor | None, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Examples for training: the images at `index`, mirrored where `flip` says so, and moved at random."""
    y, c = image_set.batch(index, flip)
    if recipe.crop:
        y = random_crops(y, max(1, y.shape[2] // recipe.crop), generator)
    else:
        dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
        y = y.roll((dy, dx), dims=(2, 3))
    return _examples(image_set, y, c)


def random_crops(y: Tensor, most: int, generator: torch.Generator | None = None) -> Tensor:
    """[N, C, H, W], each image moved by up to `most` pixels each way; what it leaves free shows its reflection.

    generator: of the CPU, whatever device y is on.
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


# ------------------------------------------------------------------------------------------------ judging


@torch.inference_mode()
def classify(judge: nn.Module, images: Tensor, batch: int | None = None) -> Tensor:
    """The class that the judge sees in each image, int64 [N], on its device. images, batch: as in `features_of`.

    A judge whose images may be mirrored is asked about the mirror images too, and answers by the mean.
    """
    fast = for_inference(judge)
    answers = []
    for y in _as_in_files(judge, images, batch):
        logits = fast(y) + fast(y.flip(3)) if judge.mirrors else fast(y)
        answers.append(logits.argmax(1))
    return torch.cat(answers)


def accuracy_of(judge: nn.Module, image_set: ImageSet) -> float:
    """The share of these images whose class (or rotation, if that is what it tells) the judge sees."""
    right = []
    for index in torch.arange(len(image_set)).split(_at_once(image_set.images)):
        y, labels = _examples(image_set, *image_set.batch(index))
        right += (classify(judge, y) == labels).tolist()
    return sum(right) / len(right)


def trusted_judge(file: Path, train_set: ImageSet, test_set: ImageSet) -> tuple[nn.Module, float]:
    """The judge of `file`, trained and written there if there is none yet, and its accuracy on the test images.

    RunError if the file holds another's.
    """
    if file.exists():
        content = checkpoint.load(file, "model")
        if content.get("trained_on") != trained_on(train_set):
            raise RunError(f"{file} was trained on other images, or by the recipe of another version: delete the file, "
                           "and the judge is trained anew, or take another --judge_dir")  # fmt: skip
        judge = new_judge(train_set, recipe_for(train_set)).eval()
        checkpoint.load_weights(judge, content["model"], file)
    else:
        judge = train_judge(train_set)
        checkpoint.save(file, {"model": judge.state_dict(), "trained_on": trained_on(train_set)})
    return judge, accuracy_of(judge, test_set)


@torch.inference_mode()
def features_of(judge: nn.Module, images: Tensor, batch: int | None = None) -> Tensor:
    """What the judge computes of images just before its last layer: float32 [N, D], on the CPU.

    images: [N, C, H, W] on any device, uint8 or float in [-1, 1]. Floats are rounded to the 256 levels of an image file
    first, so that samples have the same features before and after they were written to one.
    """
    fast = for_inference(judge)
    return torch.cat([fast.features(y).cpu() for y in _as_in_files(judge, images, batch)])


def _at_once(images: Tensor) -> int:
    """How many images [N, C, H, W] of this size to judge together."""
    return max(1, min(AT_ONCE, AT_ONCE * 32**2 // images[0, 0].numel()))


def _as_in_files(judge: nn.Module, images: Tensor, batch: int | None) -> Iterator[Tensor]:
    """Batches of the images, float in [-1, 1] on the judge's device, as they would be read from an image file."""
    device = next(judge.parameters()).device
    for part in images.split(batch or _at_once(images)):
        part = part.to(device)
        yield to_float(part if part.dtype == torch.uint8 else to_uint8(part))
