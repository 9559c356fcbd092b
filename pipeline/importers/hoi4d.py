"""HOI4D: people handling objects, as HDF5 of the action and of the semantic segmentation challenge; section D.9.

train1.h5, train2.h5, … and test*.h5, of which nothing but the frames asked for is read. Actions: `pcd` (n, 150, 2048, 3), metres,
`center` (n, 150, 3), `label` (n, 150), 0…18; 7.5 frames a second [inferred]. Semantics: `pcd` (n, 300, 8192, 3), `center`, `semantic`
(n, 300, 8192), 0…48; 15 frames a second; clips are frames 3j to 3j+2, so that window and step are 3 where nothing else is said. Labels
0 (none) and 1 (noise) become -1; the others keep their number, names are not known. There is no colour. Points lie in the frame of the
scene's reconstruction, which is taken for that of its first camera: x right, y down, z away [inferred].

A sequence is FILE#ROW, rows by each file's own length. Which recording a row is the makers have not said; whoever takes row i for line i
of release.txt gives lists: {train: release.txt} and gets the category as class, people as groups. Without it the class is "sequence".
The test split shares people, rooms and objects with train. Rows of test whose line train's list has too are left out and counted; rows of
one line are never divided. Where people are held out (`test`), so are rows that no list names and test rows without labels.

Actions may have their images beside them, from the raw release once its videos are decoded (15 images a second, from 00000 on):
images/LINE/align_rgb/%05d.jpg, LINE that of the list, so that image videos stand on the same unconfirmed reading of it. Frame t of the
points has the image nearest to its time.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.importers import hdf5
from pipeline.importers.recording import Entry, Recording, RecordingError, Span, file_sha256, part_of
from pipeline.sources.asset import SPLITS, SourceError, Split

if TYPE_CHECKING:
    from pipeline.sources.recordings import RecordingSource

WHOLE: dict[str, dict[Split, int]] = {name: {"train": 2971, "test": 892} for name in ("hoi4d_actions", "hoi4d_semantic")}
UP = "-y"
_FPS = {"hoi4d_actions": 7.5, "hoi4d_semantic": 15.0}
_LABELS = {"hoi4d_actions": ("label", 19), "hoi4d_semantic": ("semantic", 49)}
_ARRAYS = ("pcd", "center", *(label for label, _ in _LABELS.values()))
_UNNAMED = (0, 1)
_CENTRE_M = 0.25
_LINE = re.compile(
    r"(?P<camera>ZY\w+)/(?P<person>H\w+)/(?P<category>C\w+)/(?P<instance>N\w+)/(?P<room>S\w+)/(?P<layout>s\w+)/(?P<task>T\w+)"
)


def entries(path: Path, options: RecordingSource) -> Iterator[Entry]:
    """The sequences, train before test, file by file by number; with those that are left out and counted.

    Raises SourceError: a list that cannot be that of the rows, groups without a list.
    """
    if (options.test or options.val) and not options.lists:
        raise SourceError(f"{path}: people are known from a list alone; give lists: {{train: release.txt}} or leave out test and val.")
    if options.images is not None and not options.images.is_dir():
        raise SourceError(f"{options.images} is no folder; give the one of the raw release, decoded to SEQUENCE/align_rgb/00000.jpg.")
    numbered = _numbered(path, options.format)
    for split, name in options.lists.items():
        lines = read_list(path / name)
        rows = sum(_shape(file, options.format)[0] for side, file in numbered if side == split)
        if len(lines) != rows:
            doubled = sum(count - 1 for count in Counter(lines).values())
            raise SourceError(
                f"{path / name} has {len(lines)} lines, {doubled} of them doubled, and the {split} files have {rows} rows; give the list of"
                " these rows or none."
            )
    names = _names(path, options)
    first = _first_rows(names)
    unlisted = next((file for split, file in numbered if split not in options.lists), None)
    if options.images is not None and unlisted is not None and not options.test:
        raise SourceError(f"{unlisted} has no list, and images are found by its lines; give lists for this split too or move the file.")
    trained = set(read_list(path / options.lists["train"])) if "train" in options.lists else set()
    for split, file in _files(path):
        rows, frames, has_labels = _shape(file, options.format)
        if not rows:
            yield Entry(file.name, "sequence", split)  # its own reading will say what is wrong
        for row in range(rows):
            uri = f"{file.name}#{row:05d}"
            line = names.get(uri, "")
            left_out = ""
            if (split, file) not in numbered:
                left_out = "also there with labels"
            elif split == "test" and line in trained:
                left_out = "also in the list of train"
            elif options.test and split == "test" and not has_labels:
                left_out = "no labels"
            elif options.test and not line:
                left_out = "in no list"
            facts = _facts(line)
            yield Entry(uri, facts.get("category", "sequence"), split, frames, facts.get("person", ""), first.get(line, ""), left_out)


def _files(path: Path) -> list[tuple[Split, Path]]:
    """The files of one folder, not those below it: other sets use the same names."""
    found: list[tuple[Split, Path]] = []
    for split in ("train", "test"):
        files = [file for file in path.glob("*.h5") if file.name.startswith(split)]
        found += [(split, file) for file in sorted(files, key=lambda file: (_number(file), file.name))]
    return found


def _numbered(path: Path, name: str) -> list[tuple[Split, Path]]:
    """The files whose rows are those of the lists: test files without labels stand back where there are labelled ones."""
    files = _files(path)
    labelled = any(_shape(file, name)[2] for split, file in files if split == "test")
    return [(split, file) for split, file in files if split == "train" or not labelled or _shape(file, name)[2]]


def _number(file: Path) -> int:
    digits = re.search(r"[0-9]+", file.stem)
    return int(digits[0]) if digits else 0


def _shape(file: Path, name: str) -> tuple[int, int, bool]:
    """Rows, frames, and whether there are labels; no rows where the file cannot be read."""
    try:
        state = os.stat(file)
        return _shape_of(file, name, state.st_size, state.st_mtime_ns)
    except (OSError, KeyError, ValueError):
        return 0, 0, False


@lru_cache(maxsize=64)
def _shape_of(file: Path, name: str, size: int, mtime_ns: int) -> tuple[int, int, bool]:
    found = hdf5.shapes(file, _ARRAYS)
    rows, frames = found["pcd"][:2]
    return rows, frames, _LABELS[name][0] in found


def read_list(file: Path) -> tuple[str, ...]:
    """The lines of a list of recordings; line ends may be CRLF. Raises SourceError."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read ({error}); give a text file with a recording a line.") from None
    names = tuple(line for line in lines if line)
    wrong = next((line for line in names if not _LINE.fullmatch(line)), None)
    if wrong is not None:
        raise SourceError(f"{file} has the line {wrong[:60]!r}; a line is CAMERA/H/C/N/S/s/T as in release.txt.")
    return names


