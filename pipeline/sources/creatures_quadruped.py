"""The procedural quadruped: from dog to horse to giraffe to lizard by its proportions; lengths in metres."""

from __future__ import annotations

import math

from pipeline.sources.creatures_rig import SIDES, Action, Motion, Rig, arc, beat, forward, keys, limb, sides, swing
from pipeline.sources.model import DARK, Color, Dice
from pipeline.sources.solids import Floats, bar, ellipsoid, moved, rounded_box

COATS: tuple[Color, ...] = (
    (0.55, 0.36, 0.2),
    (0.8, 0.66, 0.45),
    (0.3, 0.28, 0.28),
    (0.85, 0.83, 0.8),
    (0.75, 0.45, 0.2),
    (0.45, 0.55, 0.35),
)
ENDS = (("front", 0.0), ("hind", 0.25))


def build(dice: Dice) -> Rig:
    """Torso and chest on a bending spine, neck, head with jaw, a tail of two segments, four legs of three segments."""
    rig = Rig()
    boxy = dice.chance(0.3)
    upper, lower, cannon = dice.real(0.16, 0.34), dice.real(0.14, 0.32), dice.real(0.1, 0.16)
    long, girth, lean = dice.real(0.5, 0.85), dice.real(0.13, 0.22), dice.real(0.8, 1.1)
    neck, head, snout = dice.real(0.12, 0.5), dice.real(0.09, 0.16), dice.real(0.08, 0.24)
    leg_r = dice.real(0.035, 0.07)
    coat = dice.near(dice.one((*COATS, dice.paint())), 0.06)
    light = dice.near(dice.one((coat, (0.9, 0.86, 0.78))), 0.04)
    dark = dice.one((DARK, dice.near(coat, 0.2)))
    slant = dice.real(0.15, 0.4)
    rig.hip_m = upper + lower + cannon

    rig.joint("torso", "", (0.0, rig.hip_m, 0.0))
    rig.joint("chest", "torso", (0.0, 0.0, 0.05))
    if boxy:
        rig.add("torso", coat, moved(rounded_box(2 * girth, 2 * girth * lean, long * 0.62, 0.06), z=-long * 0.22))
        rig.add("chest", coat, moved(rounded_box(2.1 * girth, 2.1 * girth * lean, long * 0.62, 0.06), z=long * 0.22))
    else:
        rig.add("torso", coat, moved(ellipsoid(girth, girth * lean, long * 0.42), z=-long * 0.2))
        rig.add("chest", coat, moved(ellipsoid(girth * 1.05, girth * lean * 1.12, long * 0.42), z=long * 0.2))
    upright = dice.real(0.4, 1.1)
    rig.joint("neck", "chest", (0.0, girth * 0.45, long * 0.46), (-upright, 0.0, 0.0))
    rig.add("neck", coat, forward(limb(neck, girth * 0.62, head * 0.7, boxy)))
    rig.joint("head", "neck", (0.0, 0.0, neck), (upright + dice.real(0.0, 0.3), 0.0, 0.0))
    skull = moved(rounded_box(1.9 * head, 1.9 * head, 2 * head, 0.5 * head), z=head * 0.1) if boxy else ellipsoid(head, head, head * 1.15)
    rig.add("head", coat, skull)
    muzzle = rounded_box(head * 1.05, head * 0.6, snout + head, 0.3 * head)
    rig.add("head", light, moved(muzzle, y=-head * 0.12, z=head * 0.5 + snout / 2))
    rig.add("head", DARK, moved(ellipsoid(head * 0.28, head * 0.22, head * 0.2, 10), y=0.05 * head, z=head + snout))
    for _, sign in SIDES:
        rig.add("head", DARK, moved(ellipsoid(head * 0.16, head * 0.18, head * 0.16, 8), sign * head * 0.72, head * 0.45, head * 0.75))
    ear, horned = dice.real(0.5, 1.5) * head, dice.chance(0.2)
    for _, sign in SIDES:
        if horned:
            rig.add(
                "head", (0.85, 0.8, 0.7), bar((sign * head * 0.5, head * 0.6, 0), (sign * head, head * 2.4, -head * 0.5), head * 0.2, 0.004)
            )
        rig.add("head", dark, moved(ellipsoid(head * 0.3, ear, head * 0.16, 10), sign * head * 0.7, head * 0.6 + ear * 0.6, -head * 0.2))
    rig.joint("jaw", "head", (0.0, -head * 0.3, head * 0.35), (0.08, 0.0, 0.0))
    rig.add(
        "jaw", light, moved(rounded_box(head * 0.85, head * 0.3, snout + head * 0.7, 0.1 * head), y=-head * 0.15, z=snout / 2 + head * 0.1)
    )
    tail, hang = dice.real(0.1, 0.28), dice.real(-0.8, 0.9)
    rig.joint("tail.base", "torso", (0.0, girth * 0.4, -long * 0.56), (hang, math.pi, 0.0))
    rig.add("tail.base", coat, forward(limb(tail, 0.045, 0.03)))
    rig.joint("tail.tip", "tail.base", (0.0, 0.0, tail), (dice.real(-0.4, 0.4), 0.0, 0.0))
    rig.add("tail.tip", dark, forward(limb(tail, 0.03, dice.real(0.01, 0.07))))

    for end, _ in ENDS:
        front = end == "front"
        # front legs fold backward at the wrist; hind legs are bent at rest: thigh ahead, shank back
        bent = (0.12, -0.12, 0.0) if front else (-slant, 2 * slant, -slant)
        c = 1.0 if front else 1.0 - slant * slant * 0.5
        for side, sign in SIDES:
            name, carrier = f"leg.{end}.{side}", "chest" if front else "torso"
            rig.joint(f"{name}.upper", carrier, (sign * girth * 0.62, -0.02, long * (0.34 if front else -0.42)), (bent[0], 0.0, 0.0))
            rig.add(f"{name}.upper", coat, limb(upper / c, leg_r * (1.5 if front else 1.9), leg_r, boxy))
            rig.joint(f"{name}.lower", f"{name}.upper", (0.0, -upper / c, 0.0), (bent[1], 0.0, 0.0))
            rig.add(f"{name}.lower", coat, limb(lower / c, leg_r, leg_r * 0.75, boxy))
            rig.joint(f"{name}.foot", f"{name}.lower", (0.0, -lower / c, 0.0), (bent[2], 0.0, 0.0))
            rig.add(f"{name}.foot", light, limb(cannon - leg_r * 0.7, leg_r * 0.75, leg_r * 0.7, boxy))
            rig.add(
                f"{name}.foot", dark, moved(rounded_box(leg_r * 2, leg_r, leg_r * 2.6, leg_r * 0.4), y=-cannon + leg_r * 0.4, z=leg_r * 0.5)
            )
    return rig


