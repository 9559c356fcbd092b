"""Is one encoder better than another on the same test items?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.evaluation.figure import Figure


@dataclass(frozen=True)
class Difference:
    """Mean score of the first minus mean score of the second, with the bounds of its interval."""

    value: float
    low: float
    high: float
    level: float


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], seed: int = 0, level: float = 0.95, resamples: int = 9999
) -> Difference:
    """Percentile bootstrap interval of mean(first − second) over items drawn with replacement, (n,) scores of the same items each.

    ValueError for arrays of different length or none.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"a paired difference needs two score vectors of one length, got {first.shape} and {second.shape}")
    each = first.astype(np.float64) - second.astype(np.float64)
    if (each == each[0]).all():
        return Difference(float(each[0]), float(each[0]), float(each[0]), level)
    result = stats.bootstrap(
        (each,), np.mean, n_resamples=resamples, batch=1000, confidence_level=level, method="percentile", rng=np.random.default_rng(seed)
    )
    interval = result.confidence_interval
    return Difference(float(each.mean()), float(interval.low), float(interval.high), level)


def compare(first: Figure, second: Figure, level: float = 0.95) -> Difference:
    """The difference of two figures of one protocol on the same items, such as pretrained minus random weights.

    ValueError if protocol, clouds, dataset or items differ.
    """
    same = ("protocol", "metric", "split", "turned", "dataset_fingerprint", "seed", "n")
    other = [name for name in same if getattr(first, name) != getattr(second, name)]
    if other or first.details["items"] != second.details["items"]:
        raise ValueError(f"the figures {first.name} and {second.name} cannot be paired: they differ in {', '.join(other) or 'items'}")
    return paired_difference(np.array(first.details["scores"], float), np.array(second.details["scores"], float), first.seed, level)
