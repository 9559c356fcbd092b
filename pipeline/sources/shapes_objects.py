"""Procedural bottle, guitar, lamp and mug; lengths in metres, the small things in decimetres."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sources.model import DARK, Dice, Model
from pipeline.sources.solids import bar, box, circle, cylinder, ellipsoid, lathe, moved, prism, rounded_box, tube, turned
from render.trig import cos_sin


def bottle(dice: Dice, model: Model) -> None:
    """A body, a shoulder, a neck and a cap or cork; wine, water, jar or flask by proportions."""
    radius, body, neck_radius = dice.real(0.28, 0.5), dice.real(0.7, 2.0), dice.real(0.09, 0.17)
    shoulder, neck = dice.real(0.12, 0.7), dice.real(0.1, 0.75)
    glass = dice.one(((0.12, 0.3, 0.16), (0.35, 0.18, 0.07), (0.75, 0.85, 0.88), dice.paint(), dice.paint()))
    glass = dice.near(glass, 0.05)
    waist = dice.one((1.0, 1.0, dice.real(0.75, 0.92)))
    profile = [
        (0.0, 0.0),
        (radius * 0.92, 0.0),
        (radius, 0.05),
        (radius, body * 0.35),
        (radius * waist, body * 0.55),
        (radius, body * 0.8),
        (radius, body),
    ]
    bulge = dice.real(0.6, 2.2)
    for k in range(1, 9):
        share = k / 8
        c, s = cos_sin(share * math.pi / 2)
        # from a straight cone to a round shoulder
        drop = (1 - c) if bulge > 1.4 else share if bulge > 1.0 else s
        profile.append((radius + (neck_radius - radius) * drop, body + shoulder * share))
    top = body + shoulder + neck
    profile += [(neck_radius, top), (0.0, top)]
    square = dice.chance(0.2)
    model.add("body", glass, lathe(profile, 4 if square else 32))
    model.add("lip", glass, moved(cylinder(neck_radius * 1.2, 0.06), y=top - 0.09))
    cap = dice.real(0.08, 0.22)
    if dice.chance(0.3):
        model.add("cap", (0.72, 0.55, 0.36), moved(cylinder(neck_radius * 0.85, cap, top_radius=neck_radius), y=top + cap / 2))
    else:
        model.add("cap", dice.one((dice.paint(), dice.metal(), DARK)), moved(cylinder(neck_radius * 1.25, cap), y=top + cap / 2 - 0.02))
    if dice.chance(0.75) and not square:
        low, high = dice.real(0.15, 0.3), dice.real(0.6, 0.78)
        middle, tall = body * (low + high) / 2, body * (high - low)
        model.add("label", dice.one(((0.93, 0.9, 0.82), dice.paint())), moved(cylinder(radius * 1.012, tall, 32), y=middle))


def mug(dice: Dice, model: Model) -> None:
    """A hollow cup with a handle at its side, some on a saucer."""
    radius, height, wall = dice.real(0.32, 0.55), dice.real(0.5, 1.15), dice.real(0.03, 0.06)
    foot, belly = radius * dice.real(0.55, 1.05), dice.real(-0.05, 0.12)
    color = dice.one((dice.paint(), dice.paint(), (0.92, 0.92, 0.9)))

    def outer(share: float) -> float:
        return foot + (radius - foot) * share + belly * 4 * share * (1 - share)

    steps = [k / 8 for k in range(9)]
    profile = [
        (0.0, 0.0),
        *((outer(s), s * height) for s in steps),
        *((outer(s) - wall, s * height) for s in steps[:0:-1]),
        (0.0, wall * 1.5),
    ]
    model.add("cup", color, lathe(profile, 36))
    if dice.chance(0.6):
        level = height * dice.real(0.6, 0.9)
        drink = dice.one(((0.25, 0.13, 0.06), (0.55, 0.3, 0.1), (0.9, 0.85, 0.75)))
        model.add("drink", drink, moved(cylinder(outer(level / height) - wall * 0.95, 0.01, 36), y=level))
    if dice.chance(0.4):
        at = dice.real(0.3, 0.7)
        rise = dice.real(0.1, 0.25) / 2
        band = [
            (0.0, (at - rise) * height),
            *((outer(s) + 0.006, s * height) for s in (at - rise, at, at + rise)),
            (0.0, (at + rise) * height),
        ]
        model.add("band", dice.paint(), lathe(band, 36))
    low, high, reach = height * dice.real(0.12, 0.3), height * dice.real(0.7, 0.92), dice.real(0.18, 0.36)
    bend = []
    square = dice.chance(0.3)
    for k in range(13):
        c, s = cos_sin(math.pi * (k / 12 - 0.5))
        if square:
            c, s = min(1.0, 1.6 * c), max(-1.0, min(1.0, 1.25 * s))
        y = (low + high) / 2 + s * (high - low) / 2
        bend.append((outer(y / height) - wall / 2 + reach * c, y, 0.0))
    model.add("handle", dice.one((dice.near(color), dice.paint())), tube(np.array(bend), dice.real(0.03, 0.07)))
    if dice.chance(0.2):
        plate = radius * dice.real(1.5, 2.0)
        model.add(
            "saucer", color, lathe([(0, -0.06), (plate * 0.6, -0.06), (plate, 0.04), (plate, 0.06), (plate * 0.6, -0.01), (0, -0.01)], 36)
        )


def lamp(dice: Dice, model: Model) -> None:
    """A shade on a stem: a table lamp, a floor lamp, or a desk lamp with a jointed arm."""
    kind = dice.one(("table", "floor", "desk"))
    metal, shade = (
        dice.one((dice.metal(), dice.wood(), dice.paint())),
        dice.one((dice.paint(), (0.93, 0.89, 0.78), dice.near((0.9, 0.8, 0.6)))),
    )
    tall = {"table": dice.real(0.25, 0.5), "floor": dice.real(1.1, 1.6), "desk": dice.real(0.3, 0.5)}[kind]
    base = {"table": dice.real(0.08, 0.14), "floor": dice.real(0.13, 0.2), "desk": dice.real(0.09, 0.13)}[kind]
    if dice.chance(0.25):
        model.add("base", metal, moved(box(base * 1.7, 0.03, base * 1.7), y=0.015))
    else:
        model.add("base", metal, lathe([(0, 0), (base, 0), (base, 0.012), (base * 0.35, dice.real(0.02, 0.06)), (0, 0.06)], 30))
    if kind == "desk":
        _desk_arm(dice, model, metal, shade, tall)
        return
    if kind == "table" and dice.chance(0.6):
        bulb = dice.real(0.05, 0.12)
        model.add("stem", dice.paint(), moved(ellipsoid(bulb, tall * dice.real(0.3, 0.48), bulb), y=tall * 0.5))
    model.add("stem", metal, bar((0, 0, 0), (0, tall, 0), dice.real(0.008, 0.02)))
    low, high, deep = dice.real(0.11, 0.26), dice.real(0.06, 0.2), dice.real(0.13, 0.3)
    high = min(low, high)
    y = tall - deep * 0.2
    wall = 0.006
    profile = [(low - wall, y), (low, y), (high, y + deep), (high - wall, y + deep), (low - wall, y)]
    rings = [circle(r, 32) for r, _ in profile]
    model.add("shade", shade, _open_shade(rings, [level for _, level in profile]))
    model.add("bulb", (0.98, 0.95, 0.82), moved(ellipsoid(0.035, 0.05, 0.035), y=tall + 0.03))
    if dice.chance(0.5):
        cord = tall - dice.real(0.05, 0.12)
        model.add(
            "cord",
            metal,
            bar((low * 0.6, cord, 0), (low * 0.6, tall, 0), 0.002),
            moved(ellipsoid(0.008, 0.012, 0.008, 10), low * 0.6, cord),
        )


def _open_shade(rings: list[np.ndarray], levels: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A ring-shaped solid: the rings closed one after another, without ends."""
    n, count = len(rings[0]), len(rings) - 1
    vertices = np.concatenate(
        [np.column_stack((ring[:, 0], np.full(n, y), ring[:, 1])) for ring, y in zip(rings[:-1], levels[:-1], strict=True)]
    )
    i = np.arange(n)
    j = (i + 1) % n
    faces = []
    for k in range(count):
        a, b = k * n, (k + 1) % count * n
        faces += [np.stack((a + i, a + j, b + j), axis=1), np.stack((a + i, b + j, b + i), axis=1)]
    return vertices, np.concatenate(faces)


