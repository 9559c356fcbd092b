"""Numba kernels in as many threads as torch is told to use."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # a forked child inherits the pool's bookkeeping without its threads


def in_threads(kernel: Callable[..., Any], units: int, *arguments: Any) -> None:
    """Runs kernel(first, last, *arguments) over 0 … units in `torch.get_num_threads()` contiguous parts.

    The kernel releases the GIL. What it computes for a unit must not depend on the part that the unit is in: then no result depends on it.
    Python threads are used because numba's own layers either abort on two callers at once or end a process that forks.
    """
    global _pool, _pool_size
    parts = min(torch.get_num_threads(), units)
    if parts <= 1:
        kernel(0, units, *arguments)
        return
    if _pool is None or _pool_size < parts - 1:
        _pool, _pool_size = ThreadPoolExecutor(parts - 1, thread_name_prefix="ops"), parts - 1
    edges = [units * part // parts for part in range(parts + 1)]
    others = [_pool.submit(kernel, edges[part], edges[part + 1], *arguments) for part in range(1, parts)]
    kernel(0, edges[1], *arguments)
    for other in others:
        other.result()
