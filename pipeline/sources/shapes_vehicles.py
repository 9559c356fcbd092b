"""Procedural airplane, car, rocket and sailboat; each points along +z, or up."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sources.model import DARK, Color, Dice, Model
from pipeline.sources.solids import (
    Floats,
    Solid,
    bar,
    box,
    cylinder,
    ellipsoid,
    lathe,
    loft,
    mirrored,
    moved,
    prism,
    rounded_box,
    tube,
    turned,
)
from render.trig import cos_sin


def _wing(root: float, tip: float, span: float, sweep: float, thickness: float, rise: float) -> Solid:
    """A wing from the origin along +x with chords along z, its tip moved back by sweep and up by rise."""
    rings = []
    for x, chord, back, y, t in ((0.0, root, 0.0, 0.0, thickness), (span, tip, sweep, rise, thickness * 0.5)):
        rings.append(np.array([(x, y, chord / 2 - back), (x, y - t / 2, -back), (x, y, -chord / 2 - back), (x, y + t / 2, -back)]))
    return loft(rings[::1]) if _turns_about_x(rings[0]) else loft([ring[::-1] for ring in rings])


def _turns_about_x(ring: Floats) -> bool:
    """Whether a ring in a plane of constant x is counter-clockwise seen from +x."""
    y, z = ring[:, 1], ring[:, 2]
    return bool(np.cumsum(y * np.roll(z, -1) - z * np.roll(y, -1))[-1] > 0)


def airplane(dice: Dice, model: Model) -> None:
    """A fuselage with wings and tail: an airliner, a jet, a propeller plane or a biplane."""
    kind = dice.one(("airliner", "jet", "propeller", "biplane"))
    length, radius = dice.real(1.6, 2.6), {"airliner": 0.13, "jet": 0.1, "propeller": 0.12, "biplane": 0.13}[kind] * dice.real(0.8, 1.3)
    skin = dice.one((dice.near((0.9, 0.9, 0.92), 0.05), dice.paint(), dice.metal()))
    accent = dice.paint()
    nose, tail = dice.real(0.1, 0.35) if kind != "jet" else dice.real(0.35, 0.6), dice.real(0.3, 0.7)
    profile = [(0.0, -length / 2), (radius * 0.25, -length / 2), (radius * 0.7, -length / 2 + tail * 0.6), (radius, -length / 2 + tail)]
    profile += [
        (radius, length / 2 - nose),
        (radius * 0.8, length / 2 - nose * 0.5),
        (radius * 0.45, length / 2 - nose * 0.15),
        (0.0, length / 2),
    ]
    model.add("fuselage", skin, turned(lathe(profile, 24), "x", math.pi / 2))
    span, root = length * dice.real(0.32, 0.55), length * dice.real(0.14, 0.26)
    sweep = {"airliner": dice.real(0.15, 0.45), "jet": dice.real(0.35, 0.6), "propeller": 0.05, "biplane": 0.0}[kind] * span
    if kind == "jet":
        span, root = span * 0.75, root * 1.7
    tip, rise, place = root * dice.real(0.3, 0.8), span * dice.real(-0.02, 0.15), length * dice.real(-0.05, 0.12)
    if kind == "jet":
        tip *= 0.4
    level = radius * dice.one((-0.6, 0.0, 0.75))
    levels = [-radius * 0.7, radius * 1.7] if kind == "biplane" else [level]
    for y in levels:
        wing = moved(_wing(root, tip, span, sweep, radius * 0.35, rise), 0, y, place)
        model.add("wing", skin if dice.chance(0.6) else accent, wing, mirrored(wing))
    if kind == "biplane":
        for side in (-1, 1):
            for z in (-0.3, 0.3):
                model.add(
                    "strut",
                    DARK,
                    bar(
                        (side * span * 0.6, levels[0] + rise * 0.6, place + z * root),
                        (side * span * 0.6, levels[1] + rise * 0.6, place + z * root),
                        0.012,
                    ),
                )
    _tail(dice, model, accent, length, radius, root)
    _engines(dice, model, kind, length, radius, span, sweep, place, level, rise)
    if kind == "airliner":
        for k in range(10):
            for side in (-1, 1):
                model.add(
                    "window",
                    (0.2, 0.3, 0.4),
                    moved(box(0.01, radius * 0.22, radius * 0.18), side * radius * 0.99, radius * 0.2, length * (k / 10 - 0.4) * 0.62),
                )
    cockpit = moved(
        ellipsoid(radius * 0.6, radius * 0.55, radius * dice.real(1.0, 2.2), 16),
        y=radius * 0.75,
        z=length * (0.26 if kind != "biplane" else 0.1),
    )
    model.add("window", (0.25, 0.4, 0.5), cockpit)


def _tail(dice: Dice, model: Model, color: Color, length: float, radius: float, root: float) -> None:
    height, chord, sweep = length * dice.real(0.12, 0.2), root * dice.real(0.55, 0.9), dice.real(0.05, 0.16)
    end = -length / 2 + chord * 0.6
    fin = moved(turned(_wing(chord, chord * 0.55, height, sweep, 0.03, 0.0), "z", math.pi / 2), 0, radius * 0.4, end)
    model.add("tail", color, fin)
    up = height * 0.95 + radius * 0.4 if dice.chance(0.25) else radius * 0.35
    back = sweep if up > radius else 0.0
    plane = moved(_wing(chord * 0.8, chord * 0.5, length * dice.real(0.12, 0.18), sweep, 0.03, 0.0), 0, up, end - back)
    model.add("tail", color, plane, mirrored(plane))


def _engines(
    dice: Dice, model: Model, kind: str, length: float, radius: float, span: float, sweep: float, place: float, level: float, rise: float
) -> None:
    if kind == "airliner":
        size, count = radius * dice.real(0.4, 0.6), dice.one((1, 1, 2))
        for k in range(count):
            share = 0.35 + 0.3 * k
            pod = turned(cylinder(size, length * 0.13, top_radius=size * 0.85), "x", math.pi / 2)
            pod = moved(pod, span * share, level + rise * share - size * 1.1, place - sweep * share + length * 0.05)
            model.add("engine", dice.near((0.6, 0.6, 0.62), 0.0), pod, mirrored(pod))
    elif kind == "jet":
        for side in (-1, 1) if dice.chance(0.5) else (0,):
            nozzle = turned(cylinder(radius * 0.6, length * 0.12, top_radius=radius * 0.75), "x", math.pi / 2)
            model.add("engine", DARK, moved(nozzle, side * radius * 0.6, 0, -length / 2))
    else:
        hub = turned(cylinder(radius * 0.3, radius * 0.8, top_radius=radius * 0.05), "x", math.pi / 2)
        model.add("engine", dice.metal(), moved(hub, z=length / 2 + radius * 0.2))
        blades = dice.whole(2, 4)
        for k in range(blades):
            blade = moved(box(radius * 0.3, length * 0.13, 0.02), y=length * 0.07)
            model.add("propeller", DARK, moved(turned(blade, "z", 2 * math.pi * k / blades + 0.3), z=length / 2 + radius * 0.25))
        for side in (-1, 1):
            model.add(
                "wheel", DARK, moved(turned(cylinder(0.07, 0.04), "z", math.pi / 2), side * radius * 1.2, -radius * 2.2, length * 0.2)
            )
            model.add(
                "strut",
                DARK,
                bar((side * radius * 0.5, -radius * 0.5, length * 0.2), (side * radius * 1.2, -radius * 2.2, length * 0.2), 0.015),
            )


def car(dice: Dice, model: Model) -> None:
    """A body and a cabin with windows on four wheels: saloon, van, pickup, sports car or off-roader."""
    kind = dice.one(("saloon", "van", "pickup", "sports", "offroad"))
    length, width = dice.real(3.6, 4.9), dice.real(1.55, 1.95)
    wheel = dice.real(0.28, 0.36) * (1.3 if kind == "offroad" else 1.0)
    hood = {"saloon": 0.55, "van": 0.75, "pickup": 0.65, "sports": 0.42, "offroad": 0.7}[kind] * dice.real(0.85, 1.1)
    clear = wheel * (0.9 if kind == "offroad" else 0.55)
    color, glass = dice.paint() if dice.chance(0.8) else dice.metal(), dice.near((0.16, 0.22, 0.27), 0.03)
    model.add("body", color, moved(rounded_box(width, hood, length, dice.real(0.08, 0.22)), y=clear + hood / 2))
    start, end = {"saloon": (-0.36, 0.18), "van": (-0.48, 0.36), "pickup": (-0.05, 0.22), "sports": (-0.38, 0.1), "offroad": (-0.47, 0.15)}[
        kind
    ]
    tall = {"saloon": 0.5, "van": 0.85, "pickup": 0.6, "sports": 0.38, "offroad": 0.65}[kind] * dice.real(0.85, 1.2)
    rake_front, rake_back = (
        dice.real(0.25, 0.8) if kind != "offroad" else 0.15,
        dice.real(0.05, 0.5) if kind in ("saloon", "sports") else 0.05,
    )
    _cabin(model, color, glass, width, (start * length, end * length), clear + hood * 0.97, tall, rake_front, rake_back)
    if kind == "pickup":
        for side in (-1, 1):
            model.add("body", color, moved(box(0.08, 0.3, length * 0.42), side * (width / 2 - 0.04), clear + hood + 0.12, -length * 0.28))
        model.add("body", color, moved(box(width, 0.3, 0.08), 0, clear + hood + 0.12, -length * 0.485))
    axle = length * dice.real(0.28, 0.34)
    rim = dice.metal()
    for x in (-1, 1):
        for z in (-1, 1):
            tyre = turned(cylinder(wheel, 0.22, 28), "z", math.pi / 2)
            model.add("wheel", DARK, moved(tyre, x * (width / 2 - 0.06), wheel, z * axle))
            model.add(
                "wheel", rim, moved(turned(cylinder(wheel * 0.6, 0.24, 20), "z", math.pi / 2), x * (width / 2 - 0.06), wheel, z * axle)
            )
    for side in (-1, 1):
        model.add(
            "light", (0.97, 0.95, 0.8), moved(ellipsoid(0.15, 0.1, 0.05, 14), side * width * 0.36, clear + hood * 0.65, length / 2 - 0.01)
        )
        model.add("light", (0.75, 0.1, 0.08), moved(box(0.22, 0.12, 0.04), side * width * 0.38, clear + hood * 0.7, -length / 2))
        model.add(
            "mirror",
            color,
            moved(ellipsoid(0.12, 0.08, 0.05, 12), side * (width / 2 + 0.08), clear + hood + 0.1, end * length - rake_front * 0.6),
        )
    for z in (-1, 1):
        model.add(
            "bumper", dice.near((0.3, 0.3, 0.32), 0.0), moved(rounded_box(width * 0.96, 0.16, 0.16, 0.06), 0, clear + 0.14, z * length / 2)
        )
    model.add("grille", DARK, moved(box(width * 0.45, hood * 0.3, 0.04), 0, clear + hood * 0.42, length / 2))
    if dice.chance(0.2):
        model.add("spoiler", color, moved(box(width * 0.9, 0.04, 0.3), 0, clear + hood + 0.28, -length * 0.46))
        for side in (-1, 1):
            model.add("spoiler", color, moved(box(0.05, 0.3, 0.15), side * width * 0.36, clear + hood + 0.14, -length * 0.46))


def _cabin(
    model: Model, color: Color, glass: Color, width: float, span: tuple[float, float], floor: float, tall: float, front: float, back: float
) -> None:
    """A roof on a glass house that narrows upwards."""

    def ring(y: float, share: float, grow: float) -> Floats:
        x = (width / 2 - 0.05) * (1 - 0.2 * share) + grow
        z0, z1 = span[0] + back * share - grow, span[1] - front * share + grow
        return np.array([(-x, y, z1), (x, y, z1), (x, y, z0), (-x, y, z0)])

    model.add("window", glass, loft([ring(floor, 0.0, 0.0), ring(floor + tall * 0.9, 0.9, 0.0)]))
    model.add("roof", color, loft([ring(floor + tall * 0.86, 0.86, 0.012), ring(floor + tall, 1.0, 0.0)]))
    for share_z in (0.0, 0.5, 1.0):
        for side in (-1, 1):
            low, high = ring(floor, 0.0, 0.01), ring(floor + tall * 0.9, 0.9, 0.01)
            a, b = (low[1] * share_z + low[2] * (1 - share_z)), (high[1] * share_z + high[2] * (1 - share_z))
            model.add("roof", color, bar((side * a[0], a[1], a[2]), (side * b[0], b[1], b[2]), 0.035, segments=6))


def rocket(dice: Dice, model: Model) -> None:
    """A pointed body standing on fins, some with boosters at its sides."""
    radius, body, nose = dice.real(0.16, 0.34), dice.real(1.2, 2.6), dice.real(0.35, 0.9)
    skin, accent = dice.one((dice.near((0.92, 0.92, 0.92), 0.05), dice.paint(), dice.metal())), dice.paint()
    belly, waist = dice.one((1.0, 1.0, dice.real(1.1, 1.5))), dice.real(0.6, 1.0)
    model.add("body", skin, lathe([(0, 0), (radius * waist, 0), (radius * belly, body * 0.4), (radius, body), (0, body)], 28))
    blunt = dice.real(1.0, 2.2)
    curve = [(k / 8, cos_sin(k / 8 * math.pi / 2)[0] if blunt > 1.5 else 1 - k / 8) for k in range(8)]
    model.add("nose", accent, moved(lathe([(0, 0), *((radius * r, nose * share) for share, r in curve), (0, nose)], 28), y=body))
    model.add("nozzle", DARK, moved(cylinder(radius * 0.75, 0.25, top_radius=radius * 0.4), y=-0.1))
    fins, reach, chord = dice.whole(3, 5), radius * dice.real(0.8, 1.8), body * dice.real(0.18, 0.35)
    drop = dice.real(0.0, 0.35)
    start = radius * waist * 0.8
    outline = np.array([(start, 0.05), (start + reach, -drop), (start + reach, chord * 0.35 - drop), (start, chord)])
    for k in range(fins):
        model.add("fin", accent, turned(prism(outline, dice.real(0.03, 0.06)), "y", 2 * math.pi * k / fins))
    for k in range(dice.whole(0, 3)):
        ring = turned(cylinder(radius * 0.32, 0.05, 20), "x", math.pi / 2)
        model.add("window", (0.35, 0.55, 0.7), moved(ring, y=body * (0.82 - 0.16 * k), z=radius * 1.02))
    for _ in range(dice.whole(0, 2)):
        level = body * dice.real(0.15, 0.8)
        model.add("band", dice.paint(), moved(cylinder(radius * (belly if level < body * 0.6 else 1.0) * 1.02, 0.08, 28), y=level))
    if dice.chance(0.4):
        boosters, size, tall = dice.one((2, 4)), radius * dice.real(0.35, 0.6), body * dice.real(0.4, 0.75)
        for k in range(boosters):
            c, s = cos_sin(2 * math.pi * (k + 0.5) / boosters)
            x, z = (radius * belly + size) * s, (radius * belly + size) * c
            model.add("booster", skin, moved(cylinder(size, tall, 20), x, tall / 2, z))
            model.add("booster", accent, moved(cylinder(size, size * 2, 20, top_radius=0.01), x, tall + size, z))


def sailboat(dice: Dice, model: Model) -> None:
    """A hull with one or two masts and triangular sails."""
    length, beam, deep = dice.real(1.8, 3.0), dice.real(0.5, 0.9), dice.real(0.25, 0.5)
    paint, deck = dice.one((dice.paint(), (0.92, 0.92, 0.9), dice.wood())), dice.wood()
    stern, bow = dice.real(0.3, 0.85), dice.real(0.0, 0.25)
    rings = []
    for share in (0.0, 0.15, 0.35, 0.55, 0.75, 0.9, 1.0):
        z = length * (share - 0.5)
        half = beam / 2 * (stern + (1 - stern) * share / 0.4 if share < 0.4 else max(0.02, 1 - ((share - 0.4) / 0.6) ** 2))
        sheer = bow * max(0.0, share - 0.4) ** 2 * 2
        bottom = -deep * max(0.15, 1 - abs(share - 0.4) * 1.1) if share < 1 else -0.02
        rings.append(
            np.array(
                [
                    (half, sheer, z),
                    (0, sheer, z),
                    (-half, sheer, z),
                    (-half * 0.75, bottom * 0.6, z),
                    (0, bottom, z),
                    (half * 0.75, bottom * 0.6, z),
                ]
            )
        )
    model.add("hull", paint, loft(rings))
    top = [ring[[0, 1, 2]] * np.array([0.9, 1, 0.97]) for ring in rings]
    model.add("deck", deck, loft([np.concatenate((edge + np.array([0, 0.012, 0]), edge[::-1] + np.array([0, 0.002, 0]))) for edge in top]))
    if dice.chance(0.5):
        model.add(
            "cabin",
            dice.near((0.9, 0.9, 0.88), 0.05),
            moved(rounded_box(beam * 0.45, 0.2, length * 0.28, 0.05), 0, 0.08, -length * dice.real(0.0, 0.12)),
        )
    if dice.chance(0.5):
        model.add("keel", DARK, moved(box(0.04, deep * 1.1, length * 0.22), 0, -deep * 1.2, -length * 0.05))
    cloth = dice.one(((0.95, 0.95, 0.92), (0.95, 0.95, 0.92), dice.paint()))
    masts = [(dice.real(-0.02, 0.16), 1.0)]
    if dice.chance(0.25):
        masts.append((-0.3, dice.real(0.55, 0.8)))
    tall = length * dice.real(0.8, 1.35)
    swing = dice.real(-0.5, 0.5)
    for place, scale in masts:
        z, high = place * length, tall * scale
        model.add("mast", deck, bar((0, 0, z), (0, high, z), 0.025, 0.015))
        boom = length * dice.real(0.3, 0.42) * scale
        outline = np.array([(0.03, 0.16), (boom, 0.18), (boom * 0.45, high * 0.55), (0.03, high * 0.95)])
        sail = moved(turned(prism(outline, 0.012), "y", math.pi / 2 + swing), z=z)
        model.add("sail", cloth, sail)
        spar = turned(tube(np.array([(0.0, 0.14, 0.0), (boom * 1.03, 0.15, 0.0)]), 0.016), "y", math.pi / 2 + swing)
        model.add("mast", deck, moved(spar, z=z))
    if dice.chance(0.75):
        z, high = masts[0][0] * length, tall * dice.real(0.6, 0.95)
        jib = np.array([(0.05, 0.12), (length * 0.47 - z, 0.1 + bow * 0.5), (0.06, high)])
        model.add("sail", dice.one((cloth, dice.paint())), moved(turned(prism(jib, 0.01), "y", -math.pi / 2 + swing * 0.2), z=z))
