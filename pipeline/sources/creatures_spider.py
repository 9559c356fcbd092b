"""The procedural spider: six or eight legs about a low body; lengths in decimetres."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sources.creatures_rig import SIDES, Action, Motion, Rig, arc, beat, forward, keys, limb, sides, swing
from pipeline.sources.model import DARK, Dice
from pipeline.sources.solids import Floats, bar, ellipsoid, moved, rounded_box
from render.trig import cos_sin

# A creature with six legs has no last pair: motions of joints that are not there do nothing.
PAIRS = (1, 2, 3, 4)


def build(dice: Dice) -> Rig:
    """Torso, abdomen, head with two fangs, and legs of three segments each; with claws or a sting some look like crab or scorpion."""
    rig = Rig()
    pairs = dice.one((3, 4, 4))
    upper, lower, tip = dice.real(0.4, 0.75), dice.real(0.45, 0.85), dice.real(0.15, 0.3)
    girth, belly, leg_r = dice.real(0.2, 0.32), dice.real(0.22, 0.5), dice.real(0.035, 0.075)
    raised, drop = dice.real(0.35, 0.8), dice.real(1.25, 1.75)
    coat, back, marks = dice.near(dice.one(((0.25, 0.2, 0.2), dice.paint(), dice.paint())), 0.05), dice.paint(), dice.paint()
    boxy = dice.chance(0.3)
    (_, s1), (_, s2) = cos_sin(raised), cos_sin(raised - drop)
    rig.hip_m = max(0.3, -(s1 * upper + s2 * lower) + tip)

    rig.joint("torso", "", (0.0, rig.hip_m, 0.0))
    rig.add("torso", coat, rounded_box(2 * girth, girth, 2.2 * girth, girth * 0.3) if boxy else ellipsoid(girth, girth * 0.6, girth * 1.15))
    rig.joint("abdomen", "torso", (0.0, 0.02, -girth * 0.9), (dice.real(-0.1, 0.4), 0.0, 0.0))
    round_ = dice.real(0.7, 1.0)
    rig.add("abdomen", back, moved(ellipsoid(belly * round_, belly * round_ * 0.85, belly), y=belly * 0.2, z=-belly * 0.8))
    rig.add("abdomen", marks, moved(ellipsoid(belly * 0.3, belly * 0.2, belly * 0.5, 12), y=belly * (0.2 + round_ * 0.75), z=-belly * 0.8))
    head = girth * dice.real(0.5, 0.8)
    rig.joint("head", "torso", (0.0, 0.02, girth * 0.95))
    rig.add("head", coat, moved(ellipsoid(head, head * 0.8, head), z=head * 0.4))
    for k, sign in ((k, sign) for k in range(2) for _, sign in SIDES):
        size = head * (0.26 if k == 0 else 0.16)
        rig.add(
            "head",
            DARK,
            moved(ellipsoid(size, size, size, 8), sign * head * (0.3 + 0.3 * k), head * (0.45 + 0.15 * k), head * (1.15 - 0.25 * k)),
        )
    fang = dice.real(0.12, 0.3)
    for side, sign in SIDES:
        rig.joint(f"fang.{side}", "head", (sign * head * 0.4, -head * 0.3, head * 1.1), (-0.5, 0.0, 0.0))
        rig.add(f"fang.{side}", marks, bar((0, 0.02, 0), (-sign * fang * 0.15, -fang, 0.0), head * 0.2, 0.01, 8))
    turns = (0.95, 0.25, -0.35, -0.95) if pairs == 4 else (0.8, 0.0, -0.8)
    for pair, turn in zip(PAIRS, turns, strict=False):
        size = (1.1, 0.95, 0.9, 1.1)[pair - 1]
        for side, sign in SIDES:
            # a leg goes out along its own +z: to the side, turned ahead by its pair's angle
            yaw = sign * (math.pi / 2 - turn)
            c, s = cos_sin(turn)
            name = f"leg.{side}.{pair}"
            rig.joint(f"{name}.upper", "torso", (sign * girth * 0.7 * c, 0.0, girth * 0.8 * s), (-raised, yaw, 0.0))
            rig.add(f"{name}.upper", coat, forward(limb(upper * size, leg_r * 1.2, leg_r, boxy)))
            rig.joint(f"{name}.lower", f"{name}.upper", (0.0, 0.0, upper * size), (drop, 0.0, 0.0))
            rig.add(f"{name}.lower", back if pair % 2 else coat, forward(limb(lower * size, leg_r, leg_r * 0.6, boxy)))
            rig.joint(f"{name}.foot", f"{name}.lower", (0.0, 0.0, lower * size), (math.pi / 2 - drop + raised - 0.15, 0.0, 0.0))
            rig.add(f"{name}.foot", marks, forward(limb(tip, leg_r * 0.6, 0.015)))
    return rig


def _leg(m: Motion, side: str, pair: int, raised: Floats | float = 0.0, ahead: Floats | float = 0.0, bend: Floats | float = 0.0) -> None:
    """Raises a leg, swings it ahead, bends its knee inwards."""
    name, sign = f"leg.{side}.{pair}", 1.0 if side == "left" else -1.0
    m.turn(f"{name}.upper", x=-raised, y=-sign * ahead)
    m.turn(f"{name}.lower", x=bend)
    m.turn(f"{name}.foot", x=0.3 * bend)


def _each(m: Motion) -> list[tuple[str, int, float]]:
    """Every leg's side and pair with the share of a turn by which it is late: neighbours and opposites half a turn apart."""
    return [(side, pair, half + 0.5 * (pair % 2)) for side, _, half in sides() for pair in PAIRS]


