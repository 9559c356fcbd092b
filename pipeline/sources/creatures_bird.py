"""The procedural bird: from sparrow to stork to penguin by its proportions; lengths in metres."""

from __future__ import annotations

import numpy as np

from pipeline.sources.creatures_rig import SIDES, Action, Motion, Rig, arc, beat, forward, keys, limb, sides, swing
from pipeline.sources.model import DARK, Color, Dice
from pipeline.sources.solids import Floats, Solid, bar, ellipsoid, loft, moved

BEAKS: tuple[Color, ...] = ((0.95, 0.65, 0.15), (0.85, 0.4, 0.15), (0.25, 0.25, 0.27), (0.9, 0.8, 0.4))
# how far a folded wing is turned back and its trailing edge down
BACK, DOWN = 1.4, -1.2


def build(dice: Dice) -> Rig:
    """Torso, neck, head with beak, tail, two wings of two segments, two legs of three."""
    rig = Rig()
    thigh, shank, shin = dice.real(0.07, 0.12), dice.real(0.1, 0.24), dice.real(0.08, 0.26)
    long, girth = dice.real(0.2, 0.32), dice.real(0.1, 0.16)
    neck, head, beak = dice.real(0.05, 0.34), dice.real(0.06, 0.1), dice.real(0.06, 0.22)
    span, chord, tail = dice.real(0.2, 0.36), dice.real(0.14, 0.24), dice.real(0.12, 0.3)
    pitch, slant = dice.real(0.1, 0.75), dice.real(0.35, 0.6)
    coat, belly, tips = dice.paint(), dice.paint(), dice.paint()
    beak_color, leg_r = dice.near(dice.one(BEAKS), 0.05), dice.real(0.012, 0.022)
    rig.hip_m = thigh + shank + shin

    rig.joint("torso", "", (0.0, rig.hip_m, 0.0), (-pitch, 0.0, 0.0))
    rig.add("torso", coat, moved(ellipsoid(girth, girth * 1.02, long), z=0.02))
    rig.add("torso", belly, moved(ellipsoid(girth * 0.9, girth * 0.9, long * 0.85), y=-girth * 0.2, z=0.05))
    upright = pitch - dice.real(0.7, 1.35)
    rig.joint("neck", "torso", (0.0, girth * 0.5, long * 0.72), (upright, 0.0, 0.0))
    rig.add("neck", coat, forward(limb(neck, girth * 0.5, head * 0.7)))
    rig.joint("head", "neck", (0.0, 0.0, neck), (pitch - upright, 0.0, 0.0))
    rig.add("head", coat, moved(ellipsoid(head, head, head * 1.1), z=head * 0.2))
    rig.add("head", beak_color, bar((0.0, 0.0, head * 0.9), (0.0, -0.15 * beak, head * 1.1 + beak), head * 0.4, 0.006, 8))
    for _, sign in SIDES:
        rig.add("head", DARK, moved(ellipsoid(head * 0.18, head * 0.2, head * 0.18, 8), sign * head * 0.82, head * 0.3, head * 0.55))
    if dice.chance(0.35):
        for k in range(3):
            crest = bar((0.0, head * 0.8, -head * 0.3 * k), (0.0, head * (1.9 - 0.3 * k), -head * (0.6 + 0.5 * k)), head * 0.14, 0.004, 6)
            rig.add("head", tips, crest)
    rig.joint("tail", "torso", (0.0, girth * 0.1, -long * 0.85), (dice.real(-0.3, 0.3), 0.0, 0.0))
    rig.add("tail", tips, _vane((0.35 * girth, 0.0), (dice.real(0.5, 1.1) * girth, -tail), 0.012))

    for side, sign in SIDES:
        rig.joint(f"wing.{side}.upper", "torso", (sign * girth * 0.72, girth * 0.6, long * 0.42), (DOWN, sign * BACK, 0.0))
        rig.add(f"wing.{side}.upper", coat, _wing(sign, span * 0.5, chord, chord * 1.05))
        rig.joint(f"wing.{side}.lower", f"wing.{side}.upper", (sign * span * 0.5, 0.0, 0.0), (0.0, sign * 0.15, 0.0))
        rig.add(f"wing.{side}.lower", tips, _wing(sign, span * 0.65, chord * 1.0, chord * 0.35))
    for side, sign in SIDES:
        c = 1.0 - slant * slant * 0.5
        rig.joint(f"leg.{side}.upper", "torso", (sign * girth * 0.5, -girth * 0.45, 0.0), (pitch - slant, 0.0, 0.0))
        rig.add(f"leg.{side}.upper", coat, limb(thigh / c, girth * 0.4, leg_r * 1.5))
        rig.joint(f"leg.{side}.lower", f"leg.{side}.upper", (0.0, -thigh / c, 0.0), (2 * slant, 0.0, 0.0))
        rig.add(f"leg.{side}.lower", beak_color, limb(shank / c, leg_r * 1.5, leg_r))
        rig.joint(f"leg.{side}.shin", f"leg.{side}.lower", (0.0, -shank / c, 0.0), (-1.5 * slant, 0.0, 0.0))
        rig.add(f"leg.{side}.shin", beak_color, limb(shin, leg_r, leg_r))
        rig.joint(f"leg.{side}.foot", f"leg.{side}.shin", (0.0, -shin, 0.0), (0.5 * slant, 0.0, 0.0))
        toe = 0.6 * (0.06 + 0.3 * shin)
        for x, z in ((-0.5, 1.0), (0.0, 1.0), (0.5, 1.0), (0.0, -0.6)):
            rig.add(f"leg.{side}.foot", beak_color, bar((0, 0, 0), (toe * x, -leg_r, toe * z), leg_r, leg_r * 0.6, 6))
    return rig


