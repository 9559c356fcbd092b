"""What this process read a moment ago, kept for the other assets of the same file or character: the last of it, up to MOST_BYTES."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from render.animation import Animated

Thing = TypeVar("Thing")

MOST_BYTES = 256 * 2**20
_held: dict[Hashable, tuple[Any, int]] = {}


def kept(key: Hashable, read: Callable[[], tuple[Thing, int]]) -> Thing:
    """What `read` gave for this key, with about how many bytes it takes; read anew where it is not kept. What it raises passes through."""
    held: tuple[Thing, int] | None = _held.pop(key, None)
    if held is None:
        held = read()
    _held[key] = held
    total = 0
    for other in reversed(list(_held)):
        total += _held[other][1]
        if total > MOST_BYTES:
            del _held[other]
    return held[0]


def kept_character(key: Hashable, read: Callable[[], Animated], file_bytes: int = 0) -> Animated:
    """The same for a character with all of its clips, from a file of so many bytes."""

    def sized() -> tuple[Animated, int]:
        animated = read()
        arrays = [value for value in vars(animated.mesh).values() if isinstance(value, np.ndarray)]
        textures = {id(item.texture): item.texture.nbytes for item in animated.mesh.materials if item.texture is not None}
        # poses take some copies of the geometry with them: weights, joints, targets
        return animated, 2 * file_bytes + 4 * sum(array.nbytes for array in arrays) + sum(textures.values())

    return kept(key, sized)


def file_key(path: Path) -> tuple[Path, int, int]:
    """A key that changes when the file does. Raises OSError."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def forget() -> None:
    """Keeps nothing of what was read before."""
    _held.clear()