def _names(path: Path, options: RecordingSource) -> Mapping[str, str]:
    """The lists' line for each row's uri, train before test; empty where there are no lists."""
    if not options.lists:
        return {}
    lists = {split: path / options.lists[split] for split in SPLITS if split in options.lists}
    touched = tuple(os.stat(file).st_mtime_ns for file in (*lists.values(), *(file for _, file in _files(path))))
    return _lines_by_row(path, tuple(lists.items()), options.format, touched)


@lru_cache(maxsize=2)
def _lines_by_row(path: Path, lists: tuple[tuple[Split, Path], ...], name: str, touched: tuple[int, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for split, file in lists:
        rows = [f"{data.name}#{row:05d}" for side, data in _numbered(path, name) if side == split for row in range(_shape(data, name)[0])]
        found.update(zip(rows, read_list(file), strict=False))
    return found


def _first_rows(names: Mapping[str, str]) -> dict[str, str]:
    """The uri of the first row of each line: a list may have a line twice."""
    found: dict[str, str] = {}
    for uri, line in names.items():
        found.setdefault(line, uri)
    return found


def _facts(line: str) -> dict[str, str]:
    match = _LINE.fullmatch(line)
    return {"recording": line, **match.groupdict()} if match else {}


def content(path: Path, uri: str, options: RecordingSource) -> str:
    """The sha256 of the row's arrays, with its line where lists name it, with its images where they are asked for. Raises OSError."""
    name, _, row = uri.partition("#")
    file = path / name
    state = os.stat(file)
    try:
        digest = _row_sha256(file, int(row), state.st_size, state.st_mtime_ns)
    except ValueError as error:  # a file that gave no rows has no number
        raise OSError(str(error)) from None
    line = _names(path, options).get(uri, "")
    if options.images is not None:
        for image in _images(options, line, _times(options, 0, _shape(file, options.format)[1])):
            digest = part_of(digest, file_sha256(image))
    return part_of(digest, line) if line else digest


def _times(options: RecordingSource, start: int, count: int) -> npt.NDArray[np.float64]:
    return np.arange(start, start + count) / _FPS[options.format]


def _images(options: RecordingSource, line: str, times_s: npt.NDArray[np.float64]) -> list[Path]:
    """For each of these times the file of the nearest image."""
    assert options.images is not None
    folder = options.images / line / "align_rgb"
    return [folder / f"{number:05d}.jpg" for number in np.floor(times_s * options.image_fps + 0.5).astype(int).tolist()]


@lru_cache(maxsize=64)
def _row_sha256(file: Path, row: int, size: int, mtime_ns: int) -> str:
    return hdf5.row_sha256(file, _ARRAYS, row)


def read(path: Path, uri: str, options: RecordingSource, span: Span | None) -> Recording:
    """The frames of a row. Raises RecordingError, OSError."""
    name, _, row = uri.partition("#")
    label, count = _LABELS[options.format]
    try:
        with hdf5.opened(path / name, _ARRAYS) as data:
            rows, frames = data["pcd"].shape[:2]
            wrong = [other for other in ("center", label) if other in data and data[other].shape[:2] != (rows, frames)]
            if wrong:
                raise ValueError(f"pcd has {rows} × {frames} frames, {wrong[0]} {data[wrong[0]].shape}")
            start, stop = span or (0, frames)
            place = (int(row), slice(start, min(stop, frames)))
            points, centres = np.asarray(data["pcd"][place]), np.asarray(data["center"][place], np.float64)
            labels = np.asarray(data[label][place]) if label in data else None
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        text = " ".join(str(error).split())[:120].rstrip(".")
        raise RecordingError("unreadable", f"{uri} has not the arrays pcd and center of HOI4D ({text}); fetch {name} again.") from None
    if points.ndim != 3 or points.shape[-1] != 3 or points.dtype.kind != "f" or centres.shape != (len(points), 3):
        raise RecordingError("unreadable", f"{uri} has pcd {points.shape} and center {centres.shape}; (T, N, 3) and (T, 3) are read.")
    if labels is not None and labels.shape != (points.shape[:1] if label == "label" else points.shape[:2]):
        raise RecordingError("unreadable", f"{uri} has {label} {labels.shape} for points {points.shape}; fetch {name} again.")
    if labels is not None and not ((labels >= 0) & (labels < count) & (labels == np.floor(labels))).all():
        text = f"{uri} has a {label} that is no whole number from 0 to {count - 1}; import the challenge's own files."
        raise RecordingError("unreadable", text)
    flags = []
    if labels is None:
        flags.append("no_labels")
    if not (np.abs(centres - points.mean(axis=1, dtype=np.float64)) < _CENTRE_M).all():
        flags.append("centre_off")
    names, times_s = _names(path, options), _times(options, start, len(points))
    line = names.get(uri, "")
    return Recording(
        name=uri,
        fps=_FPS[options.format],
        times_s=times_s,
        frames=list(points.astype(np.float32, copy=False)),
        centres=centres,
        **_labels(options.format, labels),
        **_people(_facts(line)),
        together=_first_rows(names).get(line, ""),
        images=None if options.images is None else _images(options, line, times_s),
        flags=tuple(flags),
    )


def _labels(name: str, labels: Any) -> dict[str, Any]:
    """Actions a frame, or parts a point."""
    if labels is None:
        return {}
    names = tuple(f"{'action' if name == 'hoi4d_actions' else 'label'}_{number:02d}" for number in range(_LABELS[name][1]))
    if name == "hoi4d_actions":
        return {"actions": labels.astype(np.int16), "action_names": names}
    return {"parts": list(np.where(np.isin(labels, _UNNAMED), -1, labels).astype(np.int16)), "part_names": names}


def _people(facts: dict[str, str]) -> dict[str, Any]:
    return {"person": facts.get("person", ""), "facts": facts}
