"""A clip as a page shows it: a moving cloud and, where there are frames, its picture, played in step by `reel.js`.

Of long clips every k-th frame is shown, as long as that leaves five frames a second, and then only their beginning.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.page.clouds import PALETTE, Cloud, moving_cloud
from pipeline.reader import Dataset
from pipeline.sources.recordings import importer

POINTS = 768
FRAMES = 72
SIDE = 128
_LEAST_POINTS = 128
_LEAST_FPS = 5
_LEGEND = 24


@dataclass(frozen=True)
class Reel:
    """The frames that are shown: seconds of each (T,), the pause between two, and the runs of actions as (first frame, name)."""

    times_s: tuple[float, ...]
    interval_ms: int
    runs: tuple[tuple[int, str], ...]
    stored: int
    """how many frames the clip has"""

    @property
    def actions(self) -> list[str]:
        """The names of its actions in the order in which they come."""
        return list(dict.fromkeys(name for _, name in self.runs if name))

    @property
    def bars(self) -> list[tuple[str, int, float]]:
        """Each run's action, its number among the reel's actions (-1 for none), and its share of the frames."""
        ends = [*(first for first, _ in self.runs[1:]), len(self.times_s)]
        return [
            (name, self.actions.index(name) if name else -1, (end - first) / len(self.times_s))
            for (first, name), end in zip(self.runs, ends, strict=True)
        ]


@dataclass(frozen=True)
class Film:
    """Frames as the tiles of one picture, row by row: its data URI, tiles in a row, pixels of a tile's side.

    cameras: of each frame, or one for all, as in `page.View`; none where they are not known.
    """

    sheet: str
    columns: int
    side: int
    cameras: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ClipSample:
    """A clip to look at. film is None where there are no frames; legend: colour and name of each part."""

    key: str
    cls: str
    split: str
    source: str
    licence: str
    flags: tuple[str, ...]
    cloud: Cloud
    film: Film | None
    reel: Reel
    legend: list[tuple[str, str]]
    words: str


def are_clips(dataset: Dataset) -> bool:
    """Whether the samples are clips; False for none."""
    return len(dataset) > 0 and "clip.npy" in dataset.members(0)


def load_clip(dataset: Dataset, index: int, *, bytes_allowed: float = float("inf"), seed: int = 0) -> ClipSample:
    """A sample with clip.npy; smaller pictures and fewer points and frames where it would exceed `bytes_allowed`."""
    names = dataset.members(index)
    sample = dataset.load(index, [name for name in ("json", "clip.npy", "actions.npy", "parts.npy", "valid.npy") if name in names])
    about, clip, parts = sample["json"], sample["clip.npy"], sample.get("parts.npy")
    shown = shown_frames(len(clip), float(about["clip"]["fps"]))
    pictures = [f"f{number:03d}.png" for number in shown if f"f{number:03d}.png" in names]
    # Half of the bytes for the cloud where there are pictures too: 3 a point and 1 for its part, a third more as text.
    point = (4 if parts is not None else 3) * 4 / 3
    room = bytes_allowed * (0.5 if pictures else 0.9)
    shown = shown[: max(1, int(room / (point * min(_LEAST_POINTS, clip.shape[1]))))] if math.isfinite(room) else shown
    pictures = pictures[: len(shown)]
    most = min(POINTS, int(room / (point * len(shown)))) if math.isfinite(room) else POINTS
    points, valid = clip[shown], seen(sample["valid.npy"])[shown] if "valid.npy" in sample else None
    if about["clip"]["points"] == "recorded":
        points = upright(points, valid, recorded_up(dataset.info["recipe"]["source"]))
    cloud = moving_cloud(points, None if parts is None else parts[shown], valid, most=most, seed=seed)
    film = None
    if len(pictures) == len(shown):
        images = dataset.load(index, pictures)
        film = _film([images[name] for name in pictures], _cameras(about, shown), bytes_allowed - len(cloud.points) - len(cloud.parts))
    row = dataset.table.slice(index, 1).to_pylist()[0]
    facts = (row["key"], row["class"], row["split"], row["source"], row["licence"], tuple(row["flags"]))
    part_names = about.get("part_names", []) if parts is not None else []
    legend = [(PALETTE[number % len(PALETTE)], name) for number, name in enumerate(part_names[:_LEGEND])]
    reel = reel_of(about["clip"]["times_s"], shown, sample.get("actions.npy"), about.get("action_names", []))
    return ClipSample(*facts, cloud, film, reel, legend, _words(about, clip.shape, shown, sample.get("valid.npy")))


def seen(valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """valid (T, N) with all points of the frames that only repeat another one, which would be empty to look at."""
    return valid | ~valid.any(axis=1, keepdims=True)


def shown_frames(length: int, fps: float, most: int = FRAMES) -> list[int]:
    """Numbers of the frames that are shown: at most `most` of them."""
    step = min(max(1, math.ceil(length / most)), max(1, int(fps / _LEAST_FPS)))
    return list(range(0, length, step))[:most]


def reel_of(times_s: Sequence[float], shown: Sequence[int], actions: npt.NDArray[np.int16] | None, names: Sequence[str]) -> Reel:
    """The reel of these frames. actions (T,): of all frames, an index into names, -1 for none."""
    times = tuple(round(float(times_s[number]), 3) for number in shown)
    pause = float(np.median(np.abs(np.diff(times)))) if len(times) > 1 else 0.1
    runs: list[tuple[int, str]] = []
    for place, number in enumerate(shown):
        action = -1 if actions is None else int(actions[number])
        name = str(names[action]) if action >= 0 else ""
        if not runs or runs[-1][1] != name:
            runs.append((place, name))
    return Reel(times, min(500, max(33, round(1000 * pause))), tuple(runs), len(times_s))


def upright(points: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_] | None, up: str) -> npt.NDArray[np.float32]:
    """Points (T, N, 3) in metres, `up` one of "y", "z", "-y", in the unit sphere with y up; the far hundredth may lie outside of it."""
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    turned = np.stack({"z": (x, z, -y), "-y": (x, -y, -z)}.get(up, (x, y, z)), axis=-1)
    there = turned[valid] if valid is not None and valid.any() else turned.reshape(-1, 3)
    low, high = np.quantile(there, (0.01, 0.99), axis=0)
    centred = turned - (low + high) / 2
    radius = np.quantile(np.sqrt((np.square(there - (low + high) / 2)).sum(axis=1)), 0.99)
    return np.asarray(centred / max(float(radius), 1e-9), np.float32)


def recorded_up(source: Mapping[str, Any]) -> str:
    """Which axis is up in the recordings of a recipe's source: "y", "z" or "-y"; "y" for what is filmed."""
    return str(importer(source["format"]).UP) if source.get("kind") == "recording" else "y"