def _fold(m: Motion, end: str, side: str, bend: Floats | float, hip: Floats | float = 0.0) -> None:
    """Shortens a leg with the foot below its hip; hip > 0 brings the whole leg ahead."""
    name = f"leg.{end}.{side}"
    if end == "front":
        m.turn(f"{name}.upper", x=0.45 * bend - hip)
        m.turn(f"{name}.lower", x=-0.95 * bend)
        m.turn(f"{name}.foot", x=0.5 * bend + hip)
    else:
        m.turn(f"{name}.upper", x=-0.5 * bend - hip)
        m.turn(f"{name}.lower", x=1.0 * bend)
        m.turn(f"{name}.foot", x=-0.5 * bend + hip)


def _idle(m: Motion, dice: Dice) -> None:
    look, sway, wag = dice.real(0.25, 0.6), dice.real(0.02, 0.05), dice.real(0.2, 0.6)
    nod, breath = dice.real(0.05, 0.25), dice.real(0.02, 0.05)
    m.turn("neck", x=nod * (1 + swing(m.u + 0.3)), y=look * 0.5 * swing(m.u))
    m.turn("head", y=look * 0.6 * swing(m.u + 0.02), z=0.1 * swing(m.u))
    m.turn("chest", x=breath * swing(2 * m.u))
    m.turn("torso", z=sway * swing(m.u))
    m.turn("tail.base", y=wag * swing(2 * m.u))
    m.turn("tail.tip", y=wag * swing(2 * m.u - 0.1))
    for end, _ in ENDS:
        for side, _, half in sides():
            m.turn(f"leg.{end}.{side}.upper", z=-sway * swing(m.u))
            _fold(m, end, side, 0.12 + 0.1 * swing(m.u + half))


