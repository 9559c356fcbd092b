import itertools
import math

import numpy as np
import pytest

from training.evaluation.retrieval import chance, hits


def test_recall_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((40, 8)).astype(np.float32)
    images = (points + 1.5 * rng.standard_normal((40, 8))).astype(np.float32) * rng.uniform(0.1, 9, (40, 1)).astype(np.float32)
    owner = np.arange(40)
    for k in (1, 5, 40, 60):
        expected = []
        for i, p in enumerate(points.tolist()):
            cosine = [float(np.dot(p, q)) / (math.hypot(*p) * math.hypot(*q)) for q in images.tolist()]
            expected.append(float(i in sorted(range(40), key=lambda j: -cosine[j])[:k]))
        np.testing.assert_allclose(hits(points, owner, images, owner, k), expected)
    assert hits(points, owner, images, owner, 40).all()


def test_perfect_pairs_are_found_and_unrelated_ones_are_chance() -> None:
    rng = np.random.default_rng(1)
    points, images = rng.standard_normal((2, 600, 16)).astype(np.float32)
    owner = np.arange(600)
    assert hits(points, owner, 3 * points, owner, 1).tolist() == [1.0] * 600
    assert chance(owner, owner, 5) == pytest.approx(5 / 600)
    assert hits(points, owner, images, owner, 60).mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 600))


@pytest.mark.parametrize("k", [1, 5, 7])
def test_collapsed_embeddings_score_exactly_chance(k: int) -> None:
    same = np.random.default_rng(2).standard_normal((1, 16)).astype(np.float32).repeat(37, axis=0)
    owner = np.arange(37)
    np.testing.assert_allclose(hits(same, owner, same, owner, k), k / 37)
    np.testing.assert_allclose(hits(np.zeros_like(same), owner, same, owner, k), k / 37)


def test_ties_count_as_the_mean_over_their_orders() -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    angles = (0.1, 0.5, 0.5, 0.5, 1.0)  # one image is nearer, three are equal, one of these is right
    gallery = np.array([[math.cos(a), math.sin(a)] for a in angles], np.float32)
    owners = np.array([8, 7, 9, 8, 9])
    for k in range(1, 6):
        orders = [(0, *tied, 4) for tied in itertools.permutations((1, 2, 3))]
        expected = np.mean([any(owners[i] == 7 for i in order[:k]) for order in orders])
        assert hits(query, np.array([7]), gallery, owners, k)[0] == pytest.approx(expected)


def test_several_images_of_an_object() -> None:
    rng = np.random.default_rng(3)
    points, images = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal((15, 4)).astype(np.float32)
    owners = np.array([0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 5, 5, 5])
    for k in (1, 3, 5):
        to_image = hits(points, np.arange(6), images, owners, k)
        to_point = hits(images, owners, points, np.arange(6), k)
        cosine = (points / np.linalg.norm(points, axis=1)[:, None]) @ (images / np.linalg.norm(images, axis=1)[:, None]).T
        assert to_image.tolist() == [float(i in owners[np.argsort(-row)[:k]]) for i, row in enumerate(cosine)]
        assert to_point.tolist() == [float(owners[j] in np.argsort(-column)[:k]) for j, column in enumerate(cosine.T)]
    drawn = [owners[rng.permutation(15)[:3]] for _ in range(20_000)]
    simulated = np.mean([[i in first for i in range(6)] for first in drawn])
    assert chance(np.arange(6), owners, 3) == pytest.approx(simulated, abs=0.005)


def test_refuses() -> None:
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="nothing in the gallery"):
        hits(ones, np.array([0, 2]), ones, np.array([0, 1]), 1)
    with pytest.raises(ValueError, match="k of at least 1"):
        hits(ones, np.arange(2), ones, np.arange(2), 0)
