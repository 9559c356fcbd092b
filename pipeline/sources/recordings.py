"""Public recordings of point clouds as a source: each recording, or each window of it, becomes an asset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.sources.asset import Asset, SourceError, Split

if TYPE_CHECKING:
    from pipeline.importers.recording import Entry, Recording, Span

Format = Literal["msr_action3d", "hoi4d_actions", "hoi4d_semantic", "synthia4d", "radhar", "mhomeges"]
FORMATS: tuple[Format, ...] = get_args(Format)
# What a format's usual protocol needs where the recipe says nothing else.
DEFAULTS: dict[str, dict[str, Any]] = {
    "msr_action3d": {"at_least": 24, "short": "leave_out"},
    "hoi4d_semantic": {"window": 3, "step": 3},
    "radhar": {"at_least": 60, "licence": "BSD-3-Clause"},
    "mhomeges": {"at_least": 4, "short": "leave_out", "licence": "MIT"},
}
# Points a frame: as many as the format gives or its protocol takes; for radar the most that a frame lists, so that no point is lost.
COUNTS: dict[str, int] = {
    "msr_action3d": 2048,
    "hoi4d_actions": 2048,
    "hoi4d_semantic": 8192,
    "synthia4d": 16384,
    "radhar": 40,
    "mhomeges": 64,
}
# Samples a shard where one is small; else the recipe's own default.
SHARD_ASSETS = {"hoi4d_semantic": 128, "mhomeges": 256}


class RecordingSource(BaseModel):
    """The recordings of a public benchmark's folder; `pipeline.importers` has a file for each format.

    test, val: patterns of the groups to hold out in place of the official split: people (msr_action3d "s06", mhomeges "816", hoi4d
    "H1"), sessions (radhar "D"), sequences (synthia4d "*-06-*"); val alone takes its groups out of train.
    window, step: cut into windows of so many frames, one beginning every `step` frames; window 0 keeps recordings whole.
    at_least, short: a recording of fewer than at_least frames is kept as it is and flagged "short", has its last frame repeated up to
    at_least ("repeat_last"), or is left out and counted ("leave_out"). Where there are windows, window stands in at_least's place.
    lists: a file of names per split, beside the data: hoi4d: names of the rows, in order; synthia4d: the frames to take.
    images: hoi4d_actions: folder of the decoded raw release, images/LINE/align_rgb/00000.jpg, …; each frame of the points gets the image
    of its time, image_fps a second, as a frame of image_size × image_size. That row i of the files is line i of the list is what public
    code takes for granted and the makers have never confirmed: where it is wrong, points and images are of different recordings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["recording"] = "recording"
    format: Format
    path: Path
    licence: str = ""
    test: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    window: int = Field(default=0, ge=0)
    step: int = Field(default=1, ge=1)
    at_least: int = Field(default=1, ge=1)
    short: Literal["keep", "repeat_last", "leave_out"] = "keep"
    lists: dict[Split, str] = {}
    images: Path | None = None
    image_size: int = Field(default=224, ge=8, le=2048)
    image_fps: float = Field(default=15.0, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        return DEFAULTS.get(str(values.get("format")), {}) | values if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fits(self) -> RecordingSource:
        if self.lists and self.format not in ("hoi4d_actions", "hoi4d_semantic", "synthia4d"):
            raise ValueError(f"{self.format} has no lists of names; remove lists")
        if self.images is not None and self.format != "hoi4d_actions":
            raise ValueError(f"{self.format} is read without images; remove images")
        if self.images is not None and not self.lists:
            raise ValueError("images are found by the names of the rows; give lists too, as {train: release.txt}")
        if self.window and self.format == "synthia4d":
            raise ValueError("a clip of synthia4d is three frames, newest first; remove window")
        return self

    @property
    def fewest(self) -> int:
        """Frames below which a recording is short."""
        return self.window or self.at_least


def importer(name: str) -> ModuleType:
    """The reader of a format."""
    from pipeline.importers import hoi4d, mhomeges, msr_action3d, radhar, synthia4d

    readers: dict[str, ModuleType] = {
        "msr_action3d": msr_action3d,
        "hoi4d_actions": hoi4d,
        "hoi4d_semantic": hoi4d,
        "synthia4d": synthia4d,
        "radhar": radhar,
        "mhomeges": mhomeges,
    }
    return readers[name]


def assets(source: RecordingSource) -> Iterator[Asset]:
    """A recording, or a window of it, each; those that a rule leaves out too. Raises SourceError: no folder, nothing of the format in it,
    a group to hold out that is not there."""
    if not source.path.is_dir():
        raise SourceError(f"{source.path} is no folder; give the one that holds the files of {source.format}.")
    entries = list(importer(source.format).entries(source.path, source))
    if not entries:
        raise SourceError(f"{source.path} holds no file of the format {source.format}; give the folder that does.")
    _check_groups(source, entries)
    for entry in entries:
        split = _split(source, entry)
        left_out = entry.left_out
        if not left_out and source.short == "leave_out" and 0 < entry.frames < source.fewest:
            left_out = f"shorter than {source.fewest} frames"
        asset = Asset(entry.uri, entry.cls, split, source.licence, group=entry.together or entry.uri, left_out=left_out)
        if left_out or not source.window:
            yield asset
            continue
        for start in range(0, max(entry.frames - source.window, 0) + 1, source.step):
            yield replace(asset, uri=f"{entry.uri}@{start:05d}")


def _split(source: RecordingSource, entry: Entry) -> Split:
    if any(fnmatchcase(entry.group, pattern) for pattern in source.test):
        return "test"
    if any(fnmatchcase(entry.group, pattern) for pattern in source.val) and (source.test or entry.split != "test"):
        return "val"
    return "train" if source.test else entry.split


def _check_groups(source: RecordingSource, entries: list[Entry]) -> None:
    groups = sorted({entry.group for entry in entries if not entry.left_out})
    for pattern in (*source.test, *source.val):
        if not any(fnmatchcase(group, pattern) for group in groups):
            known = ", ".join(group for group in groups if group) or "none"
            raise SourceError(f"{source.path} has no group {pattern!r} to hold out; its groups are {known}.")


def overview(source: RecordingSource) -> dict[str, tuple[int, int]]:
    """split → (recordings that are here, recordings of the whole benchmark), by the official split. Raises SourceError."""
    reader = importer(source.format)
    whole = reader.WHOLE.get(source.format, {})
    here = Counter(entry.split for entry in reader.entries(source.path, source) if not entry.left_out) if whole else Counter()
    return {split: (here[split], count) for split, count in whole.items()}


def content_sha256(source: RecordingSource, uri: str) -> str:
    """Hex digest of all that an asset is made of, with the window's place. Raises OSError."""
    from pipeline.importers.recording import part_of

    name, span = _place(source, uri)
    digest: str = importer(source.format).content(source.path, name, source)
    return digest if span is None else part_of(digest, f"@{span[0]}")


def open_recording(source: RecordingSource, uri: str) -> Recording:
    """The recording of an asset, made as long as `short` asks for. Raises RecordingError."""
    from pipeline.importers.recording import RecordingError

    name, span = _place(source, uri)
    try:
        recording: Recording = importer(source.format).read(source.path, name, source, span)
    except OSError as error:
        raise RecordingError("io_error", f"{name} cannot be read ({error.strerror or error}); look at the file and its rights.") from None
    frames, recording = len(recording.frames), replace(recording, together=recording.together or name)
    if frames >= source.fewest or not frames:
        return recording
    recording = replace(recording, flags=(*recording.flags, "short"))
    if source.short == "repeat_last":
        rows = np.minimum(np.arange(source.fewest), frames - 1)
        fillers = np.arange(source.fewest) >= frames
        if recording.fillers is not None:
            fillers |= recording.fillers[rows]
        recording = recording.taken(rows.tolist(), fillers)
        if recording.actions is not None:  # what was never recorded is no action to learn or to be right about
            recording = replace(recording, actions=np.where(np.arange(source.fewest) >= frames, -1, recording.actions).astype(np.int16))
        times = recording.times_s + np.maximum(np.arange(source.fewest) - (frames - 1), 0) / recording.fps
        recording = replace(recording, times_s=times)
    return recording


def _place(source: RecordingSource, uri: str) -> tuple[str, Span | None]:
    """The recording's own uri and the frames that are asked for."""
    if not source.window:
        return uri, None
    name, _, start = uri.rpartition("@")
    return name, (int(start), int(start) + source.window)