def _cameras(about: dict[str, Any], shown: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    rig = about.get("cameras")
    if rig is None:
        return ()
    found = []
    for number in shown:
        rows = [value for row in rig["world_to_camera"][number][:3] for value in row]
        found.append(tuple(round(float(value), 4) for value in (*rows, rig["K"][number][0][0] / rig["width"])))
    return tuple(found[:1] if len(set(found)) == 1 else found)


def _film(images: Sequence[npt.NDArray[np.uint8]], cameras: tuple[tuple[float, ...], ...], room: float) -> Film:
    columns = math.ceil(math.sqrt(len(images)))
    stored = images[0].shape[0]
    for side in (SIDE, 96, 72, 56):
        side = min(side, stored)
        sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
        for number, image in enumerate(images):
            tile = Image.fromarray(image[..., :3])
            tile = tile if tile.size == (side, side) else tile.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(tile, (number % columns * side, number // columns * side))
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=80, method=2)
        text = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
        if len(text) <= room:
            break
    return Film(text, columns, side, cameras)


def _words(about: dict[str, Any], shape: tuple[int, ...], shown: Sequence[int], valid: npt.NDArray[np.bool_] | None) -> str:
    """What is said below a clip: its character or person, frames and points."""
    clip, facts = about["clip"], about.get("facts", {})
    who = str(clip.get("character") or facts.get("person") or "").removeprefix("creature:")
    words = [who] if who else []
    words += [f"session {facts['session']}"] if facts.get("session") else []
    words.append(f"{shape[0]:,} frames at {clip['fps']:g} a second")
    words += ["newest first"] if clip["times_s"][-1] < clip["times_s"][0] else []
    sizes = np.full(shape[0], shape[1]) if valid is None else valid.sum(axis=1)
    repeated, median = int((sizes == 0).sum()), int(np.median(sizes[sizes > 0])) if sizes.any() else 0
    words += [f"{repeated:,} without points of {'its' if repeated == 1 else 'their'} own"] if repeated else []
    full = bool((sizes[sizes > 0] == shape[1]).all())
    words.append(f"{shape[1]:,} points each" if full else f"{median:,} points in the median, filled up to {shape[1]:,}")
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    words += [f"one of {step} frames shown"] if step > 1 else []
    words += [f"up to frame {shown[-1] + 1:,}"] if shown[-1] + step < shape[0] else []
    return ", ".join(words)
