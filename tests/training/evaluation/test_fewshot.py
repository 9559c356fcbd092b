import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from training.evaluation.fewshot import FewShot, episodes, few_shot, usable

TRAIN = np.repeat([0, 1, 2, 3, 4, 7], [40, 35, 31, 12, 9, 33])
TEST = np.repeat([0, 1, 2, 3, 4, 6], [25, 20, 22, 30, 30, 30])
CLEAN = FewShot(ways=3, shots=10, queries=20, runs=40)
PAPER = CLEAN.model_copy(update={"queries_from": "train"})


def features(labels: NDArray[np.int64], spread: float, seed: int) -> NDArray[np.float32]:
    centres = np.random.default_rng(9).standard_normal((8, 16))
    return (centres[labels] + spread * np.random.default_rng(seed).standard_normal((len(labels), 16))).astype(np.float32)


def test_classes_too_small_are_named() -> None:
    assert usable(TRAIN, TEST, CLEAN) == ([0, 1, 2, 3], (4, 6, 7))  # 10 in train and 20 in test
    assert usable(TRAIN, TEST, PAPER) == ([0, 1, 2, 7], (3, 4, 6))  # 30 in train
    with pytest.raises(ValueError, match="few-shot 5w10s: 4 of 7 classes have 10 training and 20 test items, 5 are needed"):
        usable(TRAIN, TEST, CLEAN.model_copy(update={"ways": 5}))


@pytest.mark.parametrize("setting", [CLEAN, PAPER])
def test_every_run_is_balanced_and_disjoint(setting: FewShot) -> None:
    asked = TEST if setting.queries_from == "test" else TRAIN
    seen: set[int] = set()
    for episode in episodes(TRAIN, TEST, setting, seed=0):
        classes, counts = np.unique(TRAIN[episode.support], return_counts=True)
        assert counts.tolist() == [10] * 3
        query_classes, counts = np.unique(asked[episode.queries], return_counts=True)
        assert counts.tolist() == [20] * 3
        np.testing.assert_array_equal(classes, query_classes)
        assert len(set(episode.support.tolist())) == 30
        assert len(set(episode.queries.tolist())) == 60
        if setting.queries_from == "train":
            assert not set(episode.support.tolist()) & set(episode.queries.tolist())
        seen |= set(classes.tolist())
    assert seen == set(usable(TRAIN, TEST, setting)[0])


def test_runs_depend_on_seed_and_labels_alone() -> None:
    first, again, other = (episodes(TRAIN, TEST, CLEAN, seed) for seed in (1, 1, 2))
    assert all((a.support == b.support).all() and (a.queries == b.queries).all() for a, b in zip(first, again, strict=True))
    assert any((a.support != b.support).any() for a, b in zip(first, other, strict=True))


def test_accuracy_is_that_of_a_scaled_linear_svm_on_the_support() -> None:
    train, test = features(TRAIN, 2.0, 0), features(TEST, 2.0, 1)
    found = few_shot(train, TRAIN, test, TEST, CLEAN, seed=4)
    expected = []
    for episode in episodes(TRAIN, TEST, CLEAN, seed=4):
        model = make_pipeline(StandardScaler(), SVC(kernel="linear", C=1)).fit(train[episode.support], TRAIN[episode.support])
        expected.append(model.score(test[episode.queries], TEST[episode.queries]))
    np.testing.assert_allclose(found.accuracies, expected, atol=1 / 60 + 1e-9)
    assert found.mean == pytest.approx(np.mean(expected), abs=2e-3)
    assert found.std == pytest.approx(np.sqrt(np.mean((found.accuracies - found.mean) ** 2)))
    assert found.skipped == (4, 6, 7)


def test_good_features_are_good_and_empty_ones_are_chance() -> None:
    assert few_shot(features(TRAIN, 0.1, 0), TRAIN, features(TEST, 0.1, 1), TEST, CLEAN, 0).mean > 0.99
    noise = np.random.default_rng(0)
    empty = [noise.standard_normal((len(labels), 16)).astype(np.float32) for labels in (TRAIN, TEST)]
    assert few_shot(empty[0], TRAIN, empty[1], TEST, CLEAN, 0).mean == pytest.approx(1 / 3, abs=0.04)


def test_settings_of_one_evaluation_have_names_of_their_own() -> None:
    from training.evaluation.evaluate import EvaluateConfig

    settings = [FewShot(), FewShot(queries=5), FewShot(queries_from="train"), FewShot(shots=20)]
    assert len({setting.name for setting in settings}) == 4
    assert FewShot().name == "5w10s"
    with pytest.raises(ValueError, match="differ in `runs` alone"):
        EvaluateConfig(fewshot=(FewShot(), FewShot(runs=3)))
