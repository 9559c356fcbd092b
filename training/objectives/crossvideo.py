"""CrossVideo as reconstructed here: point-cloud videos contrast with each other and with image videos, as wholes and frame by frame.

Source: Liu et al., "CrossVideo: Self-supervised Cross-modal Contrastive Learning for Point Cloud Video Understanding" (ICRA 2024), of which
the abstract and outlines are known and no code is public. That there are two levels (video, frame), two modalities, two augmented point
views, geometric and temporal augmentation and MLP heads is reported of it. Marked [inferred] is what follows from published relatives
(CrossPoint, C2P, P4Transformer), [ours] what does not; no result of this module is that paper's.

    P1, P2   two views of a clip (B, T, N, 3 + F), I  a view of its image video (B, T, 3, S, S); each shows its own source frames
             (`training.clip_views`)
    y        frame features (B, L, C) of the point or image encoder, max over frames of y its video feature [inferred]
    zV = H_V(max y) (B, D),  zF = H_F(y) (B, L, D)     four MLP heads: point and image, video and frame [sizes ours]

    intra video   L_PV = NT(zPV1, zPV2)
    intra frame   L_PF = NT over all pairs of corresponding frames of P1 and P2
    cross video   L_XV = NT((zPV1 + zPV2) / 2, zIV)
    cross frame   L_XF = ½ [NT(zPF1, zIF) + NT(zPF2, zIF)], each over its own pairs of corresponding frames
    L = λ1 L_PV + λ2 L_PF + λ3 L_XV + λ4 L_XF          NT: `training.losses.nt_pairs`, rows normalised first [inferred: CrossPoint's form]

The two views' embeddings are averaged unnormalised in L_XV, as CrossPoint's release averages its own; only the mean is normalised.

A frame whose source frame the other stream does not show is no anchor and no negative. With a temporal stride, output l of the point
encoder stands for frame `frame_index[l]` of its view; image features are thinned alike, and views of a clip start whole strides apart,
without which about half of the clips would have no pair of frames. Without weight on the cross-modal losses no image
branch is built, so clips without images can be trained on.

Losses, negatives and batch statistics are those of the global batch of all workers. Frame features carry their position: see
`training.clip_views` for what that would give away where two streams show frames in equal places, and `shortcut` for its measure.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.reader import Dataset
from training.augment import FramesAugment, augment_frames, rng_for
from training.batches import Sample
from training.clip_views import ClipAugment, augment_clip, draw_frames, frame_names, load_frames, mirrored, mirrors, pivot_of, read_clip
from training.distributed import gather
from training.encoders import ImageVideo, ImageVideoConfig, P4UNet, VideoEncoder, VideoEncoderConfig, temporal_stride
from training.encoders import build as build_encoder
from training.loop import Trained
from training.losses import nt_pairs
from training.noise import fold, key_for
from training.ops.batchnorm import BatchNorm1d
from training.partial import over

Level = Literal["video", "frame"]


class Weights(BaseModel):
    """λ1 to λ4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intra_video: float = Field(1.0, ge=0)
    intra_frame: float = Field(1.0, ge=0)
    cross_video: float = Field(1.0, ge=0)
    cross_frame: float = Field(1.0, ge=0)


_POINTS = ClipAugment(frames=100, count=2048, normalise="none", angle=0.05 * math.pi)


