"""Random views of point-cloud videos: which frames each stream shows, and one geometric draw a clip.

A clip is (T, N, 3 + F) float32, coordinates first, then the features that go with a point. Every view of a sample has its own increasing
list of source frames u (T,); `ClipAugment.mode` says how the lists hang together (forms ours, but for the thinning of frames by a step):

    window  u_l = o + g·l, o a multiple of g, drawn for each stream such that any two of them share at least T/2 source frames;
            two frames correspond iff their source indices are equal. With an encoder that thins out time by a stride s, starts are
            multiples of s·g apart, so that it keeps the same frames of all streams; those of a clip with fewer than s·g frames more
            than a view spans are then equal, as in `shared`
    bins    the S source frames in T equal bins, one frame drawn from each; frames correspond iff their bins are equal
    shared  one window for all streams

With equal lists, or bins, the place of a frame in its list gives its partner away, and an encoder with position terms need not look at the
frame at all; `window` is the default because equal places then mean different times. Time is never reversed or shuffled. A mirror image is
drawn once for all streams of a clip, rotation, scale and translation once for each; points and jitter are drawn anew for each frame.
Rotation, scale and mirror are about the mean of a normalised clip; else about the first centre that a recording states, or the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.reader import Dataset
from training.augment import random_rotation, rng_for, rotation_y

Clip = NDArray[np.float32]
Indices = NDArray[np.int64]
STREAMS = ("points1", "points2", "images")


class ClipAugment(BaseModel):
    """One random view of a clip, and which of its frames are seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=8, ge=1, description="T, frames of a view")
    step: int = Field(default=1, ge=1, description="g, source frames from one frame of a view to the next (window, shared)")
    mode: Literal["window", "bins", "shared"] = "window"
    short: Literal["repeat", "refuse"] = Field(
        default="repeat", description="clips with fewer frames than a view spans: the last frame stands for the missing ones, or an error"
    )
    count: int | None = Field(default=None, ge=1, description="points of a frame, drawn anew for each; all if not given")
    normalise: Literal["clip", "none"] = Field(default="clip", description="mean of all frames to the origin, largest norm of all to 1")
    rotation: Literal["y", "z", "so3", "none"] = "y"
    flip: float = Field(default=0.0, ge=0, le=1, description="probability that a clip is mirrored, x to −x, its images with it")
    angle: float = Field(default=math.pi, ge=0, le=math.pi, description="largest angle of a rotation about y or z, in radians")
    scale: tuple[float, float] = (0.8, 1.2)
    translate: float = Field(default=0.1, ge=0, description="largest shift along an axis, in extents of the clip along it")
    jitter_sigma: float = Field(default=0.01, ge=0, description="standard deviation of a coordinate's noise")
    jitter_clip: float = Field(default=0.05, ge=0, description="largest noise of a coordinate")
    features: tuple[str, ...] = Field(default=(), description="columns of features.npy, by name, that go with the points")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale must be two positive numbers, the smaller first, got {self.scale}")
        return self

    @property
    def span(self) -> int:
        """Source frames that a view needs."""
        return self.frames if self.mode == "bins" else self.step * (self.frames - 1) + 1


@dataclass(frozen=True)
class Drawn:
    """The frames of three streams (points 1, points 2, images) of one sample.

    frames (3, T) int64: source frames. partners (3, T) int64: frames of two streams correspond iff these are equal and not −1, the value of
    a frame that only fills up. short: the clip has fewer frames than a view spans.
    """

    frames: Indices
    partners: Indices
    short: bool


# ---- time ------------------------------------------------------------------------------------------------------------


def window(length: int, config: ClipAugment, start: int) -> Indices:
    """(T,) source frames of a window from `start`; beyond the end, the last frame. ValueError where that is not wanted."""
    step = 1 if config.mode == "bins" else config.step
    frames = start + step * np.arange(config.frames, dtype=np.int64)
    if frames[-1] >= length and config.short == "refuse":
        raise ValueError(f"a clip of {length} frames is shorter than a view of {config.span}: set short to repeat, or see fewer frames")
    return np.minimum(frames, length - 1)


def starts(length: int, config: ClipAugment) -> Indices:
    """Every source frame, multiples of the step, at which a whole window may start; 0 alone for a clip that is too short."""
    last = max(length - config.span, 0) // config.step
    return config.step * np.arange(last + 1, dtype=np.int64)


