"""Cameras and rigs. This docstring owns the axes and units of crossloom; every other text refers to it.

World: right-handed, y up, the mesh normalised into the unit sphere about the origin (`render.checks.normalize`).
Camera: OpenCV axes, x right, y down, z forward. `world_to_camera` is 4×4, x_cam = R x_world + t.
Image: pixel (column u, row v) covers [u, u+1) × [v, v+1); its centre is (u + 0.5, v + 0.5); (0, 0) is the upper left corner.
    (u, v, 1)ᵀ ~ K x_cam, with K = [[f, 0, cx], [0, f, cy], [0, 0, 1]] in pixels; cx = width / 2.
Depth: z_cam in units of the world (radii of the normalised mesh), not the length of the ray; 0 where nothing was hit.
Angles are radians in code, degrees in configurations (fields named `_deg`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras of one image size. K (V, 3, 3) float64 in pixels; world_to_camera (V, 4, 4) float64; near in world units."""

    K: npt.NDArray[np.float64]
    world_to_camera: npt.NDArray[np.float64]
    width: int
    height: int
    near: float = 0.01
