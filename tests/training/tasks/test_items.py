"""What is learned from, chosen by and tested on: shares by content, nothing on two sides."""

import itertools

import numpy as np
import pytest

from pipeline.reader import Dataset
from training.tasks.items import divide

SPLITS = ("train", "val", "test")


def divided(dataset: Dataset, validation: float = 0.2, labels: float = 1.0, seed: int = 0, categories: tuple[str, ...] | None = None):  # type: ignore[no-untyped-def]
    return divide(dataset, SPLITS, validation, labels, categories, seed)


def per_class(dataset: Dataset, indices: np.ndarray) -> dict[str, int]:
    return {str(name): int(count) for name, count in zip(*np.unique(dataset.classes[indices], return_counts=True), strict=True)}


@pytest.fixture
def shelf(written) -> Dataset:  # type: ignore[no-untyped-def]
    names = [f"train/{cls}/{cls}{i}" for cls, count in (("a", 20), ("b", 10), ("c", 2), ("d", 1)) for i in range(count)]
    return Dataset.open(written(names + [f"test/{cls}/t{cls}{i}" for cls in ("a", "b", "e") for i in range(3)]))


def test_every_training_item_is_on_one_side_and_every_class_is_learned(shelf: Dataset) -> None:
    items = divided(shelf)
    assert sorted([*items.labelled, *items.validation]) == shelf.indices("train").tolist()
    # a fifth of each class, at least one, but never a whole class
    assert per_class(shelf, items.validation) == {"a": 4, "b": 2, "c": 1}
    assert per_class(shelf, items.labelled) == {"a": 16, "b": 8, "c": 1, "d": 1}


def test_unknown_classes_are_left_out_of_the_test_and_counted(shelf: Dataset) -> None:
    items = divided(shelf)
    assert per_class(shelf, items.test) == {"a": 3, "b": 3}
    assert items.details["test_items_of_unknown_classes"] == 3


def test_a_smaller_share_of_labels_is_part_of_a_larger_one_and_reaches_every_class(shelf: Dataset) -> None:
    shares = [divided(shelf, labels=share) for share in (0.01, 0.1, 0.3, 0.5, 1.0)]
    for small, large in itertools.pairwise(shares):
        assert set(small.labelled.tolist()) <= set(large.labelled.tolist())
    assert per_class(shelf, shares[0].labelled) == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert per_class(shelf, shares[3].labelled) == {"a": 8, "b": 4, "c": 1, "d": 1}
    assert len({tuple(items.validation) for items in shares}) == 1
    assert len({tuple(items.test) for items in shares}) == 1


def test_the_seed_chooses_labels_but_neither_validation_nor_test(shelf: Dataset) -> None:
    found = [divided(shelf, labels=0.3, seed=seed) for seed in range(4)]
    assert len({tuple(items.labelled) for items in found}) > 1
    assert len({tuple(items.validation) for items in found}) == 1
    assert len({tuple(items.test) for items in found}) == 1


def test_the_choice_is_one_of_contents_not_of_names(written) -> None:  # type: ignore[no-untyped-def]
    # `written` gives the i-th mesh of its list the same content, whatever it is called
    first = Dataset.open(written([f"train/a/x{i:02d}" for i in range(20)] + [f"train/b/x{i:02d}" for i in range(5)]))
    other = Dataset.open(written([f"train/a/y{(7 * i) % 20:02d}" for i in range(20)] + [f"train/b/z{i}" for i in range(5)]))

    def contents(dataset: Dataset, indices: np.ndarray) -> set[str]:
        column = dataset.table["sha256"].to_pylist()
        return {column[i] for i in indices}

    ours, theirs = divided(first, labels=0.3), divided(other, labels=0.3)
    assert contents(first, ours.labelled) == contents(other, theirs.labelled)
    assert contents(first, ours.validation) == contents(other, theirs.validation)


def with_contents(dataset: Dataset, contents: list[str]) -> Dataset:
    dataset.table = dataset.table.set_column(dataset.table.schema.get_field_index("sha256"), "sha256", [contents])
    return dataset


def test_one_content_is_on_one_side_only(shelf: Dataset) -> None:
    train, test = shelf.indices("train"), shelf.indices("test")
    contents = shelf.table["sha256"].to_pylist()
    for i in range(10):  # the first ten of class a are five assets, each there twice; one of them is in the test split too
        contents[train[i]] = f"twin{i // 2}"
    contents[test[0]] = "twin0"
    with_contents(shelf, contents)
    for validation, labels in ((0.0, 1.0), (0.4, 1.0), (0.4, 0.4)):
        items = divided(shelf, validation=validation, labels=labels)
        learned, held, tested = ({contents[i] for i in side} for side in (items.labelled, items.validation, items.test))
        assert not learned & held
        assert not tested & (learned | held)
        assert test[0] not in items.test
        assert items.details["test_items_seen_before"] == 1
    twins = [contents[i] for i in divided(shelf, validation=0.4).labelled if contents[i].startswith("twin")]
    assert all(twins.count(name) == 2 for name in twins)


def test_a_validation_split_is_used_but_for_what_training_has(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"{split}/a/{split}{i}" for split in SPLITS for i in range(5)]))
    train, held, test = (dataset.indices(name) for name in SPLITS)
    items = divided(dataset)
    assert [side.tolist() for side in (items.labelled, items.validation, items.test)] == [train.tolist(), held.tolist(), test.tolist()]
    contents = dataset.table["sha256"].to_pylist()
    contents[held[0]], contents[test[1]] = contents[train[0]], contents[held[2]]
    items = divided(with_contents(dataset, contents))
    assert items.labelled.tolist() == train.tolist()
    assert items.validation.tolist() == held[1:].tolist()
    assert items.test.tolist() == np.delete(test, 1).tolist()


def test_no_validation_share_holds_nothing_out(shelf: Dataset) -> None:
    assert not len(divided(shelf, validation=0.0).validation)


def test_a_split_without_samples_is_refused(shelf: Dataset) -> None:
    with pytest.raises(ValueError, match="no finished sample in the split 'nothing'"):
        divide(shelf, ("nothing", "val", "test"), 0.1, 1.0, None, 0)
