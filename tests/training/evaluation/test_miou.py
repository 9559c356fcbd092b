"""mIoU of a set, against counting points by hand; absent and ignored classes as each benchmark has them."""

import numpy as np
import pytest

from training.evaluation.miou import class_iou, confusion, mean_iou


def points(rng: np.random.Generator, classes: int, shape: tuple[int, ...] = (5, 40)) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(-1, classes, shape), rng.integers(classes, size=shape)


def test_iou_is_the_points_that_both_have_over_those_that_either_has() -> None:
    truth, predicted = points(np.random.default_rng(0), 4)
    found = class_iou(confusion(truth, predicted, 4))
    known = truth >= 0
    for c in range(4):
        both, either = ((truth == c) & (predicted == c))[known].sum(), ((truth == c) | (predicted == c))[known].sum()
        assert found[c] == pytest.approx(both / either)
    assert mean_iou(confusion(truth, predicted, 4)) == pytest.approx(found.mean())


def test_matrices_of_parts_add_up_to_that_of_the_whole() -> None:
    truth, predicted = points(np.random.default_rng(1), 3)
    parts = sum(confusion(t, p, 3) for t, p in zip(truth, predicted, strict=True))
    np.testing.assert_array_equal(parts, confusion(truth, predicted, 3))


def test_a_class_without_true_points_is_left_out_or_is_zero() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    matrix = confusion(truth, predicted, 4)
    assert mean_iou(matrix) == pytest.approx((1 / 2 + 1) / 2)
    assert mean_iou(matrix, absent="zero") == pytest.approx((1 / 2 + 1) / 4)


def test_points_of_ignored_classes_count_nowhere_or_in_the_union_of_what_they_are_called() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 1, 1, 2, 1])
    matrix = confusion(truth, predicted, 3)
    np.testing.assert_allclose(class_iou(matrix, ignored=[0]), [np.nan, 2 / 3, 1 / 2])
    assert mean_iou(matrix, ignored=[0]) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mean_iou(matrix, ignored=[0], points="in_union") == pytest.approx((2 / 4 + 1 / 3) / 2)
    # an ignored class is no absent one
    assert mean_iou(matrix, ignored=[0], absent="zero") == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_perfect_prediction_has_one_and_names_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = points(rng, 5)
    assert mean_iou(confusion(truth, np.maximum(truth, 0), 5)) == 1
    names = rng.permutation(5)
    renamed = np.where(truth >= 0, names[truth], -1)
    assert mean_iou(confusion(renamed, names[predicted], 5)) == pytest.approx(mean_iou(confusion(truth, predicted, 5)))


def test_a_set_without_labels_has_no_figure() -> None:
    assert np.isnan(mean_iou(confusion(np.array([-1, -1]), np.array([0, 1]), 2)))
