"""Point ↔ image retrieval: is an object's image among the k nearest of all images to its cloud, and the other way round?

Similarity is the cosine of the projected embeddings. With one image an object, chance is k / n. With several, a cloud's query is
answered if any of its object's images is among the first k of all images; each image is a query of its own, and is answered by
its object's cloud.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from training.evaluation.knn import unit_rows


def hits(
    queries: NDArray[np.float32], query_owner: NDArray[np.int64], gallery: NDArray[np.float32], gallery_owner: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Per query, the probability that an item of its owner is among the first k of the gallery, (q, D) and (g, D) to (q,) in [0, 1].

    Items of exactly equal similarity come in random order, so that a collapsed embedding scores chance, not the order of the files.
    Every query's owner must own an item. ValueError otherwise, or if k < 1.
    """
    if k < 1:
        raise ValueError(f"recall needs k of at least 1, got {k}")
    similarity = unit_rows(queries) @ unit_rows(gallery).T
    own = query_owner[:, None] == gallery_owner[None]
    if not own.any(axis=1).all():
        raise ValueError("a query's object has nothing in the gallery")
    best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
    # rounding of products must not part items that are equal
    equal = np.abs(similarity - best) <= 1e-12
    above = ((similarity > best) & ~equal).sum(axis=1)
    ours, others = (equal & own).sum(axis=1), (equal & ~own).sum(axis=1)
    return np.array([_chance_of_one(int(o), int(e), k - int(a)) for o, e, a in zip(ours, others, above, strict=True)])


def chance(query_owner: NDArray[np.int64], gallery_owner: NDArray[np.int64], k: int) -> float:
    """Expected recall at k of a gallery in random order."""
    size = len(gallery_owner)
    owned = (query_owner[:, None] == gallery_owner[None]).sum(axis=1)
    return float(np.mean([_chance_of_one(int(o), size - int(o), k) for o in owned]))


def _chance_of_one(ours: int, others: int, places: int) -> float:
    """Probability that at least one of `ours` is among the first `places` of ours and others in random order."""
    if places <= 0:
        return 0.0
    return 1.0 - comb(others, places) / comb(ours + others, min(places, ours + others))
