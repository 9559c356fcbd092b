"""The rasteriser against other renderers: the same meshes and views, in one process on one core, turn by turn, and the error of each.

Timed is the way from a mesh's arrays to colour, depth and mask of all views, with all that a renderer must set up for a mesh; not the
loading. The error of a renderer is taken against itself at 64 samples a pixel, since speed counts only at no larger error: the root mean
square over the pixels that show the object in either picture, in steps of 1/255 of sRGB.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from render import srgb
from render.cameras import Cameras, ring
from render.checks import check, normalize
from render.meshes import SUFFIXES, Mesh, MeshError, load
from render.raster import RasterRenderer
from render.views import Style

Floats = npt.NDArray[np.floating[Any]]
Pictures = tuple[npt.NDArray[np.uint8], Floats, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Candidate:
    """draw gives colour (V, H, W, 4), depth and mask (V, H, W). finer · finer times its samples a pixel are 64."""

    name: str
    draw: Callable[[Mesh, Cameras, Style], Pictures]
    finer: int


@dataclass(frozen=True)
class Row:
    """speedup_total: pyrender's time on all meshes over this one's; the quartiles are those of the ratios mesh by mesh."""

    meshes: str
    count: int
    faces_median: float
    renderer: str
    views_per_s: float
    ms_per_mesh: float
    speedup_total: float | None
    speedup_q1: float | None
    speedup_median: float | None
    speedup_q3: float | None
    error_rms: float | None


def bench_render(
    sets: Sequence[Path],
    *,
    limit: int = 100,
    views: int = 12,
    size: int = 224,
    seed: int = 0,
    repeats: int = 3,
    error_meshes: int = 12,
) -> list[dict[str, Any]]:
    """A row for each folder of meshes and each renderer at hand. limit: meshes of a folder, drawn with the seed; 0 means all.

    Each mesh is drawn `repeats` times by every renderer in turn and the shortest time counts. Raises ValueError for a folder without meshes
    that can be read.
    """
    rows: list[dict[str, Any]] = []
    cameras = ring(views, math.radians(25), size=size)
    with _one_core():
        candidates = _candidates()
        for folder in sets:
            meshes = _meshes(folder, limit, seed)
            seconds = _times(candidates, meshes, cameras, repeats)
            errors = [_error(candidate, meshes[:error_meshes], cameras) for candidate in candidates]
            rows += [asdict(row) for row in _rows(folder.name, candidates, meshes, views, seconds, errors)]
    return rows


@contextmanager
def _one_core() -> Iterator[None]:
    """This process, and the drivers' threads to come, on one core."""
    before = os.sched_getaffinity(0) if sys.platform == "linux" else None
    # Mesa draws in the calling thread only
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if before is not None:
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def _meshes(folder: Path, limit: int, seed: int) -> list[Mesh]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    order = np.random.default_rng(seed).permutation(len(paths))
    meshes: list[Mesh] = []
    for i in order.tolist():
        if limit and len(meshes) == limit:
            break
        try:
            meshes.append(normalize(check(load(paths[i])))[0])
        except MeshError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not meshes:
        raise ValueError(f"{folder}: no mesh in it that can be read; name a folder of {', '.join(SUFFIXES)} files")
    return meshes


def _times(candidates: Sequence[Candidate], meshes: Sequence[Mesh], cameras: Cameras, repeats: int) -> Floats:
    """(candidates, meshes) seconds."""
    style = Style()
    for candidate in candidates:
        candidate.draw(meshes[0], cameras, style)
    seconds = np.full((len(candidates), len(meshes)), np.inf)
    for m, mesh in enumerate(meshes):
        for turn in range(repeats):
            for c in np.roll(np.arange(len(candidates)), turn).tolist():
                start = time.perf_counter()
                candidates[c].draw(mesh, cameras, style)
                seconds[c, m] = min(seconds[c, m], time.perf_counter() - start)
    return seconds


