"""Procedural bed, bookshelf, chair, sofa and table; lengths in metres."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sources.model import Color, Dice, Model
from pipeline.sources.solids import bar, box, cylinder, moved, prism, rounded_box, tapered_box, tube, turned
from render.trig import cos_sin


def _four_legs(dice: Dice, model: Model, color: Color, width: float, depth: float, height: float) -> None:
    """Legs below a plate of width by depth at a height: square, round or turned, straight or splayed."""
    kind = dice.one(("square", "round", "taper"))
    thickness = dice.real(0.025, 0.07)
    inset, splay = dice.real(0.0, 0.12), dice.one((0.0, 0.0, dice.real(0.03, 0.12)))
    x, z = width / 2 - thickness - inset * width / 2, depth / 2 - thickness - inset * depth / 2
    for sx in (-1, 1):
        for sz in (-1, 1):
            if kind == "square" and splay == 0:
                model.add("leg", color, moved(box(thickness, height, thickness), sx * x, height / 2, sz * z))
            else:
                foot = thickness / 2 * (0.5 if kind == "taper" else 1.0)
                end = (sx * (x + splay), 0.0, sz * (z + splay))
                model.add("leg", color, bar((sx * x, height, sz * z), end, thickness / 2, foot, 8 if kind != "square" else 4))
    if dice.chance(0.35):
        level = height * dice.real(0.2, 0.6)
        for sx in (-1, 1):
            model.add("leg", color, bar((sx * x, level, -z), (sx * x, level, z), thickness / 3))
        model.add("leg", color, bar((-x, level, 0), (x, level, 0), thickness / 3))


def _pedestal(dice: Dice, model: Model, color: Color, reach: float, height: float) -> None:
    """A column on a foot: a disc, or arms in a star."""
    model.add("leg", color, moved(cylinder(dice.real(0.025, 0.06), height), y=height / 2))
    if dice.chance(0.5):
        model.add("base", color, moved(cylinder(reach, 0.04, top_radius=reach * 0.85), y=0.02))
        return
    arms = dice.whole(3, 6)
    for k in range(arms):
        c, s = cos_sin(2 * math.pi * k / arms)
        model.add("base", color, bar((0, 0.12, 0), (reach * s, 0.03, reach * c), 0.03, 0.02))
        model.add("base", (0.15, 0.15, 0.16), moved(cylinder(0.03, 0.05), reach * s, 0.025, reach * c))


def chair(dice: Dice, model: Model) -> None:
    """A seat and a back on legs or a pedestal, with or without arms."""
    width, depth, height = dice.real(0.38, 0.6), dice.real(0.38, 0.55), dice.real(0.36, 0.5)
    thickness = dice.real(0.03, 0.1)
    frame = dice.one((dice.wood(), dice.metal(), dice.paint()))
    cover = dice.paint() if dice.chance(0.6) else dice.near(frame, 0.06)
    if dice.chance(0.25):
        model.add("seat", cover, moved(cylinder(width / 2, thickness), y=height))
        depth = width
    else:
        model.add("seat", cover, moved(rounded_box(width, thickness, depth, thickness * dice.real(0.1, 0.49)), y=height))
    if dice.chance(0.25):
        _pedestal(dice, model, dice.metal(), width * 0.5, height)
    else:
        _four_legs(dice, model, frame, width * 0.96, depth * 0.96, height)
    _chair_back(dice, model, frame, cover, width, depth, height)
    if dice.chance(0.35):
        level = height + dice.real(0.15, 0.26)
        for side in (-1, 1):
            x = side * width * 0.5
            model.add("arm", frame, moved(box(0.05, 0.035, depth * 0.85), x, level, 0.0))
            model.add("arm", frame, bar((x, height, depth * 0.33), (x, level, depth * 0.36), 0.016))
            model.add("arm", frame, bar((x, height, -depth * 0.4), (x, level, -depth * 0.4), 0.016))


def _chair_back(dice: Dice, model: Model, frame: Color, cover: Color, width: float, depth: float, height: float) -> None:
    tall, lean = dice.real(0.35, 0.75), dice.real(0.0, 0.3)
    kind = dice.one(("panel", "slats", "ladder", "round"))
    solids = []
    thickness = dice.real(0.02, 0.06)
    if kind == "panel":
        gap = dice.one((0.0, dice.real(0.1, 0.25)))
        solids.append((cover, moved(rounded_box(width * 0.95, tall - gap, thickness, thickness / 3), y=(tall + gap) / 2)))
    elif kind == "round":
        angles = [cos_sin(math.pi * k / 12) for k in range(13)]
        arch = np.array([(width * 0.46 * c, tall * 0.4 + tall * 0.6 * s, 0.0) for c, s in angles])
        path = np.concatenate(([[width * 0.46, 0.0, 0.0]], arch, [[-width * 0.46, 0.0, 0.0]]))
        solids.append((frame, tube(path, 0.018)))
        count = dice.whole(3, 6)
        places = [width * 0.8 * ((k + 0.5) / count - 0.5) for k in range(count)]
        solids += [(frame, bar((x, 0, 0), (x, tall * 0.8, 0), 0.009)) for x in places]
    if kind in ("slats", "ladder") or (kind == "panel" and solids):
        for side in (-1, 1):
            solids.append((frame, moved(box(0.035, tall, 0.035), side * (width * 0.475 - 0.01), tall / 2)))
    if kind in ("slats", "ladder"):
        solids.append((frame, moved(box(width * 0.95, dice.real(0.05, 0.12), 0.03), y=tall)))
        count = dice.whole(2, 6)
        for k in range(count):
            if kind == "slats":
                x = width * 0.85 * ((k + 0.5) / count - 0.5)
                solids.append((frame, moved(box(width * 0.4 / count, tall, 0.02), x, tall / 2)))
            else:
                solids.append((frame, moved(box(width * 0.9, tall * 0.45 / count, 0.02), 0, tall * (k + 0.7) / (count + 0.5))))
    for color, solid in solids:
        model.add("back", color, moved(turned(solid, "x", -lean), y=height, z=-depth / 2 + 0.02))


def table(dice: Dice, model: Model) -> None:
    """A top on legs, a pedestal or panels."""
    width, depth, height = (
        dice.real(0.6, 2.0),
        dice.real(0.5, 1.0),
        dice.one((dice.real(0.35, 0.5), dice.real(0.65, 0.8), dice.real(0.9, 1.1))),
    )
    wood, thickness = dice.wood(), dice.real(0.02, 0.08)
    top = dice.one((wood, dice.near(wood), dice.paint(), (0.85, 0.85, 0.83)))
    round_top = dice.chance(0.35)
    if round_top:
        width = min(width, 1.3)
        depth = width
        model.add("top", top, moved(cylinder(width / 2, thickness, 36), y=height))
    else:
        model.add("top", top, moved(rounded_box(width, thickness, depth, thickness * dice.real(0.05, 0.4)), y=height))
    kind = dice.one(("pedestal", "legs")) if round_top else dice.one(("legs", "legs", "panels", "pedestal"))
    if kind == "legs":
        shrink = 0.68 if round_top else 0.97
        _four_legs(dice, model, dice.one((wood, dice.metal())), width * shrink, depth * shrink, height)
    elif kind == "pedestal":
        _pedestal(dice, model, dice.one((wood, dice.metal())), min(width, depth) * 0.36, height)
    else:
        for side in (-1, 1):
            model.add("leg", wood, moved(box(0.05, height, depth * 0.85), side * width * dice.real(0.36, 0.46), height / 2))
        model.add("leg", wood, moved(box(width * 0.75, 0.12, 0.04), 0, height * 0.5))
    if not round_top and dice.chance(0.4):
        apron = dice.real(0.06, 0.16)
        model.add("apron", wood, moved(box(width * 0.86, apron, depth * 0.8), y=height - thickness / 2 - apron / 2))
        for k in range(dice.whole(0, 3)):
            model.add(
                "drawer",
                dice.near(wood, 0.1),
                moved(box(width * 0.2, apron * 0.7, 0.02), width * (k - 1) * 0.26, height - apron / 2 - 0.02, depth * 0.4),
            )
            model.add(
                "drawer", dice.metal(), moved(box(0.06, 0.015, 0.03), width * (k - 1) * 0.26, height - apron / 2 - 0.02, depth * 0.41)
            )
    if dice.chance(0.2):
        model.add("shelf", wood, moved(box(width * 0.7, 0.02, depth * 0.6), y=height * dice.real(0.2, 0.4)))


def sofa(dice: Dice, model: Model) -> None:
    """A wide upholstered seat with arms and cushions, some with a corner."""
    seats = dice.whole(1, 4)
    width, depth, height = 0.45 + 0.55 * seats * dice.real(0.85, 1.15), dice.real(0.75, 1.05), dice.real(0.36, 0.48)
    cloth = dice.paint() if dice.chance(0.7) else dice.wood()
    cushion = dice.near(cloth, 0.12)
    arm, foot, soft = dice.real(0.1, 0.28), dice.real(0.03, 0.16), dice.real(0.02, 0.1)
    back_tall, lean, back_deep = dice.real(0.3, 0.6), dice.real(0.0, 0.25), dice.real(0.12, 0.25)
    model.add("base", cloth, moved(rounded_box(width, height - foot - 0.1, depth, soft / 3), y=foot + (height - foot - 0.1) / 2))
    inner = width - 2 * arm
    for k in range(seats):
        x = inner * ((k + 0.5) / seats - 0.5)
        model.add("cushion", cushion, moved(rounded_box(inner / seats * 0.98, 0.16, depth - back_deep, 0.06), x, height, back_deep / 2))
        pillow = turned(rounded_box(inner / seats * 0.95, back_tall, back_deep * 0.7, 0.07), "x", -lean)
        model.add("cushion", cushion, moved(pillow, x, height + back_tall / 2, -depth / 2 + back_deep * 1.2))
    back = turned(rounded_box(width, back_tall + height * 0.5, back_deep, soft), "x", -lean)
    model.add("back", cloth, moved(back, y=height + back_tall * 0.4, z=-depth / 2 + back_deep / 2))
    arm_tall = dice.real(0.12, 0.32)
    for k in range(dice.one((0, 0, 2, seats))):
        pillow = turned(turned(rounded_box(0.36, 0.36, 0.12, 0.055), "z", dice.real(-0.3, 0.3)), "x", -0.35)
        model.add(
            "pillow",
            dice.paint(),
            moved(pillow, inner * (k + 0.5) / max(seats, 2) - inner / 2, height + 0.27, back_deep * 1.6 - depth / 2 + 0.1),
        )
    for side in (-1, 1):
        x = side * (width / 2 - arm / 2)
        model.add("arm", cloth, moved(rounded_box(arm, height - foot + arm_tall, depth, soft), x, foot + (height - foot + arm_tall) / 2))
        if dice.chance(0.3):
            model.add("arm", cloth, moved(turned(cylinder(arm * 0.6, depth), "x", math.pi / 2), x, height + arm_tall))
        for z in (-1, 1):
            model.add("leg", dice.near((0.2, 0.14, 0.1), 0.0), moved(cylinder(0.03, foot), side * width * 0.44, foot / 2, z * depth * 0.42))
    if seats > 2 and dice.chance(0.35):
        side = dice.one((-1, 1))
        model.add(
            "base",
            cloth,
            moved(rounded_box(0.8, height - foot, 0.8, soft / 2), side * (width / 2 - 0.4), foot + (height - foot) / 2, depth / 2 + 0.35),
        )
        model.add("cushion", cushion, moved(rounded_box(0.76, 0.16, 0.76, 0.06), side * (width / 2 - 0.4), height, depth / 2 + 0.35))


def bed(dice: Dice, model: Model) -> None:
    """A mattress with blanket and pillows on a frame with a headboard."""
    width, length, height = dice.one((dice.real(0.8, 1.0), dice.real(1.35, 1.9))), dice.real(1.85, 2.2), dice.real(0.25, 0.5)
    wood = dice.one((dice.wood(), dice.metal(), dice.paint()))
    mattress, sheet = dice.real(0.14, 0.3), dice.near((0.93, 0.93, 0.9), 0.04)
    leg = dice.real(0.0, 0.22)
    model.add("frame", wood, moved(box(width + 0.06, height - leg, length + 0.06), y=leg + (height - leg) / 2))
    if leg > 0.04:
        for x in (-1, 1):
            for z in (-1, 1):
                model.add("leg", wood, moved(box(0.07, leg, 0.07), x * (width / 2 - 0.02), leg / 2, z * (length / 2 - 0.02)))
    model.add("mattress", sheet, moved(rounded_box(width, mattress, length, 0.06), y=height + mattress / 2))
    cover = dice.real(0.4, 0.75)
    model.add(
        "blanket",
        dice.paint(),
        moved(
            rounded_box(width + 0.05, mattress * 0.9, length * cover, 0.05), y=height + mattress * 0.58, z=length * (0.5 - cover / 2) + 0.02
        ),
    )
    pillows = 2 if width > 1.2 else 1
    for k in range(pillows):
        middle = width * (k + 0.5) / pillows - width / 2
        pillow = turned(rounded_box(width / pillows * 0.8, 0.13, 0.4, 0.06), "x", -dice.real(0.0, 0.4))
        model.add("pillow", dice.near(sheet, 0.05), moved(pillow, middle, height + mattress + 0.07, -length / 2 + 0.26))
    head = dice.real(0.35, 0.8)
    _bed_end(dice, model, wood, width, height + mattress * 0.5, head, -length / 2 - 0.05)
    if dice.chance(0.4):
        _bed_end(dice, model, wood, width, height, head * dice.real(0.3, 0.6), length / 2 + 0.05)
    if dice.chance(0.12):
        tall = dice.real(1.5, 2.0)
        for x in (-1, 1):
            for z in (-1, 1):
                model.add("post", wood, bar((x * width / 2, 0, z * length / 2), (x * width / 2, tall, z * length / 2), 0.03))
            model.add("post", wood, bar((x * width / 2, tall, -length / 2), (x * width / 2, tall, length / 2), 0.025))
        for z in (-1, 1):
            model.add("post", wood, bar((-width / 2, tall, z * length / 2), (width / 2, tall, z * length / 2), 0.025))


def _bed_end(dice: Dice, model: Model, color: Color, width: float, level: float, tall: float, z: float) -> None:
    kind = dice.one(("panel", "bars", "arch"))
    half = width / 2 + 0.04
    if kind == "panel":
        model.add("headboard", color, moved(rounded_box(2 * half, level + tall, dice.real(0.04, 0.14), 0.02), y=(level + tall) / 2, z=z))
        return
    if kind == "arch":
        turns = [cos_sin(math.pi * k / 14) for k in range(15)]
        outline = np.array([(-half, 0.0), (half, 0.0), *((half * c, level + tall * s) for c, s in turns)])
        model.add("headboard", color, moved(prism(outline, 0.06), z=z))
        return
    for side in (-1, 1):
        model.add("headboard", color, bar((side * half, 0, z), (side * half, level + tall, z), 0.03))
    for y in (level, level + tall * 0.95):
        model.add("headboard", color, bar((-half, y, z), (half, y, z), 0.022))
    count = dice.whole(4, 9)
    for k in range(count):
        x = 2 * half * ((k + 0.5) / count - 0.5)
        model.add("headboard", color, bar((x, level, z), (x, level + tall * 0.95, z), 0.012))


def bookshelf(dice: Dice, model: Model) -> None:
    """Shelves between sides, with rows of books."""
    width, depth, height = dice.real(0.5, 1.6), dice.real(0.22, 0.4), dice.real(0.8, 2.2)
    wood, board = dice.one((dice.wood(), dice.wood(), (0.9, 0.9, 0.88), dice.metal())), dice.real(0.018, 0.04)
    shelves = max(2, min(7, round(height / dice.real(0.28, 0.42))))
    columns = 2 if width > 1.0 and dice.chance(0.6) else 1
    foot = dice.one((0.0, dice.real(0.05, 0.15)))
    for k in range(columns + 1):
        x = (width - board) * (k / columns - 0.5)
        model.add("side", wood, moved(box(board, height, depth), x, height / 2 + foot))
    if foot:
        for x in (-1, 1):
            for z in (-1, 1):
                model.add("leg", wood, moved(tapered_box((0.03, 0.03), (0.05, 0.05), foot), x * width * 0.46, foot / 2, z * depth * 0.4))
    if dice.chance(0.7):
        model.add("back", dice.near(wood, 0.05), moved(box(width, height, 0.012), y=height / 2 + foot, z=-depth / 2))
    step = (height - board) / shelves
    fill = dice.real(0.3, 0.95)
    for k in range(shelves + 1):
        model.add("shelf", wood, moved(box(width, board, depth * 0.98), y=foot + board / 2 + k * step))
    for k in range(shelves):
        for column in range(columns):
            left = (width - board) * (column / columns - 0.5) + board / 2 + 0.01
            right = left + (width - board) / columns - board - 0.02
            _books(
                dice,
                model,
                left,
                left + (right - left) * min(1.0, fill * dice.real(0.5, 1.3)),
                foot + board + k * step,
                step - board,
                depth,
            )


def _books(dice: Dice, model: Model, left: float, right: float, floor: float, room: float, depth: float) -> None:
    """Upright books from left to right on a shelf."""
    x = left
    while True:
        thickness, tall, deep = dice.real(0.025, 0.075), room * dice.real(0.55, 0.93), depth * dice.real(0.55, 0.8)
        if x + thickness > right:
            return
        model.add("book", dice.paint(), moved(box(thickness * 0.94, tall, deep), x + thickness / 2, floor + tall / 2, depth * 0.05))
        x += thickness
