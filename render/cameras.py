"""Cameras and rigs. This docstring owns the axes and units of crossloom; every other text refers to it.

World: right-handed, y up, the mesh normalised into the unit sphere about the origin (`render.checks.normalize`).
Camera: OpenCV axes, x right, y down, z forward. `world_to_camera` is 4×4, x_cam = R x_world + t.
Image: pixel (column u, row v) covers [u, u+1) × [v, v+1); its centre is (u + 0.5, v + 0.5); (0, 0) is the upper left corner.
    (u, v, 1)ᵀ ~ K x_cam, with K = [[f, 0, cx], [0, f, cy], [0, 0, 1]] in pixels; cx = width / 2.
Depth: z_cam in units of the world (radii of the normalised mesh), not the length of the ray; 0 where nothing was hit.
Azimuth 0 looks from +z, and grows towards +x; elevation grows towards +y.
Angles are radians in code, degrees in configurations (fields named `_deg`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from render.trig import cos_sin, tan

Floats = npt.NDArray[np.float64]

DEFAULT_FOV_RAD = math.radians(40.0)
SHAPENET_FOV_RAD = 0.8575560548920328  # 2 atan(16 / 35)
GOLDEN_ANGLE_RAD = math.pi * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras of one image size. K (V, 3, 3) float64 in pixels; world_to_camera (V, 4, 4) float64; near in world units."""

    K: npt.NDArray[np.float64]
    world_to_camera: npt.NDArray[np.float64]
    width: int
    height: int
    near: float = 0.01


def sphere(azimuth_rad: Floats, elevation_rad: Floats) -> Floats:
    """Unit vectors (V, 3) from the origin towards cameras at these angles, each (V,)."""
    rows = []
    for azimuth, elevation in zip(azimuth_rad.tolist(), elevation_rad.tolist(), strict=True):
        cos_azimuth, sin_azimuth = cos_sin(azimuth)
        cos_elevation, sin_elevation = cos_sin(elevation)
        rows.append((cos_elevation * sin_azimuth, sin_elevation, cos_elevation * cos_azimuth))
    return np.array(rows, np.float64).reshape(-1, 3)


def look_at(eyes: Floats, target: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Floats:
    """World-to-camera matrices (V, 4, 4) of cameras at eyes (V, 3) that see the target in the middle of the picture, world +y upwards.

    Straight above or below the target the picture's x axis is the world's. Raises ValueError where an eye is at the target.
    """
    forward = np.asarray(target, np.float64) - eyes
    length = np.sqrt(forward[:, 0] ** 2 + forward[:, 1] ** 2 + forward[:, 2] ** 2)
    if not (length > 0).all():
        raise ValueError("a camera stands at the point that it should look at; give it a distance above 0")
    forward = forward / length[:, None]
    fx, fy, fz = forward.T
    # forward × (0, 1, 0) = (−fz, 0, fx), whose length is the cosine of the elevation
    level = np.sqrt(fx * fx + fz * fz)
    pole = level < 1e-9
    safe = np.where(pole, 1.0, level)
    rx, rz = np.where(pole, 1.0, -fz / safe), np.where(pole, 0.0, fx / safe)
    right = np.stack((rx, np.zeros_like(rx), rz), axis=1)
    down = np.stack((fy * rz, fz * rx - fx * rz, -fy * rx), axis=1)
    matrices = np.zeros((len(eyes), 4, 4))
    for row, axis in enumerate((right, down, forward)):
        matrices[:, row, :3] = axis
        matrices[:, row, 3] = -(axis[:, 0] * eyes[:, 0] + axis[:, 1] * eyes[:, 1] + axis[:, 2] * eyes[:, 2])
    matrices[:, 3, 3] = 1.0
    return matrices


def fitting_distance(fov_rad: float, margin: float = 0.05) -> float:
    """How far a camera must stand for the unit sphere's outline to leave the share `margin` of the half picture free."""
    return math.sqrt(1.0 + (1.0 / ((1.0 - margin) * tan(fov_rad / 2))) ** 2)


def orbit(
    directions: Floats,
    distance: float | Floats,
    *,
    fov_rad: float = DEFAULT_FOV_RAD,
    width: int = 224,
    height: int | None = None,
) -> Cameras:
    """Cameras that look at the origin from unit vectors (V, 3) at a distance (one or (V,)) in radii of the normalised mesh.

    fov_rad is the field of view along the picture's shorter side.
    """
    height = width if height is None else height
    eyes = directions * np.broadcast_to(np.asarray(distance, np.float64), len(directions))[:, None]
    focal = min(width, height) / 2 / tan(fov_rad / 2)
    K = np.tile(np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]), (len(eyes), 1, 1))
    return Cameras(K, look_at(eyes), width, height)


def ring(
    count: int,
    elevation_rad: float,
    *,
    azimuth_rad: float = 0.0,
    fov_rad: float = DEFAULT_FOV_RAD,
    distance: float | None = None,
    margin: float = 0.05,
    size: int = 224,
) -> Cameras:
    """`count` cameras evenly round the object at one elevation, the first at azimuth_rad; the unit sphere fits without a distance."""
    distance = fitting_distance(fov_rad, margin) if distance is None else distance
    return orbit(sphere(_evenly(count, azimuth_rad), np.full(count, elevation_rad)), distance, fov_rad=fov_rad, width=size)


