import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from training.evaluation.svm import linear_svm


def blobs(sizes: list[int], width: int, spread: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    centres = np.random.default_rng(99).standard_normal((len(sizes), width))
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    noise = np.random.default_rng(seed).standard_normal((len(labels), width))
    return (centres[labels // 3] + spread * noise).astype(np.float32), labels


def test_equals_the_plain_svm_on_features() -> None:
    train, labels = blobs([30, 20, 25, 12], 40, 1.5, 0)
    train = train + np.float32(5)  # a common offset must not matter
    test = blobs([50, 50, 50, 50], 40, 1.5, 1)[0] + np.float32(5)
    found = linear_svm(train, labels, test, grid=(0.3, 3.0, 30.0), folds=4, seed=3)
    features = train.astype(float)
    spread = np.mean([np.sum((row - features.mean(0)) ** 2) for row in features])
    constants = [value / spread for value in (0.3, 3.0, 30.0)]
    search = GridSearchCV(SVC(kernel="linear"), {"C": constants}, cv=StratifiedKFold(4, shuffle=True, random_state=3))
    search.fit(features, labels)
    assert search.best_params_["C"] == pytest.approx(found.C)
    np.testing.assert_allclose(found.C, found.relative / spread)
    assert (found.predictions == search.predict(test.astype(float))).mean() > 0.99  # solvers stop within a tolerance
    for C in (0.1, 0.01):
        plain = SVC(kernel="linear", C=C).fit(features, labels)
        assert (found.fixed[C] == plain.predict(test.astype(float))).mean() > 0.99
    # folds differ in size by at most one item a class, so the pooled accuracy is the folds' mean up to that
    np.testing.assert_allclose(list(found.validation.values()), search.cv_results_["mean_test_score"], atol=0.01)


def test_the_scale_of_features_does_not_count() -> None:
    train, labels = blobs([30, 20, 25, 12], 40, 1.5, 0)
    test, _ = blobs([50, 50, 50, 50], 40, 1.5, 1)
    found, tiny = linear_svm(train, labels, test), linear_svm(train / 1024, labels, test / 1024)
    assert tiny.relative == found.relative
    np.testing.assert_array_equal(tiny.predictions, found.predictions)
    assert (tiny.fixed[0.01] != found.fixed[0.01]).any()


def test_separable_classes_are_separated_and_random_labels_are_not() -> None:
    train, labels = blobs([20] * 5, 30, 0.3, 0)
    test, truth = blobs([100] * 5, 30, 0.3, 1)
    assert (linear_svm(train, labels, test).predictions == truth).mean() > 0.99
    shuffled = np.random.default_rng(0).permutation(labels)
    found = linear_svm(train, shuffled, test, seed=1)
    assert abs((found.predictions == np.random.default_rng(1).permutation(truth)).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 500)
    assert max(found.validation.values()) < 0.45


def test_the_smallest_of_equal_constants_is_taken() -> None:
    train, labels = blobs([20, 20], 30, 0.01, 0)
    found = linear_svm(train, labels, train, grid=(100.0, 1.0, 10.0))
    assert found.validation == {1.0: 1.0, 10.0: 1.0, 100.0: 1.0}
    assert found.relative == 1.0


def test_small_classes_are_allowed_in_silence() -> None:
    train, labels = blobs([20, 3, 1], 10, 0.3, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = linear_svm(train, labels, train, folds=5)
        assert linear_svm(*blobs([2, 2], 10, 0.3, 0), train, folds=5).folds == 2
    assert found.folds == 5
    assert max(found.validation.values()) <= 23 / 24  # the single one is never seen by its fit


def test_features_that_are_all_equal_give_one_class() -> None:
    same = np.ones((9, 4), np.float32)
    assert len(set(linear_svm(same, np.array([0] * 6 + [1] * 3), same).predictions.tolist())) == 1


def test_refuses() -> None:
    train, labels = blobs([4, 4], 5, 0.3, 0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        linear_svm(train[:4], labels[:4], train)
    with pytest.raises(ValueError, match="at least one C"):
        linear_svm(train, labels, train, grid=())
    with pytest.raises(ValueError, match="give a single value"):
        linear_svm(train[3:5], labels[3:5], train)
    assert linear_svm(train[3:5], labels[3:5], train, grid=(1.0,)).relative == 1.0