def _desk_arm(dice: Dice, model: Model, metal: tuple[float, float, float], shade: tuple[float, float, float], tall: float) -> None:
    lean, bend, radius = dice.real(0.1, 0.6), dice.real(0.5, 1.2), dice.real(0.008, 0.014)
    c, s = cos_sin(lean)
    elbow = (0.0, 0.03 + tall * c, -tall * s)
    c, s = cos_sin(bend)
    reach = tall * dice.real(0.7, 1.1)
    head = (0.0, elbow[1] + reach * c, elbow[2] + reach * s)
    model.add("stem", metal, bar((0, 0.02, 0), elbow, radius), bar(elbow, head, radius))
    model.add("stem", DARK, moved(ellipsoid(radius * 2, radius * 2, radius * 2, 12), *elbow))
    wide, deep = dice.real(0.07, 0.12), dice.real(0.1, 0.18)
    bell = lathe([(0, -deep), (wide, -deep), (wide * 0.85, -deep * 0.6), (wide * 0.35, 0.0), (wide * 0.25, 0.03), (0, 0.03)], 28)
    tilt = dice.real(-0.9, 0.2)
    model.add("shade", shade, moved(turned(bell, "x", tilt), *head))
    bulb = moved(ellipsoid(wide * 0.5, wide * 0.3, wide * 0.5, 14), y=-deep)
    model.add("bulb", (0.98, 0.95, 0.82), moved(turned(bulb, "x", tilt), *head))


