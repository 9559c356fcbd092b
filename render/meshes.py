"""A mesh as plain arrays, and how a file becomes one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Wrap = Literal["repeat", "clamp", "mirror"]


class MeshError(Exception):
    """A file gives no usable mesh. `reason` is from the closed list of `render.checks.REASONS`; the text is one sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[MeshError], tuple[str, str]]:
        return (type(self), (self.reason, str(self)))


@dataclass(frozen=True)
class Material:
    """What a face is made of. Colours are sRGB-encoded.

    base_color: (4,) float32 in [0, 1], RGBA. texture: (H, W, 4) uint8 or None, row 0 the top of the picture; it is multiplied by
    base_color. uv (0, 0) is the picture's lower left corner (OBJ, OpenGL); wrap holds the modes for u and v.
    """

    name: str = ""
    base_color: npt.NDArray[np.float32] = field(default_factory=lambda: np.array([0.7, 0.7, 0.7, 1.0], np.float32))
    texture: npt.NDArray[np.uint8] | None = None
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")


@dataclass(frozen=True)
class Mesh:
    """Triangles with their looks and labels.

    vertices (V, 3) float64; faces (F, 3) int32; face_material (F,) int32 indexes materials (never empty);
    corner_uv (F, 3, 2) float32; vertex_colors (V, 4) uint8; face_colors (F, 4) uint8; parts (F,) int16 indexes part_names, -1 for none.
    The colour of a point is base_color × texture × (vertex colour or else face colour), each where present.
    flags are warnings from the closed list of `render.checks.FLAGS` (a texture that is missing, ...).
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    materials: tuple[Material, ...]
    face_material: npt.NDArray[np.int32]
    corner_uv: npt.NDArray[np.float32] | None = None
    vertex_colors: npt.NDArray[np.uint8] | None = None
    face_colors: npt.NDArray[np.uint8] | None = None
    parts: npt.NDArray[np.int16] | None = None
    part_names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
