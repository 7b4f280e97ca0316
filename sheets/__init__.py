"""The free-standing functions of the exercise sheets, and where this suite has what the sheets name.

    from sheets import sample, sample_xt, train, train_classconditional

    ddpm = DDPM(UNet(in_channels=1, n_features=32, n_classes=10, height=28), device=device)
    optim = torch.optim.Adam(ddpm.parameters(), lr=3e-4)
    losses = train_classconditional(ddpm, loader, 20, optim, device)     # loader: an ordinary DataLoader of (x, label)
    x = sample(ddpm, 4, classes=[3, 8])                                  # [8, 1, 28, 28]: 3 8 3 8 3 8 3 8

Conventions: t counts from 1 to T, and t = 0 is clean data. So a table over time has T + 1 entries and is indexed by t:
alphaBars[0] = 1, alphaBars[t] = alpha_1 ... alpha_t. (Where a sheet counts t from 0 to T - 1, its t is ours minus 1.)
The classes of two sheets that do so are sheets.likelihood.DDPM and sheets.animals.Diffusion.
Images are float in [-1, 1]: after `transforms.ToTensor()` they need `transforms.Normalize(0.5, 0.5)`.

docs/sheet_names.md has all names of the sheets, and what this suite calls them.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from datasets.image_set import one_hot
from ddpm import DDPM
from diffusion.network_call import IntegerTime

__all__ = ["IntegerTime", "sample", "sample_xt", "train", "train_classconditional"]


def sample_xt(
    x0: Tensor,
    t: int | Tensor,
    epsilon: Tensor | None = None,
    alphaBars: Sequence[float] | Tensor | None = None,
    T: int | None = None,
) -> Tensor:
    """x_t = sqrt(alphaBar_t) x_0 + sqrt(1 - alphaBar_t) epsilon (Ho et al. 2020, arXiv:2006.11239, equation 4).

    x0: float [N, *size]. t: int, or int64 [N] (further axes of length 1 do no harm). epsilon: like x0; None: drawn here.
    alphaBars: the table that t indexes, not to be left out. `ddpm.alpha_bar_t`, [T + 1], is 1 at t = 0, which is clean
        data; a table [T] begins with alpha_1, and t counts from 0. Both are used as they are, so t must be counted as the
        table is.
    T: the number of steps. With it, t is checked: 1..T for a table [T + 1], 0..T - 1 for a table [T].

    Returns x_t like x0. Raises ValueError for a t that the table does not have, or that T forbids, or that is not one
    for each of x0.
    """
    if alphaBars is None:
        raise TypeError("sample_xt needs alphaBars, such as ddpm.alpha_bar_t: sample_xt(x0, t, alphaBars=...)")
    if not x0.is_floating_point():
        raise ValueError(f"x0 must be float in [-1, 1], not {x0.dtype}")
    alphaBars = torch.as_tensor(alphaBars, device=x0.device)
    t = torch.as_tensor(t, device=x0.device)
    if T is not None and len(alphaBars) not in (T, T + 1):
        raise ValueError(f"alphaBars must have T = {T} entries (t from 0) or T + 1 (t from 1), not {len(alphaBars)}")
    lowest = 0 if T is None else len(alphaBars) - T
    if t.is_floating_point() or t.min() < lowest or t.max() >= len(alphaBars):
        raise ValueError(f"t must be whole numbers in {lowest}..{len(alphaBars) - 1}, not {t.flatten()[:5].tolist()}")
    if t.numel() > 1 and len(x0) not in (1, t.numel()):
        raise ValueError(f"t must be one number, or one for each of the {len(x0)} images, not {t.numel()} numbers")
    epsilon = torch.randn_like(x0) if epsilon is None else epsilon
    alphaBar_t = alphaBars[t].view(-1, *[1] * (x0.ndim - 1))  # [N, 1, ..., 1], or [1, ..., 1] for one t
    return (alphaBar_t.sqrt() * x0 + (1 - alphaBar_t).sqrt() * epsilon).to(x0.dtype)


def sample(
    ddpm: DDPM,
    n_samples: int,
    classes: int | Sequence[int] | Tensor | None = None,
    g_weight: float = 0.0,
    generator: torch.Generator | None = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Draw samples by all T reverse steps: `DDPM.sample` without its pictures on the way.

    n_samples: of each class, or altogether if classes is None (no class is asked for then).
    classes: one index or several of classes, or rows of class vectors, float [K, n_classes], or of context vectors.
    g_weight: guidance weight w, see `DDPM.eps`; 0: none. generator: source of all noise; torch's own by default.
    size: shape of one sample, such as (1, 28, 28), for a network that has no `size` of its own.

    Returns float32 [n_samples * K, *size] on the model's device: sample j of the k-th class stands at k + j * K.
    """
    n_classes = getattr(ddpm.nn_model, "n_classes", None) or 0
    if isinstance(classes, int):
        classes = [classes]
    if isinstance(classes, Tensor) and classes.ndim == 2:
        n_classes = n_classes or classes.shape[1]
    if classes is not None and not n_classes:
        raise ValueError("classes must be None or vectors: the network has no classes, or does not say how many")
    return ddpm.sample(n_samples, size, n_classes, g_weight, classes, generator=generator, record=False)[0]