def _step(m: Motion, end: str, side: str, phase: float, stride: float, fold: float, stance: float) -> None:
    """One leg of a gait: down and back while phase goes from 0 to half a turn, folded and ahead in the other half."""
    ahead = swing(m.u + phase + 0.25)
    bend = beat(m.u + phase - 0.75, 0.54)
    name = f"leg.{end}.{side}"
    _fold(m, end, side, stance, stride * ahead)
    if end == "front":
        m.turn(f"{name}.upper", x=-0.35 * fold * bend)
        m.turn(f"{name}.lower", x=fold * bend)
        m.turn(f"{name}.foot", x=0.4 * fold * bend)
    else:
        m.turn(f"{name}.upper", x=-0.5 * fold * bend)
        m.turn(f"{name}.lower", x=fold * bend)
        m.turn(f"{name}.foot", x=-0.2 * fold * bend)


def _walk(m: Motion, dice: Dice) -> None:
    stride, fold, wag = dice.real(0.28, 0.45), dice.real(0.85, 1.3), dice.real(0.1, 0.4)
    # from a walk in four beats to a trot: how far the front foot lags behind the hind foot of its side
    lag, nod = dice.one((0.25, 0.25, 0.5)) + dice.real(-0.04, 0.04), dice.real(0.04, 0.12)
    for end, _ in ENDS:
        for side, _, half in sides():
            _step(m, end, side, half + (lag if end == "front" else 0.0), stride, fold, 0.05)
    m.turn("torso", y=0.06 * swing(m.u), z=0.03 * swing(m.u + 0.25))
    m.turn("chest", y=-0.12 * swing(m.u))
    m.turn("neck", x=nod * swing(2 * m.u), y=0.06 * swing(m.u))
    m.turn("head", x=-0.7 * nod * swing(2 * m.u))
    m.turn("tail.base", y=wag * swing(m.u))
    m.turn("tail.tip", y=wag * swing(m.u - 0.12))


def _run(m: Motion, dice: Dice) -> None:
    stride, fold, spread = dice.real(0.6, 0.85), dice.real(1.1, 1.6), dice.real(0.04, 0.12)
    flex, lead = dice.real(0.15, 0.3), dice.real(-1, 1)
    for end, _ in ENDS:
        for side, sign, _ in sides():
            _step(m, end, side, (0.45 if end == "front" else 0.0) + sign * lead * spread, stride, fold, 0.15)
    # the back bends while the feet gather below and stretches in flight
    bend = flex * swing(m.u + 0.15)
    m.turn("torso", x=0.6 * bend)
    m.turn("chest", x=-1.0 * bend)
    m.turn("neck", x=0.25 + 0.6 * bend)
    m.turn("head", x=-0.15 - 0.3 * bend)
    m.turn("tail.base", x=-0.3 + 0.3 * swing(m.u - 0.1))
    m.turn("tail.tip", x=0.3 * swing(m.u - 0.25))
    m.rise(dice.real(0.12, 0.25) * beat(m.u - 0.85, 0.5))


def _jump(m: Motion, dice: Dice) -> None:
    depth, height, pitch = dice.real(1.4, 1.9), dice.real(0.6, 1.0), dice.real(0.3, 0.55)
    crouch = keys(m.u, (0.0, 0.0), (0.24, 1.0), (0.36, 0.0), (0.72, 0.0), (0.82, 0.9), (1.0, 0.0))
    nose = keys(m.u, (0.2, 0.0), (0.4, 1.0), (0.66, -0.5), (0.78, 0.0))
    air = keys(m.u, (0.34, 0.0), (0.48, 1.0), (0.6, 1.0), (0.72, 0.0))
    m.turn("torso", x=-pitch * nose)
    m.turn("chest", x=0.15 * crouch - 0.1 * air)
    m.turn("neck", x=0.5 * pitch * nose - 0.25 * crouch)
    m.turn("tail.base", x=-0.7 * air)
    for side, _, _ in sides():
        _fold(m, "front", side, depth * crouch, 0.2 * nose)
        m.turn(f"leg.front.{side}.upper", x=-0.7 * air)
        m.turn(f"leg.front.{side}.lower", x=0.9 * air)
        _fold(m, "hind", side, depth * crouch, 0.3 * crouch - 0.7 * air)
        m.turn(f"leg.hind.{side}.foot", x=0.6 * air)
    m.rise(height * arc(m.u, 0.34, 0.72))


