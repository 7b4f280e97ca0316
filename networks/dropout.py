"""Dropout that does not depend on how many processes share a batch."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


class Dropout(nn.Dropout):
    """nn.Dropout for one of `parts` equal parts of a batch, the one with the index `part`.

    It draws for the whole batch and takes its own rows, so that a sample is treated alike however the batch is shared.
    """

    part, parts = 0, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, ...], the part's rows."""
        if self.parts == 1 or not self.training or not self.p:
            return super().forward(x)
        n = len(x)
        channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        whole = torch.ones((n * self.parts, *x.shape[1:]), dtype=x.dtype, device=x.device).to(memory_format=layout)
        return x * F.dropout(whole, self.p)[self.part * n : (self.part + 1) * n]
