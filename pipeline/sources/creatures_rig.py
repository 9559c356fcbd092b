"""Jointed creatures: a tree of joints that carry rigid solids, motions as angles over time, and the pose that follows from both.

Axes are the shapes': y up, the front +z, so that the left side is +x. A joint's rotation is Ry·Rx·Rz of its rest angles plus its motion's.
All arithmetic is written out, so that every host gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.sources.model import Color, Dice, Model
from pipeline.sources.solids import Floats, Point, Solid, lathe, moved, rounded_box
from render.meshes import Mesh
from render.trig import cos_sin

SIDES = (("left", 1.0), ("right", -1.0))


@dataclass(frozen=True)
class Joint:
    """Where a joint sits in its parent's frame and how it is turned there at rest; parent -1 is the root."""

    name: str
    parent: int
    offset: Point
    rest: Point


@dataclass
class Rig:
    """A creature while it is put together. `hip_m` is how high the root stands, the length by which its motions are measured."""

    joints: list[Joint] = field(default_factory=list)
    model: Model = field(default_factory=Model)
    hip_m: float = 1.0

    def joint(self, name: str, parent: str, offset: Point = (0.0, 0.0, 0.0), rest: Point = (0.0, 0.0, 0.0)) -> None:
        """One more joint, after its parent ("" for the root)."""
        names = [joint.name for joint in self.joints]
        self.joints.append(Joint(name, names.index(parent) if parent else -1, offset, rest))

    def add(self, name: str, color: Color, *solids: Solid) -> None:
        """Solids that a joint carries, in its frame."""
        self.model.add(name, color, *solids)


class Motion:
    """What an action does at T moments. u (T,): the share of the clip that has passed, in a loop with the creature's own start;
    rest: each joint's angles at rest; hip_m: how high the root stands.

    Actions add to angles, to lift (height of the lowest point above the ground) and to travel (x, z of the root), each (T,).
    """

    def __init__(self, u: Floats, hip_m: float, rest: dict[str, Point]) -> None:
        self.u = u
        self.rest = rest
        self.hip_m = hip_m
        self.angles: dict[str, list[Floats]] = {}
        self.lift: Floats = np.zeros_like(u)
        self.travel: list[Floats] = [np.zeros_like(u), np.zeros_like(u)]

    def turn(self, name: str, x: Floats | float = 0.0, y: Floats | float = 0.0, z: Floats | float = 0.0) -> None:
        """More rotation of a joint, in radians; a creature without that joint is left as it is."""
        angles = self.angles.setdefault(name, [np.zeros_like(self.u) for _ in range(3)])
        for axis, angle in enumerate((x, y, z)):
            angles[axis] = angles[axis] + angle

    def rise(self, lift: Floats) -> None:
        """More height above the ground, in shares of the hip's."""
        self.lift = self.lift + lift * self.hip_m

    def go(self, x: Floats | float = 0.0, z: Floats | float = 0.0) -> None:
        """More way over the ground, in shares of the hip's height."""
        self.travel = [self.travel[0] + x * self.hip_m, self.travel[1] + z * self.hip_m]


Action = Callable[[Motion, Dice], None]


def cos_sin_all(angles_rad: Floats) -> tuple[Floats, Floats]:
    """(cosines, sines) of an array, to the bit those of `render.trig.cos_sin`."""
    quarter = np.floor(angles_rad / (math.pi / 2) + 0.5)
    x = (angles_rad - quarter * 1.5707963267341256) - quarter * 6.077100506506192e-11
    square = x * x
    cosine, sine = np.ones_like(x), x
    cosine_term, sine_term = np.ones_like(x), x
    for n in range(1, 10):
        cosine_term = cosine_term * (-square / ((2 * n - 1) * (2 * n)))
        sine_term = sine_term * (-square / ((2 * n) * (2 * n + 1)))
        cosine = cosine + cosine_term
        sine = sine + sine_term
    turn = quarter.astype(np.int64) % 4
    return np.choose(turn, (cosine, -sine, -cosine, sine)), np.choose(turn, (sine, cosine, -sine, -cosine))


def swing(turns: Floats) -> Floats:
    """Sine of whole turns."""
    return cos_sin_all(turns * (2 * math.pi))[1]


def beat(turns: Floats, width: float = 0.5) -> Floats:
    """A smooth bump from 0 to 1 and back in each turn, as wide as a share of the turn, its top at 0."""
    away = np.minimum((turns - np.floor(turns)) / (width / 2), (np.ceil(turns) - turns) / (width / 2))
    left = np.maximum(1.0 - away, 0.0)
    return np.asarray(left * left * (3.0 - 2.0 * left))


def keys(u: Floats, *points: tuple[float, float]) -> Floats:
    """Eased from value to value at (u, value), the first and the last held."""
    out = np.full_like(u, points[0][1])
    for (start, before), (end, after) in pairwise(points):
        share = np.clip((u - start) / (end - start), 0.0, 1.0)
        out = out + (after - before) * (share * share * (3.0 - 2.0 * share))
    return out