def _evenly(count: int, start_rad: float) -> Floats:
    return np.array([start_rad + i * (2 * math.pi / count) for i in range(count)], np.float64)


def fibonacci(
    count: int,
    *,
    azimuth_rad: float = 0.0,
    fov_rad: float = DEFAULT_FOV_RAD,
    distance: float | None = None,
    margin: float = 0.05,
    size: int = 224,
) -> Cameras:
    """`count` cameras spread over the whole sphere along the golden-angle spiral, from above to below."""
    distance = fitting_distance(fov_rad, margin) if distance is None else distance
    step = np.arange(count)
    height = 1 - (2 * step + 1) / count
    level = np.sqrt(1 - height * height)
    spiral = sphere(np.array([azimuth_rad + GOLDEN_ANGLE_RAD * i for i in range(count)], np.float64), np.zeros(count))
    return orbit(np.stack((spiral[:, 0] * level, height, spiral[:, 2] * level), axis=1), distance, fov_rad=fov_rad, width=size)


def shapenet24(seed: int | None = None, *, size: int = 137) -> Cameras:
    """The 24-view ring of the ShapeNet renderings (methods-A A.4): a 35 mm lens on a 32 mm sensor, elevation 25° to 30°.

    With a seed as in 3D-R2N2: azimuth uniform in the circle, elevation uniform, distance 1.75 × U(0.65, 0.95) in diagonals of the box,
    here 2 radii each; near cameras cut off spheres, as theirs do. Without a seed: azimuths every 15°, 27.5°, the mean distance.
    """
    if seed is None:
        towards = sphere(_evenly(24, 0.0), np.full(24, math.radians(27.5)))
        return orbit(towards, 2 * 1.75 * 0.8, fov_rad=SHAPENET_FOV_RAD, width=size)
    draws = np.random.Generator(np.random.PCG64(seed)).random((3, 24))
    towards = sphere(2 * math.pi * draws[0], math.radians(25.0) + math.radians(5.0) * draws[1])
    return orbit(towards, 2 * 1.75 * (0.65 + 0.3 * draws[2]), fov_rad=SHAPENET_FOV_RAD, width=size)


def project(points: Floats, cameras: Cameras) -> tuple[Floats, Floats]:
    """Where world points (N, 3) fall: pixels (V, N, 2) float64 as (u, v), and depth z_cam (V, N) float64.

    Points of depth 0 or below lie behind the camera; their pixels mean nothing.
    """
    rotation, translation = cameras.world_to_camera[:, :3, :3], cameras.world_to_camera[:, :3, 3]
    in_camera = np.einsum("vij,nj->vni", rotation, points) + translation[:, None]
    depth = in_camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        image = np.einsum("vij,vnj->vni", cameras.K, in_camera) / depth[..., None]
    return image[..., :2], depth


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= limits[1]:
        raise ValueError("the range's lower end must not be above its upper end")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
_Elevation = Annotated[float, Field(ge=-90, le=90)]
Elevation = _Elevation | Annotated[tuple[_Elevation, _Elevation], AfterValidator(_ordered)]


class Rig(BaseModel):
    """Where the cameras of an asset stand, as a recipe says it.

    elevation_deg is one angle or a range from which each view of a ring draws its own; azimuth_deg turns the whole rig about y by one angle
    or one drawn from a range. distance is in radii; without it the unit sphere fits with `margin` of the half picture free.
    shapenet24 takes only `size` (and its own angles, drawn for each asset); see the function of that name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["ring", "fibonacci", "shapenet24"] = "ring"
    count: int = Field(default=12, ge=1, le=1000)
    elevation_deg: Elevation = 30.0
    azimuth_deg: float | Range = 0.0
    fov_deg: float = Field(default=40.0, gt=0, lt=170)
    distance: float | None = Field(default=None, gt=0)
    margin: float = Field(default=0.05, ge=0, lt=1)
    size: int = Field(default=224, ge=8, le=4096)

    @property
    def views(self) -> int:
        """How many cameras `build` gives."""
        return 24 if self.kind == "shapenet24" else self.count


def build(rig: Rig, seed: int) -> Cameras:
    """The rig's cameras; the seed (0 or above) decides what is drawn from ranges, and nothing else."""
    if rig.kind == "shapenet24":
        return shapenet24(seed, size=rig.size)
    draws = np.random.Generator(np.random.PCG64(seed)).random(1 + rig.count)
    azimuth_rad = float(_draw(rig.azimuth_deg, draws[:1])[0])
    fov_rad = math.radians(rig.fov_deg)
    if rig.kind == "fibonacci":
        return fibonacci(rig.count, azimuth_rad=azimuth_rad, fov_rad=fov_rad, distance=rig.distance, margin=rig.margin, size=rig.size)
    distance = fitting_distance(fov_rad, rig.margin) if rig.distance is None else rig.distance
    return orbit(sphere(_evenly(rig.count, azimuth_rad), _draw(rig.elevation_deg, draws[1:])), distance, fov_rad=fov_rad, width=rig.size)


def _draw(degrees: float | tuple[float, float], uniform: Floats) -> Floats:
    low, high = degrees if isinstance(degrees, tuple) else (degrees, degrees)
    return (low + (high - low) * uniform) * (math.pi / 180)
