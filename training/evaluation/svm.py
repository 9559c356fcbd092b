"""Linear SVM on frozen features, as CrossPoint judges an encoder (arXiv 2203.00680): one-vs-one, hinge loss, features unscaled.

C is chosen by cross-validation on the training features alone; accuracies at fixed C stand beside it for comparison with published ones.
The grid is relative: C = g / v with v the mean squared distance of the training features from their mean. C and the square of the
features' scale are one parameter, and scales differ by orders of magnitude between encoders (features of random weights are small):
with absolute values an encoder would be judged by its scale.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FIXED = (0.1, 0.01)


@dataclass(frozen=True)
class LinearSVM:
    """predictions: (m,) labels at the chosen C = relative / v; fixed: predictions by fixed C; validation: accuracy by value of the grid."""

    C: float
    relative: float
    predictions: NDArray[np.int64]
    fixed: dict[float, NDArray[np.int64]]
    validation: dict[float, float]
    folds: int


def linear_svm(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    grid: Sequence[float] = GRID,
    folds: int = 5,
    seed: int = 0,
    fixed: Sequence[float] = FIXED,
) -> LinearSVM:
    """Fits (n, F) features with (n,) labels and predicts those of (m, F) features; no label of the test items comes in.

    Folds are stratified and shuffled by `seed`; of the grid the smallest value with the best accuracy is taken. There are no more
    folds than the largest class has members; classes smaller than that are missing from some folds. The n × n matrix of inner
    products (8n² bytes) of the centred features is computed once for all fits; neither changes a solution, for the kernel is linear
    and the bias is free.
    ValueError for fewer than two classes, an empty grid, or classes of one member each.
    """
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) < 2:
        raise ValueError(f"a linear SVM needs at least 2 classes, the training features have {len(counts)}")
    if not grid:
        raise ValueError("a linear SVM needs at least one C to choose from")
    centre = train.mean(axis=0, dtype=np.float64)
    rows, queries = train - centre, test - centre
    gram, cross = rows @ rows.T, queries @ rows.T
    scale = float(gram.diagonal().mean()) or 1.0
    folds = min(folds, int(counts.max()))
    validation = _validate(gram, labels, sorted(grid), scale, folds, seed)
    best = max(sorted(grid), key=lambda value: validation.get(value, 0.0))  # the first of equals
    return LinearSVM(
        C=best / scale,
        relative=best,
        predictions=_predict(gram, labels, cross, best / scale),
        fixed={C: _predict(gram, labels, cross, C) for C in fixed},
        validation=validation,
        folds=folds,
    )


def _predict(gram: NDArray[np.float64], labels: NDArray[np.int64], cross: NDArray[np.float64], C: float) -> NDArray[np.int64]:
    predicted: NDArray[np.int64] = SVC(kernel="precomputed", C=C).fit(gram, labels).predict(cross)
    return predicted


def _validate(
    gram: NDArray[np.float64], labels: NDArray[np.int64], grid: Sequence[float], scale: float, folds: int, seed: int
) -> dict[float, float]:
    """Accuracy by value of the grid over all items, each predicted by the fit that did not see it."""
    if len(grid) == 1:
        return {}
    if folds < 2:
        raise ValueError("choosing C needs a class with at least 2 training items: give a single value")
    right = dict.fromkeys(grid, 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(gram, labels))
    for fit, held in splits:
        inner, outer = gram[np.ix_(fit, fit)], gram[np.ix_(held, fit)]
        for value in grid:
            right[value] += int((_predict(inner, labels[fit], outer, value / scale) == labels[held]).sum())
    return {value: right[value] / len(labels) for value in grid}
