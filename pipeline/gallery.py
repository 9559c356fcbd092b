"""A page to look at a dataset: samples as turning clouds beside their views, what failed and why, what was flagged. One file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import manifest, page
from pipeline.page import Pair
from pipeline.page.clips import ClipSample, are_clips, load_clip
from pipeline.reader import Dataset
from pipeline.storage import Store

# What all samples together may take; the page stays below 10 MB.
_BYTES = 8_000_000
_EXAMPLES = 12


@dataclass(frozen=True)
class Kind:
    """The assets that failed for one reason, or carry one flag: how many, and the first of them."""

    name: str
    count: int
    examples: list[dict[str, Any]]


def write_gallery(uri: str, to: Path, *, limit: int = 60, seed: int = 0) -> Path:
    """Writes the page of a finished dataset to `to` and gives its path.

    At most `limit` samples are shown: one for each quality flag, the rest drawn by the seed evenly over pairs of split and class.
    Raises DatasetError.
    """
    dataset = Dataset.open(uri)
    shown = choose(dataset, limit, seed)
    allowed = _BYTES / max(1, len(shown))
    moving = are_clips(dataset)
    pairs: list[Pair | ClipSample] = [
        (load_clip if moving else page.load_pair)(dataset, index, bytes_allowed=allowed, seed=seed) for index in shown
    ]
    pairs.sort(key=lambda pair: pair.cls)
    rows = _rows(uri)
    text = (
        page.environment()
        .get_template("gallery.html.j2")
        .render(
            info=dataset.info,
            fingerprint=dataset.fingerprint,
            essentials=essentials(dataset.info),
            recipe=json.dumps(dataset.info["recipe"], indent=2, ensure_ascii=False),
            counts=class_counts(dataset),
            classes=sorted(set(dataset.classes.tolist())),
            splits=list(dict.fromkeys(dataset.splits.tolist())),
            samples=len(dataset),
            pairs=pairs,
            clips=moving,
            filmed=any(isinstance(one, ClipSample) and one.film for one in pairs),
            posed=any(isinstance(one, ClipSample) and one.film and one.film.cameras for one in pairs),
            limit=limit,
            seed=seed,
            layers=_layers(dataset),
            failures=_kinds([row for row in rows if row["reason"]], lambda row: [row["reason"]]),
            failed=sum(bool(row["reason"]) for row in rows),
            flags=_kinds([row for row in rows if row["flags"]], lambda row: row["flags"]),
            shown={dataset.keys[index] for index in shown},
        )
    )
    return page.write(Path(to), text)


def choose(dataset: Dataset, limit: int, seed: int, split: str = "") -> list[int]:
    """Numbers of at most `limit` samples, ascending: the first of each flag, then in turn one of each class and split, drawn by seed.

    split: the one that they are of, all if "".
    """
    flagged: dict[str, int] = {}
    wanted = dataset.splits == split if split else np.ones(len(dataset), bool)
    for index, flags in enumerate(dataset.table["flags"].to_pylist()):
        for flag in flags if wanted[index] else ():
            flagged.setdefault(flag, index)
    chosen = dict.fromkeys(list(flagged.values())[: max(0, limit)])
    groups: dict[tuple[str, str], list[int]] = {}
    for index in np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset)).tolist():
        if not wanted[index]:
            continue
        groups.setdefault((str(dataset.classes[index]), str(dataset.splits[index])), []).append(index)
    order = [groups[name] for name in sorted(groups)]
    depth = 0
    while len(chosen) < min(limit, int(wanted.sum())):
        turn = [group[depth] for group in order if depth < len(group)]
        # Of more groups than places, those that come are spread over the list of classes.
        for index in page.spread([i for i in turn if i not in chosen], limit - len(chosen)):
            chosen[index] = None
        depth += 1
    return sorted(chosen)


def class_counts(dataset: Dataset) -> list[tuple[str, dict[str, int], int]]:
    """(class, samples by split, samples) of every class, by name."""
    found: dict[str, Counter[str]] = {}
    for cls, split in zip(dataset.classes.tolist(), dataset.splits.tolist(), strict=True):
        found.setdefault(cls, Counter())[split] += 1
    return [(cls, dict(found[cls]), found[cls].total()) for cls in sorted(found)]


def essentials(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader asks first about how a dataset was made: (name, words)."""
    recipe = info["recipe"]
    found = [("Source", _source(recipe["source"]))]
    if recipe.get("clips"):
        found += _clips(recipe)
    elif recipe["source"]["kind"] == "recording":
        found += _recordings(recipe)
    else:
        found += _views(recipe)
    if recipe["source"]["kind"] != "recording":
        found.append(("Renderer", str(info["renderer"])))
    found.append(("Seed", str(recipe["seed"])))
    if info["plan"]["left_out"]:
        found.append(("Left out", ", ".join(f"{count:,} {rule}" for rule, count in info["plan"]["left_out"].items())))
    return found


def _source(source: Mapping[str, Any]) -> str:
    words = {"shapes": "built-in shapes", "creatures": "built-in creatures", "animated": "animated meshes"}
    if source["kind"] == "recording":
        return f"recordings of {source['format']}"
    name = words.get(source["kind"], "meshes in class folders")
    return f"{name}, {source['joined'][0]} to {source['joined'][1]} clips joined to a sequence" if source.get("sequences") else name


