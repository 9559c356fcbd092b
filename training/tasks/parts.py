"""Segmentation of clouds into the parts of their category.

    h  = point features ‖ coordinates (B, N, D + 3);  e = ReLU(BatchNorm(W_e h)) (B, N, E)              E = 1024
    g  = max over points of e ‖ mean over points of e ‖ embedding of the category (B, 2E + 64)
    logits = W₃ h₂ (B, N, L);  h₁ = dropout(ReLU(BatchNorm(W₁ (e ‖ g)))), h₂ = dropout(ReLU(BatchNorm(W₂ h₁)))     widths 512 and 256
    loss = mean over the labelled points of the global batch of the cross-entropy over the labels of the category

After Point-MAE's part segmentation, for any encoder with features of points. Ours: the global vectors are of e instead of the encoder's
own tokens, the category has a plain embedding, dropout follows each hidden layer, and the loss is over what is chosen from, the category's
labels; `loss_over` "all" is the cross-entropy over all L labels, from which a head has to learn first which labels a category has.

A label is a pair (category, part name) that a point of the training split has. A prediction is the arg-max within the category's labels.
The IoU of a part that neither prediction nor truth has is 1. Instance mIoU: mean over shapes of the mean over the category's parts. Class
mIoU: mean over categories of the mean over their shapes. Points without a label, or with one that training never saw, count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.reader import Dataset
from training.augment import PointAugment
from training.batches import collate
from training.files import write_json
from training.loop import FitConfig
from training.ops.batchnorm import BatchNorm1d
from training.tasks.clouds import CloudTask, published_fit
from training.tasks.layers import Hidden, Metric, Width, class_scores, one_a_class
from training.tasks.viewing import Run, Viewing

_MEMBERS = ("points.npy", "parts.npy", "json")
_SHOWN = 8
"""test shapes whose parts are kept to be looked at"""


class PartsConfig(BaseModel):
    """Sizes of the head, and its regularisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["parts"] = "parts"
    embed: int = Field(default=1024, ge=1, description="channels of a point before the global vectors are taken")
    category: int = Field(default=64, ge=1, description="channels of the category's embedding")
    hidden: tuple[Width, ...] = Field(default=(512, 256), min_length=1)
    dropout: float = Field(default=0.5, ge=0, lt=1, description="after each hidden layer")
    loss_over: Literal["category", "all"] = Field(default="category", description="labels that the loss chooses among")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def default_fit(self) -> FitConfig:
        return published_fit(epochs=300, batch=16, lr=2e-4)

    def default_augment(self) -> PointAugment:
        return PointAugment(scale=(0.8, 1.25), shift=0.1, rotation="none", translate=0.0, jitter_sigma=0.0, dropout=0.0)


class PartsHead(nn.Module):
    """Points (B, N, 3), their features (B, N, D) and the categories (B,) int64 to logits (B, N, labels)."""

    def __init__(self, config: PartsConfig, features: int, categories: int, labels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features + 3, config.embed, bias=False)
        self.norm = BatchNorm1d(config.embed)
        self.category = nn.Embedding(categories, config.category)
        # The part of W₁ that reads what is equal for all points of a cloud is applied once a cloud.
        self.whole = nn.Linear(2 * config.embed + config.category, config.hidden[0], bias=False)
        sizes = (config.embed, *config.hidden)
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(sizes, config.hidden, strict=False))
        self.hidden = nn.ModuleList(Hidden(width, True, config.dropout, i) for i, width in enumerate(config.hidden))
        self.last = nn.Linear(sizes[-1], labels)

    def forward(self, points: Tensor, features: Tensor, category: Tensor, keys: Tensor | None = None) -> Tensor:
        batch, number, _ = points.shape
        x = self.embed(torch.cat([features, points.to(features.dtype)], dim=-1))
        x = nn.functional.relu(self.norm(x.flatten(0, 1)).view(batch, number, -1))
        whole = self.whole(torch.cat([x.max(1).values, x.mean(1), self.category(category).to(x.dtype)], dim=-1))
        for i, (linear, hidden) in enumerate(zip(self.linears, self.hidden, strict=True)):
            x = linear(x)
            x = hidden(x + whole[:, None] if i == 0 else x, keys)
        out: Tensor = self.last(x)
        return out


