"""Assets are made in a child process: what kills it, hangs in it or eats memory costs an asset, not the worker.

The child lives for many assets and is replaced when it dies, grows or is killed at an asset's deadline. An asset that ends a child is
tried once more in a new one, so that another program's doing is not charged to it; the second death is its own. Parent and child are
one program on both ends of a pipe: what they pickle never comes from a file.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pipeline.outcome import Outcome
from pipeline.plan import Planned
from pipeline.recipe import Recipe
from pipeline.warm_up import warm_up
from pipeline.worker import OUT_OF_MEMORY, open_renderer
from render.views import Renderer

ENTRY = "pipeline.worker:make_sample"
# One thread each: parallelism is between workers.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1") | {
    "LP_NUM_THREADS": "0"
}
_START_S = 600.0
_LOOK_EVERY_S = 0.05
_LAST_WORDS = 2000
_DEATHS = {
    "crashed": "The process that worked on the mesh ended by {cause}; check the file with the program that wrote it.",
    "timeout": "The mesh took longer than an asset may; simplify it or raise limits.seconds.",
    "out_of_memory": OUT_OF_MEMORY,
}


class WorkerError(Exception):
    """A child cannot work at all: no renderer, no module. The text is one sentence; no asset is to blame."""


@dataclass(frozen=True)
class _Ready:
    renderer: str


class Isolated:
    """A `pipeline.worker.Maker` in a child process. `entry` is the import path of what the child runs for each asset.

    `log` collects the child's last words for assets that ended it.
    """

    def __init__(self, recipe: Recipe, entry: str = ENTRY) -> None:
        self.recipe, self.entry = recipe, entry
        self.log: list[str] = []
        self._child: _Child | None = None

    def __call__(self, asset: Planned) -> Outcome:
        outcome, _ = self._attempt(asset)
        if outcome is None:
            outcome, death = self._attempt(asset)
            if outcome is None:
                return death
        return outcome

    def _attempt(self, asset: Planned) -> tuple[Outcome | None, Outcome]:
        self.start()
        assert self._child is not None
        answer, death, cause = self._child.call(asset)
        if answer is not None and self._child.is_small():
            return answer, answer
        words = self._child.close()
        self._child = None
        if answer is None:
            self.log.append(f"{asset.source}: {death} ({cause}) {words}".strip())
        return answer, Outcome(reason=death, message=_DEATHS.get(death, "").format(cause=cause))

    def start(self) -> None:
        """Has a child ready. Raises WorkerError."""
        if self._child is None:
            self._child = _Child(self.recipe, self.entry)

    def describe_renderer(self) -> str:
        """The description of the renderer that the child got. Raises WorkerError."""
        self.start()
        assert self._child is not None
        return self._child.renderer

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.close()
            self._child = None


def describe_renderer(recipe: Recipe) -> str:
    """The recipe's renderer in words. OpenGL is asked in a child, since this process may have children later. Raises WorkerError."""
    if recipe.renderer == "raster":
        return open_renderer(recipe).description
    maker = Isolated(recipe)
    try:
        return maker.describe_renderer()
    finally:
        maker.close()


class _Child:
    def __init__(self, recipe: Recipe, entry: str) -> None:
        ours, theirs = socket.socketpair()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child

        code = f"from pipeline.isolation import serve; serve({theirs.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            env=os.environ | ONE_THREAD,
            start_new_session=True,
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.limit = recipe.limits.memory_mb * 2**20
        self.seconds = recipe.limits.seconds
        self.base = 0
        try:
            self._send((os.getpid(), recipe, entry))
            answer, death, cause = self._receive(_START_S)
        except BaseException:
            self.close()
            raise
        if not isinstance(answer, _Ready):
            words = self.close()
            raise WorkerError(answer or f"A worker process did not start ({death}, {cause}); it said: {words or 'nothing'}.")
        self.renderer = answer.renderer
        self.base = self._memory()

    def call(self, asset: Planned) -> tuple[Outcome | None, str, str]:
        """The outcome, or None with why the child is of no more use: "crashed", "timeout" or "out_of_memory", and the cause."""
        try:
            self._send(asset)
        except OSError:
            self.process.wait()
            return None, "crashed", _cause(self.process.returncode)
        return self._receive(self.seconds)

    def _send(self, message: object) -> None:
        self.pipe.send_bytes(pickle.dumps(message, protocol=5))

    def _receive(self, seconds: float) -> tuple[Any, str, str]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.pipe.poll(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))):
                    answer = pickle.loads(self.pipe.recv_bytes())
                    return (None, "out_of_memory", "MemoryError") if answer is None else (answer, "", "")
            except (EOFError, OSError):
                self.process.wait()
                return None, "crashed", _cause(self.process.returncode)
            if self.base and self._memory() > self.base + self.limit:
                return None, "out_of_memory", "resident memory"
            if time.monotonic() >= deadline:
                return None, "timeout", f"{seconds:g} s"

    def _memory(self) -> int:
        """Resident bytes of the child; 0 where it is gone."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def is_small(self) -> bool:
        """Whether the child has not kept half of what one asset may take."""
        return self._memory() < self.base + self.limit // 2

    def close(self) -> str:
        """Ends the child; gives the end of what it printed."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()
        with self.errors:
            size = self.errors.seek(0, os.SEEK_END)
            self.errors.seek(max(0, size - _LAST_WORDS))
            return " ".join(self.errors.read().decode("utf-8", "replace").split())


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def serve(descriptor: int) -> None:
    """The child: warms up, says so, then answers each asset with an Outcome, or with None where memory ran out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(descriptor)
    parent, recipe, entry = pickle.loads(pipe.recv_bytes())
    _die_with(parent)
    try:
        module, _, name = entry.partition(":")
        make: Callable[[Recipe, Renderer, Planned], Outcome] = getattr(importlib.import_module(module), name)
        renderer = open_renderer(recipe)
        warm_up(recipe, renderer)
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        pipe.send_bytes(pickle.dumps(f"A worker cannot start its renderer {recipe.renderer!r} ({type(error).__name__}: {text})."))
        return
    if recipe.renderer == "raster":
        _limit_memory(recipe.limits.memory_mb * 2**20)
    pipe.send_bytes(pickle.dumps(_Ready(renderer.description)))
    while True:
        try:
            asset = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = pickle.dumps(make(recipe, renderer, asset), protocol=5)
        except MemoryError:
            answer = pickle.dumps(None)
        pipe.send_bytes(answer)


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent dies, also in the middle of native code (Linux)."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory(extra: int) -> None:
    """Allocations beyond what is mapped now plus `extra` bytes raise MemoryError (Linux). Not for OpenGL: drivers map too much."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
