"""A clip is filmed: the vertices of every instant become points and a picture of that instant, in one frame of reference."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from pipeline import png, sources
from pipeline.clips import Camera, Clips
from pipeline.outcome import Outcome, Stopwatch, npy, seed_of
from pipeline.plan import Planned
from pipeline.recipe import Recipe
from pipeline.script import Played, Script, play
from render import cameras, checks, surface
from render.cameras import Cameras
from render.meshes import MAX_PARTS, Mesh, MeshError
from render.moving import check_clip
from render.views import Light, Renderer, Style, Views

Floats = npt.NDArray[np.float64]


def make_clip(recipe: Recipe, renderer: Renderer, asset: Planned, watch: Stopwatch) -> Outcome:
    """Load, pose, check, film, take points, encode. Raises MeshError and what readers and renderers raise."""
    config = recipe.clips
    assert config is not None
    script = sources.open_clip(recipe.source, asset.source, seed_of(recipe, asset.sha256, "script"), parts=recipe.points.parts)
    mesh = _labelled(asset.source, script, config) if recipe.points.parts else replace(script.animated.mesh, parts=None, part_names=())
    _check_size(recipe, asset, mesh)
    watch.lap("load")
    played = play(script, config.frames, config.fps, seed_of(recipe, asset.sha256, "play"))
    watch.lap("pose")
    moving = check_clip(mesh, played.vertices)
    mesh, vertices = moving.mesh, moving.vertices
    still = all(item.clip is None for item in script.plays)
    if not still and moving.motion < config.min_motion:
        raise MeshError("no_motion", f"{asset.source} moves by less than clips.min_motion; leave the clip out or lower min_motion.")
    watch.lap("pose")
    rig = film_cameras(config.camera, config.frames, seed_of(recipe, asset.sha256, "camera"), turntable=still)
    style = drawn_style(recipe.style, config, seed_of(recipe, asset.sha256, "style"))
    views = renderer.render_frames(mesh, vertices, rig, style)
    look = checks.check_views(views)
    watch.lap("render")
    flags = tuple(dict.fromkeys((*mesh.flags, *look.flags)))
    if look.reason is not None:
        message = "A frame shows nothing of the mesh; look at its shape and at how it moves."
        return Outcome(reason=look.reason, message=message, flags=flags, seconds=watch.seconds)
    points, faces = take_points(config, mesh, vertices, rig, views, recipe.points.count, seed_of(recipe, asset.sha256, "points"))
    watch.lap("sample")
    pixels = hashlib.sha256()
    members = {f"f{number:03d}.png": png.encode(image[..., :3], pixels) for number, image in enumerate(views.color)}
    members["clip.npy"] = npy(points)
    members["actions.npy"] = npy(played.actions)
    if recipe.points.parts:
        members["parts.npy"] = npy(np.full(faces.shape, -1, np.int16) if mesh.parts is None else mesh.parts[faces])
    facts = {
        "class": asset.cls,
        "split": asset.split,
        "source": asset.source,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "faces": len(mesh.faces),
        "normalisation": {"centre": moving.centre.tolist(), "scale": moving.scale},
        "cameras": {"width": rig.width, "height": rig.height, "K": rig.K.tolist(), "world_to_camera": rig.world_to_camera.tolist()},
        "coverage": [round(share, 6) for share in look.coverage.astype(np.float64).tolist()],
        "action_names": list(script.action_names),
        "clip": _about(script, played, config, style),
    }
    if recipe.points.parts:
        facts["part_names"] = list(mesh.part_names)
    members["json"] = json.dumps(facts, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    watch.lap("encode")
    return Outcome(members, flags, pixels.hexdigest(), seconds=watch.seconds)


def _check_size(recipe: Recipe, asset: Planned, mesh: Mesh) -> None:
    if len(mesh.faces) > recipe.limits.max_faces:
        text = f"{asset.source} has {len(mesh.faces)} faces, more than limits.max_faces; simplify it or raise the limit."
        raise MeshError("too_large", text)


def _about(script: Script, played: Played, config: Clips, style: Style) -> dict[str, object]:
    """What json says of the clip. period_s is that of the only play; start_s its time, from its first key, in the first frame."""
    one = len(script.plays) == 1
    names = ["" if item.clip is None else script.animated.clips[item.clip].name for item in script.plays]
    about: dict[str, object] = {
        "name": script.name,
        "character": script.character,
        "fps": config.fps,
        "times_s": [number / config.fps for number in range(config.frames)],
        "period_s": script.plays[0].period_s if one else None,
        "points": config.points,
        "background": list(style.background),
    }
    return about | ({"start_s": played.start_s[0]} if one else {"plays": names})


def _labelled(uri: str, script: Script, config: Clips) -> Mesh:
    """The mesh with part labels by the nodes that move its faces, which for a static one are its parts."""
    mesh, nodes = script.animated.mesh, script.animated.node_names
    if not config.parts:
        names = tuple(dict.fromkeys(nodes))
        place_of = {name: number for number, name in enumerate(names)}
        part_of = [place_of[name] for name in nodes]
    else:
        names = tuple(config.parts)
        part_of = [part_number(config.parts, name) for name in nodes]
    if len(names) > MAX_PARTS:
        text = (
            f"{uri} has {len(names)} parts, more than the {MAX_PARTS} that can be numbered; give clips.parts or set points.parts to false."
        )
        raise MeshError("too_large", text)
    # a face that no node moves has the last entry
    return replace(mesh, parts=np.array([*part_of, -1], np.int16)[script.animated.face_nodes], part_names=names)


def part_number(parts: Mapping[str, Sequence[str]], node: str) -> int:
    """The number of the first part one of whose patterns matches a node's name, whatever its case; -1 for none."""
    for number, patterns in enumerate(parts.values()):
        if any(fnmatchcase(node.lower(), pattern.lower()) for pattern in patterns):
            return number
    return -1


