"""Clips as their tasks see them: a drawn window of frames for training; for scores every window that a task asks for, as it is.

What a clip's task learns from is a dataset with clip.npy. A clip with fewer frames than a view spans is what `augment.short` says: its
last frame stands for the missing ones, without labels, or it is refused; figures say how many there were.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.reader import Dataset
from training.augment import rng_for
from training.clip_views import (
    Clip,
    ClipAugment,
    choose_points,
    draw_frames,
    mirrored,
    move_clip,
    pivot_of,
    plain_clip,
    plain_frames,
    read_clip,
    take_points,
    window,
)
from training.evaluation.owners import owners
from training.loop import FitConfig, OptimizerConfig, TrainingError
from training.tasks.items import Items
from training.tasks.layers import labelled, one_a_class
from training.tasks.viewing import Run, Viewing

Frames = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def adapted_fit(batch: int, warmup: int) -> FitConfig:
    """Epochs, batch and warm-up of P4Transformer's training (methods-C, C.2.2).

    Ours: AdamW on a cosine in place of SGD in steps (its rates are 0.01 to 0.05), and an epoch sees one window of each clip, not all.
    """
    optimizer = OptimizerConfig(
        lr=1e-3, weight_decay=0.05, decoupled=True, spare_vectors=True, clip=10.0, schedule="cosine_warm", warmup_epochs=warmup, floor=1e-6
    )
    return FitConfig(epochs=50, batch=batch, optimizer=optimizer)


@dataclass(frozen=True)
class Stored:
    """A sample's clip (S, N, 3 + F), the points that are more than a filling (S, N), None where all are, its key, and the point about
    which views turn it (3,), None for the origin."""

    clip: Clip
    valid: Flags | None
    key: str
    pivot: Clip | None

    def __len__(self) -> int:
        return len(self.clip)


def augment_of(viewing: Viewing) -> ClipAugment:
    """The views' configuration with the number of points a frame that the viewing says."""
    assert isinstance(viewing.augment, ClipAugment)
    return viewing.augment.model_copy(update={"count": viewing.points})


def read(dataset: Dataset, index: int, augment: ClipAugment) -> Stored:
    """Raises TrainingError where the sample has no clip, not the features asked for, or too few frames and `short` is refuse."""
    try:
        clip, valid = read_clip(dataset, index, augment)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if augment.short == "refuse" and len(clip) < augment.span:
        raise TrainingError(
            f"The clip {dataset.keys[index]} of {dataset.uri} has {len(clip)} frames, fewer than the {augment.span} of a view: "
            "set augment.short to repeat or see fewer frames."
        )
    return Stored(clip, valid, dataset.keys[index], pivot_of(dataset, index, augment))


def check(dataset: Dataset, indices: Frames) -> None:
    """Raises ValueError unless every one of the samples has a clip."""
    for index in indices.tolist():
        if "clip.npy" not in dataset.members(index):
            raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no clip.npy: this task needs a dataset of clips.")


def stored_frames(dataset: Dataset, index: int) -> int:
    """Frames of a sample's clip, from its json."""
    return len(dataset.load(index, ("json",))["json"]["clip"]["times_s"])


def short(dataset: Dataset, items: Items, viewing: Viewing) -> dict[str, Any]:
    """How many of the labelled items have fewer frames than a view spans. ValueError where `short` is refuse and an item of any split has:
    a test clip would otherwise stop a training at its end."""
    augment = augment_of(viewing)
    parts = {"training": items.labelled}
    if augment.short == "refuse":
        parts |= {"validation": items.validation, "test": items.test}
    numbers = {}
    for name, indices in parts.items():
        lengths = [stored_frames(dataset, index) for index in indices.tolist()]
        numbers[name] = sum(length < augment.span for length in lengths)
        if numbers[name] and augment.short == "refuse":
            raise ValueError(
                f"{numbers[name]} of {len(lengths)} {name} clips of {dataset.uri} have fewer frames than the {augment.span} of a view (the "
                f"shortest {min(lengths)}): set augment.short to repeat or see fewer frames."
            )
    return {"training_clips_shorter_than_a_view": numbers["training"]}


# ---- training --------------------------------------------------------------------------------------------------------


def draw(length: int, augment: ClipAugment, rng: np.random.Generator) -> Frames:
    """(T,) source frames of a training view: a window whose start is uniform over all, or a frame of each bin."""
    if augment.mode == "bins":
        return np.asarray(draw_frames(length, augment, rng).frames[0])
    return window(length, augment, int(rng.integers(max(length - augment.span, 0) + 1)))


def fresh(frames: Frames) -> Flags:
    """Which frames of a view (T,) are not the repetition of the one before."""
    return np.asarray(np.diff(frames, prepend=-1) != 0)


