"""Few-shot classification on frozen features, as CrossPoint does it (arXiv 2203.00680): K classes, m examples of each.

A run draws K classes without replacement and of each m support items and some queries, disjoint. Features are standardised by the
support, a linear SVM with C = 1 is fitted to it, and its accuracy on all queries counts. The released code takes support and queries
both from the training split (`queries_from: train`); the default here takes queries from the test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from training.augment import rng_for


class FewShot(BaseModel):
    """One setting, such as 5-way 10-shot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ways: int = Field(default=5, ge=2, description="classes a run")
    shots: int = Field(default=10, ge=1, description="support items a class")
    queries: int = Field(default=20, ge=1, description="query items a class")
    runs: int = Field(default=50, ge=1)
    queries_from: Literal["test", "train"] = Field(default="test", description="train: the paper's way")

    @property
    def name(self) -> str:
        """5w10s; what differs from the defaults follows, so that two settings never share a name."""
        queries = "" if self.queries == 20 else f"{self.queries}q"
        return f"{self.ways}w{self.shots}s{queries}" + ("" if self.queries_from == "test" else "-train")


@dataclass(frozen=True)
class Episode:
    """support (K·m,) and queries (K·q,): indices into the training items and into the items that queries come from."""

    support: NDArray[np.int64]
    queries: NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """accuracies (runs,); skipped: the classes that are too small for the setting, in order."""

    accuracies: NDArray[np.float64]
    skipped: tuple[int, ...]

    @property
    def mean(self) -> float:
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Over runs, divided by their number (ddof 0), as published figures are."""
        return float(self.accuracies.std())


def usable(train: NDArray[np.int64], test: NDArray[np.int64], setting: FewShot) -> tuple[list[int], tuple[int, ...]]:
    """The classes with enough items for the setting, and those of the rest: (n,) and (m,) labels to two ascending lists.

    ValueError where fewer are usable than the setting has ways.
    """
    every = sorted({*train.tolist(), *test.tolist()})
    if setting.queries_from == "train":
        enough = [c for c in every if (train == c).sum() >= setting.shots + setting.queries]
        wanted = f"{setting.shots + setting.queries} training items"
    else:
        enough = [c for c in every if (train == c).sum() >= setting.shots and (test == c).sum() >= setting.queries]
        wanted = f"{setting.shots} training and {setting.queries} test items"
    if len(enough) < setting.ways:
        raise ValueError(
            f"few-shot {setting.name}: {len(enough)} of {len(every)} classes have {wanted}, {setting.ways} are needed: "
            "lower fewshot.ways, fewshot.shots or fewshot.queries"
        )
    return enough, tuple(c for c in every if c not in set(enough))


def episodes(train: NDArray[np.int64], test: NDArray[np.int64], setting: FewShot, seed: int) -> list[Episode]:
    """The runs of a setting: a function of labels, setting and seed, so that every encoder meets the same ones."""
    classes, _ = usable(train, test, setting)
    pool = train if setting.queries_from == "train" else test
    drawn = []
    for run in range(setting.runs):
        rng = rng_for(seed, run, setting.name, "fewshot")
        support, queries = [], []
        for c in rng.choice(classes, setting.ways, replace=False):
            known = rng.permutation(np.flatnonzero(train == c))
            asked = known[setting.shots :] if setting.queries_from == "train" else rng.permutation(np.flatnonzero(pool == c))
            support.append(known[: setting.shots])
            queries.append(asked[: setting.queries])
        drawn.append(Episode(np.concatenate(support), np.concatenate(queries)))
    return drawn


def few_shot(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    setting: FewShot,
    seed: int,
) -> Runs:
    """Accuracy of every run of a setting on (n, F) and (m, F) features. ValueError as `usable`."""
    _, skipped = usable(train_labels, test_labels, setting)
    pool, pool_labels = (train, train_labels) if setting.queries_from == "train" else (test, test_labels)
    accuracies = []
    for episode in episodes(train_labels, test_labels, setting, seed):
        scaler = StandardScaler().fit(train[episode.support].astype(np.float64))
        classifier = SVC(kernel="linear", C=1.0)
        classifier.fit(scaler.transform(train[episode.support].astype(np.float64)), train_labels[episode.support])
        predicted = classifier.predict(scaler.transform(pool[episode.queries].astype(np.float64)))
        accuracies.append(float((predicted == pool_labels[episode.queries]).mean()))
    return Runs(np.array(accuracies), skipped)
