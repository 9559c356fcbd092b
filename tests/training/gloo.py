"""Workers of one training on one machine."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist


@contextmanager
def gloo(rank: int, size: int, folder: str) -> Iterator[None]:
    """One of several workers with a thread each, who meet in a file of this folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        yield
    finally:
        gc.collect()  # a wrapped module in a cycle would keep the group, whose threads abort a process that ends with them
        dist.destroy_process_group()
