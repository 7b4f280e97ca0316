"""The loss of training, compiled where that works."""

from __future__ import annotations

import copy
from typing import Callable

import torch

from ddpm import DDPM


def compiled_losses(
    ddpm: DDPM, y: torch.Tensor, c: torch.Tensor | None, say: Callable[[str], None]
) -> Callable[..., torch.Tensor]:
    """`ddpm.training_losses` compiled, after a trial on a batch of images y and class vectors c.

    A compiler that fails costs one line, given to `say`, and not the run: then it is `ddpm.training_losses` itself.
    The trial leaves weights and BatchNorm statistics as they were, no gradients, and `ddpm` in train mode.
    """
    losses = ddpm.training_losses
    before = copy.deepcopy(ddpm.nn_model.state_dict())  # the trial moves the BatchNorm statistics
    try:
        compiled = torch.compile(ddpm.training_losses)
        t, noise, c = ddpm.train().draw(y, c)
        compiled(y, c, t, noise).mean().backward()  # the backward pass is compiled too
        losses = compiled
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways: none installed, too old, a bug
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:120]
        say(f"torch.compile does not work here ({type(error).__name__}: {reason}): going on without it")
    ddpm.nn_model.load_state_dict(before)
    ddpm.nn_model.zero_grad(set_to_none=True)
    return losses
