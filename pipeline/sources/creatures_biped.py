"""The procedural biped: an upright figure with arms, of human to cartoon proportions; lengths in metres."""

from __future__ import annotations

import math

from pipeline.sources.creatures_rig import SIDES, Action, Motion, Rig, arc, beat, forward, keys, limb, sides, swing
from pipeline.sources.model import DARK, Dice
from pipeline.sources.solids import Floats, bar, box, cylinder, ellipsoid, moved, rounded_box, turned

SKINS = ((0.93, 0.76, 0.63), (0.78, 0.57, 0.42), (0.5, 0.33, 0.22), (0.36, 0.62, 0.4), (0.55, 0.62, 0.75))


def build(dice: Dice) -> Rig:
    """Pelvis, torso, head, two arms and two legs of three segments each; some with hat, horns, tail, pack or a weapon."""
    rig = Rig()
    boxy = dice.chance(0.3)
    thigh, shin = dice.real(0.32, 0.5), dice.real(0.3, 0.48)
    upper, lower = dice.real(0.24, 0.34), dice.real(0.22, 0.32)
    trunk, waist, bulk = dice.real(0.34, 0.56), dice.real(0.11, 0.19), dice.real(0.8, 1.35)
    shoulders, head = dice.real(0.17, 0.27), dice.real(0.12, 0.24)
    leg_r, arm_r = dice.real(0.06, 0.1) * bulk, dice.real(0.04, 0.075) * bulk
    skin, shirt, trousers, shoes = dice.near(dice.one(SKINS), 0.06), dice.paint(), dice.paint(), dice.one((DARK, dice.paint()))
    sleeve = dice.one((skin, shirt))
    foot_h, long = 0.09, dice.real(0.2, 0.3)
    rig.hip_m = thigh + shin + foot_h

    rig.joint("pelvis", "", (0.0, rig.hip_m, 0.0))
    rig.add("pelvis", trousers, rounded_box(2 * waist * 1.05, 0.22, 2 * waist * 0.8, 0.09))
    rig.joint("torso", "pelvis", (0.0, 0.08, 0.0))
    if boxy:
        rig.add("torso", shirt, moved(rounded_box(2 * shoulders * 0.95, trunk, 2 * waist * 0.9, 0.06), y=trunk / 2))
    else:
        rig.add("torso", shirt, moved(ellipsoid(waist, trunk * 0.52, waist * 0.82), y=trunk * 0.38))
        rig.add("torso", shirt, moved(ellipsoid(shoulders, trunk * 0.3, waist * 0.85), y=trunk * 0.78))
    rig.joint("head", "torso", (0.0, trunk + 0.02, 0.0))
    rig.add("head", skin, moved(cylinder(head * 0.4, 0.12, 12), y=0.03))
    skull = rounded_box(head * 1.7, head * 1.8, head * 1.7, head * 0.4) if boxy else ellipsoid(head * 0.86, head, head * 0.92)
    rig.add("head", skin, moved(skull, y=head * 0.95 + 0.04))
    eye = head * 0.16
    for _, sign in SIDES:
        rig.add("head", DARK, moved(ellipsoid(eye, eye, eye * 0.5, 8), sign * head * 0.36, head * 1.05 + 0.04, head * 0.85))
    rig.add("head", skin, moved(ellipsoid(eye * 0.7, eye * 0.8, eye, 8), 0.0, head * 0.78 + 0.04, head * 0.92))
    top = head * 1.95 + 0.04
    hair = dice.one(((0.15, 0.1, 0.08), (0.75, 0.6, 0.3), (0.5, 0.25, 0.12), dice.paint()))
    match dice.whole(0, 4):
        case 0:
            rig.add("head", hair, moved(cylinder(head * 1.25, 0.02), y=top - head * 0.3), moved(cylinder(head * 0.75, head), y=top))
        case 1:
            for _, sign in SIDES:
                horn = bar((sign * head * 0.5, top - head * 0.35, 0), (sign * head * 0.9, top + head * 0.4, 0), head * 0.18, 0.005)
                rig.add("head", (0.85, 0.8, 0.7), horn)
        case 2:
            rig.add("head", hair, moved(ellipsoid(head * 0.95, head * 0.7, head), y=top - head * 0.55, z=-head * 0.22))
        case 3:
            for _, sign in SIDES:
                rig.add("head", skin, moved(ellipsoid(head * 0.35, head * 0.35, head * 0.12, 12), sign * head * 0.75, top - head * 0.2))
    if dice.chance(0.25):
        rig.add("torso", dice.paint(), moved(rounded_box(shoulders * 1.4, trunk * 0.7, 0.16, 0.05), y=trunk * 0.6, z=-waist * 0.85 - 0.06))

    armed = dice.one(("", "left", "right"))
    for side, sign in SIDES:
        rig.joint(f"arm.{side}.upper", "torso", (sign * shoulders * 0.98, trunk * 0.83, 0.0), (0.0, 0.0, sign * 0.14))
        rig.add(f"arm.{side}.upper", shirt, limb(upper, arm_r * 1.15, arm_r, boxy))
        rig.joint(f"arm.{side}.lower", f"arm.{side}.upper", (0.0, -upper, 0.0), (-0.12, 0.0, 0.0))
        rig.add(f"arm.{side}.lower", sleeve, limb(lower, arm_r, arm_r * 0.75, boxy))
        rig.joint(f"arm.{side}.hand", f"arm.{side}.lower", (0.0, -lower, 0.0))
        rig.add(f"arm.{side}.hand", skin, moved(ellipsoid(arm_r * 0.8, arm_r * 1.35, arm_r * 1.1, 10), y=-arm_r * 0.9))
        if side == armed:
            blade = dice.real(0.4, 0.75)
            if dice.chance(0.5):
                rig.add(f"arm.{side}.hand", dice.metal(), moved(box(0.02, 0.06, blade), y=-arm_r, z=blade / 2 + 0.05))
                rig.add(f"arm.{side}.hand", dice.wood(), moved(box(0.16, 0.03, 0.03), y=-arm_r, z=0.06))
            else:
                rig.add(
                    f"arm.{side}.hand", dice.wood(), moved(turned(cylinder(0.05, blade, 10, 0.02), "x", -math.pi / 2), y=-arm_r, z=0.25)
                )
    for side, sign in SIDES:
        rig.joint(f"leg.{side}.upper", "pelvis", (sign * waist * 0.58, -0.02, 0.0))
        rig.add(f"leg.{side}.upper", trousers, limb(thigh, leg_r * 1.15, leg_r * 0.85, boxy))
        rig.joint(f"leg.{side}.lower", f"leg.{side}.upper", (0.0, -thigh, 0.0))
        rig.add(f"leg.{side}.lower", trousers, limb(shin, leg_r * 0.85, leg_r * 0.65, boxy))
        rig.joint(f"leg.{side}.foot", f"leg.{side}.lower", (0.0, -shin, 0.0))
        shoe = rounded_box(leg_r * 1.7, foot_h, long, 0.04)
        rig.add(f"leg.{side}.foot", shoes, moved(shoe, y=-foot_h / 2, z=long * 0.28))
    if dice.chance(0.25):
        rig.joint("tail", "pelvis", (0.0, 0.0, -waist * 0.7), (0.5, math.pi, 0.0))
        rig.add("tail", skin, forward(limb(dice.real(0.3, 0.6), 0.05, 0.02)))
    return rig


