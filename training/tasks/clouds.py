"""Clouds as their tasks see them: some points, augmented for training; the first ones, as they are or augmented for a vote, for scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.reader import Dataset
from training.augment import PointAugment, augment_points, normalise, rng_for, take
from training.batches import collate
from training.loop import FitConfig, OptimizerConfig
from training.tasks.items import Items
from training.tasks.layers import labelled
from training.tasks.viewing import Item, Kept, Run, Viewing, Views


def published_fit(epochs: int, batch: int, lr: float) -> FitConfig:
    """How Point-BERT (classification) and Point-MAE (parts) are fine-tuned."""
    optimizer = OptimizerConfig(
        lr=lr, weight_decay=0.05, decoupled=True, spare_vectors=True, clip=10.0, schedule="cosine_warm", warmup_epochs=10, floor=1e-6
    )
    return FitConfig(epochs=epochs, batch=batch, optimizer=optimizer)


def chosen(item: Item, per_point: tuple[str, ...], points: int | None, rng: np.random.Generator | None) -> Item:
    """The item with `points` of its points: drawn, or without `rng` the first ones; what is said of each point goes with it."""
    if points is None:
        return item
    # Of a column of numbers, `take` keeps which points it took.
    numbers = take(np.arange(len(item["points"])), points, rng)  # type: ignore[arg-type]
    return {name: values[numbers] if name in per_point else values for name, values in item.items()}


class CloudTask(ABC):
    """What tasks of clouds share. per_point: members of an item that say something of each point."""

    per_point: ClassVar[tuple[str, ...]] = ("points",)
    video: ClassVar[bool] = False
    at_once: ClassVar[int] = 32

    @abstractmethod
    def item(self, dataset: Dataset, index: int) -> Item:
        """What the dataset says of an object, its cloud as it is stored."""

    @abstractmethod
    def rows(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The scores of a batch, (B, row_width) float64."""

    def owners(self, dataset: Dataset, opened: npt.NDArray[np.int64]) -> npt.NDArray[np.str_] | None:
        """Clouds are nobody's."""
        return None

    def facts(self, dataset: Dataset, items: Items, viewing: Viewing) -> dict[str, Any]:
        """What figures say of the items beyond their number."""
        return {}

    def counted(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which rows (n, row_width) of scored items enter the figures, (n,): those with a label."""
        return labelled(rows)

    def drawn(self, dataset: Dataset, index: int, viewing: Viewing, epoch: int) -> Item:
        """What an object brings to a step: a view of it, a function of (seed, epoch, key)."""
        augment = viewing.augment
        assert isinstance(augment, PointAugment)
        rng = rng_for(viewing.seed, epoch, dataset.keys[index], "finetune")
        item = chosen(self.item(dataset, index), self.per_point, viewing.points, rng if augment.draw == "random" else None)
        return {**item, "points": augment_points(item["points"], augment, rng)}

    def seen(self, dataset: Dataset, index: int, viewing: Viewing, votes: int) -> Views:
        """The item as it is scored: the first points, as they are, or augmented for each of its votes."""
        augment = viewing.augment
        assert isinstance(augment, PointAugment)
        for vote in range(votes) if votes else (None,):
            item = chosen(self.item(dataset, index), self.per_point, viewing.points, None)
            if vote is not None:
                rng = rng_for(viewing.seed, vote, dataset.keys[index], "vote")
                yield {**item, "points": augment_points(item["points"], augment, rng)}
            else:
                yield {**item, "points": normalise(item["points"])} if augment.normalise else item

    def kept(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """What is kept of a pass, (B, ...)."""
        return logits.float()

    def scored(self, kept: Kept, items: list[Item]) -> Tensor:
        """The rows of items, (B, row_width), by the mean of the logits of their passes; items: a pass of each."""
        logits = torch.stack([sum((one / len(passes) for one in passes[1:]), passes[0] / len(passes)) for passes in kept])
        return self.rows(logits, {name: values.to(logits.device) for name, values in collate(items).items()})

    def evidence(  # noqa: B027 - a task may have nothing to show
        self, run: Run, dataset: Dataset, test: npt.NDArray[np.int64], viewing: Viewing, folder: Path, device: torch.device
    ) -> None:
        """Leaves in `folder` what there is to look at; here nothing."""
