"""From a dataset to the batches of a training: which objects each step sees, and their preparation, in this process or in others.

Order is a function of (seed, epoch); a rank takes its slice of each global batch; nothing depends on the number of loader processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from pipeline.reader import epoch_order
from training.distributed import World

Sample = dict[str, npt.NDArray[Any]]
Prepare = Callable[[int, int], Sample]
"""(dataset index, epoch) to what the object brings to the step."""


@dataclass(frozen=True)
class Steps(Sampler[list[tuple[int, int]]]):
    """This rank's (dataset index, epoch) pairs, a list per step, from step `start` to the end.

    indices (n,) int64: the objects of the split. The last n mod batch objects of each epoch's order are left out of it.
    """

    indices: npt.NDArray[np.int64]
    batch: int
    epochs: int
    seed: int
    world: World
    start: int = 0

    @property
    def per_epoch(self) -> int:
        return len(self.indices) // self.batch

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        part = self.world.share(self.batch)
        for epoch in range(self.start // self.per_epoch, self.epochs):
            order = self.indices[epoch_order(len(self.indices), self.seed, epoch)]
            first = self.start % self.per_epoch if epoch == self.start // self.per_epoch else 0
            for step in range(first, self.per_epoch):
                chosen = order[step * self.batch : (step + 1) * self.batch][part]
                yield [(int(index), epoch) for index in chosen]


class _Prepared(torch.utils.data.Dataset[Any]):
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        return self.prepare(*item)


def collate(samples: list[Sample]) -> dict[str, Tensor]:
    """A list of samples to one tensor a name, (b, ...)."""
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def loader(prepare: Prepare, steps: Steps, processes: int, pin: bool) -> DataLoader[Any]:
    """Batches of the steps in order. processes = 0 prepares in this process; else `prepare` must pickle (a partial of a plain function)."""
    return DataLoader(
        _Prepared(prepare),
        batch_sampler=steps,
        collate_fn=collate,
        num_workers=processes,
        # Forking a process that runs Ray, CUDA or numba threads hangs sooner or later.
        multiprocessing_context="forkserver" if processes else None,
        prefetch_factor=4 if processes else None,
        worker_init_fn=_one_thread,
        pin_memory=pin,
    )
