"""Clips in the report: timelines of true and predicted actions, moving clouds in true and predicted labels, animated pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestration.graph import Outcome
from orchestration.report import charts
from pipeline.gallery import choose
from pipeline.page.animation import data_uri, side_by_side, webp
from pipeline.page.clips import Reel, are_clips, recorded_up, reel_of, shown_frames, upright
from pipeline.page.clouds import PALETTE, Cloud, moving_cloud
from pipeline.reader import Dataset
from training.evaluation.segments import THRESHOLDS, edit_score, f1, hits

_ANIMATED = 6
_FRAMES = 24
_POINTS, _LEAST_POINTS = 384, 96
# What the moving clouds of one task may take.
_BYTES = 1_200_000


@dataclass(frozen=True)
class Predicted:
    """A start's labels of a sequence: their bar, and its own frame accuracy, edit score and F1 at each threshold, in [0, 1]."""

    start: str
    bar: Markup
    accuracy: float
    edit: float
    f1: tuple[float, ...]


@dataclass(frozen=True)
class Timeline:
    """A test sequence: the bar of its true actions and those of every start."""

    key: str
    cls: str
    seconds: float
    frames: int
    truth: Markup
    predicted: list[Predicted]


@dataclass(frozen=True)
class Timelines:
    """legend: colour and name of the actions that occur in the sequences."""

    sequences: list[Timeline]
    legend: list[tuple[str, str]]
    thresholds: list[int]


@dataclass(frozen=True)
class Moving:
    """A test clip in its true labels and, for each start, in the predicted ones with the share of points that are right."""

    key: str
    cls: str
    reel: Reel
    truth: Cloud
    predicted: list[tuple[str, float, Cloud]]
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class Animated:
    """A test clip as an animated picture; `still` is its first frame."""

    key: str
    cls: str
    animation: str
    still: str
    width: int
    height: int


Columns = Mapping[str, Sequence[tuple[int, Outcome]]]


def timelines(columns: Columns) -> Timelines | None:
    """Of the sequences that the first start with any kept; of each start the first seed that kept the same ones."""
    kept = _kept(columns, "timelines")
    if not kept:
        return None
    _, first, arrays = next(iter(kept.values()))
    config = next(iter(kept.values()))[0].inputs.get("task", {})
    labels: list[str] = first["labels"]
    none = (-1, *(labels.index(name) for name in config.get("background", ()) if name in labels))
    end = config.get("end", "fixed")
    found, seen = [], set[int]()
    for row, key in enumerate(first["keys"]):
        length, fps = int(first["frames"][row]), float(first["fps"][row])
        truth = arrays["truth"][row, :length]
        predicted = []
        for start, (_, about, theirs) in kept.items():
            called = _renumbered(theirs["predicted"][row, :length], about["labels"], labels)
            predicted.append(_scored(start, truth, called, labels, none, end))
            seen |= set(called.tolist())
        seen |= set(truth.tolist())
        bar = charts.timeline(truth, labels, PALETTE, f"True actions of {key}")
        found.append(Timeline(key, first["classes"][row], length / fps if fps else 0.0, length, bar, predicted))
    legend = [(f"#{PALETTE[number % len(PALETTE)]}", name) for number, name in enumerate(labels) if number in seen]
    return Timelines(found, legend, [round(100 * threshold) for threshold in THRESHOLDS])


def _scored(
    start: str, truth: NDArray[np.int64], called: NDArray[np.int64], labels: Sequence[str], none: tuple[int, ...], end: Any
) -> Predicted:
    known = truth >= 0
    answer = np.where(known, called, -1)
    accuracy = float((truth == called)[known].mean()) if known.any() else float("nan")
    values = tuple(f1(hits(truth, answer, THRESHOLDS, none, end)).tolist())
    bar = charts.timeline(called, labels, PALETTE, f"Actions predicted from {start}")
    return Predicted(start, bar, accuracy, edit_score(truth, answer, none), values)


def moving(columns: Columns, outcomes: Mapping[str, Outcome]) -> list[Moving]:
    """The clips that the first start with any kept; of each start the first seed that kept the same ones."""
    kept = _kept(columns, "clips")
    if not kept:
        return []
    stage, first, arrays = next(iter(kept.values()))
    labels: list[str] = first["labels"]
    up = _up(stage, outcomes)
    found = []
    for row, key in enumerate(first["keys"]):
        points, truth, fps = arrays["points"][row], arrays["truth"][row], float(first["fps"][row])
        shown = shown_frames(len(points), fps, _FRAMES)
        points = upright(points[shown], None, up)
        most = int(_BYTES / (16 / 3 * len(first["keys"]) * (1 + len(kept)) * len(shown)))
        most = min(_POINTS, max(_LEAST_POINTS, most))
        predicted, seen = [], set(np.unique(truth[shown]).tolist())
        for start, (_, about, theirs) in kept.items():
            called = _renumbered(theirs["predicted"][row], about["labels"], labels)
            known = truth >= 0
            right = float((called == truth)[known].mean()) if known.any() else float("nan")
            predicted.append((start, right, moving_cloud(points, called[shown], most=most)))
            seen |= set(np.unique(called[shown]).tolist())
        times = [number / fps if fps else float(number) for number in range(len(truth))]
        legend = [(f"#{PALETTE[number % len(PALETTE)]}", name) for number, name in enumerate(labels) if number in seen]
        cloud = moving_cloud(points, truth[shown], most=most)
        found.append(Moving(key, first["classes"][row], reel_of(times, shown, None, []), cloud, predicted, legend))
    return found


def animated(dataset: Dataset | None) -> list[Animated]:
    """Test clips of a dataset of clips, drawn evenly over its classes."""
    if dataset is None or not are_clips(dataset):
        return []
    found = []
    for index in choose(dataset, _ANIMATED, 0, split="test"):
        pictures, interval_ms = side_by_side(dataset, index, side=112)
        height, width = pictures[0].shape[:2]
        facts = dataset.keys[index], str(dataset.classes[index])
        found.append(Animated(*facts, data_uri(webp(pictures, interval_ms)), data_uri(webp(pictures[:1], interval_ms)), width, height))
    return found


_Kept = tuple[Outcome, dict[str, Any], dict[str, NDArray[Any]]]


def _kept(columns: Columns, name: str) -> dict[str, _Kept]:
    """(stage, NAME.json, NAME.npz) of each start that kept the same items as the first one that kept any."""
    found: dict[str, _Kept] = {}
    for start, stages in columns.items():
        for _, outcome in stages:
            kept = _load(outcome.folder / "evidence", name)
            if kept is None or any(kept[0]["keys"] != first["keys"] for _, first, _ in list(found.values())[:1]):
                continue
            found[start] = (outcome, *kept)
            break
    return found


def _load(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    if not ((folder / f"{name}.npz").exists() and (folder / f"{name}.json").exists()):
        return None
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return json.loads((folder / f"{name}.json").read_text()), dict(arrays)


def _renumbered(values: NDArray[np.int64], own: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of `own` labels as those of `labels`, −1 where it has none such."""
    table = np.array([labels.index(name) if name in labels else -1 for name in own] + [-1], np.int64)
    return np.asarray(table[values])


def _up(stage: Outcome, outcomes: Mapping[str, Outcome]) -> str:
    recipes = (o.inputs.get("recipe", {}) for o in outcomes.values() if o.outputs.get("fingerprint") == stage.outputs.get("dataset"))
    return recorded_up(next((recipe.get("source", {}) for recipe in recipes), {}))