def guitar(dice: Dice, model: Model) -> None:
    """A waisted body, a neck with frets and a head with pegs; acoustic with a hole, or electric with pickups. It stands upright."""
    electric = dice.chance(0.45)
    length, wide = dice.real(0.42, 0.55), dice.real(0.3, 0.42)
    waist, upper = dice.real(0.5, 0.8), dice.real(0.65, 0.9)
    thick = dice.real(0.035, 0.06) if electric else dice.real(0.08, 0.13)
    body = dice.one((dice.wood(), dice.paint())) if not electric else dice.paint()
    # The half width at heights from the tail to the neck, through which a smooth outline runs.
    heights = [0.0, 0.06, 0.16, 0.3, 0.45, 0.58, 0.7, 0.82, 0.92, 0.98]
    lower = wide / 2
    widths = [0.35 * lower, 0.72 * lower, 0.95 * lower, lower, 0.9 * lower, waist * lower]
    widths += [upper * lower * k for k in (0.93, 1.0, 0.82, 0.45)]
    if electric:
        widths[-2:] = [upper * lower * 0.95, upper * lower * 0.55]
    right = [(w, h * length) for w, h in zip(widths, heights, strict=True)]
    left = [(-w * (dice.real(0.85, 1.0) if electric else 1.0), y) for w, y in reversed(right)]
    outline = np.array(right + left)
    model.add("body", body, prism(outline, thick))
    front = thick / 2
    top = dice.near(body, 0.15) if electric else dice.near((0.85, 0.68, 0.42), 0.08)
    model.add("body", top, moved(prism(np.column_stack((outline[:, 0] * 0.94, 0.03 * length + outline[:, 1] * 0.94)), 0.006), z=front))
    if electric:
        if dice.chance(0.7):
            for side in (-1, 1):
                horn = np.array(
                    [
                        (side * lower * upper * 0.55, length * 0.75, 0.0),
                        (side * lower * upper * 0.8, length * 0.95, 0.0),
                        (side * lower * 0.5, length * dice.real(1.03, 1.15), 0.0),
                    ]
                )
                model.add("body", body, tube(horn, [thick * 0.8, thick * 0.6, thick * 0.25], 12))
        for k in range(dice.whole(1, 3)):
            model.add("pickup", DARK, moved(box(wide * 0.26, 0.02, 0.012), 0, length * (0.35 + 0.15 * k), front + 0.006))
        for k in range(2):
            model.add(
                "knob",
                dice.metal(),
                moved(turned(cylinder(0.014, 0.02), "x", math.pi / 2), wide * 0.24, length * (0.12 + 0.12 * k), front + 0.01),
            )
    else:
        model.add("hole", DARK, moved(turned(cylinder(wide * dice.real(0.11, 0.15), 0.012, 28), "x", math.pi / 2), 0, length * 0.64, front))
    model.add("bridge", DARK if not electric else dice.metal(), moved(box(wide * 0.36, 0.022, 0.016), 0, length * 0.22, front + 0.006))
    neck, thin = dice.real(0.4, 0.58), dice.real(0.045, 0.06)
    wood = dice.wood()
    model.add("neck", wood, moved(rounded_box(thin, neck + 0.1, 0.03, 0.012), 0, length + neck / 2 - 0.06, front - 0.008))
    model.add("neck", (0.16, 0.1, 0.07), moved(box(thin * 0.98, neck + 0.12, 0.008), 0, length + neck / 2 - 0.05, front + 0.009))
    for k in range(dice.whole(8, 14)):
        y = length + neck * (1 - 0.92 ** (k + 1)) / (1 - 0.92**16)
        model.add("neck", (0.8, 0.8, 0.78), moved(box(thin, 0.004, 0.004), 0, 2 * length + neck - y - 0.02, front + 0.014))
    crown = length + neck
    head = np.array(
        [
            (-thin * 0.5, 0),
            (thin * 0.5, 0),
            (thin * 0.85, 0.05),
            (thin * dice.real(0.6, 0.9), 0.17),
            (-thin * dice.real(0.3, 0.9), 0.18),
            (-thin * 0.85, 0.05),
        ]
    )
    model.add("head", dice.one((wood, body, DARK)), moved(turned(prism(head, 0.018), "x", -0.15), 0, crown - 0.02, front - 0.008))
    for k in range(3):
        for side in (-1, 1):
            y = crown + 0.035 + 0.045 * k
            model.add(
                "peg",
                dice.near((0.8, 0.8, 0.78), 0.0),
                bar((side * thin * 0.6, y, front - 0.02), (side * thin * 1.25, y, front - 0.02), 0.007),
            )
    for k in range(6 if not electric or dice.chance(0.8) else 4):
        x = thin * 0.8 * (k / 5 - 0.5)
        model.add("string", (0.85, 0.85, 0.8), bar((x * 1.3, length * 0.22, front + 0.018), (x, crown, front + 0.018), 0.0012, segments=4))
