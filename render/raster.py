"""The renderer for the CPU: a z-buffer with four samples a pixel, face numbers first, and only what is seen is shaded.

For each view the vertices are projected and the faces drawn (`render.coverage`), which leaves a face number and 1/z at each sample, then
the pixels are made from those (`render.shading`, `render.mipmaps`). All views of a mesh are one call of compiled code on one thread.
Arithmetic is plain IEEE and integers, so the same input gives the same bytes on any machine. Everything is opaque: the alpha of materials
and texels is ignored.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import njit

from render import coverage, mipmaps, shading, simd
from render.cameras import Cameras
from render.coverage import Samples, draw, empty_samples, project, room_for_vertices, stride, subpixel_bits
from render.meshes import Mesh
from render.mipmaps import build_levels
from render.paint import linear_background, paint, view_lights
from render.shading import face_normals, resolve, room_for_faces
from render.views import Style, Views


def _compiled(sources: int) -> Any:
    """The kernel. Its cached machine code is keyed by the closure too, so that a change in any of the files that it is made of counts."""

    @njit(cache=True, **simd.OPTIONS)
    def render_views(vertices, faces, K, E, near, width, height, shift, look, lights, background, projected, samples, seen, P, out):  # type: ignore[no-untyped-def]
        _ = sources
        color, depth, mask, face_ids = out
        build_levels(look.textures)
        for v in range(K.shape[0]):
            if v < vertices.shape[0]:
                face_normals(vertices[v], faces, look.face_normal)
            frame = vertices[min(v, vertices.shape[0] - 1)]
            for i in range(3):
                for j in range(4):
                    P[i, j] = K[v, i, 0] * E[v, 0, j] + K[v, i, 1] * E[v, 1, j] + K[v, i, 2] * E[v, 2, j]
            project(frame, P, near, width, height, float(np.int64(8) << shift), projected)
            samples.box[0], samples.box[1], samples.box[2], samples.box[3] = width, -1, height, -1
            draw(faces, projected, near, width, height, shift, samples)
            resolve(
                faces, projected.homogeneous, look, lights[v], background, near, width, stride(width), samples, seen,
                color[v], depth[v], mask[v], face_ids[v],
            )  # fmt: skip

    return render_views


def _digest() -> int:
    files = [Path(str(module.__file__)) for module in (coverage, mipmaps, shading, simd)]
    return int.from_bytes(hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()[:7], "big")


_render_views = _compiled(_digest())
_thread = threading.local()


class RasterRenderer:
    """The CPU renderer; see `render.views.Renderer`. Threads may share one."""

    name = "raster"

    def __init__(self) -> None:
        self.description = f"raster: four samples a pixel, numba {numba.__version__}"

    def render(self, mesh: Mesh, cameras: Cameras, style: Style) -> Views:
        """All views of one mesh. ValueError for an image above about 4000 pixels a side.

        NaN vertices and faces without area draw nothing; light above white is cut off, for each face before samples are averaged.
        """
        return self._render(mesh, mesh.vertices[None], cameras, style)

    def render_frames(self, mesh: Mesh, vertices: npt.NDArray[np.float64], cameras: Cameras, style: Style) -> Views:
        """A view of each frame of a mesh that moves, as `render` makes it."""
        if len(vertices) != len(cameras.K) or vertices.shape[1:] != mesh.vertices.shape:
            raise ValueError(f"vertices {vertices.shape} are not those of {len(cameras.K)} frames of {len(mesh.vertices)} vertices")
        return self._render(mesh, vertices, cameras, style)

    def _render(self, mesh: Mesh, vertices: npt.NDArray[np.float64], cameras: Cameras, style: Style) -> Views:
        """vertices (V or 1, vertices, 3)."""
        _check(mesh)
        count, width, height = len(cameras.K), cameras.width, cameras.height
        shift = subpixel_bits(width, height) - 3
        look = paint(mesh)
        color, depth, face_ids, mask = _outputs(count, height, width)
        _render_views(
            np.ascontiguousarray(vertices, np.float64),
            np.ascontiguousarray(mesh.faces, np.int32),
            np.ascontiguousarray(cameras.K, np.float64),
            np.ascontiguousarray(cameras.world_to_camera, np.float64),
            float(cameras.near),
            width,
            height,
            shift,
            look,
            view_lights(cameras, style),
            linear_background(style),
            room_for_vertices(len(mesh.vertices)),
            _samples(width, height),
            room_for_faces(len(mesh.faces), look.varying),
            np.empty((3, 4)),
            (color.reshape(count, -1), depth.reshape(count, -1), mask.reshape(count, -1), face_ids.reshape(count, -1)),
        )
        return Views(color.view(np.uint8).reshape(count, height, width, 4), depth, mask, face_ids)


def _check(mesh: Mesh) -> None:
    """Compiled code looks at no bounds."""
    faces, vertices = len(mesh.faces), len(mesh.vertices)
    lengths = ((mesh.face_material, faces), (mesh.corner_uv, faces), (mesh.face_colors, faces), (mesh.vertex_colors, vertices))
    if any(array is not None and len(array) != length for array, length in lengths):
        raise ValueError("the mesh's arrays disagree in length: one row per face, or per vertex for vertex colours, is needed")
    if faces and (mesh.faces.min() < 0 or mesh.faces.max() >= vertices):
        raise ValueError(f"the mesh has {vertices} vertices, but a face names another; drop such faces with render.checks.check")


def _samples(width: int, height: int) -> Samples:
    """This thread's samples, which every view leaves clean; kept from mesh to mesh."""
    if getattr(_thread, "size", None) != (width, height):
        _thread.samples = empty_samples(width, height)
        _thread.size = (width, height)
    samples: Samples = _thread.samples
    return samples


def _outputs(count: int, height: int, width: int) -> list[npt.NDArray[Any]]:
    """color uint32, depth, face_ids, mask in one block of memory: one that this thread made before if no array looks into it any more.

    The system hands out fresh memory page by page and cleared, which took a third of the time of a small mesh.
    """
    pixels = count * height * width
    blocks = _thread.__dict__.setdefault("blocks", [])
    block = next((b for b in blocks if b.size == 13 * pixels and sys.getrefcount(b) == 3), None)
    if block is None:
        block = np.empty(13 * pixels, np.uint8)
        _thread.blocks = [*blocks[-1:], block]
    shape = (count, height, width)
    kinds = ((np.uint32, 0), (np.float32, 4), (np.int32, 8), (np.bool_, 12))
    return [block[start * pixels : (start + np.dtype(kind).itemsize) * pixels].view(kind).reshape(shape) for kind, start in kinds]