@dataclass(frozen=True)
class Parts(CloudTask):
    """The task with its labels: `parts[c]` are the part names of category c, both sorted; labels are numbered through the categories.

    commonest[c]: the label of category c with the most training points. A row of a scored item is (loss, weight, category, IoU of each
    label, the same for the constant prediction `commonest`), weight the number of labelled points.
    """

    config: PartsConfig
    categories: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    commonest: tuple[int, ...]
    per_point: ClassVar[tuple[str, ...]] = ("points", "label")
    protocol: ClassVar[str] = "parts"

    @classmethod
    def of(cls, config: PartsConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Self:
        """Raises ValueError where no point of the training items has a part."""
        counts: dict[str, dict[str, int]] = {}
        for index in train.tolist():
            if "parts.npy" not in dataset.members(index):
                raise ValueError(f"The sample {dataset.keys[index]} of {dataset.uri} has no parts: generate it with points.parts true.")
            sample = dataset.load(index, _MEMBERS[1:])
            own = counts.setdefault(str(dataset.classes[index]), {})
            for number, points in zip(*np.unique(sample["parts.npy"], return_counts=True), strict=True):
                if number >= 0:
                    name = sample["json"]["part_names"][number]
                    own[name] = own.get(name, 0) + int(points)
        counts = {category: own for category, own in sorted(counts.items()) if own}
        if not counts:
            raise ValueError(f"No point of the training items of {dataset.uri} belongs to a named part.")
        parts = tuple(tuple(sorted(own)) for own in counts.values())
        starts = np.cumsum([0, *map(len, parts)])[:-1].tolist()
        most = (max(names, key=own.__getitem__) for names, own in zip(parts, counts.values(), strict=True))
        commonest = (start + names.index(name) for start, names, name in zip(starts, parts, most, strict=True))
        return cls(config, tuple(counts), parts, tuple(commonest))

    @classmethod
    def from_record(cls, config: PartsConfig, record: dict[str, Any]) -> Self:
        parts = tuple(tuple(names) for names in record["parts"].values())
        return cls(config, tuple(record["parts"]), parts, tuple(record["commonest"]))

    def record(self) -> dict[str, Any]:
        """The label space as JSON values."""
        return {"parts": dict(zip(self.categories, map(list, self.parts), strict=True)), "commonest": list(self.commonest)}

    @cached_property
    def owner(self) -> npt.NDArray[np.int64]:
        """The category of each label, (L,)."""
        return np.repeat(np.arange(len(self.parts)), [len(names) for names in self.parts])

    @property
    def row_width(self) -> int:
        return 3 + 2 * len(self.owner)

    def item(self, dataset: Dataset, index: int) -> dict[str, npt.NDArray[Any]]:
        """points (N, 3) float32, label (N,) int64 with −1 for none or an unknown one, category () int64."""
        sample = dataset.load(index, _MEMBERS)
        category = self.categories.index(str(dataset.classes[index]))
        first = int(np.searchsorted(self.owner, category))
        known = self.parts[category]
        # The last entry is that of −1.
        numbers = [first + known.index(name) if name in known else -1 for name in sample["json"]["part_names"]] + [-1]
        label = np.array(numbers, np.int64)[sample["parts.npy"]]
        return {"points": sample["points.npy"], "label": label, "category": np.asarray(np.int64(category))}

    def head(self, encoder: nn.Module) -> PartsHead:
        width: int = encoder.point_dim  # type: ignore[assignment]
        return PartsHead(self.config, width, len(self.categories), len(self.owner))

    def logits(self, encoder: nn.Module, head: nn.Module, batch: dict[str, Tensor], keys: Tensor | None) -> Tensor:
        """(B, N, labels)."""
        points = batch["points"]
        features = encoder.point_features(points, keys)  # type: ignore[operator]
        out: Tensor = head(points, features, batch["category"], keys)
        return out

    def inside(self, category: Tensor) -> Tensor:
        """Which labels each item's category has: (B,) int64 to (B, 1, labels) bool."""
        return (torch.from_numpy(self.owner).to(category.device)[None] == category[:, None])[:, None]

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of each item the sum over its labelled points (B,) and their number (B,)."""
        label, smoothing = batch["label"], self.config.label_smoothing
        inside = self.inside(batch["category"])
        if self.config.loss_over == "all":
            inside = torch.ones_like(inside)
        log = logits.float().masked_fill(~inside, -torch.inf).log_softmax(-1)
        loss = -log.gather(-1, label.clamp(min=0)[..., None]).squeeze(-1)
        if smoothing:
            loss = (1 - smoothing) * loss - smoothing * log.masked_fill(~inside, 0).sum(-1) / inside.sum(-1)
        return torch.where(label >= 0, loss, 0).sum(1), (label >= 0).float().sum(1)

    def predict(self, logits: Tensor, category: Tensor) -> Tensor:
        """(B, N, labels) to labels (B, N): the arg-max within the category (B,) of each item."""
        return logits.masked_fill(~self.inside(category), -torch.inf).argmax(-1)

    def hits(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each item the number of points that are predicted right, (B,)."""
        return (self.predict(logits, batch["category"]) == batch["label"]).float().sum(1)

    def evidence(
        self, run: Run, dataset: Dataset, test: npt.NDArray[np.int64], viewing: Viewing, folder: Path, device: torch.device
    ) -> None:
        """Test shapes to look at: FOLDER/parts.npz with points (k, N, 3), truth and predicted (k, N), −1 for none; parts.json with their
        keys and classes, and the category and part of each label. The same shapes for every start, one a category."""
        shown = one_a_class(dataset, test, _SHOWN)
        samples = [next(self.seen(dataset, index, viewing, 0)) for index in shown]
        batch = {name: values.to(device) for name, values in collate(samples).items()}
        arrays = {"points": batch["points"], "truth": batch["label"], "predicted": self.predict(run(batch), batch["category"])}
        folder.mkdir(exist_ok=True)
        np.savez(folder / "parts.npz", **{name: values.cpu().numpy() for name, values in arrays.items()})  # type: ignore[arg-type]
        labels = [[category, part] for category, names in zip(self.categories, self.parts, strict=True) for part in names]
        about = {"keys": [dataset.keys[i] for i in shown], "classes": [str(dataset.classes[i]) for i in shown], "labels": labels}
        write_json(folder / "parts.json", about)

    def rows(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """(B, row_width) float64."""
        loss, weight = self.loss(logits, batch)
        category, truth, count = batch["category"], batch["label"], len(self.owner)
        constant = torch.tensor(self.commonest, device=truth.device)[category][:, None].expand_as(truth)
        ours = part_iou(self.predict(logits, category), truth, count)
        return torch.cat([torch.stack([loss, weight, category], dim=1).double(), ours, part_iou(constant, truth, count)], dim=1)

    def metrics(self, rows: npt.NDArray[np.float64]) -> list[Metric]:
        """Instance and class mIoU of scored items; the first is the one to select by. Chance: the category's commonest part everywhere."""
        category, count = rows[:, 2].astype(int), len(self.owner)
        belongs = self.owner[None] == category[:, None]
        ours, constant = (np.where(belongs, table, 0).sum(1) / belongs.sum(1) for table in (rows[:, 3 : 3 + count], rows[:, 3 + count :]))
        items = np.bincount(category, minlength=len(self.categories))
        found = {}
        for c in np.flatnonzero(items).tolist():
            chosen, first = category == c, int(np.searchsorted(self.owner, c))
            by_part = {name: float(rows[chosen, 3 + first + i].mean()) for i, name in enumerate(self.parts[c])}
            found[self.categories[c]] = {"miou": float(ours[chosen].mean()), "items": int(items[c]), "parts": by_part}
        about = {"labels": count, "per_category": found}
        return [
            Metric("instance_miou", ours, float(constant.mean()), about),
            Metric("class_miou", class_scores(ours, category), float(class_scores(constant, category).mean()), about),
        ]


def part_iou(predicted: Tensor, truth: Tensor, labels: int) -> Tensor:
    """Intersection over union of each label in each cloud: two (B, N) int64 to (B, labels) float64.

    Points with truth −1 count nowhere; a label that neither has is 1.
    """
    clouds = len(truth)
    place = torch.arange(clouds, device=truth.device)[:, None] * labels

    def count(values: Tensor, where: Tensor) -> Tensor:
        return torch.bincount((values + place)[where], minlength=clouds * labels).view(clouds, labels)

    valid = truth >= 0
    both = count(truth, valid & (predicted == truth))
    either = count(truth, valid) + count(predicted, valid) - both
    return torch.where(either > 0, both.double() / either.clamp(min=1), 1.0)