def _idle(m: Motion, dice: Dice) -> None:
    breath, sway, tap = dice.real(0.06, 0.14), dice.real(0.03, 0.07), dice.real(0.15, 0.35)
    m.turn("abdomen", x=breath * swing(2 * m.u))
    m.turn("torso", y=sway * swing(m.u), z=0.5 * sway * swing(m.u + 0.2))
    m.turn("head", y=2 * sway * swing(m.u - 0.1))
    for side, sign, half in sides():
        m.turn(f"fang.{side}", x=0.2 * swing(2 * m.u + half), z=0.2 * sign)
        _leg(m, side, 1, tap * beat(m.u + half, 0.4), 0.1 * swing(m.u + half), 0.0)
    for side, pair, late in _each(m):
        _leg(
            m,
            side,
            pair,
            0.04 * swing(2 * m.u) + 0.02 * swing(m.u + late),
            -sway * swing(m.u) * (1 if side == "right" else -1),
            -0.04 * swing(2 * m.u),
        )


def _gait(m: Motion, stride: float, step: float, ripple: float) -> None:
    for side, pair, late in _each(m):
        phase = m.u + late + ripple * pair
        _leg(m, side, pair, step * beat(phase - 0.75, 0.56), stride * swing(phase + 0.25), -0.3 * step * beat(phase - 0.8, 0.5))


def _walk(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.2, 0.32), dice.real(0.18, 0.32), dice.real(-0.06, 0.06))
    m.turn("torso", y=0.05 * swing(m.u), z=0.03 * swing(m.u + 0.2))
    m.turn("abdomen", y=0.12 * swing(m.u + 0.3), x=0.05 * swing(2 * m.u))


def _run(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.38, 0.52), dice.real(0.3, 0.5), dice.real(-0.08, 0.08))
    m.turn("torso", x=0.08 + 0.05 * swing(2 * m.u), y=0.08 * swing(m.u))
    m.turn("abdomen", x=-0.3 + 0.12 * swing(2 * m.u), y=0.15 * swing(m.u + 0.3))
    m.rise(dice.real(0.05, 0.15) * (beat(m.u, 0.36) + beat(m.u - 0.5, 0.36)))


