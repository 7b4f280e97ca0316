"""Several processes that train one model together: each takes its rows of every batch, and rank 0 alone does the rest.

torchrun starts them, or srun (cluster/job.sh); both set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
PyTorch's distributed package does the work. Rank 0 validates, draws, writes and prints (`led`). Meanwhile the others
compute their rows of each network pass (`share`). A single process is rank 0 of 1, and these functions change nothing
for it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import signal
import sys
import time
import warnings
from datetime import timedelta
from typing import Any, Callable, ContextManager, Iterator, Sequence, TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from common.console import CallError, RunError, one_line, place_in_group, status_of
from common.machine import pick_device
from ddpm import DDPM

Result = TypeVar("Result")
PATIENCE = 10  # seconds that the others wait before they end: a launcher ends all when the first one has ended


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def start(device: str) -> torch.device:
    """Join the other processes, if there are any, and return this one's device: with CUDA the GPU of its LOCAL_RANK.

    device: value of --device. Raises CallError if it is not available, or is one device for all processes.
    """
    if place_in_group()[1] == 1:
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
    timeout = timedelta(hours=2)
    store, rank_here, world_size = next(rendezvous("env://", timeout=timeout))
    # torchrun --max-restarts keeps its store, and new processes would find the addresses of those that have ended.
    # (With several nodes each counts its own restarts, so the count cannot be part of a name that all must know.)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"
    dist.init_process_group(
        "nccl" if mine.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"attempt {attempt}", store),
        rank=rank_here,
        world_size=world_size,
        timeout=timeout,
    )
    if rank():
        sys.stdout = open(os.devnull, "w")
    return mine


@contextlib.contextmanager
def together() -> Iterator[None]:
    """For the main function of a script that several processes may run: each error becomes one line, with its rank.

    A process that fails ends. The others notice when they need it, or their launcher ends them: none waits for ever.
    """
    rank_here, n = place_in_group()
    try:
        yield
        _part()
    except (CallError, SystemExit) as error:
        if not rank_here:
            _part()
            raise
        status = 2 if isinstance(error, CallError) else int(error.code or 0)
        if 0 < status < 128:  # no signal, which all have noticed
            _after_rank_0()
        _part()
        sys.exit(status)  # all have the same: rank 0 says what
    except Exception as error:
        if n == 1:
            raise
        if isinstance(error, getattr(dist, "DistError", ())) or "gloo" in str(error):
            message = f"another process of this run has ended, and this one cannot go on alone ({one_line(error)})"
        elif isinstance(error, (OSError, RunError)):
            message = status_of(error)[1]
        else:
            print(f"rank {rank_here}:", file=sys.stderr, flush=True)
            raise
        if rank_here:
            _after_rank_0()
        raise RunError(f"rank {rank_here}: {message}") from None


def _part() -> None:
    """Leave the others, when none waits for another: Python's end sometimes aborts what gloo's threads still hold."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _after_rank_0() -> None:
    """Wait before this process ends, for rank 0 may end for the same reason and say it; a launcher then ends this one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # without a word
    time.sleep(PATIENCE)


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


def _device() -> str:
    """Where tensors must be that processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def most(values: Sequence[int]) -> list[int]:
    """The largest value that any process gives, for each of the values."""
    if count() == 1:
        return list(values)
    shared = torch.tensor(values, device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [int(value) for value in shared.tolist()]


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
    """`losses`, of the rows of this process, with gradients that are averaged over all processes."""
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
    # Buffers: the schedule never changes, and `share_buffers` shares BatchNorm's statistics. Newer versions of torch
    # call this option forward_sync_buffers.
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: Any = {"device_ids": gpu, option: False}
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of a layer with one input
    return DistributedDataParallel(Losses(ddpm, losses), **options)


def no_sync(losses: Callable[..., torch.Tensor], last: bool) -> ContextManager[Any]:
    """A context in which a backward pass leaves the gradients to a later one, unless it is the last of its step."""
    return contextlib.nullcontext() if last or count() == 1 else losses.no_sync()  # type: ignore[attr-defined]


def share_buffers(network: nn.Module) -> None:
    """On the CPU, where BatchNorm's statistics differ between processes, take those of rank 0."""
    if count() > 1 and dist.get_backend() == "gloo":
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


# ------------------------------------------------------------------------------------------------ led by rank 0

END, PLAIN, FAST = range(3)  # what rank 0 asks for: the end, a pass through the network, or one through its faster copy


def led(work: Callable[[], Result], ddpm: DDPM | None = None) -> Result:
    """Let rank 0 do `work`, and return its result in all processes.

    ddpm: a model of `share`, of which the others compute their rows meanwhile. If `work` fails or exits, all processes
    end: rank 0 says why, the others say nothing.
    """
    if count() == 1:
        return work()
    if rank():
        return _help(ddpm)
    SharedDDPM.helped = ddpm is not None
    try:
        result = work()
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 2 if isinstance(error, CallError) else 1
        with contextlib.suppress(RuntimeError):  # the others may have ended
            _end(status, None)
        raise
    finally:
        SharedDDPM.helped = False
    _end(0, result)
    return result


def _end(status: Any, result: Any) -> None:
    _broadcast(torch.tensor([END] + [0] * 6))
    dist.broadcast_object_list([status, result])


def _help(ddpm: DDPM | None) -> Any:
    """Compute rows for rank 0 until its work is done, and return the result of that. Exits if it fails."""
    models: dict[int, DDPM] = {}
    while True:
        kind, n, n_classes, *size = _broadcast(torch.empty(7, dtype=torch.int64)).tolist()
        if kind == END:
            ended: list[Any] = [None, None]
            dist.broadcast_object_list(ended)
            if not ended[0]:
                return ended[1]
            sys.exit(ended[0])
        assert ddpm is not None
        if kind not in models:
            models[kind] = ddpm.fast_copy() if kind == FAST else ddpm
        size = [length for length in size if length]
        widths = [torch.Size(size).numel(), 1, n_classes]
        x_t, time_, c = _broadcast(torch.empty(n, sum(widths), device=ddpm.device)).split(widths, dim=1)
        with torch.inference_mode():
            _rows_of(models[kind], x_t.view(n, *size), time_.view(n, *[1] * len(size)), c if n_classes else None)


def _broadcast(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.to(_device()).contiguous()
    dist.broadcast(tensor, src=0)
    return tensor


def _rows_of(ddpm: DDPM, x_t: torch.Tensor, time: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """The network's outputs for all rows, of which this process computes its own."""
    n = len(x_t)
    n_each = -(-n // count())
    # The last processes may have fewer rows: they repeat the last one.
    mine = torch.arange(rank() * n_each, (rank() + 1) * n_each, device=x_t.device).clamp_(max=n - 1)
    return gathered(DDPM._network(ddpm, x_t[mine], time[mine], None if c is None else c[mine]))[:n]


class SharedDDPM(DDPM):
    """A DDPM whose network runs on all processes while rank 0 does what `led` gave it, where no gradients are wanted.

    Noise is drawn by rank 0 for all rows, so the results are those of one process.
    """

    kind = PLAIN
    helped = False  # whether the other processes wait for rows to compute; otherwise each runs the network alone

    def fast_copy(self, gradients: bool = False) -> DDPM:
        fast = super().fast_copy(gradients)
        fast.__class__ = _FastDDPM
        return fast

    def _network(
        self, x_t: torch.Tensor, time: torch.Tensor, c: torch.Tensor | None, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        if torch.is_grad_enabled() or not self.helped:
            return super()._network(x_t, time, c, images)
        if images is not None:
            x_t, time = x_t[images], time[images]
        n, size = len(x_t), [*x_t.shape[1:], 0, 0, 0][:4]
        _broadcast(torch.tensor([self.kind, n, 0 if c is None else c.shape[1], *size]))
        columns = [x_t.flatten(1), time.reshape(n, 1), *([] if c is None else [c])]
        _broadcast(torch.cat([part.float() for part in columns], dim=1))
        return _rows_of(self, x_t, time, c)


class _FastDDPM(SharedDDPM):
    kind = FAST


def share(ddpm: DDPM) -> DDPM:
    """A copy of the model whose network runs on all processes. A single process gets `ddpm` itself."""
    if count() == 1:
        return ddpm
    shared = copy.copy(ddpm)
    shared.__class__ = SharedDDPM
    return shared
