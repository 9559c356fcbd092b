"""What an evaluation leaves behind to be looked at: retrieval sheets and maps of the features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_NEIGHBOURS = 5
_QUERIES = 10
_MISSES = 4
_MAP_POINTS = 1500


@dataclass(frozen=True)
class Evidence:
    """Test samples of one evaluation, clouds as they are: keys, class names, numbers in the dataset (n each); features (n, F) of both
    encoders; embeddings (n, D) of clouds and of the images `views`, a member of each sample, unit length. What was not kept is None."""

    keys: list[str]
    classes: list[str]
    indices: list[int]
    views: list[str]
    pretrained: Floats | None
    random: Floats | None
    points: Floats | None
    images: Floats | None


@dataclass(frozen=True)
class Hit:
    """An image of a sheet: the row of its sample, its rank from 1, its cosine with the query, and whether it is the query's own."""

    row: int
    rank: int
    similarity: float
    right: bool


@dataclass(frozen=True)
class Sheet:
    """A query cloud's row, its five nearest images, and its own image with its rank."""

    row: int
    hits: list[Hit]
    own: Hit


def load(folder: Path) -> Evidence | None:
    """The evidence in an evaluation's folder; None where there is none."""
    folder = folder / "evidence"
    if not (folder / "keys.json").exists():
        return None
    about = json.loads((folder / "keys.json").read_text())
    names = ("features_pretrained", "features_random", "points", "images")
    arrays = [np.load(path, allow_pickle=False) if (path := folder / f"{name}.npy").exists() else None for name in names]
    return Evidence(about["keys"], about["classes"], about["indices"], about["views"], *arrays)


def sheets(points: Floats, images: Floats) -> tuple[list[Sheet], list[Sheet]]:
    """Every n-th query, ten in all; and of those whose image is not among the first five, every m-th, four in all.

    points, images: (n, D), unit length; image i belongs to cloud i.
    """
    n = len(points)
    similarity = points @ images.T
    own = similarity[np.arange(n), np.arange(n)][:, None]
    # of equal similarities the first in the dataset comes first, as on the sheets
    earlier = np.arange(n)[None] < np.arange(n)[:, None]
    rank = 1 + ((similarity > own) | ((similarity == own) & earlier)).sum(axis=1)
    regular = np.arange(0, n, max(1, -(-n // _QUERIES)))
    missed = np.flatnonzero(rank > _NEIGHBOURS)
    missed = missed[:: max(1, -(-len(missed) // _MISSES))]
    return [_sheet(similarity[i], i) for i in regular.tolist()], [_sheet(similarity[i], i) for i in missed.tolist()]


def _sheet(similarity: Floats, query: int) -> Sheet:
    order = np.argsort(-similarity, kind="stable").tolist()
    hits = [Hit(row, rank, float(similarity[row]), row == query) for rank, row in enumerate(order, 1)]
    return Sheet(query, hits[:_NEIGHBOURS], hits[order.index(query)])


def flat_map(features: Floats, seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Places (n, 2) for features (n, F) and the name of the method: t-SNE with fixed seed, or PCA for very few samples."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(features)
    values = features.astype(np.float64) - features.mean(axis=0)
    if n < 3 or not values.any():
        return np.column_stack([np.arange(n, dtype=np.float64), np.zeros(n)]), "in the order of the dataset"
    values = PCA(min(50, n, values.shape[1]), svd_solver="full").fit_transform(values)
    if n < 12:
        return np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))[:, :2], "PCA"
    perplexity = min(30.0, (n - 1) / 3)
    values = values / values[:, 0].std()
    start = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))[:, :2] * 1e-4
    places = TSNE(perplexity=perplexity, init=start, random_state=seed, max_iter=500).fit_transform(values)
    return places.astype(np.float64), f"t-SNE, perplexity {perplexity:g}, seed {seed}"


def subset(n: int) -> NDArray[np.int64]:
    """The rows that a map shows: all, or every k-th of very many."""
    return np.arange(0, n, max(1, -(-n // _MAP_POINTS)))


def same_class_neighbour(features: Floats, labels: NDArray[np.int64]) -> float:
    """The share of rows (n, F) whose nearest other row, by Euclidean distance, has the same label; nan for fewer than two rows."""
    if len(features) < 2:
        return float("nan")
    values = features.astype(np.float64)
    norms = (values**2).sum(axis=1)
    distance = norms[:, None] + norms - 2 * values @ values.T
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(axis=1)] == labels).mean())