def get_context_mask(n: int, drop_prob: float, generator: torch.Generator | None = None) -> Tensor:
    """The mask of conditioning dropout (Ho, Salimans 2022, Algorithm 1), float [n, 1]: 0 with probability drop_prob, else 1.

    Multiplied with context (or class) vectors [n, D] it hides whole rows. generator: its device is that of the mask.
    """
    if not 0 <= drop_prob <= 1:
        raise ValueError(f"drop_prob must be in [0, 1], not {drop_prob}")
    device = generator.device if generator else None
    return (torch.rand(n, 1, device=device, generator=generator) >= drop_prob).float()


def train(
    ddpm: DDPM, loader: Iterable, n_epochs: int, optim: torch.optim.Optimizer, device: str | torch.device
) -> list[float]:
    """Train without classes (Ho et al. 2020, Algorithm 1). Labels in the batches are not looked at.

    loader: an ordinary DataLoader; batches are (x, label), (x,) or x, with x float [N, *size] in [-1, 1].
    optim: an optimiser of `ddpm.parameters()`. device: where ddpm and the batches go.

    Prints a line per epoch. Returns the mean training loss of each epoch, n_epochs numbers.
    """
    return train_with(ddpm, loader, n_epochs, optim, device, lambda x, label: ddpm(x))


def train_classconditional(
    ddpm: DDPM, loader: Iterable, n_epochs: int, optim: torch.optim.Optimizer, device: str | torch.device
) -> list[float]:
    """Train with classes, some hidden, so that guidance works (Ho, Salimans 2022, arXiv:2207.12598, Algorithm 1).

    As `train`, but batches are (x, label). Labels are integers [N] in 0..n_classes - 1, which become one-hot rows, or
    such rows already, [N, n_classes], or context vectors, [N, D]. Each is hidden (zeroed) with the probability
    ddpm.drop_prob.
    """
    n_classes = getattr(ddpm.nn_model, "n_classes", None) or 0
    if not n_classes and not getattr(ddpm.nn_model, "condition_dim", 0):
        raise ValueError("the network has no classes: use `train`")

    def loss(x: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            raise ValueError("the loader gives no labels, but (x, label) is needed")
        if label.ndim == 2:
            return ddpm(x, label.float())
        if label.is_floating_point() or label.min() < 0 or label.max() >= n_classes:
            raise ValueError(f"labels must be whole numbers in 0..{n_classes - 1}, not {label.flatten()[:5].tolist()}")
        return ddpm(x, one_hot(label.long(), n_classes))

    return train_with(ddpm, loader, n_epochs, optim, device, loss)


def train_with(
    model: nn.Module,
    loader: Iterable,
    n_epochs: int,
    optim: torch.optim.Optimizer,
    device: str | torch.device,
    loss_of: Callable[[Tensor, Any], Tensor],
) -> list[float]:
    """The loop of all these: loss_of(x, label) is the loss of a batch, label None where there is none."""
    model.to(device)
    found, losses = model.training, []
    model.train()
    for epoch in range(1, n_epochs + 1):
        total, n = 0.0, 0
        for batch in loader:
            x, *more = (batch,) if isinstance(batch, Tensor) else batch
            x, label = x.to(device), more[0].to(device) if more else None
            loss = loss_of(x, label)
            optim.zero_grad()
            loss.backward()
            optim.step()
            total, n = total + loss.item() * len(x), n + len(x)
        if not n:
            raise ValueError("the loader gives no batches")
        losses.append(total / n)
        print(f"epoch {epoch}/{n_epochs}  train loss {losses[-1]:.4f}", flush=True)
    model.train(found)
    return losses
