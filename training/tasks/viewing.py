"""How the items of a task are drawn for training and seen for scoring; `clouds` and `clips` do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor

from training.augment import PointAugment
from training.clip_views import ClipAugment

Item = dict[str, npt.NDArray[Any]]
Views = Iterator[Item]
"""What is seen of one item for its scores, pass by pass, as the members of a batch without its first dimension."""
Kept = Sequence[Sequence[Tensor]]
"""What a task keeps of each pass of each item."""
Run = Callable[[dict[str, Tensor]], Tensor]
"""A batch to logits."""


@dataclass(frozen=True)
class Viewing:
    """augment: of training items; points: of a cloud, or of each frame of a clip, all if None."""

    augment: PointAugment | ClipAugment
    points: int | None
    seed: int
