"""A mesh whose vertices move: what makes its frames unusable, the one frame of reference for all of them, how far anything goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numba import njit

from render.checks import Flag, keep_faces, solid_faces, with_flags
from render.meshes import Mesh, MeshError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moving:
    """A mesh that went through `check_clip` and its vertices (T, V, 3) float64 in one unit sphere over all frames: normalised =
    (original − centre) / scale, with the centre of the bounds of all frames. Vertices of no face are 0.

    motion: the largest displacement of a vertex from the first frame, in diagonals of the box of the first frame.
    """

    mesh: Mesh
    vertices: Floats
    centre: Floats
    scale: float
    motion: float


def check_clip(mesh: Mesh, frames: Floats) -> Moving:
    """`render.checks.check` and `normalize` for vertices (T, V, 3): a face is dropped where it has no area in any frame.

    Raises MeshError: empty, not_finite (a vertex of a face in some frame), zero_area (no face has any, in all frames).
    """
    if len(mesh.faces) == 0:
        raise MeshError("empty", "The mesh has no faces; give a surface, not points or lines.")
    flags: list[Flag] = []
    if mesh.faces.min() < 0 or mesh.faces.max() >= frames.shape[1]:
        flags.append("invalid_faces_dropped")
        mesh = keep_faces(mesh, np.all((mesh.faces >= 0) & (mesh.faces < frames.shape[1]), axis=1))
        if len(mesh.faces) == 0:
            raise MeshError("empty", "Every face of the mesh names a vertex that does not exist; write the file again.")
    low, high, bad_frames = _bounds(frames, _used(mesh, frames.shape[1]))
    if bad_frames:
        text = f"In {bad_frames} of {len(frames)} frames a vertex of a face is NaN or infinite; write the file again."
        raise MeshError("not_finite", text)
    size = float((high / 2 - low / 2).max()) * 2
    if not 0.0 < size < np.inf:
        raise MeshError("zero_area", "All faces of the mesh lie in one point or beyond the range of numbers, so there is no surface.")
    solid = np.zeros(len(mesh.faces), bool)
    for frame in frames:
        # nearly every face has an area in the first frame
        rest = np.flatnonzero(~solid)
        if len(rest) == 0:
            break
        solid[rest] = solid_faces(np.ascontiguousarray(frame.T)[:, mesh.faces[rest].T], size)
    if not solid.any():
        raise MeshError("zero_area", "No face of the mesh has an area; give a surface, not points or lines.")
    if not solid.all():
        flags.append("zero_area_faces_dropped")
        mesh = keep_faces(mesh, solid)
        low, high, _ = _bounds(frames, _used(mesh, frames.shape[1]))
    if mesh.corner_uv is not None and not np.isfinite(mesh.corner_uv).all():
        flags.append("uv_not_finite")
        mesh = replace(mesh, corner_uv=np.where(np.isfinite(mesh.corner_uv), mesh.corner_uv, np.float32(0)))
    if (high - low).min() <= 1e-9 * size:
        flags.append("flat")
    used = _used(mesh, frames.shape[1])
    centre = low + (high - low) / 2
    vertices, scale, motion = _normalized(frames, used, centre, size)
    return Moving(with_flags(mesh, *flags), vertices, centre, scale, motion)


def _used(mesh: Mesh, count: int) -> npt.NDArray[np.bool_]:
    used = np.zeros(count, bool)
    used[mesh.faces.reshape(-1)] = True
    return used


@njit(cache=True, nogil=True, error_model="numpy")
def _bounds(frames, used):  # type: ignore[no-untyped-def]
    """Lowest and highest coordinates (3,) each over all frames, and in how many frames some are not finite."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    bad = 0
    for t in range(frames.shape[0]):
        fine = True
        for v in range(frames.shape[1]):
            if used[v]:
                for c in range(3):
                    x = frames[t, v, c]
                    fine &= abs(x) < np.inf
                    low[c], high[c] = min(low[c], x), max(high[c], x)
        bad += not fine
    return low, high, bad


@njit(cache=True, nogil=True, error_model="numpy")
def _normalized(frames, used, centre, size):  # type: ignore[no-untyped-def]
    """(vertices, scale, motion) of `Moving`. Squares are taken in parts of size, so that none overflows or vanishes."""
    out = np.zeros(frames.shape)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    farthest = moved = 0.0
    for t in range(frames.shape[0]):
        for v in range(frames.shape[1]):
            if not used[v]:
                continue
            radius = path = 0.0
            for c in range(3):
                x = (frames[t, v, c] - centre[c]) / size
                out[t, v, c] = x
                radius += x * x
                step = x - out[0, v, c]
                path += step * step
                if t == 0:
                    low[c], high[c] = min(low[c], x), max(high[c], x)
            farthest, moved = max(farthest, radius), max(moved, path)
    unit = np.sqrt(farthest)
    for t in range(frames.shape[0]):
        for v in range(frames.shape[1]):
            for c in range(3):
                out[t, v, c] /= unit
    x, y, z = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    diagonal = np.sqrt(x * x + y * y + z * z)
    return out, unit * size, np.sqrt(moved) / diagonal if diagonal > 0.0 else np.inf
