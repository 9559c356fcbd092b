"""A Ray session: the cluster that is named, or one of this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def ray_session(address: str | None, cpus: float) -> Iterator[None]:
    """Connected to Ray inside the block. Without an address a local instance with `cpus` CPUs (at least as many as there are) is
    started on loopback and ended with the block; a session that is already open is used and left open.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a task without a GPU must not see one
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if address is None:
        # A one-machine instance on loopback, gone with this process, needs no token file in the user's home.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if ray.is_initialized():
        yield
        return
    here: dict[str, object] = {}
    if address is None:
        here = {
            "num_cpus": max(int(-(-cpus // 1)), os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": 256 << 20,
            "_node_ip_address": "127.0.0.1",
        }
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **here)
    try:
        yield
    finally:
        ray.shutdown()
