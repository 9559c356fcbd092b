"""What became of an asset, and what all makers of samples share: stages and their clock, seeds, the bytes of arrays."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

STAGES = ("load", "pose", "sample", "render", "encode", "write")


@dataclass(frozen=True)
class Outcome:
    """What became of an asset: members of a sample, or a reason and a sentence. seconds holds the time of each stage."""

    members: Mapping[str, bytes] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    pixels_sha256: str = ""
    reason: str = ""
    message: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


class Stopwatch:
    """Adds the time since the last lap to a stage in `seconds`."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


def seed_of(recipe: Recipe, sha256: str, purpose: str) -> int:
    """A seed that belongs to an asset's content and the recipe's seed, whatever the asset is called and wherever it stands."""
    return int.from_bytes(hashlib.sha256(f"{recipe.seed}/{purpose}/{sha256}".encode()).digest()[:8], "big")


def npy(array: npt.NDArray[Any]) -> bytes:
    """The array as an .npy file of version 1."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