def arc(u: Floats, start: float, end: float) -> Floats:
    """The parabola of a free flight: 0 outside of start to end, 1 at its top."""
    share = np.clip((u - start) / (end - start), 0.0, 1.0)
    return np.asarray(4.0 * share * (1.0 - share))


@dataclass(frozen=True)
class Creature:
    """A finished rig. mesh: the vertices in their joints' frames; vertex_joints (V,)."""

    joints: tuple[Joint, ...]
    mesh: Mesh
    face_joints: npt.NDArray[np.int32]
    vertex_joints: npt.NDArray[np.int64]
    hip_m: float

    def place(self, motion: Motion) -> tuple[Floats, Floats, Floats]:
        """Vertices (T, V, 3), and the joints' places (T, J, 3) and rotations (T, J, 3, 3), the lowest vertex `motion.lift` above y = 0."""
        count = len(motion.u)
        rotations = np.empty((count, len(self.joints), 3, 3))
        places = np.empty((count, len(self.joints), 3))
        vertices = np.empty((count, len(self.mesh.vertices), 3))
        angles = np.empty((count, len(self.joints), 3))
        for j, joint in enumerate(self.joints):
            for axis, own in enumerate(motion.angles.get(joint.name, [np.zeros(1)] * 3)):
                angles[:, j, axis] = own + joint.rest[axis]
        turned = _rotation(angles)
        for j, joint in enumerate(self.joints):
            offset = np.array(joint.offset)
            if joint.parent < 0:
                rotations[:, j] = turned[:, j]
                places[:, j] = offset + np.stack((motion.travel[0], np.zeros(count), motion.travel[1]), axis=1)
            else:
                rotations[:, j] = _product(rotations[:, joint.parent], turned[:, j])
                places[:, j] = _apply(rotations[:, joint.parent], places[:, joint.parent], offset[None])[:, 0]
            mine = np.flatnonzero(self.vertex_joints == j)
            vertices[:, mine] = _apply(rotations[:, j], places[:, j], self.mesh.vertices[mine])
        up = motion.lift - vertices[:, :, 1].min(axis=1)
        vertices[:, :, 1] += up[:, None]
        places[:, :, 1] += up[:, None]
        return vertices, places, rotations


def finish(rig: Rig) -> Creature:
    """The creature that a rig has become."""
    mesh = rig.model.mesh()
    assert mesh.parts is not None
    names = [joint.name for joint in rig.joints]
    face_joints = np.array([names.index(part) for part in mesh.part_names], np.int32)[mesh.parts]
    vertex_joints = np.zeros(len(mesh.vertices), np.int64)
    vertex_joints[mesh.faces] = face_joints[:, None]
    return Creature(tuple(rig.joints), replace(mesh, parts=None, part_names=()), face_joints, vertex_joints, rig.hip_m)


def _rotation(angles: Floats) -> Floats:
    """Ry·Rx·Rz (..., 3, 3) of angles about x, y and z (..., 3)."""
    cosines, sines = cos_sin_all(angles)
    (cx, cy, cz), (sx, sy, sz) = ((part[..., 0], part[..., 1], part[..., 2]) for part in (cosines, sines))
    rows = (
        (cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx),
        (cx * sz, cx * cz, -sx),
        (cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _product(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[:, :, 0, None] * b[:, None, 0] + a[:, :, 1, None] * b[:, None, 1] + a[:, :, 2, None] * b[:, None, 2])


def _apply(rotation: Floats, place: Floats, points: Floats) -> Floats:
    x, y, z = (points[None, :, k, None] for k in range(3))
    R = rotation[:, None]
    return np.asarray(R[..., 0] * x + R[..., 1] * y + R[..., 2] * z + place[:, None])


def limb(length: float, top: float, bottom: float, boxy: bool = False) -> Solid:
    """A segment from its joint at the origin down along -y, with round ends (or edges) that cover the joints."""
    if boxy:
        width = top + bottom
        return moved(rounded_box(width, length + width * 0.7, width * 0.95, width * 0.2), y=-length / 2)
    lower = [cos_sin(math.radians(angle)) for angle in (-60, -30, 0)]
    upper = [cos_sin(math.radians(angle)) for angle in (0, 30, 60)]
    profile = [(bottom * c, bottom * s - length) for c, s in lower] + [(top * c, top * s) for c, s in upper]
    return lathe([(0.0, -length - bottom), *profile, (0.0, top)], 12)


def forward(solid: Solid) -> Solid:
    """What pointed down along -y points ahead along +z."""
    vertices = solid[0]
    return np.column_stack((vertices[:, 0], vertices[:, 2], -vertices[:, 1])), solid[1]


def sides() -> Iterator[tuple[str, float, float]]:
    """(name, +1 or -1 along x, half a turn for the right side)."""
    for name, sign in SIDES:
        yield name, sign, 0.0 if sign > 0 else 0.5
