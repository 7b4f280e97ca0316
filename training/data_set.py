"""What the training loop needs of a data set."""

from __future__ import annotations

from typing import Protocol

import torch


class DataSet(Protocol):
    """Samples in memory, such as `datasets.image_set.ImageSet` or `datasets.points.PointSet`.

    images: the samples, [N, *size], on any device. name: of the data set, for config.json. class_names: one per class.
    """

    images: torch.Tensor
    name: str
    class_names: list[str]

    def __len__(self) -> int: ...

    def batch(self, index: torch.Tensor, flip: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Samples at `index`, int64 [B]: float32 [B, *size], and their class vectors [B, n_classes] or None.

        Both on the model's device. flip: bool [B] or None; True mirrors a sample, if it is an image.
        """
        ...
