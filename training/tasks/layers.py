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


def ratio_scores(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The figure R = Σ part / Σ whole of items, (n, ...) each, 0 where Σ whole is 0, as a score of each item, (n, ...).

    Their mean is R, and where items are drawn again, their mean follows the ratio of what was drawn to first order:
    R + n (part_i − R whole_i) / Σ whole, the influence values of a ratio (Davison and Hinkley 1997, "Bootstrap Methods and their
    Application", section 2.7). part_i n / Σ whole would have the same mean, but would hold Σ whole still.
    """
    below = whole.sum(0)
    ratio = part.sum(0) / np.where(below > 0, below, 1)
    return np.asarray(ratio + len(part) * (part - ratio * whole) / np.where(below > 0, below, 1))


def class_scores(scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean over classes of the mean score of a class's items, (n,) each, as a score of each item, (n,): see `ratio_scores`."""
    of_class = (classes[:, None] == np.unique(classes)).astype(np.float64)
    return np.asarray(ratio_scores(scores[:, None] * of_class, of_class).mean(1))


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
