"""mHomeGes: arm gestures seen by a millimetre-wave radar, ten frames a second (Liu et al., IMWUT 2020).

longGes_DISTANCE/PERSON/point_PERSON_DISTANCE_GESTURE.csv: a row per point (Frame #, # Obj, X, Y, Z, Doppler, Intensity); x sideways, y
away from the radar, z up, metres. A file is one person repeating one gesture; frames without points have no rows. It is cut into
repetitions where the frame's number rises by 8 or more or falls (the sensor was restarted); each is a recording, uri FILE#NUMBER, of the
frames that have points. A change of number is what makes a new frame: numbers come again after a restart.

Groups are people; without `test` every fourth of them, in the order of their numbers, is the test split [ours].
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from pipeline.importers.recording import Entry, Recording, RecordingError, Span, file_sha256, part_of
from pipeline.sources.asset import Split
from pipeline.sources.kept import file_key, kept

if TYPE_CHECKING:
    from pipeline.sources.recordings import RecordingSource

WHOLE: dict[str, dict[Split, int]] = {}
GESTURES = ("circle", "clap", "down", "knock", "lift", "pull", "push", "up", "yawn", "z")
FPS, UP = 10.0, "z"
# A pause ends a repetition; further than a room, or faster than an arm, is no echo.
PAUSE_FRAMES, _FARTHEST_M, _FASTEST_M_S = 8, 6.0, 10.0
_SPELLINGS = {"circcle": "circle"}
_COLUMNS = ("Frame #", "# Obj", "X", "Y", "Z", "Doppler", "Intensity")
_NAME = re.compile(r"point_(?P<person>[^_]+)_(?P<distance>[0-9.]+)m_(?P<gesture>.*)\.csv")


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The repetitions, distance by distance, person by person, file by file.

    Left out and counted: pieces that are too short (by `options`), files of the same bytes as another one's (nobody can say whose they
    are), files whose name tells no gesture.
    """
    files = sorted(path.glob("longGes_*/*/*.csv"))
    named = [(file, match) for file in files if (match := _NAME.fullmatch(file.name))]
    people = sorted({match["person"] for _, match in named})
    test = set(people[3::4])
    digests = {file: _digest(file) for file in files}
    twins = Counter(digests.values())
    missing = _missing_gestures(path)
    for file in files:
        uri, match = file.relative_to(path).as_posix(), _NAME.fullmatch(file.name)
        if match is None:
            yield Entry(uri, "unknown", "train", left_out="name is not point_PERSON_DISTANCE_GESTURE.csv")
            continue
        person = match["person"]
        split: Split = "test" if person in test else "train"
        gesture = gesture_of(match["gesture"]) or missing.get(file.parent, "")
        if not gesture:
            yield Entry(uri, "unknown", split, group=person, left_out="no gesture in its name")
        elif digests[file] and twins[digests[file]] > 1:
            yield Entry(uri, gesture, split, group=person, left_out="same file as another one's")
        else:
            yield from _repetitions(file, Entry(uri, gesture, split, group=person, together=uri))


def gesture_of(text: str) -> str:
    """The gesture that a name's last word means, "" where it means none."""
    word = text.rpartition("_")[2]
    word = _SPELLINGS.get(word, word)
    return word if word in GESTURES else ""


def _missing_gestures(path: Path) -> dict[Path, str]:
    """Folder → the gesture of its one file without a gesture, where all others are there: by elimination."""
    found: dict[Path, str] = {}
    for folder in sorted(path.glob("longGes_*/*/")):
        words = [match["gesture"] for file in folder.glob("*.csv") if (match := _NAME.fullmatch(file.name))]
        absent = [gesture for gesture in GESTURES if gesture not in {gesture_of(word) for word in words}]
        if len(absent) == 1 and words.count("") == 1:
            found[folder] = absent[0]
    return found


def _repetitions(file: Path, entry: Entry) -> Iterator[Entry]:
    try:
        _, pieces = _cut(_table(file)[:, 0])
    except (RecordingError, OSError):
        yield entry  # its own reading will say what is wrong
        return
    for number, (first, last) in enumerate(pieces):
        yield Entry(f"{entry.uri}#{number:03d}", entry.cls, entry.split, last - first, entry.group, entry.together)


