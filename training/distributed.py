"""Several workers as one: who I am, gathering with gradients, and the group that a test or a launcher opens.

The convention everywhere in `training`: every rank computes the same global loss from embeddings gathered with `gather`, and gradients
are averaged over ranks. Then W workers on slices of a batch give the gradients of one worker on the whole of it: gather's backward
sums over ranks, the average divides by their number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among the workers of one training."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes journal and checkpoints."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This rank's part of a global batch; ranks in order make the whole. Raises ValueError where it does not divide."""
        if total % self.size:
            raise ValueError(f"A global batch of {total} does not divide among {self.size} workers: choose a multiple.")
        part = total // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def current_world(device: str = "auto") -> World:
    """The world of the initialised process group, or of one process. `device`: "auto" (CUDA where there is one), "cpu", "cuda"."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("There is no GPU that torch can use here: see `crossloom doctor`, or set the device to auto.")
        local = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else torch.cuda.current_device()
        place = torch.device("cuda", local if local < torch.cuda.device_count() else 0)
    else:
        place = torch.device(device)
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), place)
    return World(device=place)


def many() -> bool:
    """Whether there is more than one worker."""
    return dist.is_initialized() and dist.get_world_size() > 1


def my_rank() -> int:
    """This process's number among the workers, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may hand the same tensor to others
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    """(b, ...) on each rank to (W·b, ...), ranks in order, gradients kept. Every rank must bring the same shape."""
    if not many():
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())  # type: ignore[no-untyped-call]
    return gathered


def wrap(module: nn.Module, world: World) -> nn.Module:
    """The module whose backward averages gradients over ranks; with one worker the module itself."""
    if world.size == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    # Our batch norm computes the same running statistics on every rank, so buffers need no broadcast.
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


def same_everywhere(module: nn.Module) -> None:
    """Gives all ranks the first one's parameters and buffers, some of which a GPU may have computed a little differently on each."""
    if many():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def barrier() -> None:
    """Waits for all workers; nothing with one."""
    if many():
        dist.barrier()
