"""CrossPoint: two views of a point cloud and one picture of the same object meet in one space.

Source: Afham et al., "CrossPoint: Self-Supervised Cross-Modal Contrastive Learning for 3D Point Cloud Understanding", CVPR 2022
(arXiv 2203.00680), as its released code computes it.

    f1, f2 = encoder(augment(P)), encoder(augment(P))      one batch of 2B clouds, so that both views share batch statistics
    z1, z2 = point_head(f1), point_head(f2)                (B, 256)
    h      = image_head(image_encoder(augment(I)))         (B, 256), I one of the object's views, drawn anew at each step
    loss   = w_im · L(z1, z2) + w_cm · L((z1 + z2) / 2, h) L = NT-Xent over both sides (`training.losses`), weights 1 and 1

The prototype (z1 + z2) / 2 is the mean of the projections as they are; L normalises it. Unlike the released code the negatives come from
the whole batch of all workers, and batch norm is taken over it too.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.reader import Dataset
from training.augment import ImageAugment, PointAugment, augment_image, augment_points, rng_for
from training.batches import Sample
from training.distributed import gather
from training.encoders import ImageEncoderConfig, PointEncoderConfig, ResNetConfig
from training.encoders import build as build_encoder
from training.loop import Trained
from training.losses import nt_xent
from training.noise import fold, key_for
from training.ops.batchnorm import BatchNorm1d


class CrossPointConfig(BaseModel):
    """Defaults are the paper's (as released): temperature 0.1, both terms with weight 1, heads 2048 → 1024 → 256 and 2048 → 512 → 256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crosspoint"] = "crosspoint"
    temperature: float = Field(0.1, gt=0)
    intra_modal_weight: float = Field(1.0, ge=0)
    cross_modal_weight: float = Field(1.0, ge=0)
    projection: int = Field(256, gt=0)
    point_hidden: int = Field(1024, gt=0)
    image_hidden: int = Field(512, gt=0)
    image: ImageEncoderConfig = ResNetConfig()
    point_augment: PointAugment = PointAugment()
    image_augment: ImageAugment = ImageAugment()


def prepare(config: CrossPointConfig, dataset: Dataset, index: int, seed: int, epoch: int) -> Sample:
    """What one object brings to a step: view1 (N, 3), view2 (N, 3), image (3, S, S) float32; noise, an int64 scalar.

    Every draw (the view, both augmentations) comes from (seed, epoch, the object's key).
    """
    key = dataset.keys[index]
    views = [name for name in dataset.members(index) if name.startswith("v") and name.endswith(".png")]
    pick = views[int(rng_for(seed, epoch, key, "view").integers(len(views)))]
    sample = dataset.load(index, ("points.npy", pick))
    points = sample["points.npy"]
    return {
        "view1": augment_points(points, config.point_augment, rng_for(seed, epoch, key, "points1")),
        "view2": augment_points(points, config.point_augment, rng_for(seed, epoch, key, "points2")),
        "image": augment_image(sample[pick], config.image_augment, rng_for(seed, epoch, key, "image")),
        "noise": np.array(key_for(seed, epoch, key), np.int64),
    }


class CrossPoint(Trained):
    """Point encoder, image encoder, a head on each, and the loss of a batch."""

    def __init__(self, config: CrossPointConfig, encoder: PointEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(encoder)
        width = self.encoder.feature_dim
        self.point_head = nn.Sequential(
            nn.Linear(width, config.point_hidden),
            BatchNorm1d(config.point_hidden),
            nn.ReLU(),
            nn.Linear(config.point_hidden, config.projection),
        )
        self.image_encoder = build_encoder(config.image)
        self.image_head = nn.Sequential(
            nn.Linear(self.image_encoder.feature_dim, config.image_hidden, bias=False),
            BatchNorm1d(config.image_hidden),
            nn.ReLU(),
            nn.Linear(config.image_hidden, config.projection, bias=False),
        )

    @property
    def feature_head(self) -> nn.Module:
        """The encoder's features to the space of images, (B, projection), not normalised."""
        return self.point_head

    @property
    def image_branch(self) -> nn.Module:
        """Images (B, 3, S, S) to the common space, (B, projection), not normalised."""
        return nn.Sequential(self.image_encoder, self.image_head).train(self.training)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's part of the batch to the loss of the whole batch and its terms, detached.

        `embedding_std` is the collapse monitor: the mean over dimensions of the standard deviation of the normalised prototypes,
        times √D; 1 for directions spread evenly, 0 when all shapes fall on one point.
        """
        clouds = torch.cat([batch["view1"], batch["view2"]])
        keys = torch.cat([fold(batch["noise"], 0), fold(batch["noise"], 1)])
        z1, z2 = self.point_head(self.encoder(clouds, keys)).chunk(2)
        h = self.image_head(self.image_encoder(batch["image"], fold(batch["noise"], 2)))
        # Under autocast the projections are half precision; the loss is not.
        z1, z2, h = (gather(z.to(torch.promote_types(z.dtype, torch.float32))) for z in (z1, z2, h))
        prototype = (z1 + z2) / 2
        intra = nt_xent(z1, z2, self.config.temperature)
        cross = nt_xent(prototype, h, self.config.temperature)
        loss = self.config.intra_modal_weight * intra + self.config.cross_modal_weight * cross
        with torch.no_grad():
            spread = nn.functional.normalize(prototype, dim=1).std(0, unbiased=False).mean() * prototype.shape[1] ** 0.5
        return loss, {"loss_intra": intra.detach(), "loss_cross": cross.detach(), "embedding_std": spread}
