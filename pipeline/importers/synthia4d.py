"""Synthia 4D: rendered drives through a city with a class for each point; section D.11.

One SYNTHIA-SEQS-XX-NAME-000123.npz a frame: `pc` (n, 3), world metres; `rgb` (n, 3), 0 to 1; `semantic` (n,), raw class 0 to 15;
`center` (3,). y is an image's, turned about itself, so that it points down [inferred]. A sample is a clip of three frames, NEWEST FIRST:
123, 122, 121; a missing one repeats the last that was found, as fillers. Points are not centred: turn and flip them about centres[0], the
newest frame's. Void, sky and reserved become -1.

Without lists every frame is the newest of a clip; sequence 05 is val, 06 test, the others train. Published figures train on both train
and val. A list's line counts by its first word alone, SEQ/…/000616.ply.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.importers.recording import Entry, Recording, RecordingError, Span, file_sha256
from pipeline.sources.asset import SourceError, Split

if TYPE_CHECKING:
    from pipeline.sources.recordings import RecordingSource

WHOLE: dict[str, dict[Split, int]] = {"synthia4d": {"train": 19888, "val": 815, "test": 1886}}
# Five frames a second [inferred].
FPS, UP = 5.0, "-y"
FRAMES = 3
CLASSES = (
    "building",
    "road",
    "sidewalk",
    "fence",
    "vegetation",
    "pole",
    "car",
    "traffic_sign",
    "pedestrian",
    "bicycle",
    "lanemarking",
    "traffic_light",
)
# Raw class → class: 0 void (masked), 1 sky, 13 and 14 reserved.
_CLASS_OF = np.array([-1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, -1, 11], np.int16)
_FARTHEST_M = 25.0
_NAME = re.compile(r"(?P<sequence>SYNTHIA-SEQS-(?P<scene>[0-9]{2})-.+)-(?P<number>[0-9]{6})\.npz")


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The clips by the name of their newest frame, or as the lists name them. Raises SourceError."""
    files = {file.name: file for file in sorted(path.rglob("SYNTHIA-SEQS-*.npz"))}
    listed = [(name, split) for split, file in options.lists.items() for name in _listed(path / file)]
    if not options.lists:
        listed = [(name, _split(name)) for name in sorted(files)]
    for name, split in listed:
        match = _NAME.fullmatch(name)
        if match is None:
            yield Entry(name, "drive", split, left_out="name is not SYNTHIA-SEQS-XX-NAME-000000.npz")
            continue
        sequence = match["sequence"]
        left_out = "" if name in files else "listed and not there"
        uri = files[name].relative_to(path).as_posix() if name in files else name
        yield Entry(uri, "drive", split, FRAMES, sequence, sequence, left_out)


def _split(name: str) -> Split:
    match = _NAME.fullmatch(name)
    scene = match["scene"] if match else ""
    return "val" if scene == "05" else "test" if scene == "06" else "train"


def _listed(file: Path) -> list[str]:
    """The frames' file names that a list means."""
    try:
        lines = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read ({error}); give a text file with a frame a line.") from None
    found = []
    for line in lines:
        parts = line.split("/")
        number = parts[-1].partition(".")[0]
        if len(parts) < 2 or not number.isdigit():
            raise SourceError(f"{file} has the line {line[:60]!r}; a line begins with SEQUENCE/point_clouds/000000.ply.")
        found.append(f"{parts[0]}-{int(number):06d}.npz")
    return found


def _clip(path: Path, uri: str) -> list[Path | None]:
    """The clip's files, newest first; None where one is missing."""
    newest = path / uri
    match = _NAME.fullmatch(newest.name)
    assert match is not None
    numbers = [int(match["number"]) - back for back in range(FRAMES)]
    files = [newest.with_name(f"{match['sequence']}-{number:06d}.npz") for number in numbers]
    return [file if number >= 0 and (file == newest or file.is_file()) else None for file, number in zip(files, numbers, strict=True)]


def content(path: Path, uri: str, options: RecordingSource) -> str:
    """The sha256 over the digests of the clip's files, one that is missing counting as nothing."""
    digests = [file_sha256(file) if file else "" for file in _clip(path, uri)]
    return hashlib.sha256("/".join(digests).encode()).hexdigest()


def read(path: Path, uri: str, options: RecordingSource, span: Span | None) -> Recording:
    """The clip, newest frame first, with the features red, green and blue. Raises RecordingError, OSError."""
    files = _clip(path, uri)
    frames: list[dict[str, npt.NDArray[Any]]] = []
    for file in files:
        frames.append(_frame(file) if file else frames[-1])
    fillers = np.array([file is None for file in files])
    centres = np.stack([frame["center"] for frame in frames]).astype(np.float64)
    far = any((np.abs(frame["pc"] - centre) > _FARTHEST_M).any() for frame, centre in zip(frames, centres, strict=True))
    match = _NAME.fullmatch(Path(uri).name)
    assert match is not None
    flags = {"frames_missing": fillers.any(), "far_points": far}
    return Recording(
        name=Path(uri).stem,
        fps=FPS,
        times_s=(int(match["number"]) - np.arange(FRAMES)) / FPS,
        frames=[frame["pc"].astype(np.float32) for frame in frames],
        features=[frame["rgb"].astype(np.float32) for frame in frames],
        feature_names=("red", "green", "blue"),
        parts=[_CLASS_OF[frame["semantic"]] for frame in frames],
        part_names=CLASSES,
        centres=centres,
        fillers=fillers if fillers.any() else None,
        facts={"sequence": match["sequence"], "frame": int(match["number"]), "order": "newest first"},
        flags=tuple(flag for flag, found in flags.items() if found),
    ).cut(span)


def _frame(file: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as data:
            frame = {name: np.asarray(data[name]) for name in ("pc", "rgb", "semantic", "center")}
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        text = " ".join(str(error).split())[:120].rstrip(".")
        raise RecordingError(
            "unreadable", f"{file.name} has not the plain arrays pc, rgb, semantic, center ({text}); make it again."
        ) from None
    points = len(frame["pc"]) if frame["pc"].ndim else 0
    if any(
        frame[name].shape != shape for name, shape in (("pc", (points, 3)), ("rgb", (points, 3)), ("semantic", (points,)), ("center", (3,)))
    ):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in frame.items())
        raise RecordingError("unreadable", f"{file.name} has {shapes}; (n, 3), (n, 3), (n,) and (3,) are read.")
    raw = frame["semantic"]
    if not ((raw >= 0) & (raw < len(_CLASS_OF))).all():
        raise RecordingError("unreadable", f"{file.name} has a class outside 0 to {len(_CLASS_OF) - 1}; give the raw classes.")
    return frame | {"semantic": raw.astype(np.int64)}
