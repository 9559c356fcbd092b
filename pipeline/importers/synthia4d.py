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
# The arrays of a frame and the kinds of numbers that each may hold.
_KINDS = {"pc": "f", "rgb": "f", "semantic": "iu", "center": "f"}
_FARTHEST_M = 25.0
_NAME = re.compile(r"(?P<sequence>SYNTHIA-SEQS-(?P<scene>[0-9]{2})-.+)-(?P<number>[0-9]{6})\.npz")


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The clips by the name of their newest frame, or as the lists name them.

    Raises SourceError: a frame in two folders or in the lists of two splits, a list that is none.
    """
    files: dict[str, Path] = {}
    for file in sorted(path.rglob("SYNTHIA-SEQS-*.npz")):
        if (other := files.setdefault(file.name, file)) != file:
            raise SourceError(f"{other} and {file} are the same frame; give the folder of one of them.")
    listed = _all_listed(path, options) if options.lists else [(name, _split(name)) for name in sorted(files)]
    seen: set[str] = set()
    for name, split in listed:
        match = _NAME.fullmatch(name)
        if match is None:
            yield Entry(name, "drive", split, left_out="name is not SYNTHIA-SEQS-XX-NAME-000000.npz")
            continue
        sequence = match["sequence"]
        left_out = "listed twice" if name in seen else "" if name in files else "listed and not there"
        seen.add(name)
        uri = files[name].relative_to(path).as_posix() if name in files else name
        yield Entry(uri, "drive", split, FRAMES, sequence, sequence, left_out)


def _split(name: str) -> Split:
    match = _NAME.fullmatch(name)
    scene = match["scene"] if match else ""
    return "val" if scene == "05" else "test" if scene == "06" else "train"


def _all_listed(path: Path, options: RecordingSource) -> list[tuple[str, Split]]:
    """The frames' file names that the lists mean, and their splits. Raises SourceError."""
    found: list[tuple[str, Split]] = []
    split_of: dict[str, Split] = {}
    for split, file in options.lists.items():
        for number, word in _words(path / file):
            parts = word.split("/")
            frame = parts[-1].partition(".")[0]
            if len(parts) < 2 or not frame.isdecimal():
                raise SourceError(f"{path / file} has the line {word[:60]!r}; a line begins with SEQUENCE/point_clouds/000000.ply.")
            name = f"{parts[0]}-{int(frame):06d}.npz"
            if (first := split_of.setdefault(name, split)) != split:
                text = f"{path / file} has {word[:80]} in line {number}, and {path / options.lists[first]} has it too"
                raise SourceError(f"{text}; a frame is of one split: take it out of one of the lists.")
            found.append((name, split))
    return found


def _words(file: Path) -> Iterator[tuple[int, str]]:
    """The number and the first word of each line that has one. Raises SourceError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read ({error}); give a text file with a frame a line.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line.split()[0]


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
        together=match["sequence"],
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
            frame = {name: np.asarray(data[name]) for name in _KINDS}
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # what numpy and zipfile raise of a damaged file is no closed list
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
    wrong = next((name for name, kinds in _KINDS.items() if frame[name].dtype.kind not in kinds), None)
    if wrong is not None:
        kind = "whole numbers" if wrong == "semantic" else "floating-point numbers"
        raise RecordingError("unreadable", f"{file.name} has {wrong} of {frame[wrong].dtype}, and {kind} are read; make it again.")
    raw = frame["semantic"]
    if not ((raw >= 0) & (raw < len(_CLASS_OF))).all():
        raise RecordingError("unreadable", f"{file.name} has a class outside 0 to {len(_CLASS_OF) - 1}; give the raw classes.")
    return frame | {"semantic": raw.astype(np.int64)}
