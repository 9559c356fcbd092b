"""Recognition of the action of a clip.

    f = encoder(window) (B, F);  logits = head(f) (B, K), the head as in `classification`
    loss = mean over the global batch of the cross-entropy of a window with the label of its clip, smoothed by `label_smoothing`
    score of a clip: argmax_k Σ_w softmax(logits_w)_k        w: `windows` of its windows, or all of them

Training sees one window of each clip an epoch, its start drawn uniformly; published codes go through every window of every clip in each
epoch (methods-C, C.4.3). The first figure, the accuracy over clips, chooses the epoch. A linear probe is hidden [] with a frozen encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from pipeline.reader import Dataset
from training.clip_views import ClipAugment
from training.loop import FitConfig
from training.tasks import clips
from training.tasks.classification import HeadConfig, OneClass, class_metrics
from training.tasks.layers import Metric, Width
from training.tasks.viewing import Item, Kept, Viewing, Views


class RecognitionConfig(HeadConfig):
    """The head and the windows that vote."""

    kind: Literal["recognition"] = "recognition"
    hidden: tuple[Width, ...] = Field(default=(256,), description="widths of the hidden layers of the head; none: it is linear")
    windows: int = Field(default=0, ge=0, description="of a clip that vote for its action, spread evenly over it; 0: one from every frame")

    def default_fit(self) -> FitConfig:
        """As for MSR-Action3D."""
        return clips.adapted_fit(batch=14, warmup=10)

    def default_augment(self) -> ClipAugment:
        """The frames of MSR-Action3D; the rotations are those of scenes."""
        return ClipAugment(frames=24, angle=0.05 * np.pi)


@dataclass(frozen=True)
class Recognition(OneClass[RecognitionConfig], clips.ClipTask):
    """The task with its classes.

    A row of a scored clip is (loss, weight, class, predicted class, shorter than a view, windows), weight 1.
    """

    protocol: ClassVar[str] = "recognition"

    @classmethod
    def of(cls, config: RecognitionConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Self:
        """Raises ValueError for samples that are no clips and for fewer than two classes."""
        clips.check(dataset, train)
        return super().of(config, dataset, train)

    @property
    def row_width(self) -> int:
        return 6

    def drawn(self, dataset: Dataset, index: int, viewing: Viewing, epoch: int) -> Item:
        """points (T, n, 3 + F) float32, label () int64: a window, a function of (seed, epoch, key)."""
        clip, _, _, _ = clips.drawn(dataset, index, viewing, epoch)
        return {"points": clip, "label": self.label(dataset, index)}

    def seen(self, dataset: Dataset, index: int, viewing: Viewing, votes: int) -> Views:
        """The windows that vote; short () bool: the clip has fewer frames than a view spans."""
        augment = clips.augment_of(viewing)
        stored = clips.read(dataset, index, augment)
        short = np.asarray(len(stored) < augment.span)
        for frames in clips.windows(len(stored), augment, self.config.windows):
            yield {"points": clips.plain(stored, frames, augment)[0], "label": self.label(dataset, index), "short": short}

    def kept(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of each window its probabilities, its class and whether its clip is short: (B, classes + 2) float64."""
        rest = torch.stack([batch["label"].double(), batch["short"].double()], dim=1)
        return torch.cat([logits.double().softmax(1), rest], dim=1)

    def scored(self, kept: Kept, items: list[Item]) -> Tensor:
        """The rows of clips, (B, row_width) float64, by the sums of their windows' probabilities."""
        rows = []
        for passes in kept:
            shares = torch.stack(list(passes))[:, :-2].mean(0)
            label, short = passes[0][-2], passes[0][-1]
            loss = -shares[int(label)].clamp(min=1e-30).log()
            rows.append(torch.stack([loss, torch.ones_like(loss), label, shares.argmax().double(), short, loss.new_tensor(len(passes))]))
        return torch.stack(rows)

    def metrics(self, rows: npt.NDArray[np.float64]) -> list[Metric]:
        """Accuracy and mean class accuracy of scored clips; chance: always the commonest class of the training clips."""
        more = {"windows_of_a_clip": float(rows[:, 5].mean()), "clips_shorter_than_a_view": int(rows[:, 4].sum())}
        return class_metrics(rows[:, 2].astype(int), rows[:, 3].astype(int), self.classes, self.commonest, more)
