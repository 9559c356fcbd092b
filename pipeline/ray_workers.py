"""Shards made by Ray actors: one CPU, one shard and one child process each. The driver holds what is in flight and no more.

Ray restarts and retries nothing here: a shard whose worker died is given to a new worker, and to no more than `ATTEMPTS` in all.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pipeline.isolation import Isolated, WorkerError
from pipeline.plan import Plan, Planned
from pipeline.recipe import Recipe
from pipeline.storage import StorageError, Store
from pipeline.worker import ShardResult, make_shard

ATTEMPTS = 3
_START_S = 600.0
_OBJECT_STORE = 256 * 2**20


@contextmanager
def session(workers: int, address: str | None) -> Iterator[None]:
    """Ray for the time of the block: the one that runs in this process already, the cluster at `address`, or a small one of our own.

    Our own has at least `workers` CPUs and as many as there are, listens on loopback with a token that only our processes know, and has
    no dashboard. Raises WorkerError.
    """
    # Ray reads how it authenticates when it is imported, so this comes before; who imported it earlier has decided already.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a task without a GPU must not see one
    if address is None and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {}
    if address is None:
        cpus = max(workers, os.cpu_count() or 1)
        here = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = f"Ray at {address} cannot be reached" if address else "Ray does not start on this machine"
        raise WorkerError(f"{where} ({' '.join(str(error).split())[:200]}); check it, or use 0 workers, which needs no Ray.") from error
    try:
        yield
    finally:
        ray.shutdown()


class ShardWorker:
    """Lives in an actor; the child with the renderer lives as long."""

    def __init__(self, uri: str, recipe: Recipe, plan: str, entry: str) -> None:
        self.store, self.plan = Store(uri), plan
        self.maker = Isolated(recipe, entry)

    def start(self) -> str:
        """Has the child ready; gives "" or why not."""
        try:
            self.maker.start()
        except Exception as error:
            return str(error)
        return ""

    def make(self, shard: str, assets: Sequence[Planned]) -> tuple[ShardResult | None, str, bool]:
        """The result, or None with a sentence and whether storage is to blame. No exception leaves: some cannot be sent."""
        try:
            result = make_shard(self.store, shard, assets, self.plan, self.maker)
        except StorageError as error:
            return None, str(error), True
        except Exception as error:
            return None, f"{shard}: {type(error).__name__}: {error}", False
        log, self.maker.log = tuple(self.maker.log[-8:]), []
        return replace(result, log=log), "", False


def make_shards(
    uri: str,
    recipe: Recipe,
    plan: Plan,
    missing: Sequence[str],
    workers: int,
    address: str | None,
    entry: str,
) -> Iterator[ShardResult | None]:
    """Results in the order in which shards get ready, after one None when the first worker is up. Raises WorkerError, StorageError."""
    queue = deque(missing)
    deaths: Counter[str] = Counter()
    with session(workers, address):
        import ray
        from ray.exceptions import RayError

        remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(ShardWorker)
        # What is awaited: the worker, and its shard, or None where it is still starting.
        awaited: dict[Any, tuple[Any, str | None]] = {}

        def hire() -> None:
            worker = remote.remote(uri, recipe, plan.hash, entry)
            awaited[worker.start.remote()] = (worker, None)

        try:
            for _ in range(min(workers, len(queue))):
                hire()
            ready, begin = False, time.monotonic()
            while queue or any(shard for _, shard in awaited.values()):
                done, _ = ray.wait(list(awaited), num_returns=1, timeout=1.0)
                if not done and not ready and time.monotonic() - begin > _START_S:
                    raise WorkerError(f"No worker has started in {_START_S:.0f} s; see that the cluster has a free CPU.")
                for reference in done:
                    worker, shard = awaited.pop(reference)
                    try:
                        answer = ray.get(reference)
                    except RayError:
                        shard = shard or "a worker at its start"
                        deaths[shard] += 1
                        if deaths[shard] >= ATTEMPTS:
                            raise WorkerError(f"{shard} has ended {ATTEMPTS} workers; see Ray's logs, or try it with 0 workers.") from None
                        if shard in plan.starts:
                            queue.appendleft(shard)
                        hire()
                        continue
                    if shard is None:
                        if answer:
                            raise WorkerError(answer)
                        if not ready:
                            ready = True
                            yield None
                    else:
                        result, problem, storage = answer
                        if result is None:
                            raise StorageError(problem) if storage else WorkerError(problem)
                        yield result
                    if queue:
                        following = queue.popleft()
                        awaited[worker.make.remote(following, plan.assets(following))] = (worker, following)
        finally:
            for worker, _ in awaited.values():
                ray.kill(worker)
