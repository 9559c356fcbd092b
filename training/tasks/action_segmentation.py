"""Segmentation of a clip into actions: a label for each of its frames.

    h = encoder.frame_features(window) (B, L, D);  logits = head(h) (B, L, K)
    loss = mean over the labelled frames of the global batch of the cross-entropy

Output frame l stands for the input frame encoder.frame_index[l]; where the encoder thins out time, each input frame between two takes the
logits of the nearer one, the earlier of two as near, in the loss as in the scores. For scores a clip is cut into windows in which each of
its frames counts once. Metrics: `training.evaluation.segments`; the first figure, the accuracy over all frames, chooses the epoch.

The labels are the names of actions that frames of the training split have. Frames without a label, or with one that training never saw,
count nowhere; in segments they are background in truth and prediction. Chance is the commonest action in every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from training.clip_views import ClipAugment
from training.evaluation.segments import THRESHOLDS, edit_score, f1, hits
from training.files import write_json
from training.loop import FitConfig
from training.tasks import clips
from training.tasks.classification import ClassificationHead, HeadConfig
from training.tasks.layers import Metric, ratio_scores
from training.tasks.viewing import Item, Kept, Run, Viewing, Views

_SHOWN = 6
"""test sequences whose labels are kept to be looked at"""


class ActionSegmentationConfig(HeadConfig):
    """The head of a frame and what is counted."""

    kind: Literal["action_segmentation"] = "action_segmentation"
    background: tuple[str, ...] = Field(default=(), description="actions whose runs are no segments")
    end: Literal["fixed", "legacy"] = Field(default="fixed", description="legacy: segments end as in published figures of HOI4D")

    def default_fit(self) -> FitConfig:
        """As for HOI4D's actions."""
        return clips.adapted_fit(batch=8, warmup=5)

    def default_augment(self) -> ClipAugment:
        """The frames of HOI4D's actions, in metres; rotations as published for its scenes."""
        return ClipAugment(frames=150, normalise="none", angle=0.05 * np.pi)