def _bend(m: Motion, side: str, knee: Floats | float, hip: Floats | float = 0.0) -> None:
    """Bends a knee with the foot below the hip, hip > 0 the whole leg forward, the foot level."""
    m.turn(f"leg.{side}.upper", x=-(0.5 * knee + hip))
    m.turn(f"leg.{side}.lower", x=knee)
    m.turn(f"leg.{side}.foot", x=hip - 0.5 * knee)


def _idle(m: Motion, dice: Dice) -> None:
    look, sway, slack = dice.real(0.2, 0.5), dice.real(0.03, 0.07), dice.real(0.03, 0.09)
    m.turn("head", x=0.05 * swing(2 * m.u), y=look * swing(m.u))
    m.turn("torso", x=0.03 + 0.025 * swing(2 * m.u + 0.2), y=0.3 * look * swing(m.u - 0.05))
    m.turn("pelvis", z=sway * swing(m.u))
    for side, sign, half in sides():
        m.turn(f"leg.{side}.upper", z=-sway * swing(m.u) + sign * 0.06)
        _bend(m, side, 0.1 + slack * (1 + swing(m.u + half)))
        m.turn(f"arm.{side}.upper", x=sway * swing(m.u + half), z=sign * 0.05 * (1 + swing(2 * m.u + 0.3)))
        m.turn(f"arm.{side}.lower", x=-0.15 - sway * swing(m.u + half + 0.1))


