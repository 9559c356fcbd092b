"""What a mesh looks like and how it is lit, as arrays in linear light for the rasteriser's kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from render import srgb
from render.cameras import Cameras
from render.meshes import Mesh
from render.mipmaps import Mipmaps, mipmaps
from render.views import Style

# sRGB bytes to linear light (256,), and 8192 even steps of linear light to sRGB bytes.
TO_LINEAR = srgb.decode(np.arange(256) / 255).astype(np.float32)
TO_SRGB = np.round(255 * srgb.encode(np.arange(8192) / 8191)).astype(np.uint8)


class Paint(NamedTuple):
    """face_color (F, 3) float32, all that is constant over a face; face_normal (F, 3) float32, not filled; face_texture (F,) int32 into
    textures or -1; corner_uv (F, 3, 2) and vertex_color (V, 3) float32, without rows where there are none; varying: whether any face's
    colour varies."""

    face_color: npt.NDArray[np.float32]
    face_normal: npt.NDArray[np.float32]
    face_texture: npt.NDArray[np.int32]
    corner_uv: npt.NDArray[np.float32]
    vertex_color: npt.NDArray[np.float32]
    textures: Mipmaps
    varying: bool
    to_linear: npt.NDArray[np.float32]
    to_srgb: npt.NDArray[np.uint8]


def paint(mesh: Mesh) -> Paint:
    """The looks of a mesh; mip levels above the first are left to `render.mipmaps.build_levels`."""
    face_color = _linear(np.array([m.base_color[:3] for m in mesh.materials]))[mesh.face_material]
    vertex_color = np.zeros((0, 3), np.float32)
    if mesh.vertex_colors is not None:
        vertex_color = TO_LINEAR[mesh.vertex_colors[:, :3]]
    elif mesh.face_colors is not None:
        face_color = face_color * TO_LINEAR[mesh.face_colors[:, :3]]
    textures, which = mipmaps(mesh.materials if mesh.corner_uv is not None else ())
    textured = mesh.corner_uv is not None and len(textures.size) > 0
    return Paint(
        face_color,
        np.empty((len(mesh.faces), 3), np.float32),
        which[mesh.face_material] if textured else np.full(len(mesh.faces), -1, np.int32),
        np.zeros((0, 3, 2), np.float32) if mesh.corner_uv is None else np.ascontiguousarray(mesh.corner_uv, np.float32),
        vertex_color,
        textures,
        len(vertex_color) > 0 or textured,
        TO_LINEAR,
        TO_SRGB,
    )


def linear_background(style: Style) -> npt.NDArray[np.float32]:
    """(3,) float32."""
    return _linear(np.array(style.background))


def _linear(colors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Colours 0 to 1, taken to the nearest of 256 values; NaN becomes 0."""
    linear: npt.NDArray[np.float32] = TO_LINEAR[np.round(255 * np.clip(np.nan_to_num(colors), 0, 1)).astype(np.int64)]
    return linear


def view_lights(cameras: Cameras, style: Style) -> npt.NDArray[np.float64]:
    """(V, 1 + lights, 3): first the ambient part, in [v, 0, 0], then each light's direction in world axes times its intensity."""
    lights = np.zeros((len(cameras.K), 1 + len(style.lights), 3))
    lights[:, 0, 0] = style.ambient
    R = cameras.world_to_camera[:, :3, :3]
    for n, light in enumerate(style.lights, 1):
        d = np.array(light.direction, np.float64)
        length = float(np.sqrt((d * d).sum()))
        d *= light.intensity / length if length > 0 else 0.0
        lights[:, n] = d if light.frame == "world" else R[:, 0] * d[0] + R[:, 1] * d[1] + R[:, 2] * d[2]
    return lights
