"""Nearest neighbours in the direction of frozen features (Wu et al. 2018, arXiv 1805.01978, section 3.4).

The k nearest training items by cosine similarity s vote for their classes with weight exp(s / 0.07). k is chosen by leave-one-out
accuracy on the training features alone, since with classes of a few members the usual 200 or 20 would be a vote for the commonest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = (1, 3, 5, 10, 20)
TEMPERATURE = 0.07


@dataclass(frozen=True)
class Neighbours:
    """predictions: (m,) labels at the chosen k; validation: leave-one-out accuracy by k of the grid."""

    k: int
    predictions: NDArray[np.int64]
    validation: dict[int, float]


def nearest_neighbours(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32], grid: Sequence[int] = GRID
) -> Neighbours:
    """Predicts the labels of (m, F) features from (n, F) features with (n,) labels; of equally good k the smallest is taken.

    k above n − 1 is left out. ValueError where no k is left.
    """
    allowed = sorted(k for k in set(grid) if 1 <= k < len(train))
    if not allowed:
        raise ValueError(f"none of the numbers of neighbours {tuple(grid)} fits {len(train)} training items")
    known, asked = unit_rows(train), unit_rows(test)
    classes, numbers = np.unique(labels, return_inverse=True)
    itself = known @ known.T
    np.fill_diagonal(itself, -np.inf)
    validation = {k: float((vote == numbers).mean()) for k, vote in _votes(itself, numbers, len(classes), allowed).items()}
    best = max(allowed, key=lambda k: validation[k])
    predictions = classes[_votes(asked @ known.T, numbers, len(classes), [best])[best]]
    return Neighbours(best, predictions, validation)


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rows divided by their norms; zero rows stay zero."""
    rows = features.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(norms > 0, norms, 1)
    return unit


def _votes(similarity: NDArray[np.float64], numbers: NDArray[np.int64], classes: int, ks: Sequence[int]) -> dict[int, NDArray[np.int64]]:
    """By k the (m,) class numbers with the most weight; among equals the one that comes first in the order of labels."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : max(ks)]
    weight = np.exp(np.take_along_axis(similarity, order, axis=1) / TEMPERATURE)
    votes = np.zeros((len(similarity), classes))
    rows, chosen = np.arange(len(similarity)), {}
    for place in range(max(ks)):
        votes[rows, numbers[order[:, place]]] += weight[:, place]
        if place + 1 in ks:
            chosen[place + 1] = votes.argmax(axis=1)
    return chosen
