"""The condition of a sample: classes, guidance weight, and mixtures of classes.

[CFG]  Ho, Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598
[Liu]  Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", arXiv:2206.01714
"""

from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch import Tensor

from diffusion.checks import check_choice, check_finite

MIXTURES = ("vector", "scores")


class Condition:
    """A guided condition for N images: for each image, the class vectors that the network gets, and their weights.

    The predicted noise of an image is the weighted sum of the network's outputs for these vectors. The weights sum to 1.
    Outputs with weight 0 are not computed. With guidance weight w ([CFG] equation 6):

        (1 + w) eps(x_t, c) - w eps(x_t, no class)

    w = 0 is the conditional model and w = -1 the unconditional one. They need one network output per image, every other
    w needs two.

    Args:
        c: class vectors, float [N, n_classes]. A row of zeros is "no class".
        g_weight: guidance weight w, one for all images or N of them.
        mixture: the meaning of a row of c that is not one-hot. 'vector': the network gets the row as it is. 'scores':
            the network gets each class k of the row separately, with weight w_k = (1 + w) c_k ([Liu] equation 11):

                eps(x_t, no class) + sum_k w_k (eps(x_t, class k) - eps(x_t, no class))

            For a one-hot row this is the guidance above. It needs one network output per class of the row, and one more
            unless the w_k sum to 1.

    Raises ValueError that names the argument and its value.
    """

    def __init__(self, c: Tensor, g_weight: float | Sequence[float] = 0.0, mixture: str = "vector"):
        if c.ndim != 2:
            raise ValueError(f"c must be [N, n_classes], not {list(c.shape)}")
        check_finite("c", c)
        check_choice("mixture", mixture, MIXTURES)
        n, n_classes = c.shape
        w = torch.as_tensor(g_weight, dtype=torch.float64)
        if w.ndim > 1 or w.numel() not in (1, n) or not w.isfinite().all():
            raise ValueError(f"g_weight must be a finite number, or one for each of {n} images, not {g_weight}")
        # All this once, on the CPU in float64: looking for zeros at every step would make a GPU wait.
        vectors = c.detach().cpu().double()
        if mixture == "vector":
            weights, vectors = (1 + w).expand(1, n), vectors[None]  # [1, N], [1, N, n_classes]
        else:  # [n_classes, N], [n_classes, N, n_classes]
            weights = (1 + w) * vectors.T.contiguous()
            vectors = torch.eye(n_classes, dtype=torch.float64)[:, None].expand(-1, n, -1)
        weights = torch.cat([weights, 1 - weights.sum(0, keepdim=True)])  # the last row: "no class"
        vectors = torch.cat([vectors, torch.zeros(1, n, n_classes, dtype=torch.float64)])
        needed = weights != 0
        self.images = torch.arange(n).expand_as(weights)[needed]  # int64 [R]: the image of each network output, R >= N
        self.plain = torch.equal(self.images, torch.arange(n))  # one output per image, with weight 1
        self.images = self.images.to(c.device)
        self.vectors = vectors[needed].to(c.device, torch.float32)  # [R, n_classes]
        self.weights = weights[needed].to(c.device, torch.float32)  # [R]

    def eps(self, network: Callable[..., Tensor], x_t: Tensor, time: Tensor) -> Tensor:
        """The guided noise, shaped like x_t [N, *size]. network: called as network(x, t, c, images)."""
        if self.plain:
            return network(x_t, time, self.vectors)
        outputs = network(x_t, time, self.vectors, self.images)  # [R, *size]
        weighted = self.weights.view(-1, *[1] * (x_t.ndim - 1)) * outputs
        return torch.zeros_like(x_t).index_add_(0, self.images, weighted)


def class_vectors(
    classes: str | Sequence[int] | Tensor | None, n_classes: int | None, device: torch.device
) -> Tensor | None:
    """`classes` of `DDPM.sample` as a float matrix [K, n_classes] on the device, or None for no class."""
    if classes is None or not n_classes:
        return None
    if n_classes < 0:
        raise ValueError(f"n_classes must be at least 0, not {n_classes}")
    if isinstance(classes, str):
        if classes != "all":
            raise ValueError(f"classes must be 'all', indices, a matrix of class vectors or None, not {classes!r}")
        return torch.eye(n_classes, device=device)
    classes = torch.as_tensor(classes).cpu()
    if classes.numel() == 0:
        raise ValueError("classes must name at least one class; None stands for no class")
    if classes.ndim == 1 and not classes.is_floating_point():
        wrong = [k for k in classes.tolist() if not 0 <= k < n_classes]
        if wrong:
            raise ValueError(f"classes holds {wrong[0]}, but class indices run from 0 to {n_classes - 1}")
        return torch.eye(n_classes)[classes].to(device)
    if classes.ndim != 2 or classes.shape[1] != n_classes:
        raise ValueError(f"classes as vectors must be [K, {n_classes}], not {list(classes.shape)}")
    check_finite("classes", classes)
    return classes.float().to(device)
