"""The built-in source: procedural shapes, so that everything can be tried without data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.sources.asset import Asset, Names, SourceError
from render.meshes import Mesh


class ShapesSource(BaseModel):
    """Procedural shapes with random proportions; all classes unless some are named. The last of each class are the test split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shapes"] = "shapes"
    classes: Names = ()
    per_class: int = Field(default=40, ge=1)
    test_fraction: float = Field(default=0.25, ge=0, lt=1)
    seed: int = 0


def assets(source: ShapesSource) -> Iterator[Asset]:
    from pipeline.sources.shapes import CLASSES

    unknown = [name for name in source.classes if name not in CLASSES]
    if unknown:
        raise SourceError(f"There is no built-in shape {unknown[0]!r}; use some of {', '.join(CLASSES)}.")
    train = source.per_class - round(source.per_class * source.test_fraction)
    for cls in source.classes or CLASSES:
        for number in range(source.per_class):
            seed = int.from_bytes(hashlib.sha256(f"{source.seed}/{cls}/{number}".encode()).digest()[:4], "big")
            yield Asset(f"shapes:{cls}/{number:05d}/{seed}", cls, "train" if number < train else "test", "Apache-2.0")


def content_sha256(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()


def open_mesh(uri: str) -> Mesh:
    from pipeline.sources.shapes import make

    cls, _, seed = uri.removeprefix("shapes:").split("/")
    mesh: Mesh = make(cls, int(seed))
    return mesh