def _attack(m: Motion, dice: Dice) -> None:
    rear, (_, sign) = dice.chance(0.45), dice.one(SIDES)
    power, start = dice.real(0.85, 1.15), dice.real(0.34, 0.44)
    hit = start + dice.real(0.1, 0.15)
    wind = power * keys(m.u, (0.0, 0.0), (start, 1.0), (hit, 0.0))
    blow = power * keys(m.u, (start, 0.0), (hit, 1.0), (hit + 0.15, 1.0), (1.0, 0.0))
    m.turn("jaw", x=0.7 * keys(m.u, (0.1, 0.0), (start, 1.0), (hit, 0.1), (hit + 0.1, 0.6), (hit + 0.2, 0.0)))
    m.turn("tail.base", x=-0.5 * (wind + blow), y=0.3 * sign * wind)
    if rear:
        # up on the hind legs, both front feet strike down
        m.turn("torso", x=-0.75 * wind)
        m.turn("neck", x=0.4 * wind + 0.3 * blow)
        for side, own, _ in sides():
            m.turn(f"leg.front.{side}.upper", x=-(0.9 + 0.3 * sign * own) * wind - 0.5 * blow)
            m.turn(f"leg.front.{side}.lower", x=1.1 * wind)
            _fold(m, "hind", side, 0.5 * wind, -0.6 * wind)
            _fold(m, "front", side, 0.7 * blow)
        m.go(z=0.15 * blow)
        return
    # crouched back, then a lunge with the teeth
    m.turn("torso", x=0.12 * wind + 0.05 * blow)
    m.turn("neck", x=-0.4 * wind + 0.5 * blow, y=0.25 * sign * wind)
    m.turn("head", x=0.2 * wind - 0.3 * blow, z=0.3 * sign * blow)
    for side, _, _ in sides():
        _fold(m, "front", side, 0.9 * wind + 0.3 * blow, 0.45 * wind - 0.5 * blow)
        _fold(m, "hind", side, 0.6 * wind, 0.35 * wind - 0.6 * blow)
    m.go(z=0.5 * blow - 0.25 * wind)


def _wave(m: Motion, dice: Dice) -> None:
    side, sign = dice.one(SIDES)
    other = "right" if side == "left" else "left"
    width, sit = dice.real(0.3, 0.5), dice.real(0.5, 0.7)
    # it sits on its hind legs and one front leg goes up and down
    m.turn("torso", x=-sit)
    m.turn("neck", x=0.6 * sit + 0.05 * swing(m.u))
    m.turn("head", z=0.12 * sign * swing(m.u))
    for leg, _, _ in sides():
        _fold(m, "hind", leg, 1.5, 0.35 - sit)
    m.turn(f"leg.front.{other}.upper", x=sit)
    m.turn(f"leg.front.{side}.upper", x=-0.9 + 0.5 * width * swing(m.u), z=0.15 * sign)
    m.turn(f"leg.front.{side}.lower", x=0.5 + width * swing(m.u - 0.08), z=sign * width * swing(m.u + 0.25))
    m.turn(f"leg.front.{side}.foot", x=0.3 + width * swing(m.u - 0.16))
    m.turn("tail.base", y=0.4 * swing(m.u))


def _fall(m: Motion, dice: Dice) -> None:
    (_, sign), down = dice.one(SIDES), dice.real(0.5, 0.62)
    weak = keys(m.u, (0.0, 0.0), (0.3, 1.0), (down, 0.6), (0.9, 0.35))
    tip = keys(m.u, (0.15, 0.0), (0.28, 0.12), (down, 1.0)) - 0.05 * beat((m.u - down - 0.08).clip(-0.5, 0.5), 0.16)
    m.turn("torso", z=-sign * 1.55 * tip, x=dice.real(-0.1, 0.25) * weak)
    m.go(x=0.7 * sign * tip)
    m.turn("neck", x=0.5 * weak, y=-0.3 * sign * tip)
    m.turn("head", x=0.3 * weak, y=-0.2 * sign * tip)
    m.turn("tail.base", y=0.4 * sign * tip)
    m.turn("jaw", x=0.3 * tip)
    for end, shift in ENDS:
        for side, _, half in sides():
            _fold(m, end, side, (0.9 + half - shift) * weak, (0.3 - 0.4 * half) * tip)


ACTIONS: dict[str, Action] = {
    "idle": _idle,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "attack": _attack,
    "wave": _wave,
    "fall": _fall,
}
