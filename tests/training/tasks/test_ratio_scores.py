"""A ratio of sums as one score an item: the mean is the ratio, and drawing items again moves it as the ratio itself moves."""

import numpy as np
import pytest

from training.evaluation.bootstrap import paired_difference
from training.tasks.action_segmentation import THRESHOLDS
from training.tasks.layers import class_scores, ratio_scores


def interval_of(ratios: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def test_the_mean_is_the_ratio_and_nothing_where_there_is_nothing_below() -> None:
    rng = np.random.default_rng(0)
    part, whole = rng.random((20, 3)), 1 + rng.random((20, 3))
    part[:, 1] = whole[:, 1] = 0
    found = ratio_scores(part, whole)
    assert found.mean(0)[[0, 2]] == pytest.approx(part.sum(0)[[0, 2]] / whole.sum(0)[[0, 2]])
    assert (found[:, 1] == 0).all()


def test_the_interval_is_that_of_the_ratio_with_its_denominator_drawn_too() -> None:
    # F1 of two answers with as many hits; the second has false ones in some clips, many of them in a few
    rng = np.random.default_rng(1)
    clips = 60
    hits = rng.integers(2, 8, clips).astype(float)
    below = np.stack([2 * hits + rng.integers(0, 3, clips), 2 * hits + rng.integers(0, 3, clips) + rng.choice([0, 0, 0, 12], clips)])
    first, second = (ratio_scores(2 * hits, each) for each in below)
    drawn = rng.integers(clips, size=(4000, clips))
    exact = interval_of(2 * hits[drawn].sum(1) / below[0][drawn].sum(1) - 2 * hits[drawn].sum(1) / below[1][drawn].sum(1))
    found = paired_difference(first, second)
    assert (found.low, found.high) == pytest.approx(exact, abs=0.1 * (exact[1] - exact[0]))
    # hits over a sum that is held still would say nearly the same of any clips
    still = paired_difference(2 * hits * clips / below[0].sum(), 2 * hits * clips / below[1].sum())
    assert still.high - still.low < 0.5 * (exact[1] - exact[0])


def test_equal_hits_and_one_broken_clip_among_many_make_a_wide_interval() -> None:
    hits, below = np.full(12, 5.0), np.full((2, 12), 10.0)
    below[1, 0] += 200
    found = paired_difference(*(ratio_scores(2 * hits, each) for each in below))
    assert found.value == pytest.approx(1 - 120 / 320)
    assert found.high - found.low > 0.4


def test_a_mean_over_classes_counts_each_class_once_and_is_uncertain_by_its_items() -> None:
    scores, classes = np.array([1.0, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 2])
    found = class_scores(scores, classes)
    assert found.mean() == pytest.approx((0.75 + 0) / 2)
    assert class_scores(np.ones(5), classes) == pytest.approx(np.ones(5))  # a class with nothing to be wrong about has no spread


def test_thresholds_of_f1_are_those_of_the_field() -> None:
    assert THRESHOLDS == (0.1, 0.25, 0.5)
