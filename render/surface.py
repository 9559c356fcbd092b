"""Points on a mesh: area-weighted, from a seed, with normal, colour and part of the face hit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from render.checks import doubled_area_vectors
from render.meshes import Material, Mesh, MeshError, Wrap

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceSamples:
    """N points of a surface. points (N, 3) float32; normals (N, 3) float32, unit, of the face as it is wound; colors (N, 3) uint8, sRGB;
    parts (N,) int16, -1 for none; faces (N,) int32. The order is random: the first n are samples too."""

    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.int16]
    faces: npt.NDArray[np.int32]


def sample(mesh: Mesh, count: int, seed: int) -> SurfaceSamples:
    """`count` independent points, uniform by area, the same for the same mesh and seed (an int of 0 or above) on every host.

    Expects finite vertices (`render.checks.check`). Raises MeshError("zero_area") where no face has an area.
    """
    area_vectors = doubled_area_vectors(mesh.vertices, mesh.faces)
    x, y, z = area_vectors.T
    doubled_areas = np.sqrt(x * x + y * y + z * z)
    faces, weights = _places(np.cumsum(doubled_areas), count, seed)
    points = blend(mesh.vertices[mesh.faces[faces]], weights)
    normals = area_vectors[faces] / doubled_areas[faces, None]
    parts = np.full(count, -1, np.int16) if mesh.parts is None else mesh.parts[faces]
    return SurfaceSamples(points.astype(np.float32), normals.astype(np.float32), colors_at(mesh, faces, weights), parts, faces)


def places(vertices: Floats, faces: npt.NDArray[np.int32], count: int, seed: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Where `sample` puts its points on vertices (V, 3) and faces (F, 3): the faces hit (N,) and barycentric weights (N, 3)."""
    return _places(_cumulative_areas(vertices, faces), count, seed)


def _places(cumulative: Floats, count: int, seed: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """From the running sum (F,) of areas."""
    if len(cumulative) == 0 or not 0 < cumulative[-1] < np.inf:
        raise MeshError("zero_area", "The mesh has no area to take samples from.")
    pick, r, s = np.random.Generator(np.random.PCG64(seed)).random((3, count))
    # "right" never gives a face without area; a product that rounds up to the whole would lie behind the last face.
    target = np.minimum(pick * cumulative[-1], np.nextafter(cumulative[-1], 0))
    faces = np.searchsorted(cumulative, target, side="right").astype(np.int32)
    beyond = r + s > 1
    r, s = np.where(beyond, 1 - r, r), np.where(beyond, 1 - s, s)
    return faces, np.stack((1 - r - s, r, s), axis=1)


@njit(cache=True, nogil=True)
def _cumulative_areas(vertices, faces):  # type: ignore[no-untyped-def]
    """The running sum (F,) of doubled areas, to the bit as `sample` has it."""
    out = np.empty(len(faces))
    total = 0.0
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        bx, by, bz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        total += np.sqrt(x * x + y * y + z * z)
        out[f] = total
    return out


def blend(corners: npt.NDArray[np.generic], weights: Floats) -> Floats:
    """Barycentric mean of (N, 3, C) by (N, 3); written out, since the order of a library's sum depends on the host."""
    a, b, c = (corners[:, i].astype(np.float64) for i in range(3))
    return a * weights[:, :1] + b * weights[:, 1:2] + c * weights[:, 2:]


def colors_at(mesh: Mesh, faces: npt.NDArray[np.int32], weights: Floats) -> npt.NDArray[np.uint8]:
    """sRGB colours (N, 3) uint8 at barycentric weights (N, 3) of faces (N,): base colour × texture × (vertex or else face colour)."""
    material_of = mesh.face_material[faces]
    color = np.stack([material.base_color for material in mesh.materials])[material_of, :3].astype(np.float64)
    if mesh.corner_uv is not None:
        for number in np.unique(material_of):
            material = mesh.materials[number]
            if material.texture is not None:
                here = material_of == number
                color[here] *= _texture_at(material, blend(mesh.corner_uv[faces[here]], weights[here]))[:, :3] / 255
    if mesh.vertex_colors is not None:
        color *= blend(mesh.vertex_colors[mesh.faces[faces], :3], weights) / 255
    elif mesh.face_colors is not None:
        color *= mesh.face_colors[faces, :3] / 255
    return np.clip(np.floor(color * 255 + 0.5), 0, 255).astype(np.uint8)


def _texture_at(material: Material, uv: Floats) -> Floats:
    """Bilinear texels (N, 4) float64, 0 to 255, at uv (N, 2)."""
    texture = material.texture
    assert texture is not None
    height, width = texture.shape[:2]
    left, right, x = _texels(uv[:, 0], width, material.wrap[0])
    upper, lower, y = _texels(1 - uv[:, 1], height, material.wrap[1])
    x, y = x[:, None], y[:, None]
    above = texture[upper, left] * (1 - x) + texture[upper, right] * x
    below = texture[lower, left] * (1 - x) + texture[lower, right] * x
    result: Floats = above * (1 - y) + below * y
    return result


def _texels(coordinate: Floats, size: int, wrap: Wrap) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """The two texels beside a coordinate along one axis, and the second one's weight."""
    if wrap == "repeat":
        coordinate = coordinate - np.floor(coordinate)
    elif wrap == "mirror":
        coordinate = coordinate - 2 * np.floor(coordinate / 2)
        coordinate = np.where(coordinate > 1, 2 - coordinate, coordinate)
    else:
        coordinate = np.clip(coordinate, 0, 1)
    place = coordinate * size - 0.5
    first = np.floor(place)
    weight = place - first
    low = first.astype(np.intp)
    if wrap == "repeat":
        return low % size, (low + 1) % size, weight
    # Mirrored at the border, the neighbour of the outermost texel is itself, as when clamped.
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), weight
