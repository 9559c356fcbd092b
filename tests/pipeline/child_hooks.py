"""What a child runs instead of `pipeline.worker:make_sample`: assets whose class says so do harm first."""

import ctypes
import mmap
import os
import signal
from pathlib import Path

from pipeline import worker
from pipeline.plan import Planned
from pipeline.recipe import Recipe
from pipeline.worker import Outcome
from render.views import Renderer


def harm(recipe: Recipe, renderer: Renderer, asset: Planned) -> Outcome:
    """bottle: a native crash; mug: a hang in native code; lamp: memory until the end; table: a silent exit."""
    if asset.cls == "bottle":
        ctypes.string_at(0)
    elif asset.cls == "mug":
        ctypes.CDLL(None).sleep(1000)
    elif asset.cls == "lamp":
        hoard = []
        while True:
            hoard.append(b"x" * (64 << 20))
    elif asset.cls == "table":
        os._exit(3)
    return worker.make_sample(recipe, renderer, asset)


def swell(recipe: Recipe, renderer: Renderer, asset: Planned) -> Outcome:
    """lamp: native memory that no limit on addresses sees coming, since it was reserved before the limit."""
    if asset.cls == "lamp":
        if not _RESERVED:
            raise RuntimeError("nothing was reserved")
        for start in range(0, len(_RESERVED[0]), mmap.PAGESIZE):
            _RESERVED[0][start] = 1
    return worker.make_sample(recipe, renderer, asset)


_RESERVED: list[mmap.mmap] = []
if os.environ.get("RESERVE"):
    _RESERVED.append(mmap.mmap(-1, 2 << 30))


def kill_worker_once(recipe: Recipe, renderer: Renderer, asset: Planned) -> Outcome:
    """The first child to come here kills its parent."""
    if asset.cls == "mug":
        try:
            Path(os.environ["KILLED_MARK"]).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getppid(), signal.SIGKILL)
    return worker.make_sample(recipe, renderer, asset)


def flaky(recipe: Recipe, renderer: Renderer, asset: Planned) -> Outcome:
    """mug: ends the child, but only the first one."""
    if asset.cls == "mug":
        try:
            Path(os.environ["KILLED_MARK"]).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os._exit(9)
    return worker.make_sample(recipe, renderer, asset)
