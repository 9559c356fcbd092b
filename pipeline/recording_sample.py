"""A recording becomes a sample: the same number of points in every frame, in metres as recorded, and its images where there are any."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

from pipeline import png
from pipeline.importers.images import square
from pipeline.importers.recording import Recording, RecordingError
from pipeline.outcome import Outcome, Stopwatch, npy, seed_of
from pipeline.plan import Planned
from pipeline.recipe import Recipe
from pipeline.sources.recordings import RecordingSource, open_recording


def make_recording(recipe: Recipe, asset: Planned, watch: Stopwatch) -> Outcome:
    """Members of a recording's sample: clip.npy (T, N, 3) float32, metres; where there is such data, features.npy (T, N, F) float32,
    parts.npy (T, N) int16, actions.npy (T,) int16; valid.npy (T, N) bool where a point was repeated; f000.png, …, an RGB image for each
    frame; json, without cameras, whose clip["recording"] is the same for all that was cut from one recording: windows, repetitions, the
    overlapping clips of a sequence. Datasets of earlier versions are without it.

    A frame with more than N points keeps N of them, drawn without replacement; one with fewer repeats its points (whole rounds, then a
    draw); one with none repeats the frame before it, or the first that has points. Raises RecordingError.
    """
    assert isinstance(recipe.source, RecordingSource)
    recording = open_recording(recipe.source, asset.source)
    flags = list(recording.flags)
    sizes = np.array([len(frame) for frame in recording.frames], np.int64)
    if not sizes.any():
        raise RecordingError("empty", f"{asset.source} holds no point in any frame; look at how it was recorded.")
    watch.lap("load")
    standing = _standing(sizes)
    fillers = np.zeros(len(sizes), bool) if recording.fillers is None else recording.fillers
    if (sizes == 0).any():
        flags.append("empty_frames")
        fillers = fillers | (sizes == 0)
    rng = np.random.Generator(np.random.PCG64(seed_of(recipe, asset.sha256, "points")))
    count = recipe.points.count
    chosen = np.stack([_choice(int(sizes[row]), count, rng) for row in standing])
    valid = (np.arange(count) < sizes[standing, None]) & ~fillers[:, None]
    clip = np.stack([recording.frames[row][rows] for row, rows in zip(standing, chosen, strict=True)])
    if not np.isfinite(clip).all():
        raise RecordingError("not_finite", f"{asset.source} holds coordinates that are no numbers; write it anew from its source.")
    members = {"clip.npy": npy(clip.astype(np.float32, copy=False))}
    if recording.features is not None:
        features = np.stack([recording.features[row][rows] for row, rows in zip(standing, chosen, strict=True)])
        if not np.isfinite(features).all():
            raise RecordingError("not_finite", f"{asset.source} holds features that are no numbers; write it anew from its source.")
        members["features.npy"] = npy(features.astype(np.float32, copy=False))
    if recording.parts is not None:
        members["parts.npy"] = npy(np.stack([recording.parts[row][rows] for row, rows in zip(standing, chosen, strict=True)]))
    if recording.actions is not None:
        members["actions.npy"] = npy(recording.actions)
    if not valid.all():
        members["valid.npy"] = npy(valid)
    watch.lap("sample")
    pixels = hashlib.sha256()
    for number, file in enumerate(recording.images or ()):
        image = square(file, recipe.source.image_size)
        watch.lap("load")
        members[f"f{number:03d}.png"] = png.encode(image, pixels)
        watch.lap("encode")
    try:
        members["json"] = _json(asset, recording)
    except ValueError:  # times, centres, facts
        raise RecordingError("not_finite", f"{asset.source} holds values that are no numbers; write it anew from its source.") from None
    watch.lap("encode")
    return Outcome(members, tuple(dict.fromkeys(flags)), pixels.hexdigest() if recording.images else "", seconds=watch.seconds)


def _standing(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each frame the number of the frame whose points stand there: its own, or where it has none the last before, else the next."""
    rows = np.where(sizes > 0, np.arange(len(sizes)), -1)
    rows = np.maximum.accumulate(rows)
    return np.asarray(np.where(rows < 0, np.argmax(sizes > 0), rows))


def _choice(size: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(count,) numbers of points out of `size`: each at most once, or, where they are too few, the order as recorded, whole rounds of it
    and then a draw, so that the points that repeat none come first."""
    if size == count:
        return np.arange(size)
    if size > count:
        return rng.permutation(size)[:count]
    rounds, rest = divmod(count, size)
    return np.concatenate((np.tile(np.arange(size), rounds), rng.permutation(size)[:rest]))


def _json(asset: Planned, recording: Recording) -> bytes:
    clip = {
        "name": recording.name,
        "recording": recording.together,
        "character": recording.person,
        "fps": recording.fps,
        "times_s": recording.times_s.tolist(),
        "period_s": None,
        "points": "recorded",
    }
    if recording.centres is not None:
        clip["centres"] = recording.centres.tolist()
    facts = {
        "class": asset.cls,
        "split": asset.split,
        "source": asset.source,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "normalisation": {"centre": [0.0, 0.0, 0.0], "scale": 1.0},
        "action_names": list(recording.action_names),
        "part_names": list(recording.part_names),
        "feature_names": list(recording.feature_names),
        "clip": clip,
        "facts": dict(recording.facts),
    }
    return json.dumps(facts, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
