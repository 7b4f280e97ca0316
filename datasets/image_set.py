"""Labelled images as one uint8 tensor in memory, and the one place where pixel values change their range."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Pixels for the network: uint8 0..255, any shape -> float32 in [-1, 1]. The only place that converts this way."""
    return images.to(torch.float32) / 127.5 - 1.0


def dequantise(y: Tensor, u: Tensor) -> Tensor:
    """8-bit images as continuous ones: the level k becomes (k + u) / 256, scaled to [-1, 1).

    y: float images of `to_float`; u: like y, uniform on [0, 1). A density of the result bounds the probabilities of the
    levels (Theis et al. 2016, arXiv:1511.01844, section 3.1), where one of the levels themselves could grow for ever.
    """
    return ((y + 1.0) * 127.5 + u) / 128.0 - 1.0


def to_uint8(x: Tensor) -> Tensor:
    """Inverse of `to_float`: float, any shape -> uint8 0..255. Values outside [-1, 1] are clamped."""
    return ((x.to(torch.float32).clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Labels int64 [N] -> float32 [N, n_classes]. Raises RuntimeError for a label outside 0..n_classes - 1."""
    rows = torch.zeros(len(labels), n_classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0)  # unlike F.one_hot this does not make a GPU wait


@dataclasses.dataclass(eq=False)
class ImageSet:
    """Labelled images in memory.

    images: uint8 [N, C, H, W]; labels: int64 [N], values 0..n_classes - 1; class_names: one per class;
    name: what `load` was asked for; device: where `batch` puts its result; lossy: are these JPEG copies of images that
    were published without loss?
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    name: str
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    lossy: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its batches on `device`.

        The images move there too, unless they would take more than half of a GPU's free memory, which the network
        needs. They then stay in main memory and each batch is pinned and copied over (what indexing takes out of a
        pinned tensor is not pinned itself); the caller sees no difference.
        """
        device = torch.device(device)
        arrives = device.type == "cuda" and self.images.device.type != "cuda"
        if arrives and self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:  # [0]: free bytes
            return dataclasses.replace(self, device=device)
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device), device=device)

    def batch(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images and classes at `index`, int64 [B], on the device that was given to `to`.

        flip: bool [B] on that device; True mirrors an image, left to right. None mirrors none.
        Returns y, float32 [B, C, H, W] in [-1, 1], and c, one-hot float32 [B, n_classes].
        Raises IndexError or RuntimeError for an index outside 0..N - 1 (on a GPU: a device-side assertion).
        """
        device = self.device
        index = index.to(self.images.device)
        images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        if device.type == "cuda" and images.device.type == "cpu":
            images, labels = images.pin_memory(), labels.pin_memory()  # only pinned memory is copied asynchronously
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if flip is not None:
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return to_float(images), one_hot(labels, self.n_classes)
