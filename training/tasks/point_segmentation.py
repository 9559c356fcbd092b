"""Semantic segmentation of point-cloud videos: a label for each point of each frame.

    h = encoder.point_features(window) (B, T, N, D);  logits = head(h) (B, T, N, K)
    loss = mean over the labelled points of the global batch of the cross-entropy

    IoU_c = both_c / (true_c + called_c − both_c)        points that are c and called so, that are c, that are called c

For scores a clip is cut into windows in which each of its frames counts once. mIoU is the mean of the IoU of all points of the split
together; it chooses the epoch. A label without a true point is left out of the mean (as for HOI4D) or counts as 0 (as for Synthia). The
labels are the names in parts.npy that points of the training split have, less those of `ignored`, which the head cannot give: their points
count nowhere, or, as in a public evaluation of HOI4D (methods-C, C.4.2), in the union of what they are called. Points without a label, with
one that training never saw, and those that only fill a frame up count nowhere. Chance is the commonest label everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.reader import Dataset
from training.batches import collate
from training.clip_views import ClipAugment, take_points
from training.files import write_json
from training.loop import FitConfig
from training.tasks import clips
from training.tasks.classification import ClassificationHead, HeadConfig
from training.tasks.layers import Metric, ratio_scores
from training.tasks.viewing import Item, Kept, Run, Viewing, Views

_SHOWN = 6
"""test clips whose points are kept to be looked at"""


class PointSegmentationConfig(HeadConfig):
    """The head of a point and what is counted."""

    kind: Literal["point_segmentation"] = "point_segmentation"
    ignored: tuple[str, ...] = Field(default=(), description="labels that are none, as of noise")
    ignored_points: Literal["left_out", "in_union"] = Field(
        default="left_out", description="in_union: points of ignored labels make IoU smaller"
    )
    absent: Literal["exclude", "zero"] = Field(
        default="exclude", description="labels without a test point leave the mean (HOI4D), or are 0 in it (Synthia)"
    )

    def default_fit(self) -> FitConfig:
        """As for HOI4D's semantic segmentation."""
        return clips.adapted_fit(batch=8, warmup=5)

    def default_augment(self) -> ClipAugment:
        """The three frames of HOI4D's and Synthia's, in metres; rotations as published for scenes."""
        return ClipAugment(frames=3, normalise="none", angle=0.05 * np.pi)


