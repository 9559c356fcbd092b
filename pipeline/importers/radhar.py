"""RadHAR: human activities seen by a millimetre-wave radar (Singh et al., mmNets 2019); section D.11.

Data/{Train,Test}/CLASS/*.txt or *.txt.xz: text, a record of 13 lines per point, ended by `---`. x away from the radar, y to its right, z
up, metres. A frame begins at point_id 0; ids inside a frame have holes. Time is frame number / 30: stamps are arrivals, in pairs.

Whole recordings are kept: training draws windows of 60 frames, scoring takes one every 10. Groups are the sessions of index.csv, where
that is there; the official split has recordings of the same sessions on both sides.
"""

from __future__ import annotations

import csv
import lzma
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.importers.recording import Entry, Recording, RecordingError, Span, file_sha256, part_of
from pipeline.sources.asset import SourceError, Split
from pipeline.sources.kept import file_key, kept

if TYPE_CHECKING:
    from pipeline.sources.recordings import RecordingSource

WHOLE: dict[str, dict[Split, int]] = {"radhar": {"train": 142, "test": 58}}
CLASSES = ("boxing", "jack", "jump", "squats", "walk")
FPS, UP = 30.0, "z"
_SPLITS: tuple[tuple[str, Split], ...] = (("Train", "train"), ("Test", "test"))
# The sensor's 16 velocity bins; what lies beyond them or further away than a room is no echo.
_BINS, _FARTHEST_M = 16, 10.0
_LARGEST = 128 * 2**20
# Blanks are matched within their line alone: `header:` and `stamp:` are followed by lines of their own.
_VALUE = rb":[ \t]*([-+]?(?:[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?|nan|inf))[ \t]*\r?\n"
_COLUMNS = ("point_id", "x", "y", "z", "range", "velocity", "doppler_bin", "bearing", "intensity")
_RECORD = re.compile(
    rb"^header:[ \t]*\r?\n[ \t]*seq"
    + _VALUE
    + rb"[ \t]*stamp:[ \t]*\r?\n[ \t]*secs"
    + _VALUE
    + rb"[ \t]*nsecs"
    + _VALUE
    + rb"[ \t]*frame_id:[^\r\n]*\r?\n"
    + b"".join(rb"[ \t]*" + name.encode() + _VALUE for name in _COLUMNS)
    + rb"---[ \t]*(?:\r?\n|\Z)",
    re.MULTILINE,
)


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The recordings, train before test, class by class, by name. Raises SourceError where sessions are asked for and not known.

    Left out and counted: the text beside its .xz, what lies in a folder that is no class.
    """
    root = _root(path)
    sessions = _sessions(path)
    wanted = options.test or options.val
    if wanted and not sessions:
        raise SourceError(f"{path} has no index.csv with a column session, which test and val need; add it or take the official split.")
    for folder, split in _SPLITS:
        files = [file for file in sorted((root / folder).glob("*/*.txt*")) if file.name.endswith((".txt", ".txt.xz"))]
        packed = {file.with_suffix("") for file in files if file.suffix == ".xz"}
        for file in files:
            uri, cls = file.relative_to(path).as_posix(), file.parent.name
            left_out = "folder is no class" if cls not in CLASSES else "also there as .txt.xz" if file in packed else ""
            if left_out:
                yield Entry(uri, cls, split, left_out=left_out)
                continue
            session = sessions.get(uri, "")
            if wanted and not session:
                raise SourceError(f"{path / 'index.csv'} gives no session for {uri}; add its row or remove the file.")
            yield Entry(uri, cls, split, _length(file, uri) if options.window or options.short == "leave_out" else 0, session)


def _root(path: Path) -> Path:
    return path / "Data" if (path / "Data").is_dir() else path


def _sessions(path: Path) -> dict[str, str]:
    """file → session, as index.csv has it."""
    try:
        with open(path / "index.csv", newline="", encoding="utf-8") as file:
            return {row["file"]: row["session"] or "" for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise SourceError(f"{path / 'index.csv'} is no table with the columns file and session; correct it or remove it.") from None


def content(path: Path, uri: str, options: RecordingSource) -> str:
    """The file's sha256, with the session that is stated in the sample, where one is known."""
    digest, session = file_sha256(path / uri), _sessions(path).get(uri, "")
    return part_of(digest, session) if session else digest


