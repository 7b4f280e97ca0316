"""Several processes that train one model together: each takes its rows of every batch, and only rank 0 writes.

torchrun starts them, or srun (cluster/job.sh); both set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
PyTorch's distributed package does the work. A process alone is rank 0 of 1, and nothing here does anything for it.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from common.console import CallError
from common.machine import pick_device
from ddpm import DDPM


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def start(device: str) -> torch.device:
    """Join the other processes, if there are any, and return this one's device: with CUDA the GPU of its LOCAL_RANK.

    device: value of --device. Raises CallError if it is not available, or is one device for all processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return pick_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise CallError(f"--device {device} is no choice for several processes: take cuda or cpu")
    mine = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    if dist.is_initialized():
        return mine
    # The timeout is for waiting while rank 0 downloads or decodes data. The end of a process is noticed at once.
    dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    if rank():
        sys.stdout = open(os.devnull, "w")
    return mine


def restarted() -> bool:
    """Whether torchrun --max-restarts started this process again, after one of the processes ended with an error."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        most([0])


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """Run a block first in one process of each machine, then in the others, which find the files that it wrote."""
    local = int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0
    if local:
        wait()
    yield
    if not local:
        wait()


def rows(n: int) -> slice:
    """The rows of a batch of n that are this process's. n must be divisible by `count()`."""
    part = n // count()
    return slice(rank() * part, (rank() + 1) * part)


def gathered(part: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The rows of all processes, in the order of `rows`, joined along dim. part: of the same shape in all of them."""
    if count() == 1:
        return part
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim)


def most(values: Sequence[int]) -> list[int]:
    """The largest value that any process gives, for each of the values."""
    if count() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(values, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [int(value) for value in shared.tolist()]


def folder_for(log_dir: Path) -> Path:
    """Where this process writes: rank 0 in the log folder, the others in a temporary folder, removed when they end."""
    if not rank():
        return log_dir
    scratch = Path(tempfile.mkdtemp(prefix="ddpm_rank"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


# ------------------------------------------------------------------------------------------------ training


class Losses(nn.Module):
    """A loss as the forward pass of a module, which is what DistributedDataParallel takes gradients of."""

    def __init__(self, ddpm: DDPM, losses: Callable[..., torch.Tensor]):
        super().__init__()
        self.ddpm, self.losses = ddpm, losses

    def forward(self, *batch: Any) -> torch.Tensor:
        return self.losses(*batch)


def shared_losses(
    ddpm: DDPM, losses: Callable[..., torch.Tensor], say: Callable[[str], None]
) -> Callable[..., torch.Tensor]:
    """`losses`, a function of the rows of this process, such that gradients are means over all processes."""
    if count() == 1:
        return losses
    normalised = [module for module in ddpm.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if normalised and ddpm.device.type == "cuda":
        ddpm.nn_model = nn.SyncBatchNorm.convert_sync_batchnorm(ddpm.nn_model)
    elif normalised:
        say(
            f"BatchNorm: on the CPU each of the {count()} processes normalises its own rows (on CUDA all rows together)"
        )
    gpu = [ddpm.device.index] if ddpm.device.type == "cuda" else None
    # Buffers: the schedule never changes, and `share_buffers` shares BatchNorm's statistics.
    return DistributedDataParallel(Losses(ddpm, losses), device_ids=gpu, broadcast_buffers=False)


def no_sync(losses: Callable[..., torch.Tensor], last: bool) -> ContextManager[Any]:
    """A context in which a backward pass leaves the gradients to a later one, unless it is the last of its step."""
    return contextlib.nullcontext() if last or count() == 1 else losses.no_sync()  # type: ignore[attr-defined]


def share_buffers(network: nn.Module) -> None:
    """On the CPU, where BatchNorm's statistics differ between processes, take those of rank 0."""
    if count() > 1 and dist.get_backend() == "gloo":
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


# ------------------------------------------------------------------------------------------------ sampling


class SharedDDPM(DDPM):
    """A DDPM whose network each process runs on its rows only, where no gradients are wanted.

    All processes have to make the same calls with the same arguments. What they get is what one process gets: noise is
    drawn for all rows everywhere, only the network's work is shared.
    """

    def _network(self, x_t: torch.Tensor, time: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super()._network(x_t, time, c)
        n = len(x_t)
        n_each = -(-n // count())
        # The last processes may have fewer rows: they repeat the last one.
        mine = torch.arange(rank() * n_each, (rank() + 1) * n_each, device=x_t.device).clamp_(max=n - 1)
        part = super()._network(x_t[mine], time[mine], None if c is None else c[mine])
        return gathered(part)[:n]


def share(ddpm: DDPM) -> DDPM:
    """The same model, whose sampling and validation all processes share. A process alone gets `ddpm` itself."""
    if count() == 1:
        return ddpm
    shared = copy.copy(ddpm)
    shared.__class__ = SharedDDPM
    return shared
