"""A task of fine-tuning: how its epochs were chosen, its figures by class beside random weights, and shapes with their parts in colours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestration.graph import Outcome
from orchestration.report import charts
from orchestration.report.clips import Moving, Timelines, moving, timelines
from orchestration.report.figures import finetunings, from_random, label
from orchestration.report.trainings import Chart, drawn, title
from pipeline import page
from pipeline.page import Cloud
from pipeline.page.clouds import PALETTE

_POINTS = 1024
_RANDOM_COLOR = 7
_NO_PART = bytes((150, 150, 150))


@dataclass(frozen=True)
class Start:
    """What the fine-tunings of a column began with: an arm's encoder or random weights; `color` that of its curves."""

    name: str
    random: bool
    color: int
    seeds: list[int]
    facts: str


@dataclass(frozen=True)
class Group:
    """A class of the test items: how many there are (None: not told), a figure for each start, and for each of its parts."""

    name: str
    items: int | None
    values: list[float | None]
    parts: list[tuple[str, list[float | None]]]


@dataclass(frozen=True)
class Shape:
    """A test shape with its true parts, and for each start the predicted ones with the share of points that are right.

    legend: colour and name of each part of its category.
    """

    key: str
    cls: str
    truth: Cloud
    predicted: list[tuple[str, float, Cloud]]
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class Confusion:
    """How a start's test items of each class (a row) were called (a column), their number over the seeds; classes: the names of both."""

    start: str
    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Task:
    """One task with one share of labels."""

    name: str
    about: str
    starts: list[Start]
    validation: Chart | None
    chosen_by: str
    others: list[tuple[str, list[Chart]]]
    measured: str
    groups: list[Group]
    confusions: list[Confusion]
    shapes: list[Shape]
    timelines: Timelines | None
    clips: list[Moving]


def tuned(outcomes: Mapping[str, Outcome]) -> list[Task]:
    """One for each task that was fine-tuned, in order."""
    return [_task(name, found, outcomes) for name, found in finetunings(outcomes).items()]


def _task(name: str, stages: Sequence[tuple[str, int, Outcome]], outcomes: Mapping[str, Outcome]) -> Task:
    columns: dict[str, list[tuple[int, Outcome]]] = {}
    for start, seed, outcome in stages:
        columns.setdefault(start, []).append((seed, outcome))
    # Arms first, in their order; what they are held against last.
    order = sorted(columns, key=lambda start: from_random(columns[start][0][1]))
    columns = {start: columns[start] for start in order}
    starts: list[Start] = []
    for number, (start, found) in enumerate(columns.items()):
        random = from_random(found[0][1])
        words = start.replace("random-", "random weights, ", 1) if start != "random" else "random weights"
        color = _RANDOM_COLOR - sum(one.random for one in starts) if random else number
        starts.append(Start(words if random else start, random, color, [seed for seed, _ in found], _facts(found)))
    figure, groups = _groups(columns)
    folders = {f"{start.name}, seed {seed}": o.folder for start, found in zip(starts, columns.values(), strict=True) for seed, o in found}
    colors = [start.color for start in starts for _ in start.seeds]
    curve = _selected(columns)
    loss, others = drawn(name, folders, colors, skip={curve} if curve else ())
    if loss:
        others = [("Loss", [Chart("loss of the training batch", loss)]), *others]
    outputs = stages[0][2].outputs
    named = {start.name: found for start, found in zip(starts, columns.values(), strict=True)}
    return Task(
        name,
        _about(outputs, outcomes),
        starts,
        _validation(name, curve, starts, columns),
        outputs.get("chosen_by", ""),
        others,
        figure,
        groups,
        _confusions(named),
        _shapes(named),
        timelines(named),
        moving(named, outcomes),
    )


def _facts(found: Sequence[tuple[int, Outcome]]) -> str:
    """The epochs that were chosen, by seed, and the pace."""
    outputs = [outcome.outputs for _, outcome in found]
    total = found[0][1].inputs.get("fit", {}).get("epochs")
    epochs = [str(one["epoch"]) for one in outputs if one.get("epoch") is not None and one.get("chosen_by") == "validation"]
    paces = [one["steps_per_second"] for one in outputs if one.get("steps_per_second")]
    several = "s" if len(epochs) > 1 else ""
    words = [f"epoch{several} {', '.join(epochs)}{f' of {total}' if total else ''} chosen"] if epochs else []
    words += [f"{outputs[0]['steps']:,} steps"] if outputs[0].get("steps") is not None else []
    words += [f"{statistics.fmean(paces):.3g} steps a second"] if paces else []
    return ", ".join(words)