def _views(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    points, views = recipe["points"], recipe["views"]
    rig = views["rig"]
    beside = [name for name in ("normals", "colors", "parts") if points[name]]
    pictures = [{"rgb": "colour", "rgba": "colour with alpha"}[views["color"]], *(name for name in ("depth", "mask") if views[name])]
    return [
        ("Points", f"{points['count']:,} by area" + (f", with {', '.join(beside)}" if beside else "")),
        ("Views", f"{24 if rig['kind'] == 'shapenet24' else rig['count']} of {rig['size']} × {rig['size']}: {', '.join(pictures)}"),
        ("Cameras", _cameras(rig)),
    ]


def _clips(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    clips, camera = recipe["clips"], recipe["clips"]["camera"]
    how = {
        "surface": "drawn afresh on the surface of each frame",
        "track": "drawn once on the surface and carried by it",
        "visible": "back-projected from what the camera sees of each frame",
    }[clips["points"]]
    drawn = [name for name in ("light", "background") if clips[name]]
    angles = [f"elevation {_degrees(camera['elevation_deg'])}", f"azimuth {_degrees(camera['azimuth_deg'])}"]
    still = recipe["source"]["kind"] not in ("animated", "creatures")
    angles += [_turning(camera["orbit_deg"], still), f"field of view {camera['fov_deg']:g}°"]
    return [
        ("Clips", f"{clips['frames']:,} frames, {clips['fps']:g} a second"),
        ("Points", f"{recipe['points']['count']:,} a frame, {how}" + (", with parts" if recipe["points"]["parts"] else "")),
        ("Frames", f"{camera['size']} × {camera['size']}" + (f", {' and '.join(drawn)} drawn for each clip" if drawn else "")),
        ("Camera", ", ".join(angles)),
    ]


def _turning(orbit_deg: Any, still: bool) -> str:
    """How the camera goes round, which it does fully about meshes without animation unless told otherwise (`pipeline.clips.Camera`)."""
    if np.any(orbit_deg):
        return f"turning by {_degrees(orbit_deg)}"
    return "turning by 360°" if still else "standing still"


def _recordings(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    source = recipe["source"]
    lengths = f"windows of {source['window']} frames, one every {source['step']}" if source["window"] else "whole recordings"
    if source["format"] == "synthia4d":
        lengths = "three frames of a drive each, newest first"
    short = {"keep": "kept as they are", "repeat_last": "filled up with their last frame", "leave_out": "left out"}[source["short"]]
    if source["at_least"] > 1:
        lengths += f"; those of fewer than {source['at_least']} frames {short}"
    held = [f"{name} {', '.join(source[name])}" for name in ("val", "test") if source[name]]
    found = [("Clips", lengths), ("Points", f"{recipe['points']['count']:,} a frame, metres, as recorded")]
    if source.get("images"):
        found.append(("Frames", f"{source['image_size']} × {source['image_size']}, the middle of the recording's images"))
    usual = "every fourth person; there is no official split" if source["format"] == "mhomeges" else "by the official split"
    return [*found, ("Held out", "; ".join(held) or usual)]


def _cameras(rig: Mapping[str, Any]) -> str:
    if rig["kind"] == "shapenet24":
        return "24 views, elevation 25° to 30°, drawn for each asset"
    words = "Fibonacci sphere" if rig["kind"] == "fibonacci" else f"ring at elevation {_degrees(rig['elevation_deg'])}"
    return f"{words}, field of view {rig['fov_deg']:g}°" + (f", distance {rig['distance']:g} radii" if rig["distance"] else "")


def _degrees(value: Any) -> str:
    low, high = value if isinstance(value, list | tuple) else (value, value)
    return f"{low:g}°" if low == high else f"{low:g}° to {high:g}°"


def _layers(dataset: Dataset) -> dict[str, list[tuple[str, str]]]:
    """What there is to choose from beside colour: (value, words) for views and for clouds."""
    recipe = dataset.info["recipe"]
    views = [("color", "colour"), *((name, name) for name in ("depth", "mask") if recipe["views"][name])]
    clouds = [(name, "colours" if name == "colors" else name) for name in ("colors", "normals", "parts") if recipe["points"][name]]
    if len(dataset) and are_clips(dataset) and "parts.npy" in dataset.members(0):
        clouds = [("parts", "parts")]
    return {"views": views, "clouds": [*clouds, ("plain", "plain")]}


def _rows(uri: str) -> list[dict[str, Any]]:
    """The failed and the flagged assets of all manifests."""
    columns = ["key", "class", "split", "source", "reason", "message", "flags"]
    found: list[dict[str, Any]] = []
    for item in manifest.read_all(Store(uri)):
        found += [row for row in item.table.select(columns).to_pylist() if row["reason"] or row["flags"]]
    return found


def _kinds(rows: list[dict[str, Any]], names: Any) -> list[Kind]:
    """The rows by name, the commonest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for name in names(row):
            found.setdefault(name, []).append(row)
    return [Kind(name, len(found[name]), found[name][:_EXAMPLES]) for name in sorted(found, key=lambda name: (-len(found[name]), name))]