def read(path: Path, uri: str, options: RecordingSource, span: Span | None) -> Recording:
    """Points with the features velocity (m/s along the ray) and intensity (dB). Corrupt points are dropped and flagged.

    Raises RecordingError, OSError.
    """
    file = path / uri

    def whole() -> tuple[Recording, int]:
        recording = _read(file, uri)
        for array in (*recording.frames, *(recording.features or ())):
            array.flags.writeable = False  # the other windows show the same
        return recording, 20 * recording.facts["points"] + 400 * recording.facts["frames"]

    # its other windows come one by one between those of all the others
    recording = whole()[0] if span is None else kept((__name__, *file_key(file)), whole)
    return replace(recording, facts={"session": _sessions(path).get(uri, ""), **recording.facts}).cut(span)


def _read(file: Path, uri: str) -> Recording:
    text = _text(file)
    records = _parse(text, uri)
    seq, stamp = records[:, 0], records[:, 1] + records[:, 2] * 1e-9
    ids, points, velocity, doppler, intensity = records[:, 3], records[:, 4:7], records[:, 8], records[:, 9], records[:, 11]
    starts = _starts(ids)
    with np.errstate(invalid="ignore"):
        sound = (np.abs(points) <= _FARTHEST_M).all(axis=1) & (doppler >= 0) & (doppler < _BINS)
        sound &= np.isfinite(velocity) & np.isfinite(intensity)
    # ends without a whole record before them, and a last record without its end
    damaged = (b"\n" + text).count(b"\n---") - len(records) + bool(text.rpartition(b"---")[2].strip())
    flags = {
        "corrupt_points_dropped": not sound.all(),
        "damaged_records_dropped": damaged > 0,
        "records_missing": (np.diff(seq) != 1).any(),
        "time_runs_backwards": (np.diff(stamp) < -1e-6).any(),
        "begins_within_a_frame": ids[0] != 0,
    }
    frame_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ids))))
    stops = np.cumsum(np.bincount(frame_of[sound], minlength=len(starts)))[:-1]
    steps = np.diff(ids)
    steps[starts[1:] - 1] = 1
    facts = {
        "start_s": float(stamp[0]),
        "frames": len(starts),
        "points": len(ids),
        "corrupt_points": int((~sound).sum()),
        "damaged_records": damaged,
        "skipped_point_ids": int((steps > 1).sum()),
    }
    return Recording(
        name=Path(uri).name.partition(".")[0],
        fps=FPS,
        times_s=np.arange(len(starts)) / FPS,
        frames=np.split(points[sound].astype(np.float32), stops),
        features=np.split(np.stack((velocity, intensity), axis=1)[sound].astype(np.float32), stops),
        feature_names=("velocity", "intensity"),
        facts=facts,
        flags=tuple(flag for flag, found in flags.items() if found),
    )


def _text(file: Path) -> bytes:
    try:
        with lzma.open(file) if file.suffix == ".xz" else open(file, "rb") as stream:
            text: bytes = stream.read(_LARGEST + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise RecordingError("unreadable", f"{file.name} is no whole .xz file ({error}); fetch it again.") from None
    if len(text) > _LARGEST:
        raise RecordingError("too_large", f"{file.name} holds more than {_LARGEST >> 20} MiB of text; cut it into shorter recordings.")
    return text


def _parse(text: bytes, uri: str) -> npt.NDArray[np.float64]:
    """(R, 12) numbers of the whole records, as they stand: seq, secs, nsecs, point_id, x, y, z, range, velocity, doppler_bin, bearing,
    intensity."""
    found = _RECORD.findall(text)
    if not found:
        raise RecordingError("unreadable", f"{uri} holds no record of a point; give files as the sensor's recorder wrote them.")
    return np.array(found, "S32").astype(np.float64)


def _starts(ids: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The rows at which frames begin: at point_id 0, or, where that record is lost, where ids do not rise."""
    return np.flatnonzero(np.concatenate(([True], (ids[1:] == 0) | (ids[1:] <= ids[:-1]))))


def _length(file: Path, uri: str) -> int:
    """Frames of a recording; 0 where it cannot be read, which its own reading will say."""
    try:
        return len(_starts(_parse(_text(file), uri)[:, 3]))
    except (RecordingError, OSError):
        return 0
