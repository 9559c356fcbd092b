"""What a clip is: how many frames at which rate, which points, which camera, which parts. `pipeline.film` makes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from render.cameras import Elevation, Range

MAX_FRAMES = 1000  # frame numbers in member names have three digits


class Camera(BaseModel):
    """The one camera of a clip, which sees the unit sphere of the whole clip with `margin` of the half picture free.

    Elevation and azimuth are angles or ranges that each clip draws from. Over the clip the camera turns about y by orbit_deg in all, 0
    for one that stands still. A mesh without animation is filmed by a full turn where orbit_deg is 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(default=112, ge=8, le=4096)
    fov_deg: float = Field(default=40.0, gt=0, lt=170)
    elevation_deg: Elevation = (0.0, 30.0)
    azimuth_deg: float | Range = (-180.0, 180.0)
    orbit_deg: float | Range = 0.0
    margin: float = Field(default=0.05, ge=0, lt=1)


class Clips(BaseModel):
    """A point–video pair for each asset: `frames` instants, 1 / `fps` seconds apart, of points and of pictures.

    points: `track`, drawn once on the first frame's surface and carried by their faces; `surface`, drawn afresh on each frame's;
    `visible`, the back-projected pixels of each frame. parts: part name → case-insensitive patterns of node names, of which the first
    that matches counts; without a table every node is a part. min_motion: a clip whose largest displacement of a vertex from the first
    frame, in diagonals of that frame's box, is below it fails as "no_motion". light, background: drawn for each clip, else the style's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frames: int = Field(default=24, ge=1, le=MAX_FRAMES)
    fps: float = Field(default=12.0, gt=0)
    points: Literal["surface", "track", "visible"] = "surface"
    camera: Camera = Camera()
    parts: dict[str, tuple[str, ...]] = {}
    min_motion: float = Field(default=0.005, ge=0)
    light: bool = True
    background: bool = True
