"""Which items a fine-tuning learns from, is chosen by and is tested on. Everything goes by content, so that no asset is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reader import Dataset

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """Numbers of the dataset's samples, ascending.

    train: the whole training split, the source of label spaces. labelled: what the training learns from. details: JSON values.
    """

    train: Indices
    labelled: Indices
    validation: Indices
    test: Indices
    details: dict[str, Any]


def divide(
    dataset: Dataset,
    splits: tuple[str, str, str],
    validation: float,
    labels: float,
    categories: Sequence[str] | None,
    seed: int,
    groups: npt.NDArray[np.str_] | None = None,
) -> Items:
    """splits: the names of the training, validation and test split.

    Where the dataset has no validation split, the share `validation` of the training split's contents is held out, per class, the same for
    every seed. Of the others the share `labels` is used, per class, at least one; a smaller share is part of a larger one. Items of the
    validation and test split whose class is none of `categories` (by default the training split's), or whose content is
    in an earlier split, are left out. Raises ValueError for a training split without samples.

    groups (len(dataset),): whose each sample is (a character, a person), for samples that may be parts of one file. Then nobody is held out
    in part, and where all samples of a file share a content, theirs is what the source has after '#' of it. Where all are one's, validation
    goes by content.
    """
    train, held, test = (dataset.indices(name) for name in splits)
    if not len(train):
        raise ValueError(f"The dataset {dataset.uri} has no finished sample in the split {splits[0]!r}: name another split.")
    contents = np.array([content or key for content, key in zip(dataset.table["sha256"].to_pylist(), dataset.keys, strict=True)])
    if groups is not None:
        contents = _of_parts(dataset, contents)
    classes = np.unique(dataset.classes[train]) if categories is None else np.array(sorted(categories))
    pool = train[np.isin(dataset.classes[train], classes)]
    if len(held):
        held, details = _fresh(dataset, held, classes, contents, contents[train], "validation")
    elif groups is not None and len(np.unique(groups[pool])) > 1:
        held = _whole(dataset, pool, groups, validation)
        details = {"validation_groups": len(np.unique(groups[held])), "training_groups": len(np.unique(groups[np.setdiff1d(pool, held)]))}
    else:
        chosen = _share(dataset, pool, contents, "validation", validation, spare=1)
        held, details = pool[np.isin(contents[pool], contents[chosen])], {}
    learn = np.setdiff1d(pool, held)
    labelled = _share(dataset, learn, contents, f"labels/{seed}", labels, least=1)
    test, more = _fresh(dataset, test, classes, contents, np.concatenate([contents[train], contents[held]]), "test")
    details |= more | {"labelled_items": len(labelled), "unlabelled_items": len(learn) - len(labelled), "validation_items": len(held)}
    return Items(train, labelled, held, test, details)


def _of_parts(dataset: Dataset, contents: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """The contents of samples; where all of a file have one, it is the file's, and theirs is that with their place in it."""
    sources = [source.partition("#") for source in dataset.table["source"].to_pylist()]
    of_file: dict[str, list[str]] = {}
    for (file, _, _), content in zip(sources, contents.tolist(), strict=True):
        of_file.setdefault(file, []).append(content)
    files = {own[0] for own in of_file.values() if len(own) > 1 and len(set(own)) == 1}
    return np.array(
        [f"{content}#{part}" if content in files else content for (_, _, part), content in zip(sources, contents.tolist(), strict=True)]
    )


def _fresh(
    dataset: Dataset, indices: Indices, classes: npt.NDArray[np.str_], contents: npt.NDArray[np.str_], seen: npt.NDArray[np.str_], name: str
) -> tuple[Indices, dict[str, Any]]:
    known, repeated = np.isin(dataset.classes[indices], classes), np.isin(contents[indices], seen)
    return indices[known & ~repeated], {
        f"{name}_items_of_unknown_classes": int((~known).sum()),
        f"{name}_items_seen_before": int((known & repeated).sum()),
    }


def _share(
    dataset: Dataset, indices: Indices, contents: npt.NDArray[np.str_], salt: str, share: float, *, least: int = 0, spare: int = 0
) -> Indices:
    """The items of each class with the first contents in the order of a hash: a share of them, `least` at least, all but `spare` at most.

    A share above 0 takes one where `spare` allows it.
    """
    chosen: list[Indices] = []
    for name in np.unique(dataset.classes[indices]):
        own = indices[dataset.classes[indices] == name]
        order = sorted(set(contents[own].tolist()), key=lambda content: hashlib.sha256(f"{salt}/{content}".encode()).hexdigest())
        wanted = max(round(share * len(order)), least, 1 if share > 0 else 0)
        chosen.append(own[np.isin(contents[own], order[: min(wanted, len(order) - spare)])])
    return np.sort(np.concatenate(chosen)) if chosen else indices[:0]


def _whole(dataset: Dataset, pool: Indices, groups: npt.NDArray[np.str_], share: float) -> Indices:
    """The items of whole groups, in the order of a hash: of each class, the commonest first, about a share of the items.

    No class is held out wholly, a share above 0 takes a group where that allows it, and further groups only while all together are one and
    a half shares at most.
    """
    classes, counts = np.unique(dataset.classes[pool], return_counts=True)
    order = sorted(np.unique(groups[pool]).tolist(), key=lambda group: hashlib.sha256(f"validation/{group}".encode()).hexdigest())
    held = np.zeros(len(pool), bool)
    own = {group: groups[pool] == group for group in order}
    kinds = {name: dataset.classes[pool] == name for name in classes.tolist()}

    def leaves_all(group: str) -> bool:
        return all((kind & ~held & ~own[group]).any() for kind in kinds.values())

    for name in classes[np.argsort(-counts, kind="stable")].tolist() if share > 0 else ():
        kind = kinds[name]
        for group in order:
            if (kind & held).sum() >= max(round(share * int(kind.sum())), 1):
                break
            fits = not held.any() or (held | own[group]).sum() <= 1.5 * share * len(pool)
            if (kind & own[group] & ~held).any() and fits and leaves_all(group):
                held |= own[group]
    return pool[held]
