"""Is one encoder better than another on the same test items?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.evaluation.figure import Figure

FEWEST_OWNERS = 8


@dataclass(frozen=True)
class Difference:
    """Mean score of the first minus mean score of the second, with the bounds of its interval."""

    value: float
    low: float
    high: float
    level: float


def paired_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 9999,
    owners: NDArray[np.int64] | None = None,
) -> Difference:
    """Percentile bootstrap interval of mean(first − second) over items drawn with replacement, (n,) scores of the same items each.

    owners (n,): whose each item is, for items that are not independent, such as clips of one character: then owners are drawn, with all of
    their items (the cluster bootstrap: Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Fewer than
    FEWEST_OWNERS say nothing of other ones: then items are drawn, and the interval is of these owners alone. One item says nothing at all:
    the interval is [−1, 1].

    ValueError for arrays of different length or none.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"a paired difference needs two score vectors of one length, got {first.shape} and {second.shape}")
    each = first.astype(np.float64) - second.astype(np.float64)
    if len(each) == 1:
        return Difference(float(each[0]), -1.0, 1.0, level)
    if (each == each[0]).all():
        return Difference(float(each[0]), float(each[0]), float(each[0]), level)
    if owners is not None:
        if owners.shape != each.shape:
            raise ValueError(f"owners need one entry an item, got {owners.shape} for {each.shape}")
        _, number = np.unique(owners, return_inverse=True)
        sums, sizes = np.bincount(number, each), np.bincount(number)
        if len(sums) >= FEWEST_OWNERS:
            drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
            means = sums[drawn].sum(1) / sizes[drawn].sum(1)
            low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
            return Difference(float(each.mean()), float(low), float(high), level)
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
    a, b = (np.array(figure.details["scores"], float) for figure in (first, second))
    owners = np.array(first.details["owners"]) if "owners" in first.details else None
    return paired_difference(a, b, first.seed, level, owners=owners)