@dataclass(frozen=True)
class PointSegmentation(clips.ClipTask):
    """The task with its labels, sorted by name; families: all classes of the dataset, for clips of any of them are scored.

    A row of a scored clip is (loss, weight, shorter than a view; of each label the points that are rightly called so, that are so, and that
    are called so), weight the labelled points. In an item, an ignored point has the number of labels as its label, one without any −1.
    """

    config: PointSegmentationConfig
    names: tuple[str, ...]
    commonest: int
    categories: tuple[str, ...]
    protocol: ClassVar[str] = "point_segmentation"
    label_member: ClassVar[str] = "parts.npy"

    @classmethod
    def of(cls, config: PointSegmentationConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Self:
        """Raises ValueError for samples that are no clips or whose points have no parts, and for fewer than two labels."""
        clips.check(dataset, train)
        counts: dict[str, int] = {}
        for index in train.tolist():
            if cls.label_member not in dataset.members(index):
                raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no parts: generate it with points.parts true.")
            sample = dataset.load(index, ("parts.npy", "json"))
            for number, points in zip(*np.unique(sample["parts.npy"], return_counts=True), strict=True):
                if number >= 0:
                    name = sample["json"]["part_names"][number]
                    counts[name] = counts.get(name, 0) + int(points)
        names = tuple(sorted(counts.keys() - set(config.ignored)))
        if len(names) < 2:
            raise ValueError(f"The training points of {dataset.uri} have {len(names)} label: segmentation needs two at least.")
        for name in config.ignored:
            if name not in counts:
                raise ValueError(f"ignored: no training point of {dataset.uri} has the label {name!r}; it has {', '.join(names)}.")
        return cls(config, names, names.index(max(names, key=counts.__getitem__)), tuple(np.unique(dataset.classes).tolist()))

    @classmethod
    def from_record(cls, config: PointSegmentationConfig, record: dict[str, Any]) -> Self:
        return cls(config, tuple(record["labels"]), record["commonest"], tuple(record["families"]))

    def record(self) -> dict[str, Any]:
        """The label space as JSON values."""
        return {"labels": list(self.names), "commonest": self.commonest, "families": list(self.categories)}

    @property
    def row_width(self) -> int:
        return 3 + 3 * len(self.names)

    def labels(self, dataset: Dataset, index: int, stored: clips.Stored) -> npt.NDArray[np.int64]:
        """Of each stored point its label, (S, N), the number of labels for an ignored one, −1 for none, an unknown one or a filling, and
        everywhere for a sample without parts."""
        if self.label_member not in dataset.members(index):
            return np.full(stored.clip.shape[:2], -1, np.int64)
        sample = dataset.load(index, ("parts.npy", "json"))
        known = {name: number for number, name in enumerate(self.names)} | dict.fromkeys(self.config.ignored, len(self.names))
        # The last entry is that of −1.
        numbers = np.array([known.get(name, -1) for name in sample["json"]["part_names"]] + [-1], np.int64)
        found = numbers[sample["parts.npy"]]
        return found if stored.valid is None else np.where(stored.valid, found, -1)

    def drawn(self, dataset: Dataset, index: int, viewing: Viewing, epoch: int) -> Item:
        """points (T, n, 3 + F) float32, label (T, n) int64: a window, a function of (seed, epoch, key)."""
        clip, frames, points, stored = clips.drawn(dataset, index, viewing, epoch)
        label = take_points(self.labels(dataset, index, stored)[frames], points)
        return {"points": clip, "label": np.where(clips.fresh(frames)[:, None], label, -1)}

    def seen(self, dataset: Dataset, index: int, viewing: Viewing, votes: int) -> Views:
        """Windows in which each frame is fresh once, labels −1 where it is not; frame (T,) int64: its number or −1; short () bool."""
        augment = clips.augment_of(viewing)
        stored = clips.read(dataset, index, augment)
        labels, short = self.labels(dataset, index, stored), np.asarray(len(stored) < augment.span)
        for frames, fresh in clips.tiles(len(stored), augment):
            clip, points = clips.plain(stored, frames, augment)
            label = np.where(fresh[:, None], take_points(labels[frames], points), -1)
            yield {"points": clip, "label": label, "frame": np.where(fresh, frames, -1), "short": short}

    def head(self, encoder: nn.Module) -> ClassificationHead:
        width: int = encoder.point_dim  # type: ignore[assignment]
        return ClassificationHead(self.config.hidden, self.config.norm, self.config.dropout, width, len(self.names))

    def logits(self, encoder: nn.Module, head: nn.Module, batch: dict[str, Tensor], keys: Tensor | None) -> Tensor:
        """(B, T, N, labels)."""
        out: Tensor = head(encoder.point_features(batch["points"], keys), keys)  # type: ignore[operator]
        return out

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of each window the sum over its labelled points (B,) and their number (B,)."""
        label = self._kept_labels(batch)
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 2), label.flatten(), reduction="none", ignore_index=-1, label_smoothing=self.config.label_smoothing
        )
        return loss.view(label.shape).sum((1, 2)), (label >= 0).float().sum((1, 2))

    def _kept_labels(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.where(batch["label"] < len(self.names), batch["label"], -1)

    def hits(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each window the number of points that are called right, (B,)."""
        return (logits.argmax(-1) == self._kept_labels(batch)).float().sum((1, 2))

    def kept(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The window's own row, (B, row_width) float64: those of a clip add up."""
        loss, weight = self.loss(logits, batch)
        label, count = batch["label"].flatten(1), len(self.names)
        called = logits.argmax(-1).flatten(1)
        labelled = (label >= 0) & (label < count)
        counted = label >= 0 if self.config.ignored_points == "in_union" else labelled
        head = torch.stack([loss.double(), weight.double(), batch["short"].double()], dim=1)
        both, true = _counts(label, labelled & (called == label), count), _counts(label, labelled, count)
        return torch.cat([head, both, true, _counts(called, counted, count)], dim=1)

    def scored(self, kept: Kept, items: list[Item]) -> Tensor:
        """The rows of clips, (B, row_width) float64."""
        rows = torch.stack([torch.stack(list(passes)).sum(0) for passes in kept])
        rows[:, 2] = rows[:, 2].clamp(max=1)
        return rows

    def counted(self, rows: npt.NDArray[np.float64]) -> clips.Flags:
        """Which rows enter the figures: those with a point in a union, if only an ignored one in that of what it is called."""
        return np.asarray(rows[:, 3:].any(axis=1))

    def metrics(self, rows: npt.NDArray[np.float64]) -> list[Metric]:
        """mIoU and the share of points that are called right, of scored clips.

        The IoU of a label, its intersections over its unions in all clips, is a ratio of sums: a clip's score is that of `ratio_scores`, of
        mIoU the mean of these over labels.
        """
        n, count = len(rows), len(self.names)
        both, true, called = rows[:, 3:].reshape(n, 3, count).transpose(1, 0, 2)
        there = true.sum(0) > 0
        counted = there if self.config.absent == "exclude" else np.ones(count, bool)
        ious = ratio_scores(both, true + called - both)
        scores = ious[:, counted].mean(1)
        # the constant answer meets all points of one label, and has all that are counted in its union
        chance = true[:, self.commonest].sum() / called.sum() / counted.sum()
        iou = ious.mean(0)
        by_label = {name: float(iou[c]) for c, name in enumerate(self.names) if counted[c]}
        points = true.sum()
        about = {
            "labels_of_points": count,
            "labels_without_test_points": [name for name, known in zip(self.names, there, strict=True) if not known],
            "ignored": list(self.config.ignored),
            "clips_shorter_than_a_view": int(rows[:, 2].sum()),
        }
        right = both.sum(1)
        return [
            Metric(
                "miou",
                scores,
                float(chance),
                about | {"absent": self.config.absent, "ignored_points": self.config.ignored_points, "per_class": by_label},
            ),
            Metric("point_accuracy", ratio_scores(right, true.sum(1)), float(true[:, self.commonest].sum() / points), about),
        ]

    def evidence(
        self, run: Run, dataset: Dataset, test: npt.NDArray[np.int64], viewing: Viewing, folder: Path, device: torch.device
    ) -> None:
        """Test clips to look at, the first window of each: FOLDER/clips.npz with points (k, T, n, 3) float32, truth and predicted (k, T, n)
        int64, −1 for none; clips.json with keys, classes, labels and fps. The same clips for every start."""
        shown = clips.some(dataset, test, _SHOWN)
        found: dict[str, list[npt.NDArray[Any]]] = {"points": [], "truth": [], "predicted": []}
        for index in shown:
            batch = {name: values.to(device) for name, values in collate([next(self.seen(dataset, index, viewing, 0))]).items()}
            found["points"].append(batch["points"][0, :, :, :3].cpu().numpy())
            found["truth"].append(self._kept_labels(batch)[0].cpu().numpy())
            found["predicted"].append(run(batch).argmax(-1)[0].cpu().numpy())
        folder.mkdir(exist_ok=True)
        np.savez(folder / "clips.npz", **{name: np.stack(values) for name, values in found.items()})  # type: ignore[arg-type]
        write_json(folder / "clips.json", clips.names(dataset, shown) | {"labels": list(self.names)})


def _counts(values: Tensor, where: Tensor, count: int) -> Tensor:
    """Of each row of (B, M) how often each number up to `count` stands where `where` (B, M) holds, (B, count) float64."""
    place = torch.arange(len(values), device=values.device)[:, None] * count
    return torch.bincount((values + place)[where], minlength=len(values) * count).view(len(values), count).double()
