"""How a procedural shape is put together: dice to draw its proportions, a model to collect its coloured, labelled solids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pipeline.sources.solids import Solid
from render.meshes import Material, Mesh

T = TypeVar("T")
Color = tuple[float, float, float]

WOODS: tuple[Color, ...] = ((0.55, 0.36, 0.2), (0.72, 0.53, 0.33), (0.36, 0.22, 0.13), (0.82, 0.68, 0.48), (0.45, 0.18, 0.12))
METALS: tuple[Color, ...] = ((0.75, 0.76, 0.78), (0.45, 0.46, 0.48), (0.2, 0.2, 0.22), (0.72, 0.6, 0.35))
DARK: Color = (0.12, 0.12, 0.13)


class Dice:
    """Draws of a shape, the same for the same seed on every host."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))

    def real(self, low: float, high: float) -> float:
        """Uniform between the two."""
        return low + (high - low) * float(self._random.random())

    def whole(self, low: int, high: int) -> int:
        """One of low to high, both included."""
        return low + min(int(self._random.random() * (high - low + 1)), high - low)

    def chance(self, probability: float) -> bool:
        """True so often."""
        return float(self._random.random()) < probability

    def one(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[self.whole(0, len(choices) - 1)]

    def near(self, color: Color, spread: float = 0.08) -> Color:
        """A colour like this one."""
        red, green, blue = (min(max(part + self.real(-spread, spread), 0.02), 0.98) for part in color)
        return red, green, blue

    def wood(self) -> Color:
        """A kind of wood."""
        return self.near(self.one(WOODS), 0.05)

    def metal(self) -> Color:
        """A kind of metal."""
        return self.near(self.one(METALS), 0.04)

    def paint(self) -> Color:
        """Any hue, from pale to full."""
        hue, saturation, value = self.real(0, 6), self.real(0.25, 0.85), self.real(0.45, 0.95)
        parts = [value * (1 - saturation * min(max(min((hue + k) % 6, 4 - (hue + k) % 6), 0.0), 1.0)) for k in (5.0, 3.0, 1.0)]
        return parts[0], parts[1], parts[2]


class Model:
    """Solids as they are added, with a colour and the name of the part that each belongs to."""

    def __init__(self) -> None:
        self._solids: list[Solid] = []
        self._looks: list[tuple[Color, str]] = []

    def add(self, part: str, color: Color, *solids: Solid) -> None:
        """More solids of a part, in one colour."""
        for solid in solids:
            self._solids.append(solid)
            self._looks.append((color, part))

    def mesh(self) -> Mesh:
        """Everything as one mesh: a material for each colour, part labels in the order in which the parts came."""
        colors = list(dict.fromkeys(color for color, _ in self._looks))
        names = list(dict.fromkeys(part for _, part in self._looks))
        counts = np.array([len(faces) for _, faces in self._solids])
        first = np.concatenate(([0], np.cumsum([len(vertices) for vertices, _ in self._solids])[:-1]))
        return Mesh(
            vertices=np.concatenate([vertices for vertices, _ in self._solids]),
            faces=np.concatenate([faces + start for (_, faces), start in zip(self._solids, first, strict=True)]).astype(np.int32),
            materials=tuple(Material(f"color{i}", np.array([*color, 1.0], np.float32)) for i, color in enumerate(colors)),
            face_material=np.repeat([colors.index(color) for color, _ in self._looks], counts).astype(np.int32),
            parts=np.repeat([names.index(part) for _, part in self._looks], counts).astype(np.int16),
            part_names=tuple(names),
        )