def _digest(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError:
        return ""


def content(path: Path, uri: str, options: RecordingSource) -> str:
    """The sha256 of the file, with the repetition's number."""
    name, _, number = uri.partition("#")
    return part_of(file_sha256(path / name), number)


def read(path: Path, uri: str, options: RecordingSource, span: Span | None) -> Recording:
    """Points with the features velocity (m/s along the ray) and intensity (no unit). Corrupt points are dropped and flagged.

    times_s are those of the frames' numbers. Raises RecordingError, OSError.
    """
    name, _, number = uri.partition("#")
    table = _kept_table(path / name)
    starts, pieces = _cut(table[:, 0])
    if not number.isdigit() or int(number) >= len(pieces):
        raise RecordingError("empty", f"{name} holds no frame; look at how it was recorded.")
    first, last = pieces[int(number)]
    rows = table[starts[first] : starts[last] if last < len(starts) else len(table)]
    begins = starts[first:last] - starts[first]
    points, velocity, intensity = rows[:, 2:5], rows[:, 5], rows[:, 6]
    with np.errstate(invalid="ignore"):
        near = (np.abs(points) <= _FARTHEST_M).all(axis=1)
        slow = np.abs(velocity) <= _FASTEST_M_S
    sound = near & slow & np.isfinite(intensity)
    frame_of = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(rows))))
    stops = np.cumsum(np.bincount(frame_of[sound], minlength=len(begins)))[:-1]
    listed = np.bincount(frame_of)
    match = _NAME.fullmatch(Path(name).name)
    person, distance, word = (match["person"], match["distance"], match["gesture"]) if match else ("", "0", "")
    flags = {
        "far_points_dropped": not near.all(),
        "fast_points_dropped": not slow.all(),
        "other_count_than_listed": (rows[begins, 1] != listed).any(),
        "gesture_by_elimination": not word,
        "gesture_respelled": bool(word) and word not in GESTURES,
    }
    numbers = rows[begins, 0]
    return Recording(
        name=f"{Path(name).stem}#{number}",
        fps=FPS,
        times_s=(numbers - numbers[0]) / FPS,
        frames=np.split(points[sound].astype(np.float32), stops),
        person=person,
        together=name,
        features=np.split(np.stack((velocity, intensity), axis=1)[sound].astype(np.float32), stops),
        feature_names=("velocity", "intensity"),
        facts={
            "person": person,
            "distance_m": float(distance),
            "repetition": int(number),
            "first_frame": int(numbers[0]),
            "points": len(rows),
            "far_points": int((~near).sum()),
            "fast_points": int((~slow).sum()),
        },
        flags=tuple(flag for flag, found in flags.items() if found),
    ).cut(span)


def _kept_table(file: Path) -> npt.NDArray[np.float64]:
    """`_table`, kept for the other repetitions of the file, which come one by one between those of all the others."""

    def read() -> tuple[npt.NDArray[np.float64], int]:
        table = _table(file)
        table.flags.writeable = False
        return table, table.nbytes

    return kept((__name__, *file_key(file)), read)


def _table(file: Path) -> npt.NDArray[np.float64]:
    """(P, 7) numbers as they stand. Raises RecordingError, OSError."""
    # One thread and a parser of its own: nothing is guessed, and a cell that is no number is an error.
    types = dict.fromkeys(_COLUMNS, pa.float64())
    try:
        table = pa.csv.read_csv(
            io.BytesIO(file.read_bytes()),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=2**26),
            convert_options=pa.csv.ConvertOptions(column_types=types, include_columns=list(_COLUMNS)),
        )
    except (pa.ArrowException, KeyError) as error:
        text = " ".join(str(error).split())[:120].rstrip(".")
        raise RecordingError("unreadable", f"{file.name} is no table of {', '.join(_COLUMNS)} ({text}); fetch it again.") from None
    columns = [column.to_numpy() for column in table.columns]
    if not len(table) or not np.isfinite(columns[0]).all():
        raise RecordingError("empty", f"{file.name} holds no frame with a number; fetch it again.")
    return np.stack(columns, axis=1)


def _cut(numbers: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], list[Span]]:
    """The rows at which frames begin, and each repetition's frames [first, last) among these."""
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    steps = np.diff(numbers[starts])
    edges = [0, *(np.flatnonzero((steps >= PAUSE_FRAMES) | (steps < 0)) + 1).tolist(), len(starts)]
    return starts, list(pairwise(edges))