class CrossVideoConfig(BaseModel):
    """The defaults are for HOI4D's size in metres: 100 frames of 2,048 points. Temperature from C2P, weights inferred, the rest ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crossvideo"] = "crossvideo"
    weights: Weights = Weights()
    temperature: float = Field(0.07, gt=0)
    form: Literal["nt", "clip"] = Field("nt", description="clip: a row's negatives come from the other side alone")
    frame_negatives: Literal["batch", "video", "other_videos"] = Field(
        "batch",
        description="all frames of the batch; those of the same clip, clips weighing alike, as C2P has it; those of other clips",
    )
    exclude_window: int = Field(0, ge=0, description="frames of a clip at most so many source frames apart are no negatives of each other")
    positive_window: int = Field(0, ge=0, description="frames of the other stream at most so many source frames apart are positives too")
    cross_points: Literal["mean", "view1"] = Field("mean", description="the point side of the cross video loss")
    frame_feature: Literal["pre", "post"] = Field("post", description="frame features from before or after the transformer over time")
    hidden: int | None = Field(None, gt=0, description="H of the heads; the width of their features if not given")
    projection: int = Field(256, gt=0, description="D")
    image: ImageVideoConfig = ImageVideoConfig()
    point_augment: ClipAugment = _POINTS
    image_augment: FramesAugment = FramesAugment()

    @field_validator("point_augment", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_POINTS, value)

    @model_validator(mode="after")
    def _possible(self) -> CrossVideoConfig:
        weights = self.weights
        if not any(weights.model_dump().values()):
            raise ValueError("weights are all 0: nothing would be trained")
        if self.frame_feature == "pre" and not (weights.intra_video or weights.cross_video):
            raise ValueError("frame_feature is pre and no video loss has a weight: nothing would train the transformer over time")
        return self

    @property
    def uses_images(self) -> bool:
        return bool(self.weights.cross_video or self.weights.cross_frame)


def prepare(config: CrossVideoConfig, dataset: Dataset, index: int, seed: int, epoch: int, stride: int, still: bool = False) -> Sample:
    """What one clip brings: what `prepare_points` says and, where they are used, images (T, 3, S, S) float32.

    Every draw comes from (seed, epoch, the object's key). stride: the encoder's over time. `still` shows the clip's first frame in the
    place of all others.
    """
    found = prepare_points(config, dataset, index, seed, epoch, stride, still)
    if config.uses_images:
        key, frames = dataset.keys[index], found["frames"][2]
        images = load_frames(dataset, index, np.zeros_like(frames) if still else frames)
        if mirrors(config.point_augment, seed, epoch, key):
            images = [image[:, ::-1] for image in images]
        found["images"] = augment_frames(images, config.image_augment, rng_for(seed, epoch, key, "images"))
    return found


def prepare_points(
    config: CrossVideoConfig, dataset: Dataset, index: int, seed: int, epoch: int, stride: int, still: bool = False
) -> Sample:
    """points1, points2 (T, n, 3 + F) float32; frames and partners (3, T) int64 as `clip_views.Drawn` has them, a frame without a valid
    point a filling too; short, float32, 1 for a clip that had to be filled up; noise, an int64 scalar. Arguments as of `prepare`."""
    key, augment = dataset.keys[index], config.point_augment
    clip, valid = read_clip(dataset, index, augment)
    length = len(clip)
    if config.uses_images and len(frame_names(dataset, index)) != length:
        raise ValueError(f"The sample {key} of {dataset.uri} has {length} frames of points and another number of images: make it again.")
    drawn = draw_frames(length, augment, rng_for(seed, epoch, key, "frames"), stride)
    # A stored frame without a point of its own repeats another one: as a negative it would be told from itself.
    standing = np.ones(length, bool) if valid is None else np.any(valid, axis=1)
    found: Sample = {
        "frames": drawn.frames,
        "partners": np.where(standing[drawn.frames], drawn.partners, -1),
        "short": np.array(drawn.short, np.float32),
        "noise": np.array(key_for(seed, epoch, key), np.int64),
    }
    pivot = pivot_of(dataset, index, augment)
    clip = mirrored(clip, augment, seed, epoch, key, pivot)
    shown = np.zeros_like(drawn.frames) if still else drawn.frames
    for number, name in enumerate(("points1", "points2")):
        frames = shown[number]
        known = None if valid is None else valid[frames]
        found[name] = augment_clip(clip[frames], augment, rng_for(seed, epoch, key, name), known, pivot)
    return found


class Head(nn.Sequential):
    """Features (R, width) to embeddings (R, out); batch statistics over all rows of all workers.

    In single precision at least, under autocast too: beside the time of a late frame, bf16 has no room for what was seen.
    """

    def __init__(self, width: int, hidden: int | None, out: int) -> None:
        middle = hidden or width
        super().__init__(nn.Linear(width, middle), BatchNorm1d(middle), nn.ReLU(), nn.Linear(middle, out))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            embeddings = features.to(torch.promote_types(features.dtype, torch.float32))
            for layer in self:
                embeddings = layer(embeddings)
        return embeddings


def spare_unread(encoder: VideoEncoder) -> None:
    """Takes what features of videos and frames do not pass through out of the training: the way back to the points of a P4UNet."""
    if isinstance(encoder, P4UNet):
        encoder.ups.requires_grad_(False)


def by_frame(network: nn.Module, frames: Tensor) -> Tensor:
    """A head on frames: (B, L, C) to (B, L, D)."""
    out: Tensor = network(frames.flatten(0, 1))
    return out.view(*frames.shape[:2], -1)


class CrossVideo(Trained):
    """Both encoders, a head for each and each level, and the loss of a batch."""

    def __init__(self, config: CrossVideoConfig, encoder: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        weights = config.weights
        self.encoder = build_encoder(encoder)
        spare_unread(self.encoder)
        self.point_video_head = Head(self.encoder.feature_dim, config.hidden, config.projection)
        self.point_frame_head = Head(self.encoder.frame_dim, config.hidden, config.projection)
        self.image_encoder: ImageVideo | None = None
        if config.uses_images:
            self.image_encoder = build_encoder(config.image)
            self.image_video_head = Head(self.image_encoder.feature_dim, config.hidden, config.projection)
            self.image_frame_head = Head(self.image_encoder.frame_dim, config.hidden, config.projection)
        # What no loss reads stays as it started; workers wait for the gradients of all others.
        read = {
            "point_video_head": weights.intra_video + weights.cross_video,
            "point_frame_head": weights.intra_frame + weights.cross_frame,
            "image_video_head": weights.cross_video,
            "image_frame_head": weights.cross_frame,
        }
        for name, weight in read.items():
            if not weight and hasattr(self, name):
                self.get_submodule(name).requires_grad_(False)
        if self.image_encoder is not None and config.frame_feature == "pre" and not weights.cross_video:
            self.image_encoder.transformer.requires_grad_(False)

    @property
    def feature_head(self) -> nn.Module:
        """The encoder's video features to the space of image videos, (B, projection), not normalised."""
        return self.point_video_head

    @property
    def image_branch(self) -> nn.Module | None:
        """Image videos (B, T, 3, S, S) to the common space, (B, projection), not normalised; None where none was trained."""
        return None if self.image_encoder is None else nn.Sequential(self.image_encoder, self.image_video_head).train(self.training)

    def prepare_still(self, dataset: Dataset, index: int, seed: int) -> Sample:
        """What `frame_pair` needs of a clip as it would be if all its frames were its first, in epoch 0."""
        return prepare_points(self.config, dataset, index, seed, 0, temporal_stride(self.encoder.config), still=True)

    def frame_pair(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Frame embeddings of the two point views, (B, L, projection), and their partners (B, 2, L)."""
        z1, z2 = (self.point_frames(batch[name], fold(batch["noise"], stream)) for stream, name in enumerate(("points1", "points2")))
        thin = self.encoder.frame_index(batch["points1"].shape[1]).to(z1.device)
        return z1, z2, batch["partners"][:, :2, thin]

    def frame_streams(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Frame embeddings of each stream, "points1", "points2" and, where trained, "images", (B, L, projection); partners (B, 3, L)."""
        z1, z2, _ = self.frame_pair(batch)
        thin = self.encoder.frame_index(batch["points1"].shape[1]).to(z1.device)
        found = {"points1": z1, "points2": z2}
        if self.image_encoder is not None:
            found["images"] = self.image_frames(batch["images"], fold(batch["noise"], 2))[:, thin]
        return found, batch["partners"][:, :, thin]

    def point_frames(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Embeddings of the output frames of clips (B, T, N, 3 + F): (B, L, projection), not normalised."""
        return by_frame(self.point_frame_head, self.encoder.frame_features(points, keys, self.config.frame_feature))

    def image_frames(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Embeddings of the frames of image videos (B, T, 3, S, S): (B, T, projection), not normalised."""
        assert self.image_encoder is not None
        return by_frame(self.image_frame_head, self.image_encoder.frame_features(images, keys, self.config.frame_feature))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's part of the batch to the loss of the whole batch, and its terms and monitors, detached.

        Monitors: embedding_std and frame_std, the mean deviation of normalised embeddings of clips and of frames inside a clip, times √D,
        0 where all fall on one point; image_std; frame_pairs, corresponding frames of the point views a clip; short, the share of clips
        that had to be filled up.
        """
        config, weights = self.config, self.config.weights
        noise = batch["noise"]
        thin = self.encoder.frame_index(batch["points1"].shape[1]).to(noise.device)
        partners, times = gather(batch["partners"])[:, :, thin], gather(batch["frames"])[:, :, thin]
        # one batch of both views, so that they share batch statistics
        clips = torch.cat([batch["points1"], batch["points2"]])
        videos, frames = _features(self.encoder, clips, torch.cat([fold(noise, 0), fold(noise, 1)]), config.frame_feature)
        zv1, zv2 = (gather(z) for z in self.point_video_head(videos).chunk(2))
        zf1, zf2 = (gather(z) for z in by_frame(self.point_frame_head, frames).chunk(2))
        losses: dict[str, Tensor] = {}
        if weights.intra_video:
            losses["intra_video"] = nt_pairs(zv1, zv2, config.temperature, form=config.form)
        if weights.intra_frame:
            losses["intra_frame"] = self._frames(zf1, zf2, partners[:, :2], times[:, :2])
        if self.image_encoder is not None:
            videos, frames = _features(self.image_encoder, batch["images"], fold(noise, 2), config.frame_feature)
            zvi = gather(self.image_video_head(videos))
            zfi = gather(by_frame(self.image_frame_head, frames[:, thin]))
            if weights.cross_video:
                points = (zv1 + zv2) / 2 if config.cross_points == "mean" else zv1
                losses["cross_video"] = nt_pairs(points, zvi, config.temperature, form=config.form)
            if weights.cross_frame:
                pairs = ([0, 2], zf1), ([1, 2], zf2)
                both = [self._frames(z, zfi, partners[:, streams], times[:, streams]) for streams, z in pairs]
                losses["cross_frame"] = torch.stack(both).mean()
        loss = torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()
        with torch.no_grad():
            terms = {f"loss_{name}": value.detach() for name, value in losses.items()}
            terms["embedding_std"] = spread(zv1 + zv2)
            terms["frame_std"] = functional.normalize(zf1, dim=2).std(1, unbiased=False).mean() * zf1.shape[2] ** 0.5
            if self.image_encoder is not None:
                terms["image_std"] = spread(zvi)
            terms["frame_pairs"] = matches(partners[:, :2]).sum() / len(partners)
            terms["short"] = gather(batch["short"]).mean()
        return loss, terms

    def _frames(self, a: Tensor, b: Tensor, partners: Tensor, times: Tensor) -> Tensor:
        """The contrast of corresponding frames of two streams: embeddings (B, L, D), partners and times (B, 2, L)."""
        clip, first, second = matches(partners).nonzero(as_tuple=True)
        moments = torch.cat([times[clip, 0, first], times[clip, 1, second]])
        return contrast_frames(a[clip, first], b[clip, second], clip, moments, self.config)


def contrast_frames(a: Tensor, b: Tensor, clip: Tensor, moments: Tensor, config: CrossVideoConfig) -> Tensor:
    """NT of the frame pairs (a[m], b[m]), (M, D), of the clips `clip` (M,), at the source frames `moments` (2M,), those of a first."""
    if config.frame_negatives == "batch" and not (config.exclude_window or config.positive_window):
        return nt_pairs(a, b, config.temperature, form=config.form)  # a mask would be as large as the scores, and differences larger
    same = (clip[:, None] == clip).repeat(2, 2)
    excluded: Tensor | None = None
    weights: Tensor | None = None
    if config.frame_negatives == "video":
        excluded = ~same
        counts = clip.bincount()
        weights = 1 / (counts[clip] * (counts > 0).sum()).to(torch.promote_types(a.dtype, torch.float32))
    elif config.frame_negatives == "other_videos":
        excluded = same
    if config.exclude_window:
        apart = _apart(moments)
        near = same & (apart > 0) & (apart <= config.exclude_window)
        excluded = near if excluded is None else excluded | near
    positives: Tensor | None = None
    if config.positive_window:
        side = torch.arange(len(moments), device=a.device) < len(a)
        positives = same & (_apart(moments) <= config.positive_window) & (side[:, None] != side)
        excluded = None if excluded is None else excluded & ~positives
    return nt_pairs(a, b, config.temperature, form=config.form, excluded=excluded, positives=positives, weights=weights)


def _apart(moments: Tensor) -> Tensor:
    """Source frames between any two of (R,), (R, R)."""
    return (moments[:, None] - moments).abs()


def matches(partners: Tensor) -> Tensor:
    """Which frames of two streams correspond: partners (B, 2, L) to (B, L, L) bool."""
    first, second = partners[:, 0, :, None], partners[:, 1, None, :]
    return (first == second) & (first >= 0)


def spread(z: Tensor) -> Tensor:
    """Mean over dimensions of the deviation of normalised rows (R, D), times √D: 1 for directions spread evenly, 0 for one."""
    unit: Tensor = functional.normalize(z, dim=1)
    return unit.std(0, unbiased=False).mean() * math.sqrt(z.shape[1])


def _features(encoder: VideoEncoder | ImageVideo, videos: Tensor, keys: Tensor, stage: Literal["pre", "post"]) -> tuple[Tensor, Tensor]:
    """Features of videos (B, C) and of their frames (B, L, C) at a stage."""
    if stage == "post":
        frames = last = encoder.frame_features(videos, keys)
    else:
        frames, last = encoder.frame_stages(videos, keys)
    return last.amax(1), frames
