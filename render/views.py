"""What a renderer is given beside mesh and cameras, and what it gives back: the protocol that both renderers keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from render.cameras import Cameras
from render.meshes import Mesh


class Light(BaseModel):
    """A directional light. `direction` points from the light into the scene, in the axes of `frame`; `intensity` is linear."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    direction: tuple[float, float, float]
    intensity: float
    frame: Literal["world", "camera"] = "world"


class Style(BaseModel):
    """How a mesh is lit and what lies behind it. Lambertian, two-sided (|n·l|), in linear light; colours given here are sRGB, 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ambient: float = 0.25
    lights: tuple[Light, ...] = (
        Light(direction=(0.0, 0.0, 1.0), intensity=0.45, frame="camera"),
        Light(direction=(-0.4, -0.8, -0.45), intensity=0.45, frame="world"),
    )
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Views:
    """V pictures of one mesh.

    color (V, H, W, 4) uint8, sRGB over the background, alpha = coverage; depth (V, H, W) float32, see `render.cameras`, 0 for nothing;
    mask (V, H, W) bool, at least half of the pixel covered; face_ids (V, H, W) int32, the face seen, -1 for none.
    mask, depth > 0 and face_ids >= 0 hold for the same pixels.
    """

    color: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    face_ids: npt.NDArray[np.int32]


class Renderer(Protocol):
    """One renderer. `name` is what recipes call it; `description` names device and versions and goes into dataset.json."""

    name: str
    description: str

    def render(self, mesh: Mesh, cameras: Cameras, style: Style) -> Views:
        """All views of one mesh at once."""
        ...

    def render_frames(self, mesh: Mesh, vertices: npt.NDArray[np.float64], cameras: Cameras, style: Style) -> Views:
        """One view of each frame of a mesh that moves: vertices (V, vertices, 3) in place of its own, seen by camera v."""
        ...
