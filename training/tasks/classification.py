"""Classification of whole clouds.

    f = encoder(points) (B, F);  logits = W₃ h₂ (B, K),  h_i = dropout(ReLU(BatchNorm(W_i h_{i−1}))), h₀ = f     widths 256 and 256
    loss = mean over the global batch of the cross-entropy, labels smoothed by `label_smoothing`

The head is Point-MAE's; hidden (256,) without norm is Point-BERT's. The classes are those of the training split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.reader import Dataset
from training.augment import PointAugment
from training.loop import FitConfig
from training.tasks.clouds import CloudTask, published_fit
from training.tasks.layers import Hidden, Metric, Width, class_scores


class HeadConfig(BaseModel):
    """Sizes of a `ClassificationHead`, and its regularisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[Width, ...] = Field(default=(), description="widths of the hidden layers of the head; none: it is linear")
    norm: bool = Field(default=True, description="batch norm in the hidden layers")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="after each hidden layer")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


Config = TypeVar("Config", bound=HeadConfig)


class ClassificationConfig(HeadConfig):
    """The head."""

    kind: Literal["classification"] = "classification"
    hidden: tuple[Width, ...] = Field(default=(256, 256), description="widths of the hidden layers of the head; none: it is linear")

    def default_fit(self) -> FitConfig:
        return published_fit(epochs=300, batch=32, lr=5e-4)

    def default_augment(self) -> PointAugment:
        return PointAugment(scale=(2 / 3, 1.5), per_axis=True, shift=0.2, rotation="none", translate=0.0, jitter_sigma=0.0, dropout=0.0)


class ClassificationHead(nn.Module):
    """Features (..., F) to logits (..., classes), in single precision at least, under autocast too: beside the time of a clip's late frame,
    bf16 has no room for what was seen."""

    def __init__(self, hidden: Sequence[int], norm: bool, dropout: float, features: int, classes: int) -> None:
        super().__init__()
        sizes = (features, *hidden)
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, hidden, strict=False))
        self.hidden = nn.ModuleList(Hidden(width, norm, dropout, i) for i, width in enumerate(hidden))
        self.last = nn.Linear(sizes[-1], classes)

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            for linear, hidden in zip(self.linears, self.hidden, strict=True):
                features = hidden(linear(features), keys)
            out: Tensor = self.last(features)
        return out


@dataclass(frozen=True)
class OneClass(Generic[Config]):
    """What tasks share that give an item, cloud or clip, one of the classes of the training split; these sorted by name."""

    config: Config
    classes: tuple[str, ...]
    commonest: int

    @classmethod
    def of(cls, config: Config, dataset: Dataset, train: npt.NDArray[np.int64]) -> Self:
        """Raises ValueError for fewer than two classes."""
        names, counts = np.unique(dataset.classes[train], return_counts=True)
        if len(names) < 2:
            raise ValueError(f"The training items of {dataset.uri} have {len(names)} class: this task needs two at least.")
        return cls(config, tuple(names.tolist()), int(counts.argmax()))

    @classmethod
    def from_record(cls, config: Config, record: dict[str, Any]) -> Self:
        return cls(config, tuple(record["classes"]), record["commonest"])

    def record(self) -> dict[str, Any]:
        """The label space as JSON values."""
        return {"classes": list(self.classes), "commonest": self.commonest}

    @property
    def categories(self) -> tuple[str, ...]:
        """Values of the dataset's classes that the task knows."""
        return self.classes

    def label(self, dataset: Dataset, index: int) -> npt.NDArray[np.int64]:
        """() int64."""
        return np.asarray(np.int64(self.classes.index(str(dataset.classes[index]))))

    def head(self, encoder: nn.Module) -> ClassificationHead:
        width: int = encoder.feature_dim  # type: ignore[assignment]
        return ClassificationHead(self.config.hidden, self.config.norm, self.config.dropout, width, len(self.classes))

    def logits(self, encoder: nn.Module, head: nn.Module, batch: dict[str, Tensor], keys: Tensor | None) -> Tensor:
        """(B, classes)."""
        out: Tensor = head(encoder(batch["points"], keys), keys)
        return out

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of each view of an item the loss (B,) and its weight (B,), 1."""
        loss = nn.functional.cross_entropy(logits.float(), batch["label"], reduction="none", label_smoothing=self.config.label_smoothing)
        return loss, torch.ones_like(loss)

    def hits(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each view of an item the number of right answers, (B,); of `weight` possible ones."""
        return (logits.argmax(1) == batch["label"]).float()


@dataclass(frozen=True)
class Classification(OneClass[ClassificationConfig], CloudTask):
    """The task with its classes.

    A row of a scored item is (loss, weight, class, predicted class), weight 1.
    """

    per_point: ClassVar[tuple[str, ...]] = ("points",)
    protocol: ClassVar[str] = "finetune"

    @property
    def row_width(self) -> int:
        return 4

    def item(self, dataset: Dataset, index: int) -> dict[str, npt.NDArray[Any]]:
        """points (N, 3) float32, label () int64."""
        return {"points": dataset.load(index, ("points.npy",))["points.npy"], "label": self.label(dataset, index)}

    def rows(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """(B, row_width) float64."""
        loss, weight = self.loss(logits, batch)
        return torch.stack([loss.double(), weight.double(), batch["label"].double(), logits.argmax(1).double()], dim=1)

    def metrics(self, rows: npt.NDArray[np.float64]) -> list[Metric]:
        """Accuracy and mean class accuracy of scored items; the first is the one to select by. Chance: always the commonest class of the
        training items. Scores of the second are weighted by n / (classes · items of the class), so that their mean is the figure."""
        return class_metrics(rows[:, 2].astype(int), rows[:, 3].astype(int), self.classes, self.commonest)


def class_metrics(
    truth: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    classes: Sequence[str],
    commonest: int,
    more: dict[str, Any] | None = None,
) -> list[Metric]:
    """Accuracy and mean class accuracy of items (n,), with `more` details; chance: `commonest` everywhere."""
    right, guess = (truth == predicted).astype(np.float64), (truth == commonest).astype(np.float64)
    by_class = {classes[c]: float(right[truth == c].mean()) for c in np.unique(truth).tolist()}
    about = {"classes": len(classes), "per_class": by_class, **(more or {})}
    called: dict[str, dict[str, int]] = {}
    for (c, answer), count in zip(*np.unique(np.stack([truth, predicted], axis=1), axis=0, return_counts=True), strict=True):
        called.setdefault(classes[c], {})[classes[answer]] = int(count)
    return [
        Metric("accuracy", right, float(guess.mean()), about | {"confusion": called}),
        Metric("mean_class_accuracy", class_scores(right, truth), float(class_scores(guess, truth).mean()), about),
    ]
