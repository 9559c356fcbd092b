"""The built-in creatures: what kinds there are, what each can do, and one creature of a kind and a seed with all of its clips."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from pipeline.sources import creatures_biped, creatures_bird, creatures_quadruped, creatures_spider
from pipeline.sources.creatures_rig import Creature, Motion, finish
from pipeline.sources.model import Dice
from pipeline.sources.solids import Floats

if TYPE_CHECKING:
    from render.animation import Animated

# each module has build(dice) -> Rig and ACTIONS, by name
_MODULES: dict[str, ModuleType] = {
    "biped": creatures_biped,
    "bird": creatures_bird,
    "quadruped": creatures_quadruped,
    "spider": creatures_spider,
}
KINDS: tuple[str, ...] = tuple(_MODULES)
# seconds that a clip takes, from the fastest to the slowest creature
_DURATIONS: dict[str, tuple[float, float]] = {
    "idle": (2.0, 3.2),
    "walk": (0.9, 1.4),
    "run": (0.5, 0.75),
    "jump": (1.1, 1.6),
    "attack": (0.8, 1.3),
    "wave": (0.6, 1.1),
    "fall": (1.2, 1.8),
    "fly": (0.45, 0.8),
}
ACTIONS: tuple[str, ...] = tuple(_DURATIONS)
CYCLIC: tuple[str, ...] = ("idle", "walk", "run", "wave", "fly")


def actions_of(kind: str) -> tuple[str, ...]:
    """The actions of a kind, in the order of its creatures' clips."""
    return tuple(_MODULES[kind].ACTIONS)


@dataclass(frozen=True)
class Performer:
    """A creature and how it moves. kind and seed draw the style of each action."""

    kind: str
    seed: int
    creature: Creature

    def duration_s(self, action: str) -> float:
        """How long the creature takes for an action, or for one turn of a loop."""
        return _dice(self.kind, self.seed, action, "time").real(*_DURATIONS[action])

    def motion(self, action: str | None, times_s: Floats) -> Motion:
        """What the creature does at times (T,) of an action's clip, clamped to it."""
        hip_m, rest = self.creature.hip_m, {joint.name: joint.rest for joint in self.creature.joints}
        if action is None:
            return Motion(np.zeros(len(times_s)), hip_m, rest)
        u = np.clip(np.asarray(times_s, np.float64) / self.duration_s(action), 0.0, 1.0)
        dice = _dice(self.kind, self.seed, action, "style")
        start = dice.real(0.0, 1.0)
        motion = Motion(u + start if action in CYCLIC else u, hip_m, rest)
        _MODULES[self.kind].ACTIONS[action](motion, dice)
        return motion

    def pose(self, clip: int | None, times_s: Floats) -> Floats:
        """Vertices (T, V, 3), the lowest one of each moment at the ground unless it jumps."""
        action = None if clip is None else actions_of(self.kind)[clip]
        return self.creature.place(self.motion(action, times_s))[0]

    def animated(self) -> Animated:
        """All of the creature's clips, in the order of `actions_of`."""
        from render.animation import Animated, Clip

        creature = self.creature
        return Animated(
            mesh=replace(creature.mesh, vertices=self.pose(None, np.zeros(1))[0]),
            clips=tuple(Clip(action, 0.0, self.duration_s(action)) for action in actions_of(self.kind)),
            node_names=tuple(joint.name for joint in creature.joints),
            face_nodes=creature.face_joints,
            pose=self.pose,
        )


def make(kind: str, seed: int) -> Performer:
    """The creature of a kind and a seed (any int), the same on every host. Raises ValueError for a kind that is not in KINDS."""
    if kind not in KINDS:
        raise ValueError(f"there is no built-in creature {kind!r}; take one of {', '.join(KINDS)}")
    return Performer(kind, seed, finish(_MODULES[kind].build(_dice(kind, seed, "body"))))


def _dice(kind: str, seed: int, *what: str) -> Dice:
    return Dice(int.from_bytes(hashlib.sha256("/".join((kind, str(seed), *what)).encode()).digest()[:8], "big"))
