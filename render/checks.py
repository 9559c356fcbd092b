"""What makes a mesh or its pictures unusable, the warnings that a usable one may carry, and the frame that all meshes are brought into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from numba import njit

from render.meshes import Mesh, MeshError
from render.views import Views

Reason = Literal[
    "unreadable",  # the file breaks its format
    "empty",  # no face in it
    "not_finite",  # NaN or infinity in a vertex that a face uses
    "zero_area",  # no face has an area
    "too_large",  # above the cap on bytes, faces or pixels
    "unsupported",  # a format or a required extension that is not read
    "blank_view",  # nothing to be seen in a picture
    "no_motion",  # a clip in which nothing moves
    "timeout",
    "out_of_memory",
    "crashed",  # the process died
    "io_error",  # absent, not permitted, cut off
]
Flag = Literal[
    "material_missing",  # a material library or a material of it is absent: the default colour stands in
    "texture_missing",  # named, but not there or not inside the object's folder
    "texture_unreadable",  # there, but no picture that can be read
    "uv_missing",  # a textured material on faces without texture coordinates
    "uv_not_finite",  # such texture coordinates are taken as 0
    "lines_ignored",  # points or lines beside the faces
    "invalid_faces_dropped",  # a corner number that no vertex has
    "zero_area_faces_dropped",
    "skin_weights_repaired",  # weights of joints that are NaN, nowhere above 0 or do not sum to one, normalised
    "flat",  # no extent along some direction of the axes
    "view_clipped",  # the object touches a picture's border
    "view_sparse",  # a picture nearly without the object
    "view_uniform",  # an object of one single colour value
]
REASONS: tuple[Reason, ...] = get_args(Reason)
FLAGS: tuple[Flag, ...] = get_args(Flag)

# A face is without area when its squared area is lost beside its squared sides in double precision.
_RELATIVE_AREA = 1e-14
_SPARSE_COVERAGE = 0.002


def with_flags(mesh: Mesh, *flags: Flag) -> Mesh:
    """The mesh with these warnings added once each, in order of appearance."""
    return replace(mesh, flags=tuple(dict.fromkeys((*mesh.flags, *flags))))


def doubled_area_vectors(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """(b − a) × (c − a) of every face: (F, 3) float64, along the normal, twice the area long."""
    corners = np.ascontiguousarray(vertices.T)[:, faces.T]
    (ax, ay, az), (bx, by, bz) = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), axis=1)


def check(mesh: Mesh) -> Mesh:
    """The mesh without the faces that nothing can be done with; what was taken away is named in its flags.

    Faces with invalid corner numbers or without area are dropped; texture coordinates that are not finite become 0.
    Vertices keep their numbers. Raises MeshError: empty (no face), not_finite (a vertex of a face), zero_area (no face has any).
    """
    if len(mesh.faces) == 0:
        raise MeshError("empty", "The mesh has no faces; give a surface, not points or lines.")
    flags: list[Flag] = []
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        flags.append("invalid_faces_dropped")
        mesh = keep_faces(mesh, np.all((mesh.faces >= 0) & (mesh.faces < len(mesh.vertices)), axis=1))
        if len(mesh.faces) == 0:
            raise MeshError("empty", "Every face of the mesh names a vertex that does not exist; write the file again.")
    # axis, corner, face: numpy is several times faster along a long axis than along one of three
    corners = np.ascontiguousarray(mesh.vertices.T)[:, mesh.faces.T]
    low, high = corners.reshape(3, -1).min(axis=1), corners.reshape(3, -1).max(axis=1)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        count, total = int((~np.isfinite(corners)).any(axis=(0, 1)).sum()), len(mesh.faces)
        raise MeshError("not_finite", f"{count} of {total} faces use a vertex that is NaN or infinite; write the file again.")
    # The test of area is on a mesh of size 1, so that coordinates of 1e-200 or 1e200 neither vanish nor overflow.
    size = float((high / 2 - low / 2).max()) * 2
    if not 0.0 < size < np.inf:
        raise MeshError("zero_area", "All faces of the mesh lie in one point or beyond the range of numbers, so there is no surface.")
    solid = solid_faces(corners, size)
    if not solid.any():
        raise MeshError("zero_area", "No face of the mesh has an area; give a surface, not points or lines.")
    if not solid.all():
        flags.append("zero_area_faces_dropped")
        mesh = keep_faces(mesh, solid)
    if mesh.corner_uv is not None and not np.isfinite(mesh.corner_uv).all():
        flags.append("uv_not_finite")
        mesh = replace(mesh, corner_uv=np.where(np.isfinite(mesh.corner_uv), mesh.corner_uv, np.float32(0)))
    if (high - low).min() <= 1e-9 * size:
        flags.append("flat")
    return with_flags(mesh, *flags)


def solid_faces(corners: npt.NDArray[np.float64], size: float) -> npt.NDArray[np.bool_]:
    """Which faces have an area, from their corners (axis, corner, face) on a mesh of this size."""
    ab, ac = ((corners[:, i] - corners[:, 0]) / size for i in (1, 2))
    (ax, ay, az), (bx, by, bz) = ab, ac
    squared_area = (ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2
    squared_side = np.maximum(ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz)
    # The third side is at most twice the longer of these two, so it needs no look.
    return np.asarray(squared_area > (_RELATIVE_AREA * squared_side) ** 2)


def keep_faces(mesh: Mesh, keep: npt.NDArray[np.bool_]) -> Mesh:
    """The mesh with the faces where keep (F,) is true; vertices keep their numbers."""
    return replace(
        mesh,
        faces=mesh.faces[keep],
        face_material=mesh.face_material[keep],
        corner_uv=None if mesh.corner_uv is None else mesh.corner_uv[keep],
        face_colors=None if mesh.face_colors is None else mesh.face_colors[keep],
        parts=None if mesh.parts is None else mesh.parts[keep],
    )


def normalize(mesh: Mesh) -> tuple[Mesh, npt.NDArray[np.float64], float]:
    """The mesh in the unit sphere, with centre (3,) float64 and scale: normalised = (original − centre) / scale.

    The centre is that of the axis-aligned bounds, the scale the largest distance from it; only vertices of faces count, so the largest
    radius is 1. Expects a mesh that went through `check`.
    """
    used = np.zeros(len(mesh.vertices), bool)
    used[mesh.faces] = True
    points = mesh.vertices[used]
    low, high = points.min(axis=0), points.max(axis=0)
    centre = low + (high - low) / 2
    # Unused vertices may be NaN: they would survive here and spoil a later minimum or maximum.
    offsets = np.where(used[:, None], mesh.vertices - centre, 0.0)
    largest = float(np.abs(offsets).max())
    x, y, z = (offsets / largest).T
    scale = float(np.sqrt((x * x + y * y + z * z).max())) * largest
    return replace(mesh, vertices=offsets / scale), centre, scale


@dataclass(frozen=True)
class ViewCheck:
    """What a look at the views says. reason is None or "blank_view"; coverage (V,) float32 is the object's share of each picture."""

    reason: Reason | None
    flags: tuple[Flag, ...]
    coverage: npt.NDArray[np.float32]


