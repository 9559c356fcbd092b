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


def with_sources(dataset: Dataset, sources: list[str]) -> Dataset:
    dataset.table = dataset.table.set_column(dataset.table.schema.get_field_index("source"), "source", [sources])
    return dataset


def characters(dataset: Dataset, number: int) -> np.ndarray:
    """Makes the i-th clip of each class one of the character i modulo `number`, who is one file; whose each sample is."""
    place = {
        index: i
        for split in ("train", "test")
        for name in np.unique(dataset.classes)
        for i, index in enumerate(np.flatnonzero((dataset.splits == split) & (dataset.classes == name)).tolist())
    }
    owners = [f"{dataset.splits[index]}{place[index] % number}" for index in range(len(dataset))]
    with_sources(dataset, [f"{owner}.glb#{dataset.classes[index]}{place[index]}" for index, owner in enumerate(owners)])
    with_contents(dataset, [f"content of {owner}" for owner in owners])
    return np.array(owners)


def by_character(dataset: Dataset, groups: np.ndarray, validation: float = 0.2, labels: float = 1.0, seed: int = 0):  # type: ignore[no-untyped-def]
    return divide(dataset, SPLITS, validation, labels, None, seed, groups)


def test_clips_of_one_character_are_on_one_side_of_the_validation_cut(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"train/{cls}/{cls}{i}" for cls in "abc" for i in range(10)] + [f"test/a/t{i}" for i in range(3)]))
    groups = characters(dataset, 10)
    items = by_character(dataset, groups)
    assert not set(groups[items.labelled]) & set(groups[items.validation])
    assert sorted([*items.labelled, *items.validation]) == dataset.indices("train").tolist()
    assert per_class(dataset, items.validation) == {"a": 2, "b": 2, "c": 2}
    assert (items.details["validation_groups"], items.details["training_groups"]) == (2, 8)
    assert len(items.test) == 3
    # whatever the seed and the share of labels
    others = [by_character(dataset, groups, labels=0.3, seed=seed) for seed in range(3)]
    assert {tuple(other.validation) for other in others} == {tuple(items.validation)}
    assert len({tuple(other.labelled) for other in others}) > 1


def test_few_labels_are_clips_of_every_class_not_whole_files(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"train/{cls}/{cls}{i}" for cls in "ab" for i in range(20)]))
    groups = characters(dataset, 4)
    items = by_character(dataset, groups, validation=0.25, labels=0.1)
    # five clips of each class are held out, a tenth of the other fifteen is two
    assert per_class(dataset, items.validation) == {"a": 5, "b": 5}
    assert per_class(dataset, items.labelled) == {"a": 2, "b": 2}
    assert per_class(dataset, by_character(dataset, groups, labels=0.001).labelled) == {"a": 1, "b": 1}


def test_no_class_is_held_out_wholly_and_the_cut_stays_near_its_share(written) -> None:  # type: ignore[no-untyped-def]
    counts = {"a": 12, "b": 6, "c": 2, "d": 1, "e": 1}
    dataset = Dataset.open(written([f"train/{cls}/{cls}{i}" for cls, count in counts.items() for i in range(count)]))
    for number in (2, 3, 5, 12):
        groups = characters(dataset, number)
        items = by_character(dataset, groups)
        assert set(per_class(dataset, items.labelled)) == set("abcde")
        assert 0 < len(items.validation) <= max(1.5 * 0.2 * len(dataset), max(np.unique(groups, return_counts=True)[1]))


def test_where_all_clips_are_one_characters_validation_goes_by_clips(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"train/{cls}/{cls}{i}" for cls in "ab" for i in range(10)]))
    items = by_character(dataset, characters(dataset, 1))
    assert per_class(dataset, items.validation) == {"a": 2, "b": 2}
    assert "validation_groups" not in items.details


def test_a_clip_of_a_file_that_training_has_was_seen_before_only_if_it_is_the_same_clip(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"train/a/{i}" for i in range(4)] + [f"test/a/t{i}" for i in range(4)]))
    with_sources(dataset, [f"one.h5#{i}" for i in (0, 1, 2, 3, 4, 5, 6, 0)])
    with_contents(dataset, ["the file"] * 8)
    items = by_character(dataset, np.array(["one.h5"] * 8))
    assert items.test.tolist() == dataset.indices("test")[:3].tolist()
    assert items.details["test_items_seen_before"] == 1


def test_a_recording_that_has_a_content_of_its_own_was_seen_before_wherever_it_stands(written) -> None:  # type: ignore[no-untyped-def]
    dataset = Dataset.open(written([f"train/a/{i}" for i in range(4)] + [f"test/a/t{i}" for i in range(4)]))
    with_sources(dataset, [f"train1.h5#{i}" for i in range(4)] + [f"test1.h5#{i}" for i in range(4)])
    with_contents(dataset, ["r0", "r1", "r2", "r3", "s0", "r3", "s2", "r3"])
    items = by_character(dataset, np.array([f"recording {i}" for i in range(8)]))
    assert items.test.tolist() == dataset.indices("test")[[0, 2]].tolist()
    assert items.details["test_items_seen_before"] == 2
