"""Procedural shapes of everyday classes: proportions, kind and number of parts, and colours come from a seed. y is up, the front +z."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from pipeline.sources import shapes_furniture as furniture
from pipeline.sources import shapes_objects as objects
from pipeline.sources import shapes_vehicles as vehicles
from pipeline.sources.model import Dice, Model
from render.meshes import Mesh

_MAKERS: dict[str, Callable[[Dice, Model], None]] = {
    "airplane": vehicles.airplane,
    "bed": furniture.bed,
    "bookshelf": furniture.bookshelf,
    "bottle": objects.bottle,
    "car": vehicles.car,
    "chair": furniture.chair,
    "guitar": objects.guitar,
    "lamp": objects.lamp,
    "mug": objects.mug,
    "rocket": vehicles.rocket,
    "sailboat": vehicles.sailboat,
    "sofa": furniture.sofa,
    "table": furniture.table,
}
CLASSES: tuple[str, ...] = tuple(_MAKERS)


def make(cls: str, seed: int) -> Mesh:
    """The shape of a class and a seed (any int), the same on every host. Raises ValueError for a class that is not in CLASSES."""
    if cls not in _MAKERS:
        raise ValueError(f"there is no built-in shape {cls!r}; take one of {', '.join(CLASSES)}")
    # The class is in the seed, so that two classes with one seed do not share their draws.
    dice = Dice(int.from_bytes(hashlib.sha256(f"{cls}/{seed}".encode()).digest()[:8], "big"))
    model = Model()
    _MAKERS[cls](dice, model)
    return model.mesh()
