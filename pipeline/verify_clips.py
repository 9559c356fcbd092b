"""Whether the members of a clip fit each other and the recipe: shapes, numbers in range, points where their frame shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.recipe import Recipe
from pipeline.sources import RecordingSource

# How far, in pixels, a back-projected point may fall from the centre of its pixel after being stored as float32.
_OFF_CENTRE = 0.05


def clip_problems(recipe: Recipe, members: dict[str, Any]) -> list[str]:
    """What is wrong with a clip's decoded members, pictures apart. Raises KeyError and the like where one is missing."""
    facts, clip = members["json"], members["clip.npy"]
    problems = []
    frames, count = recipe.clips.frames if recipe.clips else len(facts["clip"]["times_s"]), recipe.points.count
    if clip.shape != (frames, count, 3) or not np.isfinite(clip).all():
        problems.append(f"clip.npy is not {frames} finite clouds of {count} points")
    if recipe.clips and (np.sqrt(np.square(clip.astype(np.float64)).sum(axis=-1)) > 1 + 1e-5 + _beside(facts)).any():
        problems.append("clip.npy leaves the unit sphere")
    times = np.array(facts["clip"]["times_s"])
    # recordings may have their newest frame first
    steps = np.diff(times)
    if times.shape != (frames,) or not np.isfinite(times).all() or not ((steps >= 0).all() or (steps <= 0).all()):
        problems.append("times_s are not the instants of the clip in order")
    for name, names, shape in (("actions.npy", "action_names", (frames,)), ("parts.npy", "part_names", (frames, count))):
        if name not in members:
            if recipe.clips and (name == "actions.npy" or recipe.points.parts):
                problems.append(f"{name} is missing")
        elif members[name].shape != shape or not _in_range(members[name], len(facts[names])):
            problems.append(f"{name} is not an index into {names} for each of {' × '.join(map(str, shape))}")
    if "features.npy" in members:
        features = members["features.npy"]
        if features.shape != (frames, count, len(facts["feature_names"])) or not np.isfinite(features).all():
            problems.append("features.npy is not a finite value of each of feature_names for every point")
    if "valid.npy" in members and (members["valid.npy"].shape != (frames, count) or members["valid.npy"].dtype != np.bool_):
        problems.append("valid.npy is not a truth value for every point")
    return problems


def image_problems(recipe: Recipe, members: dict[str, Any]) -> list[str]:
    """What is wrong with the decoded images of a recording: one for each frame, of the recipe's size, or none. Raises as above."""
    source = recipe.source
    if not isinstance(source, RecordingSource):
        return []
    frames = len(members["clip.npy"]) if source.images is not None else 0
    found = {name for name in members if name.endswith(".png")}
    if found != {f"f{number:03d}.png" for number in range(frames)}:
        return [f"{len(found)} images stand for {frames} frames that should have one"]
    shape = (source.image_size, source.image_size, 3)
    return [
        f"{name} is {' × '.join(map(str, members[name].shape))} and not {' × '.join(map(str, shape))}"
        for name in sorted(found)
        if members[name].shape != shape
    ]


def _beside(facts: dict[str, Any]) -> float:
    """How far beside the surface a point may be: the centre of a pixel that the outline cuts is up to half a diagonal off."""
    if facts["clip"]["points"] != "visible":
        return 0.0
    distance = max(abs(pose[2][3]) for pose in facts["cameras"]["world_to_camera"])
    return float(0.71 * (distance + 1) / facts["cameras"]["K"][0][0][0])


def _in_range(numbers: npt.NDArray[Any], count: int) -> bool:
    return numbers.dtype == np.int16 and bool(((numbers >= -1) & (numbers < count)).all())


def in_own_pixels(points: npt.NDArray[Any], K: npt.NDArray[Any], world_to_camera: npt.NDArray[Any], shown: npt.NDArray[np.bool_]) -> str:
    """What is wrong with back-projected points (N, 3): each must fall on the centre of a pixel, nearly all on one that shows something."""
    camera = points.astype(np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    pixels = camera @ K.T
    places = pixels[:, :2] / pixels[:, 2:]
    column, row = np.floor(places).astype(np.int64).T
    height, width = shown.shape
    if (camera[:, 2] <= 0).any() or (column < 0).any() or (column >= width).any() or (row < 0).any() or (row >= height).any():
        return "visible points fall outside of their picture"
    if np.abs(places - np.floor(places) - 0.5).max() > _OFF_CENTRE:
        return "visible points fall beside the centres of their pixels"
    # a surface may have the very colour of the background
    return "" if shown[row, column].mean() > 0.5 else "visible points fall on pixels that show nothing"
