"""Action segmentation is measured as C.4.1's checked table says, and as the definitions of its metrics demand."""

import itertools

import numpy as np
import pytest
import torch

from training.evaluation.segments import THRESHOLDS, edit_score, f1, hits, segments
from training.tasks import ActionSegmentation, ActionSegmentationConfig

# truth, prediction: frame accuracy, edit score, TP, FP, FN at every threshold with fixed and with legacy ends
TABLE = [
    ([0] * 4 + [1] * 5 + [2], [0] * 4 + [1] * 5 + [2], 1.0, 1.0, (3, 0, 0), (2, 1, 1)),
    ([0] * 8 + [1] * 2, [0] * 9 + [1], 0.9, 1.0, (2, 0, 0), (1, 1, 1)),
    ([0] * 5 + [1] * 5, [0] * 3 + [1] * 2 + [0] + [1] * 4, 0.7, 0.5, (2, 2, 0), (2, 2, 0)),
    ([0] * 6 + [1] * 4, [0] * 10, 0.6, 0.5, (1, 0, 1), (1, 0, 1)),
]


def drawn(rng: np.random.Generator, classes: int = 4, frames: int = 30) -> np.ndarray:
    return np.repeat(rng.integers(classes, size=frames), rng.integers(1, 7, size=frames))[:frames]


@pytest.mark.parametrize(("truth", "prediction", "accuracy", "edit", "fixed", "legacy"), TABLE)
def test_the_checked_table(
    truth: list[int], prediction: list[int], accuracy: float, edit: float, fixed: tuple[int, ...], legacy: tuple[int, ...]
) -> None:
    t, p = np.array(truth), np.array(prediction)
    frames = torch.from_numpy(np.stack([np.arange(10), t, p, 0 * t, 0 * t], axis=1).astype(float))
    for end, (tp, fp, fn) in (("fixed", fixed), ("legacy", legacy)):
        task = ActionSegmentation(ActionSegmentationConfig.model_validate({"end": end}), ("a", "b", "c"), 0, ("x",))
        figures = task.metrics(task.scored([[frames]], []).numpy())
        assert [figure.value for figure in figures] == pytest.approx([accuracy, edit, *[2 * tp / (2 * tp + fp + fn)] * 3])
    assert edit_score(t, p) == pytest.approx(edit)
    assert hits(t, p).tolist() == [list(fixed)] * 3
    assert hits(t, p, end="legacy").tolist() == [list(legacy)] * 3


def test_a_perfect_prediction_has_every_figure_at_its_top() -> None:
    rng = np.random.default_rng(0)
    sequences = [drawn(rng) for _ in range(20)]
    assert {edit_score(s, s) for s in sequences} == {1.0}
    assert f1(sum(hits(s, s) for s in sequences)).tolist() == [1.0] * 3


def test_other_names_for_the_classes_change_nothing() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        truth, predicted, names = drawn(rng), drawn(rng), rng.permutation(4) + 10
        assert edit_score(names[truth], names[predicted]) == edit_score(truth, predicted)
        np.testing.assert_array_equal(hits(names[truth], names[predicted]), hits(truth, predicted))
        known = hits(truth, predicted, background=[2])
        np.testing.assert_array_equal(hits(names[truth], names[predicted], background=[int(names[2])]), known)


def test_f1_falls_with_the_threshold_and_counts_every_segment_once() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        truth, predicted = drawn(rng), drawn(rng)
        counts = hits(truth, predicted, (0.1, 0.25, 0.5, 0.75, 1.0))
        assert all(a >= b for a, b in itertools.pairwise(f1(counts)))
        assert set(counts[:, 0] + counts[:, 1]) == {len(segments(predicted))}
        assert set(counts[:, 0] + counts[:, 2]) == {len(segments(truth))}


def test_edit_sees_the_order_of_segments_and_not_their_lengths() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        truth, predicted = drawn(rng), drawn(rng)
        slow = np.repeat(predicted, rng.integers(1, 5, len(predicted)))
        assert edit_score(truth, slow) == edit_score(truth, predicted)


def test_edit_is_the_shortest_way_of_single_changes() -> None:
    def ways(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(ways(a[1:], b) + 1, ways(a, b[1:]) + 1, ways(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(4)
    for _ in range(20):
        truth, predicted = drawn(rng, 3, 18), drawn(rng, 3, 18)
        a, b = tuple(segments(truth).labels.tolist()), tuple(segments(predicted).labels.tolist())
        assert edit_score(truth, predicted) == pytest.approx(1 - ways(a, b) / max(len(a), len(b)))


def test_a_true_segment_is_hit_once_and_there_is_no_second_choice() -> None:
    # The second run of 1 meets the long true one most (3 of 12 frames), which is taken; the short one (1 of 6) is not tried then.
    truth = np.array([1] * 10 + [0] + [1] * 2)
    predicted = np.array([1] * 6 + [2] + [1] * 5 + [0])
    assert hits(truth, predicted, (0.15, 0.6, 0.61)).tolist() == [[1, 3, 2], [1, 3, 2], [0, 4, 3]]
    # without the first run it is the long one that the second hits
    assert hits(truth, np.array([2] * 7 + [1] * 5 + [0]), (0.15, 0.26)).tolist() == [[1, 2, 2], [0, 3, 3]]


def test_background_has_no_segments_and_nothing_else_is_dropped() -> None:
    sequence = np.array([7, 7, 0, 0, 0, 7, 2])
    found = segments(sequence)
    assert (found.labels.tolist(), found.starts.tolist(), found.ends.tolist()) == ([7, 0, 7, 2], [0, 2, 5, 6], [2, 5, 6, 7])
    kept = segments(sequence, background=[7])
    assert (kept.labels.tolist(), kept.starts.tolist(), kept.ends.tolist()) == ([0, 2], [2, 6], [5, 7])
    # the last run ends a frame early in the old form, and the others where they end
    assert segments(sequence, end="legacy").ends.tolist() == [2, 5, 6, 6]
    assert segments(np.array([0, 0, 7]), background=[7], end="legacy").ends.tolist() == [2]


def test_sequences_without_segments_are_alike() -> None:
    nothing = np.zeros(4, int)
    assert edit_score(nothing, nothing, background=[0]) == 1
    assert edit_score(nothing, nothing + 1, background=[0]) == 0
    assert hits(nothing, nothing, background=[0]).tolist() == [[0, 0, 0]] * 3
    assert hits(nothing, nothing + 1, background=[0]).tolist() == [[0, 1, 0]] * 3
    assert f1(np.zeros((3, 3), int)).tolist() == [0.0] * 3
    assert len(segments(np.empty(0, int))) == 0


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    counts = np.array([[5, 3, 7], [1, 0, 2]])
    precision, recall = counts[:, 0] / counts[:, :2].sum(1), counts[:, 0] / counts[:, [0, 2]].sum(1)
    np.testing.assert_allclose(f1(counts), 2 * precision * recall / (precision + recall))


def test_the_published_thresholds() -> None:
    assert THRESHOLDS == (0.1, 0.25, 0.5)