def film_cameras(config: Camera, frames: int, seed: int, *, turntable: bool = False) -> Cameras:
    """A camera for each frame. What is drawn comes from the seed: where the first stands, how far the last is round."""
    dice = np.random.Generator(np.random.PCG64(seed)).random(3)
    azimuth, elevation, orbit = (
        _drawn(value, uniform) for value, uniform in zip((config.azimuth_deg, config.elevation_deg, config.orbit_deg), dice, strict=True)
    )
    if turntable and orbit == 0:
        orbit = 2 * math.pi
    turn = np.arange(frames) / max(1, frames - 1)
    fov_rad = math.radians(config.fov_deg)
    directions = cameras.sphere(azimuth + orbit * turn, np.full(frames, elevation))
    return cameras.orbit(directions, cameras.fitting_distance(fov_rad, config.margin), fov_rad=fov_rad, width=config.size)


def _drawn(degrees: float | tuple[float, float], uniform: float) -> float:
    low, high = degrees if isinstance(degrees, tuple) else (degrees, degrees)
    return float((low + (high - low) * uniform) * (math.pi / 180))


def drawn_style(style: Style, config: Clips, seed: int) -> Style:
    """The style of a clip: lights of the recipe's strengths from drawn directions, world ones from above and camera ones from within
    about 40° of the line of sight; a drawn background. Values are rounded, so that they are those that a file holds."""
    dice = np.random.Generator(np.random.PCG64(seed)).random(3 + 2 * len(style.lights))
    if config.background:
        red, green, blue = (round(0.25 + 0.75 * float(value), 4) for value in dice[:3])
        style = style.model_copy(update={"background": (red, green, blue)})
    if config.light:
        lights = tuple(_turned(light, *dice[3 + 2 * n : 5 + 2 * n].tolist()) for n, light in enumerate(style.lights))
        style = style.model_copy(update={"lights": lights})
    return style


def _turned(light: Light, first: float, second: float) -> Light:
    if light.frame == "camera":
        x, y, z = 1.2 * first - 0.6, 1.2 * second - 0.6, 1.0
    else:
        above = math.radians(20 + 60 * second)
        x, y, z = (-cameras.sphere(np.array([2 * math.pi * first]), np.array([above]))[0]).tolist()
    return light.model_copy(update={"direction": (round(x, 6), round(y, 6), round(z, 6))})


def take_points(
    config: Clips, mesh: Mesh, vertices: Floats, rig: Cameras, views: Views, count: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The clip's points (T, count, 3) float32, and the faces (T, count) that they are on. Raises MeshError("zero_area")."""
    frames = len(vertices)
    points = np.empty((frames, count, 3), np.float32)
    faces = np.empty((frames, count), np.int32)
    seeds = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**63, frames)
    weights = np.empty((count, 3))
    for number in range(frames):
        if config.points == "visible":
            points[number], faces[number] = _visible(rig, views, number, count, int(seeds[number]))
            continue
        if config.points == "surface" or number == 0:
            faces[number], weights = surface.places(vertices[number], mesh.faces, count, int(seeds[number]))
        else:
            faces[number] = faces[0]
        points[number] = surface.blend(vertices[number][mesh.faces[faces[number]]], weights)
    return points, faces


def _visible(rig: Cameras, views: Views, number: int, count: int, seed: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """`count` of a frame's pixels, back in the world at their depth: different ones where there are enough, else each as often."""
    row, column = np.nonzero(views.mask[number])
    if len(row) == 0:
        raise MeshError("blank_view", "A frame shows nothing of the mesh; look at its shape and at how it moves.")
    dice = np.random.Generator(np.random.PCG64(seed))
    rounds = -(-count // len(row))
    pick = np.concatenate([dice.permutation(len(row)) for _ in range(rounds)])[:count]
    row, column = row[pick], column[pick]
    depth = views.depth[number, row, column].astype(np.float64)
    K, pose = rig.K[number], rig.world_to_camera[number]
    x, y = (column + 0.5 - K[0, 2]) / K[0, 0] * depth - pose[0, 3], (row + 0.5 - K[1, 2]) / K[1, 1] * depth - pose[1, 3]
    z = depth - pose[2, 3]
    world = [pose[0, axis] * x + pose[1, axis] * y + pose[2, axis] * z for axis in range(3)]
    return np.stack(world, axis=1), views.face_ids[number, row, column]