def _about(outputs: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> str:
    """Labelled, validation and test items, and whose they are."""
    words = []
    if outputs.get("labelled_items") is not None:
        everything = outputs["labelled_items"] + outputs.get("unlabelled_items", 0)
        words.append(f"{outputs['labelled_items']:,} of {everything:,} training items with their labels")
    words += [f"{outputs[f'{part}_items']:,} {part} items" for part in ("validation", "test") if outputs.get(f"{part}_items") is not None]
    data = next((o for o in outcomes.values() if o.kind == "dataset" and o.outputs.get("fingerprint") == outputs.get("dataset")), None)
    if data is not None and data.name != "dataset":
        words.append(f"all from {data.name}")
    return ", ".join(words)


def _selected(columns: Mapping[str, Sequence[tuple[int, Outcome]]]) -> str:
    """The curve that chose the epoch: that of the first figure, as far as it was kept."""
    stages = [outcome.outputs for found in columns.values() for _, outcome in found]
    known = [name for outputs in stages for name in outputs.get("validation", {}) if name != "val_loss"]
    first = [f"val_{figure['metric']}" for outputs in stages for figure in outputs.get("figures", ())[:1]]
    return next((name for name in (*first, *known) if name in known), "")


def _validation(name: str, curve: str, starts: Sequence[Start], columns: Mapping[str, Sequence[tuple[int, Outcome]]]) -> Chart | None:
    series = [
        charts.Series(
            f"{start.name}, seed {seed}",
            [(epoch, value) for epoch, value in outcome.outputs.get("validation", {}).get(curve, [])],
            start.color,
            start.random,
            outcome.outputs.get("epoch") if outcome.outputs.get("chosen_by") == "validation" else None,
        )
        for start, found in zip(starts, columns.values(), strict=True)
        for seed, outcome in found
    ]
    drawing = charts.lines(f"{title(curve)} of {name}", series, x_label="epoch", window=1)
    return Chart(title(curve), drawing) if drawing else None


def _groups(columns: Mapping[str, Sequence[tuple[int, Outcome]]]) -> tuple[str, list[Group]]:
    """What the first figure says of every class, means over seeds: its name, and the classes in order."""
    told: dict[str, list[dict[str, Any]]] = {}
    name = ""
    for start, found in columns.items():
        for _, outcome in found:
            for figure in outcome.outputs.get("figures", ())[:1]:
                details = figure["details"]
                by_class = details.get("per_category") or {cls: {"miou": share} for cls, share in details.get("per_class", {}).items()}
                told.setdefault(start, []).append(by_class)
                name = name or label(f"finetune/{figure['protocol']}", figure["metric"]).split(", ", 1)[1]
    classes = sorted({cls for rows in told.values() for row in rows for cls in row})

    def means(of: Callable[[dict[str, Any]], Any]) -> list[float | None]:
        found = [[value for row in told.get(start, []) if (value := of(row)) is not None] for start in columns]
        return [statistics.fmean(values) if values else None for values in found]

    def group(cls: str) -> Group:
        rows = [row[cls] for rows in told.values() for row in rows if cls in row]
        parts = sorted({part for row in rows for part in row.get("parts", {})})
        return Group(
            cls,
            rows[0].get("items"),
            means(lambda row: row.get(cls, {}).get("miou")),
            [(part, means(lambda row, part=part: row.get(cls, {}).get("parts", {}).get(part))) for part in parts],  # type: ignore[misc]
        )

    return name, [group(cls) for cls in classes]


def _confusions(columns: Mapping[str, Sequence[tuple[int, Outcome]]]) -> list[Confusion]:
    """Of each start whose first figure tells how classes were called."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for start, stages in columns.items():
        for _, outcome in stages:
            for figure in outcome.outputs.get("figures", ())[:1]:
                for true, called in figure["details"].get("confusion", {}).items():
                    for name, count in called.items():
                        counts = found.setdefault(start, {})
                        counts[true, name] = counts.get((true, name), 0) + count
    classes = sorted({name for counts in found.values() for pair in counts for name in pair})
    return [
        Confusion(start, classes, [[counts.get((true, called), 0) for called in classes] for true in classes])
        for start, counts in found.items()
    ]


@dataclass(frozen=True)
class _Kept:
    """parts.npz and parts.json of one fine-tuning: points (k, N, 3); truth, predicted (k, N), numbers of `labels`, −1 for none; labels: the
    [category, part name] of each number."""

    keys: list[str]
    classes: list[str]
    labels: list[list[str]]
    points: NDArray[np.float32]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]


def _kept(folder: Path) -> _Kept | None:
    if not ((folder / "parts.npz").exists() and (folder / "parts.json").exists()):
        return None
    about = json.loads((folder / "parts.json").read_text())
    with np.load(folder / "parts.npz", allow_pickle=False) as arrays:
        return _Kept(about["keys"], about["classes"], about["labels"], arrays["points"], arrays["truth"], arrays["predicted"])


def _shapes(columns: Mapping[str, Sequence[tuple[int, Outcome]]]) -> list[Shape]:
    """The shapes that the first start with any kept, of each start the first seed that kept the same ones."""
    every = {start: [kept for _, outcome in found if (kept := _kept(outcome.folder / "evidence"))] for start, found in columns.items()}
    first = next((found[0] for found in every.values() if found), None)
    if first is None:
        return []
    chosen = {start: next((kept for kept in found if kept.keys == first.keys), None) for start, found in every.items()}
    return [_shape(row, first, {start: kept for start, kept in chosen.items() if kept}) for row in range(len(first.keys))]


def _shape(row: int, first: _Kept, chosen: Mapping[str, _Kept]) -> Shape:
    cls, points = first.classes[row], first.points[row]
    names = sorted({part for kept in chosen.values() for category, part in kept.labels if category == cls})
    colors = {part: PALETTE[place % len(PALETTE)] for place, part in enumerate(names)}
    points = points / max(1.0, float(np.abs(points).max(initial=0.0)))

    def cloud(kept: _Kept, numbers: NDArray[np.int64]) -> Cloud:
        # The last row is that of −1.
        own = [bytes.fromhex(colors[part]) if category == cls else _NO_PART for category, part in kept.labels] + [_NO_PART]
        return page.cloud(points, np.array([list(color) for color in own], np.uint8)[numbers], most=_POINTS)

    def right(kept: _Kept) -> float:
        known = kept.truth[row] >= 0
        return float((kept.truth[row] == kept.predicted[row])[known].mean()) if known.any() else float("nan")

    predicted = [(start, right(kept), cloud(kept, kept.predicted[row])) for start, kept in chosen.items()]
    return Shape(first.keys[row], cls, cloud(first, first.truth[row]), predicted, [(f"#{color}", part) for part, color in colors.items()])