def drawn(dataset: Dataset, index: int, viewing: Viewing, epoch: int) -> tuple[Clip, Frames, Frames, Stored]:
    """One training view, a function of (seed, epoch, key): the clip (T, n, 3 + F), its source frames (T,), the points of each (T, n)."""
    augment = augment_of(viewing)
    rng = rng_for(viewing.seed, epoch, dataset.keys[index], "finetune")
    stored = read(dataset, index, augment)
    frames = draw(len(stored), augment, rng)
    valid = None if stored.valid is None else stored.valid[frames]
    points = choose_points(stored.clip[frames].shape[:2], augment.count, rng, valid)
    seen = mirrored(take_points(stored.clip[frames], points), augment, viewing.seed, epoch, dataset.keys[index], stored.pivot)
    return move_clip(seen, augment, rng, stored.pivot), frames, points, stored


# ---- scores ----------------------------------------------------------------------------------------------------------


def plain(stored: Stored, frames: Frames, augment: ClipAugment) -> tuple[Clip, Frames]:
    """`clip_views.plain_clip` of a stored clip."""
    return plain_clip(stored.clip, frames, augment, stored.key, stored.valid)


def windows(length: int, augment: ClipAugment, number: int) -> list[Frames]:
    """The windows that vote for a clip: `number` of them with starts spread evenly over all, at most all; 0: one from every start.

    Where frames come from bins, the one view of the middles of the bins.
    """
    if augment.mode == "bins":
        return [plain_frames(length, augment)]
    last = max(length - augment.span, 0)
    every = np.arange(last + 1) if not number else np.unique(np.linspace(0, last, number).round().astype(np.int64))
    if number == 1:
        every = np.array([last // 2])
    return [window(length, augment, int(start)) for start in every]


def tiles(length: int, augment: ClipAugment) -> list[tuple[Frames, Flags]]:
    """Windows in which each of the clip's frames is fresh once: [(source frames (T,), which are fresh (T,))].

    With a step g > 1 there are g interleaved rows of windows; where frames come from bins, g is as many as the bins are long. The last
    window of a row begins early enough to be whole, and frames that another one has are not fresh in it.
    """
    size, step = augment.frames, augment.step if augment.mode != "bins" else max(1, -(-length // augment.frames))
    found = []
    for phase in range(min(step, length)):
        row = np.arange(phase, length, step, dtype=np.int64)
        for first in range(0, len(row), size):
            begin = max(min(first, len(row) - size), 0)
            places = np.minimum(begin + np.arange(size), len(row) - 1)
            found.append((row[places], (begin + np.arange(size) == places) & (places >= first)))
    return found


# ---- evidence --------------------------------------------------------------------------------------------------------


def some(dataset: Dataset, indices: Frames, most: int) -> list[int]:
    """Samples to look at: one of each class, and where that leaves room, further ones."""
    first = one_a_class(dataset, indices, most)
    left = [index for index in indices.tolist() if index not in first]
    return first + left[: most - len(first)]


def names(dataset: Dataset, shown: list[int]) -> dict[str, Any]:
    """keys, classes and fps of samples."""
    return {
        "keys": [dataset.keys[index] for index in shown],
        "classes": [str(dataset.classes[index]) for index in shown],
        "fps": [dataset.load(index, ("json",))["json"]["clip"]["fps"] for index in shown],
    }


class ClipTask:
    """What tasks of clips share."""

    video: ClassVar[bool] = True
    at_once: ClassVar[int] = 8
    label_member: ClassVar[str] = "json"

    def owners(self, dataset: Dataset, opened: Frames) -> npt.NDArray[np.str_] | None:
        """Whose each sample is, as `evaluation.owners` finds it."""
        return owners(dataset, opened)

    def facts(self, dataset: Dataset, items: Items, viewing: Viewing) -> dict[str, Any]:
        """What figures say of the items beyond their number. Raises ValueError for items that cannot be seen so, and where no test item has
        labels: the training would end without a figure."""
        if not any(self.label_member in dataset.members(index) for index in items.test.tolist()):
            raise ValueError(f"No test clip of {dataset.uri} has {self.label_member}, the labels to test on: name a split that has labels.")
        return short(dataset, items, viewing)

    def counted(self, rows: npt.NDArray[np.float64]) -> Flags:
        """Which rows (n, row_width) of scored items enter the figures, (n,): those with a label."""
        return labelled(rows)

    def evidence(self, run: Run, dataset: Dataset, test: Frames, viewing: Viewing, folder: Path, device: torch.device) -> None:
        """Leaves in `folder` what there is to look at; here nothing."""