@dataclass(frozen=True)
class ActionSegmentation(clips.ClipTask):
    """The task with its actions, sorted by name; families: all classes of the dataset, for clips of any of them are scored.

    A row of a scored clip is (loss, weight, right frames, edit score, the same of the constant prediction, shorter than a view; TP, FP, FN
    at each threshold, the same of the constant prediction; frames of each action; right frames of each), weight the labelled frames.
    """

    config: ActionSegmentationConfig
    actions: tuple[str, ...]
    commonest: int
    categories: tuple[str, ...]
    protocol: ClassVar[str] = "action_segmentation"
    label_member: ClassVar[str] = "actions.npy"

    @classmethod
    def of(cls, config: ActionSegmentationConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Self:
        """Raises ValueError for samples that are no clips, and where training frames have fewer than two actions or no background."""
        clips.check(dataset, train)
        counts: dict[str, int] = {}
        for index in train.tolist():
            if cls.label_member not in dataset.members(index):
                raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no actions of frames: name another dataset.")
            sample = dataset.load(index, ("actions.npy", "json"))
            for number, frames in zip(*np.unique(sample["actions.npy"], return_counts=True), strict=True):
                if number >= 0:
                    name = sample["json"]["action_names"][number]
                    counts[name] = counts.get(name, 0) + int(frames)
        if len(counts) < 2:
            raise ValueError(f"The training frames of {dataset.uri} have {len(counts)} action: segmentation needs two at least.")
        actions = tuple(sorted(counts))
        for name in config.background:
            if name not in counts:
                raise ValueError(f"background: no training frame of {dataset.uri} has the action {name!r}; it has {', '.join(actions)}.")
        return cls(config, actions, actions.index(max(actions, key=counts.__getitem__)), tuple(np.unique(dataset.classes).tolist()))

    @classmethod
    def from_record(cls, config: ActionSegmentationConfig, record: dict[str, Any]) -> Self:
        return cls(config, tuple(record["actions"]), record["commonest"], tuple(record["families"]))

    def record(self) -> dict[str, Any]:
        """The label space as JSON values."""
        return {"actions": list(self.actions), "commonest": self.commonest, "families": list(self.categories)}

    @property
    def row_width(self) -> int:
        return 6 + 6 * len(THRESHOLDS) + 2 * len(self.actions)

    def labels(self, dataset: Dataset, index: int) -> npt.NDArray[np.int64]:
        """Of each stored frame its action, (S,), −1 for none or an unknown one, and everywhere for a sample without actions."""
        if self.label_member not in dataset.members(index):
            return np.full(clips.stored_frames(dataset, index), -1, np.int64)
        sample = dataset.load(index, ("actions.npy", "json"))
        known = {name: number for number, name in enumerate(self.actions)}
        # The last entry is that of −1.
        numbers = np.array([known.get(name, -1) for name in sample["json"]["action_names"]] + [-1], np.int64)
        return np.asarray(numbers[sample["actions.npy"]])

    def drawn(self, dataset: Dataset, index: int, viewing: Viewing, epoch: int) -> Item:
        """points (T, n, 3 + F) float32, label (T,) int64: a window, a function of (seed, epoch, key)."""
        clip, frames, _, _ = clips.drawn(dataset, index, viewing, epoch)
        return {"points": clip, "label": np.where(clips.fresh(frames), self.labels(dataset, index)[frames], -1)}

    def seen(self, dataset: Dataset, index: int, viewing: Viewing, votes: int) -> Views:
        """Windows in which each frame is fresh once; frame (T,) int64: its number, −1 where it is not; short () bool."""
        augment = clips.augment_of(viewing)
        stored, labels = clips.read(dataset, index, augment), self.labels(dataset, index)
        short = np.asarray(len(stored) < augment.span)
        for frames, fresh in clips.tiles(len(stored), augment):
            frame, label = np.where(fresh, frames, -1), np.where(fresh, labels[frames], -1)
            yield {"points": clips.plain(stored, frames, augment)[0], "label": label, "frame": frame, "short": short}

    def head(self, encoder: nn.Module) -> ClassificationHead:
        width: int = encoder.frame_dim  # type: ignore[assignment]
        return ClassificationHead(self.config.hidden, self.config.norm, self.config.dropout, width, len(self.actions))

    def logits(self, encoder: nn.Module, head: nn.Module, batch: dict[str, Tensor], keys: Tensor | None) -> Tensor:
        """(B, T, actions)."""
        points = batch["points"]
        out: Tensor = head(encoder.frame_features(points, keys), keys)  # type: ignore[operator]
        own = encoder.frame_index(points.shape[1]).to(out.device)  # type: ignore[operator]
        return out[:, nearest(own, points.shape[1])]

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of each window the sum over its labelled frames (B,) and their number (B,)."""
        label = batch["label"]
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), label.flatten(), reduction="none", ignore_index=-1, label_smoothing=self.config.label_smoothing
        )
        return loss.view(label.shape).sum(1), (label >= 0).float().sum(1)

    def hits(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each window the number of frames that are named right, (B,)."""
        return (logits.argmax(-1) == batch["label"]).float().sum(1)

    def kept(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each frame its number in the clip or −1, its action, the one it is given, its loss, whether its clip is short: (B, T, 5)."""
        label = batch["label"]
        loss = -logits.double().log_softmax(-1).gather(-1, label.clamp(min=0)[..., None]).squeeze(-1)
        short = batch["short"][:, None].expand_as(label)
        return torch.stack([batch["frame"].double(), label.double(), logits.argmax(-1).double(), loss, short.double()], dim=-1)

    def scored(self, kept: Kept, items: list[Item]) -> Tensor:
        """The rows of clips, (B, row_width) float64."""
        return torch.from_numpy(np.stack([self._row(_in_order(passes)) for passes in kept])).to(kept[0][0].device)

    def _row(self, frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        truth, predicted = frames[:, 1].astype(np.int64), frames[:, 2].astype(np.int64)
        known, count = truth >= 0, len(self.actions)
        constant = np.full_like(truth, self.commonest)
        none = (-1, *(self.actions.index(name) for name in self.config.background))
        edits, hit = [], []
        for each in (predicted, constant):
            answer = np.where(known, each, -1)
            edits.append(edit_score(truth, answer, none))
            hit.append(hits(truth, answer, THRESHOLDS, none, self.config.end).ravel())
        right = known & (truth == predicted)
        of_action = (np.bincount(truth[which], minlength=count) for which in (known, right))
        return np.concatenate([[frames[known, 3].sum(), known.sum(), right.sum(), *edits, frames[0, 4]], *hit, *of_action])

    def metrics(self, rows: npt.NDArray[np.float64]) -> list[Metric]:
        """Accuracy over all frames, edit score (mean over clips) and F1 at each threshold of scored clips.

        The first and F1, 2 TP / (2 TP + FP + FN), are ratios of sums over clips: a clip's score is that of `ratio_scores`.
        """
        n, count, size = len(rows), len(self.actions), 3 * len(THRESHOLDS)
        frames, right = rows[:, 6 + 2 * size :][:, :count].sum(0), rows[:, 6 + 2 * size + count :].sum(0)
        by_action = {self.actions[c]: float(right[c] / frames[c]) for c in np.flatnonzero(frames)}
        about: dict[str, Any] = {"actions": count, "frames": int(frames.sum()), "clips_shorter_than_a_view": int(rows[:, 5].sum())}
        found = [
            Metric(
                "frame_accuracy",
                ratio_scores(rows[:, 2], rows[:, 1]),
                float(frames[self.commonest] / frames.sum()),
                about | {"per_class": by_action},
            ),
            Metric("edit", rows[:, 3], float(rows[:, 4].mean()), about | {"background": list(self.config.background)}),
        ]
        about |= {"background": list(self.config.background), "end": self.config.end}
        ours, constant = rows[:, 6 : 6 + size].reshape(n, -1, 3), rows[:, 6 + size : 6 + 2 * size].reshape(n, -1, 3)
        chance = f1(constant.sum(0))
        for number, threshold in enumerate(THRESHOLDS):
            twice = 2 * ours[:, number, 0]
            scores = ratio_scores(twice, twice + ours[:, number, 1:].sum(1))
            found.append(Metric(f"f1_{round(100 * threshold)}", scores, float(chance[number]), about))
        return found

    def evidence(
        self, run: Run, dataset: Dataset, test: npt.NDArray[np.int64], viewing: Viewing, folder: Path, device: torch.device
    ) -> None:
        """Test sequences to look at: FOLDER/timelines.npz with truth and predicted (k, S) int64, numbers of actions, −1 for none and after
        a clip's end; timelines.json with keys, classes, labels (the actions), frames and fps of each. The same ones for every start."""
        shown = clips.some(dataset, test, _SHOWN)
        lines = []
        for index in shown:
            passes = []
            for sample in self.seen(dataset, index, viewing, 0):
                batch = {name: values.to(device) for name, values in collate([sample]).items()}
                passes.append(self.kept(run(batch), batch)[0])
            lines.append(_in_order(passes)[:, 1:3].astype(np.int64))
        longest = max(map(len, lines))
        table = np.stack([np.pad(line, ((0, longest - len(line)), (0, 0)), constant_values=-1) for line in lines])
        folder.mkdir(exist_ok=True)
        np.savez(folder / "timelines.npz", truth=table[:, :, 0], predicted=table[:, :, 1])
        about = clips.names(dataset, shown) | {"labels": list(self.actions), "frames": [len(line) for line in lines]}
        write_json(folder / "timelines.json", about)


def nearest(own: Tensor, frames: int) -> Tensor:
    """(frames,) int64: the output nearest to each input frame, the earlier of two as near; own (L,): the input frame of each output."""
    return (torch.arange(frames, device=own.device)[:, None] - own).abs().argmin(1)


def _in_order(passes: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """The kept values of a clip's frames, (S, 5), each from the window in which it is fresh."""
    frames = torch.cat(list(passes)).cpu().numpy()
    frames = frames[frames[:, 0] >= 0]
    ordered: npt.NDArray[np.float64] = frames[np.argsort(frames[:, 0], kind="stable")]
    return ordered