def check_views(views: Views) -> ViewCheck:
    """Judges V rendered views: a view with nothing in it is a reason to leave the asset out, the rest are flags."""
    alpha_sums, shown, border, uniform = _survey(views.color, views.mask)
    area = views.mask.shape[1] * views.mask.shape[2]
    coverage = (alpha_sums / (255 * area)).astype(np.float32)
    flags: list[Flag] = []
    if border.any():
        flags.append("view_clipped")
    if (coverage < _SPARSE_COVERAGE).any():
        flags.append("view_sparse")
    if uniform.any():
        flags.append("view_uniform")
    return ViewCheck(None if shown.all() else "blank_view", tuple(flags), coverage)


@njit(cache=True, nogil=True)
def _survey(
    color: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Per view: sum of alpha; anything shown; shown at the border; more than one masked pixel and all of one colour. (V,) each."""
    views, height, width = mask.shape
    alpha_sums = np.zeros(views, np.int64)
    shown, border, uniform = np.zeros(views, np.bool_), np.zeros(views, np.bool_), np.zeros(views, np.bool_)
    for v in range(views):
        inside, differing = 0, False
        r = g = b = np.uint8(0)
        for y in range(height):
            for x in range(width):
                alpha = color[v, y, x, 3]
                alpha_sums[v] += alpha
                if alpha > 0 or mask[v, y, x]:
                    shown[v] = True
                    if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                        border[v] = True
                if mask[v, y, x]:
                    if inside == 0:
                        r, g, b = color[v, y, x, 0], color[v, y, x, 1], color[v, y, x, 2]
                    elif color[v, y, x, 0] != r or color[v, y, x, 1] != g or color[v, y, x, 2] != b:
                        differing = True
                    inside += 1
        uniform[v] = inside > 1 and not differing
    return alpha_sums, shown, border, uniform
