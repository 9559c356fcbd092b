"""Mean intersection over union of classes, from a confusion matrix summed over a whole set.

    IoU_c = M_cc / (Σ_j M_cj + Σ_i M_ic − M_cc)        M_ij: points of class i that were called j

`ignored` classes (no label, noise) are no part of the mean. Their points count nowhere (points="left_out"), or enter the union of the class
that they were called (points="in_union"), as in a public evaluation of HOI4D (methods-C, C.4.2). A class without a true point is left out
of the mean (absent="exclude", as for HOI4D) or counts as 0 (absent="zero", as for Synthia).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Absent = Literal["exclude", "zero"]
IgnoredPoints = Literal["left_out", "in_union"]


def confusion(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(classes, classes) int64, true by predicted, of two arrays of one shape; points with a negative truth count nowhere."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: NDArray[np.integer], ignored: Collection[int] = (), points: IgnoredPoints = "left_out") -> NDArray[np.float64]:
    """(classes,) IoU; nan for ignored classes and for those without a true point."""
    matrix = np.array(matrix, np.int64)
    out = np.isin(np.arange(len(matrix)), list(ignored))
    if points == "left_out":
        matrix[out] = 0
    both, true, called = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((true > 0) & ~out, both / (true + called - both), np.nan)


def mean_iou(
    matrix: NDArray[np.integer], ignored: Collection[int] = (), absent: Absent = "exclude", points: IgnoredPoints = "left_out"
) -> float:
    """From 0 to 1; nan where no class is left."""
    found = class_iou(matrix, ignored, points)
    if absent == "zero":
        found = np.nan_to_num(np.delete(found, list(ignored)))
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else float("nan")