def _vane(near: tuple[float, float], far: tuple[float, float], thickness: float) -> Solid:
    """A flat piece along z from one (half width, z) to the other."""
    rings = []
    for half, z in (far, near):
        rings.append(np.array([(-half, -thickness / 2, z), (half, -thickness / 2, z), (half, thickness / 2, z), (-half, thickness / 2, z)]))
    return loft(rings)


def _wing(sign: float, span: float, inner: float, outer: float) -> Solid:
    """A segment of a wing out along x from its joint, the leading edge at z = 0.03."""
    rings = []
    for x, chord in ((-0.02, inner), (span, outer)):
        thick = 0.03 if x < 0 else 0.012
        z0, z1 = 0.03, 0.03 - chord
        rings.append(
            np.array([(sign * x, -thick / 2, z0), (sign * x, -thick / 2, z1), (sign * x, thick / 2, z1), (sign * x, thick / 2, z0)])
        )
    return loft(rings if sign > 0 else rings[::-1])


def _spread(m: Motion, side: str, sign: float, open_: Floats | float, flap: Floats | float = 0.0) -> None:
    """Unfolds a wing, open_ from 0 to 1; flap > 0 raises it."""
    m.turn(f"wing.{side}.upper", x=-DOWN * open_, y=-sign * BACK * open_, z=sign * flap)
    m.turn(f"wing.{side}.lower", y=-sign * 0.15 * open_, z=0.5 * sign * flap)


def _bend(m: Motion, side: str, knee: Floats | float, hip: Floats | float = 0.0) -> None:
    """Shortens a leg with the foot below the body and level; hip > 0 brings the leg ahead."""
    m.turn(f"leg.{side}.upper", x=-0.5 * knee - hip)
    m.turn(f"leg.{side}.lower", x=knee)
    m.turn(f"leg.{side}.shin", x=-0.8 * knee)
    m.turn(f"leg.{side}.foot", x=0.3 * knee + hip)


def _idle(m: Motion, dice: Dice) -> None:
    look, sway, dip = dice.real(0.4, 0.9), dice.real(0.03, 0.07), dice.real(0.05, 0.2)
    # the head turns in jerks
    turned = keys(m.u - np.floor(m.u), (0.05, 0.0), (0.15, 1.0), (0.45, 1.0), (0.55, -0.8), (0.8, -0.8), (0.9, 0.0))
    m.turn("head", y=look * turned, z=0.2 * look * turned)
    m.turn("neck", x=dip * swing(m.u), y=0.2 * look * turned)
    m.turn("torso", x=0.5 * sway * swing(2 * m.u), z=sway * swing(m.u))
    m.turn("tail", x=0.15 * swing(2 * m.u + 0.2))
    for side, sign, half in sides():
        m.turn(f"leg.{side}.upper", z=-sway * swing(m.u))
        _bend(m, side, 0.1 + 0.05 * swing(m.u + half))
        _spread(m, side, sign, 0.06 * (1 + swing(m.u + 0.4)))