def _jump(m: Motion, dice: Dice) -> None:
    depth, height = dice.real(0.35, 0.5), dice.real(0.9, 1.6)
    crouch = keys(m.u, (0.0, 0.0), (0.26, 1.0), (0.36, -0.6), (0.5, 0.0), (0.74, 0.0), (0.84, 0.8), (1.0, 0.0))
    air = keys(m.u, (0.36, 0.0), (0.48, 1.0), (0.62, 1.0), (0.76, 0.0))
    m.turn("torso", x=0.1 * crouch - dice.real(0.1, 0.3) * air)
    m.turn("abdomen", x=0.25 * crouch - 0.2 * air)
    for side, pair, _ in _each(m):
        way = 1.0 if pair <= 2 else -1.0
        _leg(m, side, pair, depth * crouch + 0.35 * air, 0.3 * way * air, -0.2 * crouch - 0.5 * air)
    m.rise(height * arc(m.u, 0.34, 0.74))


def _attack(m: Motion, dice: Dice) -> None:
    power, start = dice.real(0.85, 1.15), dice.real(0.36, 0.46)
    hit = start + dice.real(0.1, 0.15)
    wind = power * keys(m.u, (0.0, 0.0), (start, 1.0), (hit, 0.0))
    blow = power * keys(m.u, (start, 0.0), (hit, 1.0), (hit + 0.15, 1.0), (1.0, 0.0))
    reach, both = dice.real(0.7, 1.0), dice.chance(0.6)
    # it rears up with the front legs high, then strikes down and ahead
    m.turn("torso", x=-0.45 * wind + 0.2 * blow)
    m.turn("head", x=-0.3 * wind + 0.4 * blow)
    m.turn("abdomen", x=0.3 * wind - 0.4 * blow)
    for side, sign, half in sides():
        share = 1.0 if both or half else 0.3
        _leg(m, side, 1, reach * share * wind - 0.1 * blow, 0.3 * wind + 0.4 * blow, -0.9 * share * wind - 0.7 * blow)
        _leg(m, side, 2, 0.5 * share * wind, 0.25 * blow, -0.5 * share * wind)
        _leg(m, side, 3, 0.0, -0.2 * wind + 0.3 * blow)
        _leg(m, side, 4, 0.15 * wind, -0.3 * blow)
        m.turn(f"fang.{side}", x=-0.9 * wind + 0.3 * blow, z=0.3 * sign * wind)
    m.go(z=0.8 * blow - 0.2 * wind)


def _wave(m: Motion, dice: Dice) -> None:
    raised, width, half = dice.real(0.5, 0.75), dice.real(0.3, 0.5), dice.one((0.0, 0.5))
    m.turn("torso", x=-0.15 + 0.03 * swing(2 * m.u))
    m.turn("head", x=-0.15, z=0.1 * swing(m.u))
    m.turn("abdomen", x=0.2 + 0.08 * swing(2 * m.u))
    for side, pair, _ in _each(m):
        _leg(m, side, pair, 0.06 * (pair - 2.5))
    for side, _, late in sides():
        # both front legs are up, and wave together or in turn
        phase = m.u + (late if half else 0.0)
        _leg(m, side, 1, raised + width * swing(phase), 0.2, -0.7 + width * swing(phase - 0.12))


def _fall(m: Motion, dice: Dice) -> None:
    (_, sign), down = dice.one(SIDES), dice.real(0.5, 0.62)
    weak = keys(m.u, (0.0, 0.0), (0.2, 1.0), (0.4, 0.0))
    tip = keys(m.u, (0.15, 0.0), (0.28, 0.12), (down, 1.0)) - 0.04 * beat((m.u - down - 0.08).clip(-0.5, 0.5), 0.16)
    curl = keys(m.u, (0.2, 0.0), (down, 0.6), (0.95, 1.0))
    m.turn("torso", z=-sign * math.pi * tip, x=0.1 * tip)
    m.go(x=0.8 * sign * tip)
    m.turn("abdomen", x=-0.2 * tip)
    for side, pair, late in _each(m):
        uneven = 0.85 + 0.3 * (late - np.floor(late))
        _leg(m, side, pair, 0.4 * weak - 0.1 * curl, 0.0, 0.2 * weak + 0.85 * uneven * curl)


ACTIONS: dict[str, Action] = {
    "idle": _idle,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "attack": _attack,
    "wave": _wave,
    "fall": _fall,
}
