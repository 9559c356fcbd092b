"""How well runs of actions over time are found: edit score, F1 at overlaps.

Sequences are (T,) integers, a label a frame. A segment is a longest run [start, end) of one label; labels of `background` have none.

    edit = 1 − Lev(P, Y) / max(|P|, |Y|)        P, Y the labels of the predicted and true segments in order, unit costs
    F1   = 2 TP / (2 TP + FP + FN)              TP, FP, FN summed over sequences

Each predicted segment, in order of time, is held against the true one of its label with the highest IoU in frames, the first of equal
ones: a hit (TP) if the IoU reaches the threshold and nothing hit that one before, else FP. FN: true segments that nothing hit. Source: the
evaluation of MS-TCN (methods-C, C.4.1). end="legacy" ends the last segment of a sequence one frame early, as that code once did and the
public code of HOI4D still does: for comparison with figures measured so, for even a perfect prediction can miss.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]
End = Literal["fixed", "legacy"]
THRESHOLDS = (0.10, 0.25, 0.50)


@dataclass(frozen=True)
class Segments:
    """labels, starts, ends (n,) int64 of the segments of a sequence, in order of time."""

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def segments(sequence: Labels, background: Collection[int] = (), end: End = "fixed") -> Segments:
    """The segments of a sequence (T,); none of an empty one."""
    values = np.asarray(sequence, np.int64)
    if values.ndim != 1:
        raise ValueError(f"a sequence must be (T,), got {values.shape}")
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]]))
    ends = np.append(starts[1:], len(values) - (end == "legacy"))[: len(starts)]
    kept = ~np.isin(values[starts], list(background))
    return Segments(values[starts][kept], starts[kept], ends[kept])


def edit_score(truth: Labels, predicted: Labels, background: Collection[int] = ()) -> float:
    """Of one sequence, from 0 to 1; two sequences without segments are alike, 1."""
    a, b = segments(truth, background).labels, segments(predicted, background).labels
    longest = max(len(a), len(b))
    return 1 - _distance(a, b) / longest if longest else 1.0


def _distance(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Levenshtein's, a row at a time."""
    row = np.arange(len(b) + 1)
    for i, label in enumerate(a.tolist(), 1):
        before, row = row, np.empty_like(row)
        row[0] = i
        changed = before[:-1] + (b != label)
        for j in range(1, len(row)):
            row[j] = min(int(changed[j - 1]), int(before[j]) + 1, int(row[j - 1]) + 1)
    return int(row[-1])


def hits(
    truth: Labels,
    predicted: Labels,
    thresholds: tuple[float, ...] = THRESHOLDS,
    background: Collection[int] = (),
    end: End = "fixed",
) -> NDArray[np.int64]:
    """TP, FP, FN of one sequence at each threshold (in (0, 1]), (len(thresholds), 3)."""
    ours, theirs = segments(predicted, background, end), segments(truth, background, end)
    both = np.minimum(ours.ends[:, None], theirs.ends) - np.maximum(ours.starts[:, None], theirs.starts)
    # of two runs that meet, the hull is the union; those that do not stay below every threshold, as does one without frames
    hull = np.maximum(ours.ends[:, None], theirs.ends) - np.minimum(ours.starts[:, None], theirs.starts)
    iou = np.where(ours.labels[:, None] == theirs.labels, both / np.maximum(hull, 1), 0.0)
    found = np.zeros((len(thresholds), 3), np.int64)
    for row, threshold in zip(found, thresholds, strict=True):
        hit = np.zeros(len(theirs), bool)
        for overlaps in iou if len(theirs) else ():
            best = int(overlaps.argmax())
            if overlaps[best] >= threshold:
                hit[best] = True  # a second time it is a miss, for hits are counted by what was hit
        row[:] = hit.sum(), len(ours) - hit.sum(), len(theirs) - hit.sum()
    return found


def f1(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """TP, FP, FN (..., 3), already summed over sequences, to F1 (...), from 0 to 1; 0 where nothing was hit."""
    hit, wrong, missed = (np.asarray(counts, np.float64)[..., i] for i in range(3))
    below = 2 * hit + wrong + missed
    return np.asarray(2 * hit / np.where(below > 0, below, 1))