def _gait(m: Motion, stride: float, fold: float, nod: float, roll: float) -> None:
    for side, _, half in sides():
        ahead = swing(m.u + half + 0.25)
        _bend(m, side, 0.1 + fold * beat(m.u + half - 0.75, 0.54), stride * ahead)
    m.turn("torso", x=0.3 * nod * swing(2 * m.u), z=roll * swing(m.u), y=0.5 * roll * swing(m.u + 0.25))
    # the head is thrust ahead once a step and held while the body follows
    m.turn("neck", x=nod * swing(2 * m.u + 0.1))
    m.turn("head", x=-1.2 * nod * swing(2 * m.u + 0.1), z=-roll * swing(m.u))
    m.turn("tail", y=1.5 * roll * swing(m.u), x=0.3 * nod * swing(2 * m.u))


def _walk(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.35, 0.55), dice.real(0.7, 1.1), dice.real(0.12, 0.3), dice.real(0.04, 0.12))


def _run(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.6, 0.85), dice.real(1.2, 1.6), dice.real(0.08, 0.15), dice.real(0.05, 0.1))
    m.turn("torso", x=dice.real(0.1, 0.25))
    m.turn("neck", x=0.3)
    open_, flap = dice.real(0.15, 0.55), dice.real(0.1, 0.25)
    for side, sign, _ in sides():
        _spread(m, side, sign, open_, 0.15 + flap * swing(2 * m.u + 0.2))
    m.rise(dice.real(0.1, 0.2) * (beat(m.u - 0.94, 0.4) + beat(m.u - 0.44, 0.4)))


def _jump(m: Motion, dice: Dice) -> None:
    depth, height, flap = dice.real(0.9, 1.3), dice.real(0.7, 1.2), dice.real(0.5, 0.8)
    crouch = keys(m.u, (0.0, 0.0), (0.25, 1.0), (0.36, 0.0), (0.74, 0.0), (0.84, 0.7), (1.0, 0.0))
    air = keys(m.u, (0.3, 0.0), (0.42, 1.0), (0.68, 1.0), (0.84, 0.0))
    m.turn("torso", x=0.25 * crouch - 0.2 * air)
    m.turn("neck", x=0.3 * crouch)
    for side, sign, _ in sides():
        _bend(m, side, depth * crouch + 0.7 * air, 0.2 * crouch)
        _spread(m, side, sign, 0.25 * crouch + 0.9 * air, air * (0.25 + flap * swing(2.5 * (m.u - 0.3))))
    m.turn("tail", x=0.3 * air - 0.3 * crouch)
    m.rise(height * arc(m.u, 0.34, 0.74))


def _attack(m: Motion, dice: Dice) -> None:
    pecks, power = dice.whole(1, 2), dice.real(0.85, 1.15)
    if dice.chance(0.5):
        # drawn back, then the beak comes down
        first = [(0.0, 0.0), (0.3, -1.0), (0.42, 1.0)]
        rest = [(0.54, -0.5), (0.66, 1.0), (1.0, 0.0)] if pecks == 2 else [(0.58, 1.0), (1.0, 0.0)]
        blow = power * keys(m.u, *first, *rest)
        ahead = np.maximum(blow, 0.0)
        m.turn("torso", x=0.45 * blow)
        m.turn("neck", x=0.75 * blow)
        m.turn("head", x=-0.35 * blow)
        m.turn("tail", x=-0.3 * blow)
        for side, sign, _ in sides():
            m.turn(f"leg.{side}.upper", x=-0.45 * blow)
            _bend(m, side, 0.6 * ahead)
            _spread(m, side, sign, 0.35 * (ahead + 0.3 * keys(m.u, (0.0, 0.0), (0.3, 1.0), (1.0, 0.0))), 0.2 * ahead)
        m.go(z=0.35 * blow)
        return
    # wings up, a hop, and both feet strike ahead
    wind = power * keys(m.u, (0.0, 0.0), (0.34, 1.0), (0.48, 0.0))
    blow = power * keys(m.u, (0.34, 0.0), (0.48, 1.0), (0.62, 1.0), (0.85, 0.0))
    m.turn("torso", x=0.2 * wind - 0.7 * blow)
    m.turn("neck", x=0.5 * blow)
    for side, sign, half in sides():
        _bend(m, side, 0.8 * wind + 0.3 * blow, 0.6 * blow + 0.2 * half * blow)
        _spread(m, side, sign, np.minimum(wind + blow, 1.0), 0.7 * wind - 0.2 * blow + 0.5 * blow * swing(3 * m.u))
    m.rise(0.5 * arc(m.u, 0.38, 0.72))


