"""What the network is asked for: classes, guidance weight, and how mixtures of classes are meant.

[CFG]  Ho, Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598
[Liu]  Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", arXiv:2206.01714
"""

from __future__ import annotations

from typing import Callable, Sequence

import torch

from diffusion.checks import check_finite

MIXTURES = ("vector", "scores")


class Condition:
    """A guided condition for N images: for each image, which class vectors the network sees, with which weights.

    The predicted noise of an image is the weighted sum of the network's answers. The weights sum to 1, and what has
    weight 0 is not computed. With guidance weight w ([CFG] equation 6):

        (1 + w) eps(x_t, c) - w eps(x_t, no class)

    w = 0 is the conditional model and w = -1 the unconditional one: the network sees each image once in these two cases,
    and twice for every other w.

    Args:
        c: class vectors, float [N, n_classes]. A row of zeros is "no class".
        g_weight: guidance weight w, one for all images or N of them.
        mixture: what a row of c that is not one-hot means. 'vector': the network gets it as it is. 'scores': the network
            is asked for each class k of the row, with weight w_k = (1 + w) c_k ([Liu] equation 11):

                eps(x_t, no class) + sum_k w_k (eps(x_t, class k) - eps(x_t, no class))

            which is the guidance above for a one-hot row. The network sees an image once for each of its classes, and
            once more unless the w_k sum to 1.

    Raises ValueError that names the argument and its value if one is impossible.
    """

    def __init__(self, c: torch.Tensor, g_weight: float | Sequence[float] = 0.0, mixture: str = "vector"):
        if c.ndim != 2:
            raise ValueError(f"c must be [N, n_classes], not {list(c.shape)}")
        check_finite("c", c)
        if mixture not in MIXTURES:
            raise ValueError(f"mixture must be one of {MIXTURES}, not {mixture!r}")
        # Worked out once, on the CPU in float64: what is to be computed must not be asked of a GPU at every step.
        n, n_classes = c.shape
        vectors = c.detach().cpu().double()
        w = torch.as_tensor(g_weight, dtype=torch.float64)
        if w.ndim > 1 or w.numel() not in (1, n) or not w.isfinite().all():
            raise ValueError(f"g_weight must be a finite number, or one for each of {n} images, not {g_weight}")
        if mixture == "vector":
            asked = [(vectors, (1 + w).expand(n))]
        else:
            one_class = torch.eye(n_classes, dtype=torch.float64)
            asked = [(one_class[k].expand(n, -1), (1 + w) * vectors[:, k]) for k in range(n_classes)]
        weights = torch.stack([weight for _, weight in asked])
        weights = torch.cat([weights, 1 - weights.sum(0, keepdim=True)])  # [M, N], of "no class" in the last row
        vectors = torch.stack([*(vector for vector, _ in asked), torch.zeros(n, n_classes, dtype=torch.float64)])
        needed = weights != 0
        self.images = torch.arange(n).expand_as(weights)[needed]  # int64 [R]: of which image each question is, R >= N
        self.plain = torch.equal(self.images, torch.arange(n))  # one question for each image, so with weight 1
        self.images = self.images.to(c.device)
        self.vectors = vectors[needed].to(c.device, torch.float32)  # [R, n_classes]
        self.weights = weights[needed].to(c.device, torch.float32)  # [R]

    def eps(self, network: Callable[..., torch.Tensor], x_t: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The guided noise, shaped like x_t [N, *size]. network(x, time, c): the noise of [R, *size] by class vectors."""
        if self.plain:
            return network(x_t, time, self.vectors)
        answers = network(x_t[self.images], time[self.images], self.vectors)  # [R, *size]
        weighted = self.weights.view(-1, *[1] * (x_t.ndim - 1)) * answers
        return torch.zeros_like(x_t).index_add_(0, self.images, weighted)