def _gait(m: Motion, stride: float, knee: float, stance: float, arms: float, elbow: float, twist: float) -> None:
    """Both legs and arms of a walk or a run: legs half a turn apart, each arm against its leg."""
    m.turn("pelvis", y=twist * swing(m.u + 0.25), z=0.4 * twist * swing(m.u))
    m.turn("torso", y=-2 * twist * swing(m.u + 0.25), z=-0.4 * twist * swing(m.u))
    m.turn("head", y=twist * swing(m.u + 0.25))
    for side, sign, half in sides():
        # u = 0: the left heel strikes; half a turn later the foot leaves the ground and the knee bends
        ahead = swing(m.u + half + 0.25)
        bend = stance + knee * beat(m.u + half - 0.72, 0.56)
        m.turn(f"leg.{side}.upper", x=-stride * ahead - 0.25 * bend)
        m.turn(f"leg.{side}.lower", x=bend)
        m.turn(f"leg.{side}.foot", x=0.7 * (stride * ahead - 0.75 * bend) + 0.25 * beat(m.u + half - 0.56, 0.26))
        m.turn(f"arm.{side}.upper", x=arms * ahead, z=sign * 0.05)
        m.turn(f"arm.{side}.lower", x=-elbow * (1 - 0.25 * ahead))


def _walk(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.35, 0.55), dice.real(0.85, 1.25), 0.08, dice.real(0.25, 0.7), dice.real(0.15, 0.5), dice.real(0.06, 0.16))
    m.turn("torso", x=dice.real(-0.03, 0.1))


def _run(m: Motion, dice: Dice) -> None:
    _gait(m, dice.real(0.7, 0.95), dice.real(1.3, 1.8), 0.25, dice.real(0.6, 1.1), dice.real(1.1, 1.7), dice.real(0.12, 0.22))
    lean = dice.real(0.12, 0.3)
    m.turn("pelvis", x=0.4 * lean)
    m.turn("torso", x=0.6 * lean)
    m.turn("head", x=-0.7 * lean)
    m.rise(dice.real(0.08, 0.16) * (beat(m.u - 0.94, 0.4) + beat(m.u - 0.44, 0.4)))


def _jump(m: Motion, dice: Dice) -> None:
    depth, height, tuck = dice.real(1.2, 1.7), dice.real(0.5, 0.9), dice.real(0.3, 1.3)
    reach = dice.real(1.6, 2.7)
    crouch = keys(m.u, (0.0, 0.0), (0.24, 1.0), (0.34, 0.0), (0.72, 0.0), (0.82, 0.7), (1.0, 0.0))
    air = keys(m.u, (0.34, 0.0), (0.5, 1.0), (0.56, 1.0), (0.7, 0.0))
    arms = keys(m.u, (0.0, 0.0), (0.24, -0.3), (0.42, 1.0), (0.6, 0.8), (0.82, 0.0))
    m.turn("pelvis", x=0.3 * crouch)
    m.turn("torso", x=0.35 * crouch - 0.1 * air)
    m.turn("head", x=-0.4 * crouch)
    for side, sign, _ in sides():
        _bend(m, side, depth * crouch + tuck * air, 0.3 * crouch)
        m.turn(f"leg.{side}.foot", x=0.8 * keys(m.u, (0.28, 0.0), (0.38, 1.0), (0.6, 0.6), (0.72, 0.0)))
        m.turn(f"arm.{side}.upper", x=-reach * arms, z=sign * 0.25 * air)
        m.turn(f"arm.{side}.lower", x=-0.3 * crouch)
    m.rise(height * arc(m.u, 0.34, 0.72))