def draw_frames(length: int, config: ClipAugment, rng: Generator, stride: int = 1) -> Drawn:
    """The frames of the three streams of a sample of `length` ≥ 1 source frames, for an encoder of this temporal stride.

    The pair of the point streams' starts is uniform over all pairs that share enough frames and are whole strides apart, the images'
    uniform over what fits both. ValueError for a clip that is too short where `short` is "refuse".
    """
    short = length < config.span
    if config.mode == "bins" and not short:
        edges = length * np.arange(config.frames + 1, dtype=np.int64) // config.frames
        bins = [rng.integers(edges[:-1], edges[1:]) for _ in range(2)]
        number = np.arange(config.frames, dtype=np.int64)
        return Drawn(np.stack([*bins, bins[0]]), np.stack([number] * 3), False)
    last = len(starts(length, config)) - 1
    if config.mode == "shared":
        chosen = [int(rng.integers(last + 1))] * 3
    else:
        reach = config.frames // 2
        every = np.arange(last + 1)
        before, after = np.minimum(every, reach) // stride, np.minimum(last - every, reach) // stride
        fitting = before + after + 1
        first = int(rng.choice(last + 1, p=fitting / fitting.sum()))
        second = first + stride * int(rng.integers(-before[first], after[first] + 1))
        lowest, highest = max(first - reach, second - reach, 0), min(first + reach, second + reach, last)
        third = first + stride * int(rng.integers(-((first - lowest) // stride), (highest - first) // stride + 1))
        chosen = [first, second, third]
    lists = np.stack([window(length, config, config.step * start) for start in chosen])
    repeated = np.diff(lists, axis=1, prepend=-1) == 0
    return Drawn(lists, np.where(repeated, -1, lists), short)


def plain_frames(length: int, config: ClipAugment) -> Indices:
    """(T,) source frames of the one view that is not drawn: the middle window, or the middle frame of each bin."""
    if config.mode == "bins" and length >= config.span:
        edges = length * np.arange(config.frames + 1, dtype=np.int64) // config.frames
        return (edges[:-1] + edges[1:] - 1) // 2
    possible = starts(length, config)
    return window(length, config, int(possible[(len(possible) - 1) // 2]))


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_clip(dataset: Dataset, index: int, config: ClipAugment) -> tuple[Clip, NDArray[np.bool_] | None]:
    """All frames of a sample's clip (S, N, 3 + F) float32, and which points are more than a filling (S, N), None where all are.

    ValueError, in one sentence, for a sample without a clip or without the features asked for.
    """
    has = dataset.members(index)
    if "clip.npy" not in has:
        raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no clip.npy: name a dataset of clips.")
    wanted = ["clip.npy", *(["features.npy", "json"] if config.features else []), *(["valid.npy"] if "valid.npy" in has else [])]
    if config.features and "features.npy" not in has:
        raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no features beside its points: leave features empty.")
    found: dict[str, Any] = dataset.load(index, wanted)
    clip: Clip = found["clip.npy"]
    if config.features:
        names = list(found["json"]["feature_names"])
        absent = [name for name in config.features if name not in names]
        if absent:
            raise ValueError(f"{dataset.uri} has no feature {absent[0]!r} beside its points: it has {', '.join(names)}.")
        columns = [names.index(name) for name in config.features]
        clip = np.concatenate([clip, found["features.npy"][:, :, columns]], axis=2)
    valid = found.get("valid.npy")
    return clip, None if valid is None or valid.all() else valid


def pivot_of(dataset: Dataset, index: int, config: ClipAugment) -> NDArray[np.float32] | None:
    """The point (3,) about which views of a sample are turned, scaled and mirrored where they are not normalised: the first of the centres
    that a recording of a scene states, as published code has it (methods-D); None for the origin, where a recording's sensor stands."""
    if config.normalise == "clip":
        return None
    centres = dataset.load(index, ("json",))["json"]["clip"].get("centres")
    return np.asarray(centres[0], np.float32) if centres else None


def frame_names(dataset: Dataset, index: int) -> tuple[str, ...]:
    """The members that hold a sample's images in the order of time: "f000.png", …; empty for a clip without images."""
    return tuple(sorted((name for name in dataset.members(index) if _is_frame(name)), key=lambda name: int(name[1:-4])))


def _is_frame(name: str) -> bool:
    return name[0] == "f" and name.endswith(".png") and name[1:-4].isdigit()


def load_frames(dataset: Dataset, index: int, frames: Indices) -> list[NDArray[np.uint8]]:
    """The images (H, W, C) uint8 of these source frames; each is read and decoded once. ValueError for a sample without them."""
    names = frame_names(dataset, index)
    if not names:
        raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no frames of images: name a dataset that has them.")
    chosen = [names[frame] for frame in frames.tolist()]
    found = dataset.load(index, sorted(set(chosen)))
    return [found[name] for name in chosen]


# ---- space -----------------------------------------------------------------------------------------------------------


def choose_points(shape: tuple[int, int], count: int | None, rng: Generator, valid: NDArray[np.bool_] | None = None) -> Indices:
    """Which points of each of T frames of N points are seen, (T, count) int64; all, in their order, if `count` is None.

    Drawn for each frame without replacement, from the valid points first; where there are fewer than `count`, each is seen once and the
    missing ones are drawn from them again.
    """
    frames, points = shape
    if count is None:
        return np.broadcast_to(np.arange(points, dtype=np.int64), shape)
    chosen = np.empty((frames, count), np.int64)
    for frame in range(frames):
        known = np.arange(points) if valid is None or not valid[frame].any() else np.flatnonzero(valid[frame])
        if len(known) >= count:
            chosen[frame] = rng.choice(known, count, replace=False)
        else:
            chosen[frame] = np.concatenate([known, rng.choice(known, count - len(known))])
    return chosen


def take_points(clip: NDArray[Any], chosen: Indices) -> NDArray[Any]:
    """The chosen points of each frame: (T, N, …) by (T, n) to (T, n, …), for coordinates as for labels."""
    return clip[np.arange(len(clip))[:, None], chosen]


def normalise_clip(clip: Clip) -> Clip:
    """The clip with the mean of all its frames at the origin and its farthest point at distance 1; motion and features stay."""
    out = clip.copy()
    places = out[:, :, :3]
    places -= places.reshape(-1, 3).mean(axis=0, dtype=np.float64).astype(np.float32)
    radius = math.sqrt(float(np.einsum("tni,tni->tn", places, places).max()))
    if radius > 0:
        places *= np.float32(1 / radius)
    return out


def mirrors(config: ClipAugment, seed: int, epoch: int, key: str) -> bool:
    """Whether this clip is seen in the mirror in this epoch: points and images of one object together, or left would be right in one."""
    return config.flip > 0 and bool(rng_for(seed, epoch, key, "flip").random() < config.flip)


def mirrored(clip: Clip, config: ClipAugment, seed: int, epoch: int, key: str, pivot: NDArray[np.float32] | None = None) -> Clip:
    """The clip (T, N, 3 + F), or where `mirrors` says so a copy of it with every point of every frame at −x, counted from the pivot;
    features stay."""
    if not mirrors(config, seed, epoch, key):
        return clip
    out = clip.copy()
    out[..., 0] *= -1
    if pivot is not None:
        out[..., 0] += 2 * pivot[0]
    return out


def rotation_z(angle_rad: float) -> NDArray[np.float64]:
    """(3, 3) rotation about z for column vectors: (1, 0, 0) goes to (cos θ, sin θ, 0)."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def move_clip(clip: Clip, config: ClipAugment, rng: Generator, pivot: NDArray[np.float32] | None = None) -> Clip:
    """The clip normalised and moved by one rotation, one scale and one shift for all frames, with jitter of its own for each point.

    Rotation and scale are about the pivot (3,), or the origin.
    """
    out = normalise_clip(clip) if config.normalise == "clip" else clip.copy()
    places: Clip = out[:, :, :3] if pivot is None else out[:, :, :3] - pivot
    if config.rotation == "so3":
        turn = random_rotation(rng)
    elif config.rotation == "none":
        turn = np.eye(3)
    else:
        angle = rng.uniform(-config.angle, config.angle)
        turn = rotation_y(angle) if config.rotation == "y" else rotation_z(angle)
    factor = rng.uniform(*config.scale)
    places = places @ (factor * turn).T.astype(np.float32)
    if config.translate:
        flat = places.reshape(-1, 3).T.copy()
        shift = rng.uniform(-config.translate, config.translate, 3) * (flat.max(axis=1) - flat.min(axis=1))
        places = places + shift.astype(np.float32)
    if config.jitter_sigma:
        noise = rng.standard_normal(places.shape, dtype=np.float32) * np.float32(config.jitter_sigma)
        places = places + np.clip(noise, -config.jitter_clip, config.jitter_clip)
    out[:, :, :3] = places if pivot is None else places + pivot
    return out


def augment_clip(
    clip: Clip,
    config: ClipAugment,
    rng: Generator,
    valid: NDArray[np.bool_] | None = None,
    pivot: NDArray[np.float32] | None = None,
) -> Clip:
    """A random view (T, N or `count`, 3 + F) of the frames of a clip (T, N, 3 + F); the argument is not changed.

    `valid` (T, N): the points that are more than a filling. To carry labels along: `choose_points`, `take_points`, `move_clip`.
    """
    return move_clip(take_points(clip, choose_points(clip.shape[:2], config.count, rng, valid)), config, rng, pivot)


def plain_clip(clip: Clip, frames: Indices, config: ClipAugment, key: str, valid: NDArray[np.bool_] | None = None) -> tuple[Clip, Indices]:
    """These source frames (T,) of a clip (S, N, 3 + F) as they are scored, (T, n, 3 + F), without movement; and their points (T, n).

    The points are drawn by the clip's key and the first frame, for stored ones may stand in an order, as that of a sensor's list.
    """
    shown = clip[frames]
    rng = rng_for(0, int(frames[0]), key, "scored")
    chosen = choose_points(shown.shape[:2], config.count, rng, None if valid is None else valid[frames])
    seen = take_points(shown, chosen)
    return normalise_clip(seen) if config.normalise == "clip" else seen, chosen
