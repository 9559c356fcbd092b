"""A recipe says what a dataset is made of: meshes, points, views. It is a YAML file; what it does not say has the defaults below."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.clips import Clips
from pipeline.config import load_yaml
from pipeline.sources import ShapesSource, Source
from render.cameras import Rig
from render.views import Style

FORMAT = 1
# A depth image counts in these parts of a radius: 16 bits reach 8 radii, and half a step is 6e-5 of one.
DEPTH_UNIT = 1 / 8192


class Points(BaseModel):
    """The cloud: `count` points by area, and what stands beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=2048, ge=1, le=1_000_000)
    normals: bool = False
    colors: bool = False
    parts: bool = False


class Pictures(BaseModel):
    """The views: where the cameras stand and what is kept of what they see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rig: Rig = Rig()
    color: Literal["rgb", "rgba"] = "rgb"
    depth: bool = False
    mask: bool = False


class Limits(BaseModel):
    """What one asset may take; beyond it, the asset fails and the run goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(default=60.0, gt=0)
    memory_mb: int = Field(default=4096, ge=64)
    max_faces: int = Field(default=2_000_000, ge=1)


class Recipe(BaseModel):
    """What a dataset is made of. val_fraction is the share of the train assets, by their content, that becomes the split `val`.

    With clips each asset becomes a point–video pair in place of views, of points.count points a frame, points.parts as asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str = "dataset"
    source: Source = ShapesSource()
    points: Points = Points()
    views: Pictures = Pictures()
    clips: Clips | None = None
    style: Style = Style()
    renderer: Literal["raster", "opengl"] = "raster"
    shard_assets: int = Field(default=32, ge=1, le=10_000)
    seed: int = 0
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _depth_fits(self) -> Recipe:
        if self.views.depth and (self.views.rig.distance or 0) + 1 >= 65535 * DEPTH_UNIT:
            raise ValueError("views.depth holds up to 8 radii; choose a views.rig.distance below 7")
        return self

    @model_validator(mode="after")
    def _clips_fit(self) -> Recipe:
        if self.clips is None:
            if self.source.kind in ("animated", "creatures"):
                raise ValueError(f"the source {self.source.kind} is filmed; say how in clips (clips: {{}} for the defaults)")
            return self
        if self.source.kind == "recording":
            raise ValueError("recordings are clips as they are; remove clips")
        if self.points.normals or self.points.colors:
            raise ValueError("points of clips have neither normals nor colors; remove points.normals and points.colors")
        if self.views != Pictures():
            raise ValueError("clips have frames in place of views; remove views and set clips.camera")
        return self

    def identity(self) -> dict[str, Any]:
        """The values that change a shard's bytes; where the meshes lie, the dataset's name and how long an asset may take do not."""
        values = self.model_dump(mode="json")
        values.pop("name")
        source = values["source"]
        source.pop("path", None)
        if source.pop("images", None) is None:
            # what was imported before there were images keeps its identity
            for name in ("image_size", "image_fps"):
                source.pop(name, None)
        if values["clips"] is None:
            # datasets made before there were clips keep their identity
            del values["clips"]
        for holder, table in ((source, "actions"), (values.get("clips", {}), "parts")):
            if isinstance(holder.get(table), dict) and holder[table]:
                # the first match counts and labels are positions: the order of such a table decides bytes
                holder[table] = list(holder[table].items())
        del values["limits"]["seconds"], values["limits"]["memory_mb"]
        return values

    def resolved_hash(self) -> str:
        """Hex sha256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file. Raises ConfigError."""
    return load_yaml(path, Recipe, overrides)