def _wave(m: Motion, dice: Dice) -> None:
    side, sign = dice.one(SIDES)
    width, raised = dice.real(0.3, 0.5), dice.real(0.3, 0.6)
    _spread(m, side, sign, 1.0, raised + width * swing(m.u))
    m.turn(f"wing.{side}.lower", z=sign * 0.5 * width * swing(m.u - 0.12))
    m.turn("torso", z=-sign * (0.1 + 0.03 * swing(m.u)))
    m.turn("neck", y=0.3 * sign)
    m.turn("head", y=0.3 * sign, z=0.15 * swing(m.u))
    for leg, _ in SIDES:
        m.turn(f"leg.{leg}.upper", z=sign * 0.1)
        _bend(m, leg, 0.1)


def _fall(m: Motion, dice: Dice) -> None:
    (_, sign), down = dice.one(SIDES), dice.real(0.5, 0.62)
    over = dice.one((1.5, 1.5, 2.9))
    weak = keys(m.u, (0.0, 0.0), (0.3, 1.0), (down, 0.6), (0.95, 0.5))
    tip = keys(m.u, (0.15, 0.0), (0.28, 0.1), (down, 1.0)) - 0.05 * beat((m.u - down - 0.08).clip(-0.5, 0.5), 0.16)
    flutter = keys(m.u, (0.1, 0.0), (0.25, 1.0), (down, 0.0))
    m.turn("torso", z=-sign * over * tip, x=0.3 * weak * (1 - tip) - m.rest["torso"][0] * tip)
    m.go(x=0.8 * sign * tip)
    m.turn("neck", x=0.6 * tip, y=0.3 * sign * tip)
    m.turn("head", x=-0.3 * tip)
    for side, own, half in sides():
        _bend(m, side, (0.8 + half) * weak, (0.2 + 0.4 * half) * tip)
        # on its side the wing below stays folded, so that it does not prop the bird up
        rest = 0.35 if over > 2.0 or own != sign else 0.0
        _spread(m, side, own, 0.5 * flutter + rest * tip, 0.6 * flutter * swing(4 * m.u))


def _fly(m: Motion, dice: Dice) -> None:
    width, lean, bob = dice.real(0.6, 0.9), dice.real(0.0, 0.3), dice.real(0.1, 0.25)
    m.turn("torso", x=lean + 0.06 * swing(m.u + 0.1))
    m.turn("neck", x=0.3 - 0.05 * swing(m.u + 0.1))
    m.turn("tail", x=0.15 * swing(m.u + 0.3))
    for side, sign, _ in sides():
        _spread(m, side, sign, 1.0, 0.1 + width * swing(m.u + 0.25))
        # the outer wing lags behind
        m.turn(f"wing.{side}.lower", z=-sign * 0.5 * width * (swing(m.u + 0.25) - swing(m.u + 0.1)))
        _bend(m, side, 0.9, -0.9)
    m.rise(1.0 - bob * swing(m.u + 0.02))


ACTIONS: dict[str, Action] = {
    "idle": _idle,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "attack": _attack,
    "wave": _wave,
    "fall": _fall,
    "fly": _fly,
}