def _attack(m: Motion, dice: Dice) -> None:
    style, (side, sign) = dice.whole(0, 2), dice.one(SIDES)
    other = "right" if side == "left" else "left"
    power, start = dice.real(0.85, 1.15), dice.real(0.3, 0.42)
    hit = start + dice.real(0.1, 0.16)
    wind = power * keys(m.u, (0.0, 0.0), (start, 1.0), (hit, 0.0))
    blow = power * keys(m.u, (start, 0.0), (hit, 1.0), (hit + 0.14, 1.0), (1.0, 0.0))
    stance = keys(m.u, (0.0, 0.0), (0.2, 1.0), (0.8, 1.0), (1.0, 0.0))
    if style == 2:
        # a kick: the knee comes up, then the leg is flung ahead
        m.turn(f"leg.{side}.upper", x=-1.1 * wind - 1.5 * blow)
        m.turn(f"leg.{side}.lower", x=1.9 * wind + 0.1 * blow)
        _bend(m, other, 0.35 * stance)
        m.turn("pelvis", x=-0.15 * blow)
        m.turn("torso", x=0.15 * wind - 0.25 * blow)
        for arm, way in SIDES:
            m.turn(f"arm.{arm}.upper", z=way * 0.6 * blow, x=-0.3 * stance)
            m.turn(f"arm.{arm}.lower", x=-1.3 * stance)
        return
    m.turn("pelvis", y=sign * 0.25 * (blow - wind) * -1)
    m.turn("torso", y=sign * (0.45 * wind - 0.55 * blow), x=0.25 * blow - (0.2 * wind if style == 1 else 0.0))
    m.turn("head", y=sign * (0.35 * blow - 0.2 * wind))
    # a step into the blow with the other foot
    _bend(m, other, 0.3 * stance + 0.3 * blow, 0.45 * blow)
    _bend(m, side, 0.3 * stance, -0.4 * blow)
    m.go(z=0.2 * blow)
    if style == 0:
        m.turn(f"arm.{side}.upper", x=0.9 * wind - 1.5 * blow, z=sign * 0.2 * wind)
        m.turn(f"arm.{side}.lower", x=-1.9 * wind - 0.05 * blow)
        m.turn(f"arm.{other}.upper", x=-0.5 * stance)
        m.turn(f"arm.{other}.lower", x=-1.6 * stance)
    else:
        m.turn(f"arm.{side}.upper", x=-2.8 * wind - 0.75 * blow)
        m.turn(f"arm.{side}.lower", x=-0.9 * wind - 0.1 * blow)
        m.turn(f"arm.{other}.upper", x=0.3 * blow - 0.2 * stance, z=-sign * 0.3 * stance)


def _wave(m: Motion, dice: Dice) -> None:
    side, sign = dice.one(SIDES)
    width, raised = dice.real(0.35, 0.65), dice.real(2.0, 2.5)
    m.turn(f"arm.{side}.upper", z=sign * (raised + 0.12 * swing(m.u)))
    m.turn(f"arm.{side}.lower", x=0.12, z=sign * (0.35 + width * swing(m.u + 0.05)))
    m.turn(f"arm.{side}.hand", z=sign * 0.4 * width * swing(m.u - 0.1))
    m.turn("torso", z=-sign * 0.06 + 0.03 * swing(m.u))
    m.turn("head", z=-sign * 0.12 + 0.05 * swing(m.u))
    for leg, _, half in sides():
        _bend(m, leg, 0.12 + 0.05 * swing(m.u + half))


def _fall(m: Motion, dice: Dice) -> None:
    way, (_, sign) = dice.whole(0, 2), dice.one(SIDES)
    down = dice.real(0.5, 0.62)
    knees = keys(m.u, (0.0, 0.0), (0.25, 1.0), (down, 0.5), (0.85, 0.25))
    tip = keys(m.u, (0.12, 0.0), (0.22, 0.1), (down, 1.0)) - 0.06 * beat((m.u - down - 0.07).clip(-0.5, 0.5), 0.14)
    spread = keys(m.u, (0.1, 0.0), (down - 0.05, 1.0))
    flat = 1.0 if way == 0 else -1.0 if way == 1 else 0.0
    m.turn("pelvis", x=flat * math.pi / 2 * tip, z=sign * math.pi / 2 * tip if way == 2 else 0.0)
    m.go(x=-0.8 * sign * tip if way == 2 else 0.0, z=0.8 * flat * tip)
    m.turn("torso", x=0.4 * flat * (knees - 0.25))
    m.turn("head", x=-0.5 * flat * spread, y=0.5 * sign * spread)
    for side, own, half in sides():
        uneven = 1.0 if half else 0.6
        _bend(m, side, uneven * knees)
        m.turn(f"leg.{side}.foot", x=(1.1 if way == 0 else 0.3) * spread)
        m.turn(f"leg.{side}.upper", z=own * 0.15 * spread)
        # arms lie flat, beside the body or ahead of it: none props it up, nor does what a hand holds
        if way == 2:
            m.turn(f"arm.{side}.upper", x=-(1.5 if own != sign else 0.7) * spread, z=own * (0.0 if own != sign else 0.2) * spread)
            m.turn(f"arm.{side}.lower", x=-0.5 * uneven * spread)
        else:
            m.turn(f"arm.{side}.upper", x=0.1 * flat * spread, z=own * (0.4 + 1.1 * uneven) * spread)
            m.turn(f"arm.{side}.lower", x=0.25 * spread, z=own * 0.8 * uneven * spread)
        m.turn(f"arm.{side}.hand", x=1.4 * spread)


ACTIONS: dict[str, Action] = {
    "idle": _idle,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "attack": _attack,
    "wave": _wave,
    "fall": _fall,
}
