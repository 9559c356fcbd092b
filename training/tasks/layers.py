"""What the heads, figures and evidence of all tasks are made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn

from pipeline.reader import Dataset
from training.noise import fold, uniforms
from training.ops.batchnorm import BatchNorm1d

Width = Annotated[int, Field(ge=1)]

# An encoder draws from the low streams of a sample's key.
_STREAM = 1 << 20


@dataclass(frozen=True)
class Metric:
    """One figure of scored items. scores (n,): one per item, `value` is their mean; chance: what guessing gives; details: JSON values."""

    name: str
    scores: npt.NDArray[np.float64]
    chance: float
    details: dict[str, Any]

    @property
    def value(self) -> float:
        return float(self.scores.mean())


def labelled(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows (n, row_width) of scored items are of items with a label, (n,): those whose loss has a weight."""
    return np.asarray(rows[:, 1] > 0)


def one_a_class(dataset: Dataset, indices: npt.NDArray[np.int64], most: int) -> list[int]:
    """Of each class the sample that comes first in the order of a hash of the keys, `most` samples at most."""
    order = sorted(indices.tolist(), key=lambda index: hashlib.sha256(dataset.keys[index].encode()).hexdigest())
    return list({str(dataset.classes[index]): index for index in reversed(order)}.values())[:most]


def dropout(x: Tensor, probability: float, keys: Tensor, number: int) -> Tensor:
    """x (B, ...) with each element set to 0 with `probability`, the others scaled by 1 / (1 − probability).

    keys (B,) int64: those of the samples; `number` keeps the layers of a head apart.
    """
    kept = uniforms(fold(keys, _STREAM + number), *x.shape[1:]) >= probability
    return x * kept.to(x.dtype) / (1 - probability)


class Hidden(nn.Module):
    """What follows a linear layer: batch norm over all rows of all ranks (if `norm`), ReLU, dropout. (B, ..., C) to (B, ..., C)."""

    def __init__(self, width: int, norm: bool, probability: float, number: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(width) if norm else nn.Identity()
        self.probability = probability
        self.number = number

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        x = nn.functional.relu(self.norm(x.flatten(0, -2)).view(x.shape))
        if self.training and self.probability and keys is not None:
            return dropout(x, self.probability, keys, self.number)
        return x
