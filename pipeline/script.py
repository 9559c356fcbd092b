"""What is played when: one clip, looped or held, or several joined into a sequence, and the poses and actions that this gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from render.animation import Animated, Clip, still
from render.meshes import Mesh

Floats = npt.NDArray[np.float64]

# A clip is closed when its last pose is its first, to this part of the box diagonal.
_CLOSED = 1e-3


@dataclass(frozen=True)
class Play:
    """A clip of `Script.animated` (None: the default pose) as the action of this number, -1 for none. period_s is its length where it
    is closed, so that it loops, and None where it plays once and holds its last pose."""

    clip: int | None
    action: int
    period_s: float | None = None


@dataclass(frozen=True)
class Script:
    """What an asset shows: its plays in order, the names that their actions number, and what clip and character are called.

    Neighbours in a sequence are blended over blend_s seconds, and the label changes in the middle of the blend.
    """

    animated: Animated
    plays: tuple[Play, ...]
    action_names: tuple[str, ...] = ()
    name: str = ""
    character: str = ""
    blend_s: float = 0.0


@dataclass(frozen=True)
class Played:
    """A script over T instants: vertices (T, V, 3) float64 as they are written, actions (T,) int16, -1 for none; the seconds into its clip
    at which each play begins."""

    vertices: Floats
    actions: npt.NDArray[np.int16]
    start_s: tuple[float, ...]


def play_of(animated: Animated, clip: int, action: int, loops: bool = False) -> Play:
    """A play of the clip, its period found by comparing first and last pose; with `loops` it is closed however these differ."""
    about = animated.clips[clip]
    if about.duration_s <= 0:
        return Play(clip, action)
    if loops:
        return Play(clip, action, about.duration_s)
    used = np.zeros(len(animated.mesh.vertices), bool)
    used[animated.mesh.faces.reshape(-1)] = True
    first, last = animated.pose(clip, np.array([about.start_s, about.start_s + about.duration_s]))[:, used]
    diagonal = np.sqrt(np.square(first.max(axis=0) - first.min(axis=0)).sum())
    gap = np.sqrt(np.square(last - first).sum(axis=1).max())
    return Play(clip, action, about.duration_s if gap <= _CLOSED * diagonal else None)


def one_clip(
    animated: Animated, clip: int, action: int, action_names: tuple[str, ...], character: str, loops: Sequence[str] = ()
) -> Script:
    """The script of a single clip. Clips of the actions in `loops` are closed however their ends differ."""
    item = play_of(animated, clip, action, action >= 0 and action_names[action] in loops)
    return Script(animated, (item,), action_names, animated.clips[clip].name, character)


def standing(mesh: Mesh, uri: str) -> Script:
    """The script of a mesh without animation."""
    return Script(still(mesh), (Play(None, -1),), character=uri)


def joined(
    animated: Animated,
    choices: Sequence[tuple[int, int]],
    many: tuple[int, int],
    blend_s: float,
    action_names: tuple[str, ...],
    character: str,
    seed: int,
    loops: Sequence[str] = (),
) -> Script:
    """A sequence drawn by the seed: so many (both included) of the clips in choices, pairs of clip and action, none twice in a row and no
    action twice in a row where there are others."""
    dice = np.random.Generator(np.random.PCG64(seed))
    count = many[0] + min(int(dice.random() * (many[1] - many[0] + 1)), many[1] - many[0])
    picked: list[tuple[int, int]] = []
    for _ in range(count):
        fitting = list(choices)
        if picked:
            fitting = [choice for choice in fitting if choice[1] != picked[-1][1]] or [c for c in fitting if c != picked[-1]] or fitting
        picked.append(fitting[min(int(dice.random() * len(fitting)), len(fitting) - 1)])
    known = {clip: play_of(animated, clip, action, action_names[action] in loops) for clip, action in sorted(set(picked))}
    return Script(animated, tuple(known[clip] for clip, _ in picked), action_names, "", character, blend_s)


def play(script: Script, frames: int, fps: float, seed: int) -> Played:
    """The script at `frames` instants 1 / fps apart.

    A closed clip loops from a phase drawn by the seed. An open one plays from its start and holds its last pose; where it is longer than
    its time, its start is drawn. In a sequence the plays share the time in parts drawn by the seed, the longest less than twice
    the shortest, and vertices are cross-faded linearly about each change.
    """
    times = np.arange(frames) / fps
    whole = frames / fps
    dice = np.random.Generator(np.random.PCG64(seed))
    plays = script.plays
    lengths = 1 + dice.random(len(plays))
    borders = np.concatenate(([0.0], np.cumsum(lengths) / np.cumsum(lengths)[-1] * whole)) if len(plays) > 1 else np.array([0.0, whole])
    starts = [_start(script, item, borders[i + 1] - borders[i], fps, float(dice.random())) for i, item in enumerate(plays)]
    if len(plays) == 1:
        pose = script.animated.pose(plays[0].clip, _local(script, plays[0], times, starts[0]))
        return Played(pose, np.full(frames, plays[0].action, np.int16), tuple(starts))
    shares = _shares(times, borders, script.blend_s)
    vertices = np.zeros((frames, len(script.animated.mesh.vertices), 3))
    for item, begin, start, share in zip(plays, borders[:-1], starts, shares, strict=True):
        seen = np.flatnonzero(share > 0)
        pose = script.animated.pose(item.clip, _local(script, item, times[seen] - begin, start))
        alone = share[seen] == 1
        vertices[seen[alone]] = pose[alone]
        vertices[seen[~alone]] += pose[~alone] * share[seen[~alone], None, None]
    number = np.clip(np.searchsorted(borders, times, side="right") - 1, 0, len(plays) - 1)
    return Played(vertices, np.array([item.action for item in plays], np.int16)[number], tuple(starts))


def _start(script: Script, item: Play, length_s: float, fps: float, uniform: float) -> float:
    """Where, in seconds from its first key, a play begins."""
    if item.clip is None:
        return 0.0
    if item.period_s is not None:
        return uniform * item.period_s
    return uniform * max(0.0, _clip(script, item).duration_s - (length_s - 1 / fps))


def _local(script: Script, item: Play, since_s: Floats, start_s: float) -> Floats:
    """The clip's own times at these seconds since the play began."""
    if item.clip is None:
        return since_s
    about = _clip(script, item)
    inside = since_s + start_s
    if item.period_s is not None:
        return about.start_s + inside - np.floor(inside / item.period_s) * item.period_s
    return about.start_s + np.clip(inside, 0.0, about.duration_s)


def _clip(script: Script, item: Play) -> Clip:
    assert item.clip is not None
    return script.animated.clips[item.clip]


def _shares(times: Floats, borders: Floats, blend_s: float) -> Floats:
    """How much of each play is in each frame: (plays, T), columns that sum to 1. No blend is longer than the plays beside it."""
    plays = len(borders) - 1
    lengths = np.diff(borders)
    entered = np.ones((plays + 1, len(times)))
    entered[plays] = 0.0
    for k in range(1, plays):
        width = min(blend_s, lengths[k - 1], lengths[k])
        passed = times - borders[k]
        entered[k] = np.clip(passed / width + 0.5, 0.0, 1.0) if width > 0 else passed >= 0
    shares: Floats = entered[:-1] - entered[1:]
    return shares
