"""What importers give: entries of a folder and recordings, whose frames hold as many points as were recorded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.sources.asset import Split
from render.meshes import MeshError

Span = tuple[int, int]
Floats = npt.NDArray[np.float32]


class RecordingError(MeshError):
    """A file gives no usable recording. `reason` is from the closed list of `render.checks.REASONS`; the text is one sentence."""


@dataclass(frozen=True)
class Entry:
    """A recording to be. `frames` is its length, 0 where only reading tells; `group` is what splits hold out (a person, a session, ...);
    entries of one `together` (else: of one uri) are never divided between splits; left_out is the rule that leaves it out, if any."""

    uri: str
    cls: str
    split: Split
    frames: int = 0
    group: str = ""
    together: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class Recording:
    """T frames, frame t with n_t points: frames[t] (n_t, 3) float32 in metres, axes as recorded; times_s (T,) float64.

    features[t] (n_t, F) float32; parts[t] (n_t,) int16, index into part_names, -1 for none; actions (T,) int16, index into action_names;
    centres (T, 3) float64, where the format gives a centre a frame; images[t]: the file that shows frame t's instant; fillers (T,) bool,
    frames that only repeat another one; together: the name of what it was cut from, as its Entry has it. facts go into the sample's json
    as they are.
    """

    name: str
    fps: float
    times_s: npt.NDArray[np.float64]
    frames: Sequence[Floats]
    person: str = ""
    together: str = ""
    features: Sequence[Floats] | None = None
    feature_names: tuple[str, ...] = ()
    parts: Sequence[npt.NDArray[np.int16]] | None = None
    part_names: tuple[str, ...] = ()
    actions: npt.NDArray[np.int16] | None = None
    action_names: tuple[str, ...] = ()
    centres: npt.NDArray[np.float64] | None = None
    images: Sequence[Path] | None = None
    fillers: npt.NDArray[np.bool_] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def taken(self, rows: Sequence[int], fillers: npt.NDArray[np.bool_] | None = None) -> Recording:
        """The recording of these frames, by number and in this order."""
        index = np.asarray(rows, np.int64)
        return replace(
            self,
            times_s=self.times_s[index],
            frames=[self.frames[row] for row in rows],
            features=None if self.features is None else [self.features[row] for row in rows],
            parts=None if self.parts is None else [self.parts[row] for row in rows],
            actions=None if self.actions is None else self.actions[index],
            centres=None if self.centres is None else self.centres[index],
            images=None if self.images is None else [self.images[row] for row in rows],
            fillers=fillers if fillers is not None else None if self.fillers is None else self.fillers[index],
        )

    def cut(self, span: Span | None) -> Recording:
        """The frames [start, stop) as far as there are, or all."""
        return self if span is None else self.taken(range(span[0], min(span[1], len(self.frames))))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file. What was read a moment ago is not read again for each of its recordings. Raises OSError."""
    state = os.stat(path)
    return _file_sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(digest: str, which: str) -> str:
    """The hex sha256 that stands for a named part of a content."""
    return hashlib.sha256(f"{digest}#{which}".encode()).hexdigest()
