import dataclasses
import math

import numpy as np
import pytest

from training.evaluation.bootstrap import compare, paired_difference
from training.evaluation.figure import Figure


def figure(scores: list[float], **changes: object) -> Figure:
    made = Figure(
        "svm", "accuracy", float(np.mean(scores)), len(scores), "test", False, "pretrained", "e", "d", 0, {"scores": scores, "items": "x"}
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_interval_is_near_the_normal_one_for_many_items() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random(2000) < 0.7).astype(float), (rng.random(2000) < 0.6).astype(float)
    found = paired_difference(first, second)
    each = first - second
    half = 1.96 * each.std() / math.sqrt(2000)
    assert found.value == pytest.approx(each.mean())
    assert found.low == pytest.approx(each.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(each.mean() + half, abs=0.1 * half)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(200):
        shared = rng.random(120)
        found = paired_difference(
            (shared < 0.6).astype(float), (shared + 0.1 * rng.standard_normal(120) < 0.5).astype(float), i, resamples=500
        )
        # P(u + 0.1 z < 0.5) is 0.5 by symmetry
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_over_owners_covers_the_truth_where_items_of_one_are_alike() -> None:
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(20), 10)
    covered = {"owners": 0, "items": 0}
    for i in range(200):
        each = 0.1 + rng.standard_normal(20)[owners] + 0.3 * rng.standard_normal(200)
        for kind, whose in (("owners", owners), ("items", None)):
            found = paired_difference(each, np.zeros(200), i, resamples=500, owners=whose)
            covered[kind] += found.low <= 0.1 <= found.high
    assert 0.87 <= covered["owners"] / 200 <= 0.98  # the percentile interval of 20 is a little narrow
    assert covered["items"] / 200 < 0.6


def test_owners_of_one_item_each_are_items() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(300), rng.random(300)
    items, owned = paired_difference(first, second), paired_difference(first, second, owners=rng.permutation(300) + 7)
    assert owned.value == items.value
    assert owned != items  # owners were drawn
    assert (owned.low, owned.high) == pytest.approx((items.low, items.high), abs=0.003)


def test_owners_of_many_items_weigh_more() -> None:
    owners = np.repeat(np.arange(10), np.arange(1, 11))
    found = paired_difference((owners == 9).astype(float), np.zeros(55), owners=owners)
    assert found.value == pytest.approx(10 / 55)
    assert found.low == 0  # without the one that has them


def test_a_few_owners_are_not_drawn() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random(60), rng.random(60)
    assert paired_difference(first, second, owners=np.arange(60) % 7) == paired_difference(first, second)
    assert paired_difference(first, second, owners=np.arange(60) % 8) != paired_difference(first, second)
    with pytest.raises(ValueError, match="one entry an item"):
        paired_difference(first, second, owners=np.arange(59))


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)
    first = (rng.random(400) < 0.5).astype(float)
    second = np.where(np.arange(400) % 20 == 0, 1 - first, first)
    paired, broken = paired_difference(first, second), paired_difference(first, rng.permutation(second))
    assert paired.high - paired.low < 0.5 * (broken.high - broken.low)


def test_equal_scores_differ_by_nothing() -> None:
    found = paired_difference(np.ones(5), np.ones(5))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_only_figures_of_the_same_items_are_compared() -> None:
    good, bad = figure([1, 1, 0, 1]), figure([0, 1, 0, 0], weights="random", encoder_fingerprint="r")
    assert compare(good, bad).value == pytest.approx(0.5)
    assert Figure(**good.record()) == good
    for changes in (
        {"turned": True},
        {"metric": "other"},
        {"details": {"scores": [0, 0, 0, 0], "items": "y"}},
        {"dataset_fingerprint": "z"},
    ):
        with pytest.raises(ValueError, match="cannot be paired"):
            compare(good, figure([0, 1, 0, 0], **changes))
    with pytest.raises(ValueError, match="one length"):
        paired_difference(np.ones(3), np.ones(4))


def test_one_item_shows_nothing() -> None:
    found = paired_difference(np.ones(1), np.zeros(1))
    assert (found.value, found.low, found.high) == (1, -1, 1)