def _error(candidate: Candidate, meshes: Sequence[Mesh], cameras: Cameras) -> float | None:
    """Over three views of each mesh."""
    some = slice(0, len(cameras.K), max(len(cameras.K) // 3, 1))
    few = replace(cameras, K=cameras.K[some], world_to_camera=cameras.world_to_camera[some])
    total, count = 0.0, 0
    for mesh in meshes:
        color = candidate.draw(mesh, few, Style())[0].copy()
        reference = supersampled(candidate, mesh, few, Style())
        shown = (color[..., 3] > 0) | (reference[..., 3] > 0)
        total += float(((color[..., :3] - reference[..., :3])[shown] ** 2).sum())
        count += 3 * int(shown.sum())
    return math.sqrt(total / count) if count else None


def supersampled(candidate: Candidate, mesh: Mesh, cameras: Cameras, style: Style) -> npt.NDArray[np.float64]:
    """(V, H, W, 4) float64, 0 to 255: drawn `finer` times as large each way and averaged over blocks."""
    k = candidate.finer
    K = cameras.K * np.array([k, k, 1.0])[:, None]
    large = replace(cameras, K=K, width=cameras.width * k, height=cameras.height * k)
    picture = candidate.draw(mesh, large, style)[0]
    V, H, W = len(K), cameras.height, cameras.width
    mean: npt.NDArray[np.float64] = picture.reshape(V, H, k, W, k, 4).mean(axis=(2, 4))
    return mean


def _rows(
    name: str, candidates: Sequence[Candidate], meshes: Sequence[Mesh], views: int, seconds: Floats, errors: Sequence[float | None]
) -> Iterator[Row]:
    base = next((c for c, candidate in enumerate(candidates) if candidate.name == "pyrender"), None)
    for c, candidate in enumerate(candidates):
        q: list[float | None] = [None] * 3
        total = None
        if base is not None:
            q = np.quantile(seconds[base] / seconds[c], [0.25, 0.5, 0.75]).tolist()
            total = float(seconds[base].sum() / seconds[c].sum())
        yield Row(
            meshes=name,
            count=len(meshes),
            faces_median=float(np.median([len(mesh.faces) for mesh in meshes])),
            renderer=candidate.name,
            views_per_s=views * len(meshes) / float(seconds[c].sum()),
            ms_per_mesh=1000 * float(seconds[c].mean()),
            speedup_total=total,
            speedup_q1=q[0],
            speedup_median=q[1],
            speedup_q3=q[2],
            error_rms=errors[c],
        )


def _candidates() -> list[Candidate]:
    raster = RasterRenderer()
    candidates = [Candidate("raster", _of_renderer(raster), 4)]
    for make in (_pyrender, _opengl, _embree):
        try:
            candidates.append(make())
        except ImportError as error:
            print(f"left out: {make.__name__[1:]} ({error})", file=sys.stderr)
    return candidates


def _of_renderer(renderer: Any) -> Callable[[Mesh, Cameras, Style], Pictures]:
    def draw(mesh: Mesh, cameras: Cameras, style: Style) -> Pictures:
        views = renderer.render(mesh, cameras, style)
        return views.color, views.depth, views.mask

    return draw


def _pyrender() -> Candidate:
    """pyrender as it comes, under the style's lights (which for it light one side only); culling off so that nothing is missing."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    import pyrender

    renderer = pyrender.OffscreenRenderer(64, 64)

    def draw(mesh: Mesh, cameras: Cameras, style: Style) -> Pictures:
        V, H, W = len(cameras.K), cameras.height, cameras.width
        renderer.viewport_width, renderer.viewport_height = W, H
        scene = pyrender.Scene(bg_color=[*style.background, 0.0], ambient_light=[style.ambient] * 3)
        scene.add(_pyrender_mesh(pyrender, mesh))
        camera = pyrender.IntrinsicsCamera(1.0, 1.0, 0.0, 0.0, znear=0.1, zfar=10.0)
        node = scene.add(camera)
        lamps = [
            (scene.add(pyrender.DirectionalLight(color=np.ones(3), intensity=lamp.intensity * math.pi / 0.96**2)), lamp)
            for lamp in style.lights
        ]
        color, depth = np.empty((V, H, W, 4), np.uint8), np.empty((V, H, W), np.float32)
        flags = pyrender.RenderFlags.RGBA | pyrender.RenderFlags.SKIP_CULL_FACES
        for v in range(V):
            camera.fx, camera.fy, camera.cx, camera.cy = (cameras.K[v][i] for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
            pose = np.linalg.inv(cameras.world_to_camera[v]) @ np.diag([1.0, -1.0, -1.0, 1.0])
            scene.set_pose(node, pose)
            for lamp_node, lamp in lamps:
                direction: Any = np.array(lamp.direction)
                if lamp.frame == "camera":
                    direction = direction @ cameras.world_to_camera[v, :3, :3]
                scene.set_pose(lamp_node, _pointing(direction))
            color[v], depth[v] = renderer.render(scene, flags=flags)
        return color, depth, depth > 0

    return Candidate("pyrender", draw, 4)


def _opengl() -> Candidate:
    """Our renderer on pyrender: the rasteriser's look, lit on both sides, and face numbers, so more work than pyrender as it comes."""
    from render.opengl import OpenGLRenderer

    return Candidate("opengl", _of_renderer(OpenGLRenderer()), 4)


def _pointing(direction: Floats) -> Floats:
    """A pose that looks along the direction with its −z axis, where a directional light shines."""
    z = -direction / np.linalg.norm(direction)
    x = np.cross(np.eye(3)[np.abs(z).argmin()], z)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = x / np.linalg.norm(x), np.cross(z, x / np.linalg.norm(x)), z
    return pose


def _pyrender_mesh(pyrender: Any, mesh: Mesh) -> Any:
    """A primitive for each material; every corner has its face's normal, as pyrender itself lays out a mesh for flat shading."""
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    primitives = []
    for number, material in enumerate(mesh.materials):
        here = np.flatnonzero(mesh.face_material == number)
        if len(here) == 0:
            continue
        textured = material.texture is not None and mesh.corner_uv is not None
        primitives.append(
            pyrender.Primitive(
                positions=corners[here].reshape(-1, 3),
                normals=np.repeat(normals[here], 3, axis=0),
                texcoord_0=mesh.corner_uv[here].reshape(-1, 2) if textured and mesh.corner_uv is not None else None,
                color_0=None if mesh.face_colors is None else np.repeat(srgb.decode(mesh.face_colors[here] / 255), 3, axis=0),
                material=pyrender.MetallicRoughnessMaterial(
                    baseColorFactor=[*srgb.decode(np.asarray(material.base_color[:3], np.float64)), 1.0],
                    baseColorTexture=pyrender.Texture(source=material.texture, source_channels="RGBA") if textured else None,
                    metallicFactor=0.0,
                    alphaMode="OPAQUE",
                    doubleSided=True,
                ),
            )
        )
    return pyrender.Mesh(primitives)


def _embree() -> Candidate:
    """A ray through the middle of each pixel by Embree, shading by numpy; textures by their nearest texel."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    def draw(mesh: Mesh, cameras: Cameras, style: Style) -> Pictures:
        V, H, W = len(cameras.K), cameras.height, cameras.width
        scene = EmbreeScene()
        TriangleMesh(scene, np.ascontiguousarray(mesh.vertices, np.float32), mesh.faces)
        corners = mesh.vertices[mesh.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
        base_of_face = srgb.decode(np.array([material.base_color[:3] for material in mesh.materials]))[mesh.face_material]
        if mesh.face_colors is not None:
            base_of_face = base_of_face * srgb.decode(mesh.face_colors[:, :3] / 255)
        color, depth = np.empty((V, H, W, 4), np.uint8), np.zeros((V, H, W), np.float32)
        color[:] = [*(np.round(255 * np.array(style.background))), 0]
        for v in range(V):
            K, R, t = cameras.K[v], cameras.world_to_camera[v, :3, :3], cameras.world_to_camera[v, :3, 3]
            x, y = np.meshgrid((np.arange(W) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(H) + 0.5 - K[1, 2]) / K[1, 1])
            rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ R
            origins = np.broadcast_to(-R.T @ t, rays.shape)
            found = scene.run(np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(rays, np.float32), output=True)
            hit = np.flatnonzero(found["primID"] >= 0)
            face = found["primID"][hit]
            light: Floats = np.full(len(mesh.faces), style.ambient)
            for lamp in style.lights:
                direction = np.array(lamp.direction) / np.linalg.norm(lamp.direction)
                light = light + lamp.intensity * np.abs(normals @ (direction @ R if lamp.frame == "camera" else direction))
            lit = base_of_face[face] * light[face, None]
            if mesh.corner_uv is not None:
                lit *= _texels(mesh, face, found["u"][hit], found["v"][hit])
            color[v].reshape(-1, 4)[hit, :3] = np.round(255 * srgb.encode(np.minimum(lit, 1)))
            color[v].reshape(-1, 4)[hit, 3] = 255
            depth[v].reshape(-1)[hit] = found["tfar"][hit]
        return color, depth, depth > 0

    return Candidate("embree", draw, 8)


def _texels(mesh: Mesh, face: npt.NDArray[np.int32], u: Floats, v: Floats) -> Floats:
    assert mesh.corner_uv is not None
    out = np.ones((len(face), 3))
    uv = mesh.corner_uv[face]
    at = uv[:, 0] * (1 - u - v)[:, None] + uv[:, 1] * u[:, None] + uv[:, 2] * v[:, None]
    for number, material in enumerate(mesh.materials):
        if material.texture is not None:
            here = np.flatnonzero(mesh.face_material[face] == number)
            h, w = material.texture.shape[:2]
            column, row = np.floor(at[here, 0] * w).astype(int) % w, np.floor((1 - at[here, 1]) * h).astype(int) % h
            out[here] = srgb.decode(material.texture[row, column, :3] / 255)
    return out
