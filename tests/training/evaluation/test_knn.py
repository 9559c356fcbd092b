import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from training.evaluation.knn import nearest_neighbours


def blobs(per_class: int, classes: int, spread: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    centres = np.random.default_rng(99).standard_normal((classes, 12))
    labels = np.repeat(np.arange(classes) * 2 + 5, per_class)
    return (centres[(labels - 5) // 2] + spread * np.random.default_rng(seed).standard_normal((len(labels), 12))).astype(np.float32), labels


def vote(known: NDArray[np.float64], labels: NDArray[np.int64], asked: NDArray[np.float64], k: int) -> int:
    cosines = [float(row @ asked / (np.linalg.norm(row) * np.linalg.norm(asked))) for row in known]
    nearest = sorted(range(len(known)), key=lambda i: -cosines[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[int(labels[i])] = votes.get(int(labels[i]), 0) + math.exp(cosines[i] / 0.07)
    return max(sorted(votes), key=lambda label: votes[label])


def test_equals_a_vote_written_as_loops() -> None:
    (train, labels), (test, _) = blobs(12, 4, 1.2, 0), blobs(10, 4, 1.2, 1)
    found = nearest_neighbours(train, labels, test, grid=(1, 3, 8))
    known, asked = train.astype(float), test.astype(float)
    assert found.predictions.tolist() == [vote(known, labels, row, found.k) for row in asked]
    for k, accuracy in found.validation.items():
        alone = [vote(np.delete(known, i, 0), np.delete(labels, i), known[i], k) == labels[i] for i in range(len(known))]
        assert accuracy == pytest.approx(np.mean(alone))
    assert found.k == max((1, 3, 8), key=lambda k: found.validation[k])


def test_one_neighbour_is_the_cosine_neighbour() -> None:
    (train, labels), (test, _) = blobs(30, 6, 1.0, 2), blobs(30, 6, 1.0, 3)
    plain = KNeighborsClassifier(1, metric="cosine").fit(train.astype(float), labels).predict(test.astype(float))
    np.testing.assert_array_equal(nearest_neighbours(train, labels, test, grid=(1,)).predictions, plain)


def test_length_of_features_does_not_count_and_zero_features_are_survived() -> None:
    (train, labels), (test, truth) = blobs(15, 5, 0.3, 0), blobs(40, 5, 0.3, 1)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(test), 1)).astype(np.float32)
    found = nearest_neighbours(train, labels, test * lengths)
    np.testing.assert_array_equal(found.predictions, nearest_neighbours(train, labels, test).predictions)
    assert (found.predictions == truth).mean() > 0.99
    assert np.isin(nearest_neighbours(train, labels, np.zeros_like(test)).predictions, labels).all()


def test_too_many_neighbours_are_left_out() -> None:
    train, labels = blobs(3, 2, 0.3, 0)
    assert set(nearest_neighbours(train, labels, train, grid=(1, 5, 6, 50)).validation) == {1, 5}
    with pytest.raises(ValueError, match="fits 6 training items"):
        nearest_neighbours(train, labels, train, grid=(6,))
