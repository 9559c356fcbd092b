"""MSR-Action3D: 20 actions of 10 people seen by a depth camera; section D.10.

aXX_sYY_eZZ_sdepth.bin: little-endian uint32 number of frames F, width W, height H, then F·H·W uint32 depths in mm [inferred], 0 where
nothing is. Points are all pixels with a depth: X = (u − W/2)/280·z, Y = (v − H/2)/280·z, Z = z. Or the .npz of the same name that the
published preprocessing writes of it: a list `point_clouds` of (n_t, 3), mm.

Here in metres; y stays down and z away from the camera, as recorded: a turn about "up" is one about y. Published figures divide mm by
300: metres times 10/3. Classes are a01 to a20. Official split: people 1 to 5 train, 6 to 10 test. Recordings shorter than a clip of 24
frames are left out and counted, as in the papers (13 train, 10 test of the whole set): say short: repeat_last to keep them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.importers import ragged
from pipeline.importers.recording import Entry, Recording, RecordingError, Span, file_sha256
from pipeline.sources.asset import Split

if TYPE_CHECKING:
    from pipeline.sources.recordings import RecordingSource

WHOLE: dict[str, dict[Split, int]] = {"msr_action3d": {"train": 270, "test": 297}}
# The camera gives 30 frames a second [inferred].
FPS, UP = 30.0, "-y"
FOCAL_PX = 280.0
_HEADER = struct.Struct("<3I")
_NAME = re.compile(r"(?P<action>a(?:0[1-9]|1[0-9]|20))_(?P<person>s(?:0[1-9]|10))_(?P<take>e[0-9]{2})_sdepth\.(?P<kind>bin|npz)")


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The recordings by name. Left out and counted: other names, an .npz beside its .bin."""
    files = sorted(file for file in path.rglob("*") if file.suffix in (".bin", ".npz"))
    raw = {file.with_suffix("").name for file in files if file.suffix == ".bin"}
    for file in files:
        uri, match = file.relative_to(path).as_posix(), _NAME.fullmatch(file.name)
        if match is None:
            yield Entry(uri, "unknown", "train", left_out="name is not aXX_sYY_eZZ_sdepth")
            continue
        double = match["kind"] == "npz" and file.stem in raw
        split: Split = "train" if int(match["person"][1:]) <= 5 else "test"
        left_out = "also there as raw depth" if double else ""
        yield Entry(uri, match["action"], split, 0 if double else _length(file), match["person"], left_out=left_out)


def _length(file: Path) -> int:
    """Frames of a recording; 0 where it cannot be read, which its own reading will say."""
    try:
        if file.suffix == ".npz":
            return ragged.length(file, "point_clouds")
        with open(file, "rb") as stream:
            frames: int
            frames, width, height = _HEADER.unpack(stream.read(_HEADER.size))
        # a header may claim anything, and windows are counted by it
        pixels: int = width * height
        return frames if pixels and file.stat().st_size == _HEADER.size + 4 * frames * pixels else 0
    except (ragged.RaggedError, OSError, struct.error):
        return 0


def content(path: Path, uri: str, options: RecordingSource) -> str:
    """The file's sha256."""
    return file_sha256(path / uri)


def read(path: Path, uri: str, options: RecordingSource, span: Span | None) -> Recording:
    """The recording's points in metres, y down. Raises RecordingError, OSError."""
    file = path / uri
    frames = _npz(file) if file.suffix == ".npz" else _depth(file)
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return Recording(
        name=file.name.partition(".")[0],
        fps=FPS,
        times_s=np.arange(len(frames)) / FPS,
        frames=frames,
        person=match["person"],
        facts={"person": match["person"], "take": match["take"], "frames": len(frames), "up": UP},
    ).cut(span)


def _depth(file: Path) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise RecordingError("unreadable", f"{file.name} is shorter than its header; fetch it again.")
        count, width, height = _HEADER.unpack(head)
        if not count * width * height:
            raise RecordingError("empty", f"{file.name} says that it has {count} frames of {width}×{height}; fetch it again.")
        wanted = _HEADER.size + 4 * count * width * height
        if size != wanted:
            raise RecordingError(
                "unreadable",
                f"{file.name} has {size} bytes, and {count} frames of {width}×{height} take {wanted}; fetch it again.",
            )
        right = (np.arange(width) - width / 2) / FOCAL_PX
        down = (np.arange(height) - height / 2) / FOCAL_PX
        frames = []
        for _ in range(count):
            depth = np.frombuffer(stream.read(4 * width * height), "<u4").reshape(height, width)
            v, u = np.nonzero(depth)
            z = depth[v, u] / 1000.0
            frames.append(np.stack((right[u] * z, down[v] * z, z), axis=1).astype(np.float32))
    return frames


def _npz(file: Path) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    try:
        clouds = ragged.read_npz(file, "point_clouds")
    except ragged.RaggedError as error:
        raise RecordingError(
            "unreadable", f"{file.name} is not read: {error}; import the raw .bin files, or save point_clouds as a list of (n, 3) arrays."
        ) from None
    if any(cloud.ndim != 2 or cloud.shape[1] != 3 for cloud in clouds):
        raise RecordingError("unreadable", f"{file.name} has a frame whose points have not three coordinates; import the raw .bin files.")
    return [(cloud / 1000.0).astype(np.float32) for cloud in clouds]
