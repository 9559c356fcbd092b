"""C2P, the distillation that CrossVideo is compared with: frames of a partial clip predict those of the complete one.

Source: Zhang et al., "Complete-to-Partial 4D Distillation for Self-Supervised Point Cloud Sequence Representation Learning", CVPR 2023, as
its released code computes it (methods-C, C.2.4).

    P, Q   the complete clip, and what an orbiting camera sees of it, both (B, T, N, 3 + F), with the same frames and the same movement
    s = y(Q), after the transformer over time;  t = x(P), before it        (B, L, C), one network, both take gradient
    NCE(a, b) = mean over clips of the mean over l of − log softmax_m(a_l·b_m / τ)_l    rows of length 1, m over the frames of the same clip
    L = w_d NCE(s, t) + w_f NCE(F(s_l), t_{l+1}) + w_b NCE(B(s_l), t_{l−1})        F, B: two MLPs

A frame that repeats another one, since the clip is too short or the frame has no valid point, is neither an l nor an m [ours].

The release uses the weights ½, ¼, ¼, for MSR-Action3D ½, ½, 0. `stop_gradient` keeps the teacher's side out of the gradient, as the
release does not. The camera is the release's (120 × 180 pixels, focal length 150, from 15° to 165° or back, and up to 5° up or down on the
way); its distance, at which the clip fills the picture's height, is ours, and so is `spread`: a point hides what is behind it in as many
pixels around its own, without which a thin cloud is all but transparent. `tolerance` must then let a slanting surface through; the release
has 0 and 0.001.

All frames are in equal places in both clips, and an encoder with a position term may answer by it alone: see `training.clip_views`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.reader import Dataset
from training.augment import rng_for
from training.batches import Sample
from training.clip_views import Clip, ClipAugment, choose_points, draw_frames, mirrored, move_clip, pivot_of, read_clip, take_points
from training.distributed import gather
from training.encoders import VideoEncoderConfig
from training.encoders import build as build_encoder
from training.loop import Trained
from training.noise import fold, key_for
from training.objectives.crossvideo import Head, by_frame, spare_unread
from training.partial import over


class OrbitCamera(BaseModel):
    """The virtual camera that makes a clip partial."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(120, ge=1, description="pixels")
    width: int = Field(180, ge=1)
    focal: float = Field(150.0, gt=0, description="pixels")
    start_deg: float = Field(15.0, description="horizontal angle at one end of the clip, 0 along x")
    stop_deg: float = 165.0
    lift_deg: float = Field(5.0, ge=0, lt=90, description="largest angle up or down, in the middle of the clip")
    tolerance: float = Field(0.08, ge=0, description="depth behind the nearest point that is still seen, in radii of the clip")
    spread: int = Field(2, ge=0, description="pixels around its own in which a point hides others")
    up: Literal["y", "z"] = "y"


_POINTS = ClipAugment(frames=150, count=2048, mode="shared", normalise="none", angle=0.05 * math.pi)


class C2PConfig(BaseModel):
    """The defaults are the release's for the actions of HOI4D."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["c2p"] = "c2p"
    temperature: float = Field(0.07, gt=0)
    distill: float = Field(0.5, ge=0, description="w_d")
    forward: float = Field(0.25, ge=0, description="w_f")
    backward: float = Field(0.25, ge=0, description="w_b")
    hidden: int = Field(4096, gt=0, description="of the predictors")
    stop_gradient: bool = Field(False, description="no gradient through the complete clip's features")
    camera: OrbitCamera = OrbitCamera()
    point_augment: ClipAugment = _POINTS

    @field_validator("point_augment", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_POINTS, value)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.distill + self.forward + self.backward:
            raise ValueError("distill, forward and backward are all 0: nothing would be trained")
        if self.point_augment.mode != "shared":
            raise ValueError(f"c2p shows both clips the same frames: point_augment.mode must be shared, not {self.point_augment.mode}")
        if self.point_augment.frames < 2:
            raise ValueError("c2p tells frames of a clip apart: point_augment.frames must be at least 2")
        return self


def visible(clip: Clip, camera: OrbitCamera, rng: Generator) -> NDArray[np.bool_]:
    """Which points of a clip (T, N, 3 or more) an orbiting camera sees, (T, N).

    The camera looks at the middle of the clip's box. Direction and vertical movement (none, up or down, and back) are drawn.
    """
    frames, points = clip.shape[:2]
    flat = clip[:, :, :3].reshape(-1, 3).astype(np.float64)
    if camera.up == "z":
        flat = flat[:, [1, 2, 0]]
    centred = flat - (flat.max(axis=0) + flat.min(axis=0)) / 2
    radius = max(math.sqrt(float(np.einsum("ni,ni->n", centred, centred).max())), 1e-12)
    place = np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])
    turn = np.radians(camera.start_deg + (camera.stop_deg - camera.start_deg) * (place if rng.random() < 0.5 else 1 - place))
    lift = np.radians(camera.lift_deg) * (1 - np.abs(2 * place - 1)) * (int(rng.integers(3)) - 1)
    back = np.stack([np.cos(lift) * np.cos(turn), np.sin(lift), np.cos(lift) * np.sin(turn)], 1)  # from the centre to the camera
    right = np.stack([np.sin(turn), np.zeros(frames), -np.cos(turn)], 1)
    above = np.cross(back, right)
    distance = radius / math.sin(math.atan(camera.height / 2 / camera.focal))
    x, y, depth = (np.einsum("tni,ti->tn", centred.reshape(frames, points, 3), axis) for axis in (right, above, -back))
    depth = depth + distance
    column = np.floor(camera.focal * x / depth + camera.width / 2).astype(np.int64)
    row = np.floor(camera.height / 2 - camera.focal * y / depth).astype(np.int64)
    row, column = np.clip(row, 0, camera.height - 1), np.clip(column, 0, camera.width - 1)
    nearest = np.full((frames, camera.height, camera.width), np.inf)
    time = np.arange(frames)[:, None]
    for up in range(-camera.spread, camera.spread + 1):
        for aside in range(-camera.spread, camera.spread + 1):
            there = np.clip(row + up, 0, camera.height - 1), np.clip(column + aside, 0, camera.width - 1)
            np.minimum.at(nearest, (time, *there), depth)
    seen: NDArray[np.bool_] = depth <= nearest[time, row, column] + camera.tolerance * radius
    return seen


def prepare(config: C2PConfig, dataset: Dataset, index: int, seed: int, epoch: int, still: bool = False) -> Sample:
    """What one clip brings: complete, partial (T, n, 3 + F) float32; standing (T,) bool, the frames that do not repeat another one; short,
    float32, 1 for a clip that had to be filled up; seen, float32, the share of the points that the camera saw; noise, an int64 scalar.
    `still` shows the first frame in the place of all others.

    Every draw comes from (seed, epoch, the object's key).
    """
    key, augment = dataset.keys[index], config.point_augment
    clip, valid = read_clip(dataset, index, augment)
    drawn = draw_frames(len(clip), augment, rng_for(seed, epoch, key, "frames"))
    standing = drawn.partners[0] >= 0
    if valid is not None:
        standing &= np.any(valid, axis=1)[drawn.frames[0]]
    frames = np.zeros_like(drawn.frames[0]) if still else drawn.frames[0]
    pivot = pivot_of(dataset, index, augment)
    clip = mirrored(clip, augment, seed, epoch, key, pivot)
    clip, known = clip[frames], np.ones(clip[frames].shape[:2], np.bool_) if valid is None else valid[frames]
    seen = visible(clip, config.camera, rng_for(seed, epoch, key, "camera")) & known
    moved = move_clip(clip, augment, rng_for(seed, epoch, key, "move"), pivot)
    found: Sample = {
        "standing": standing,
        "short": np.array(drawn.short, np.float32),
        "seen": np.array(seen.sum() / max(known.sum(), 1), np.float32),
        "noise": np.array(key_for(seed, epoch, key), np.int64),
    }
    for name, of in (("complete", known), ("partial", seen)):
        count = augment.count or clip.shape[1]
        found[name] = take_points(moved, choose_points(clip.shape[:2], count, rng_for(seed, epoch, key, name), of))
    return found


class C2P(Trained):
    """The encoder, the two predictors and the loss of a batch."""

    feature_head: None = None
    image_branch: None = None

    def __init__(self, config: C2PConfig, encoder: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(encoder)
        spare_unread(self.encoder)
        width = self.encoder.frame_dim
        self.next_head = Head(width, config.hidden, width) if config.forward else None
        self.previous_head = Head(width, config.hidden, width) if config.backward else None

    def prepare_still(self, dataset: Dataset, index: int, seed: int) -> Sample:
        """What a clip would bring if all its frames were its first, in epoch 0."""
        return prepare(self.config, dataset, index, seed, 0, still=True)

    def frame_pair(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Frame features of the partial and of the complete clips, (B, L, C), and their partners (B, 2, L), −1 where none stands."""
        student = self.encoder.frame_features(batch["partial"], fold(batch["noise"], 0))
        teacher = self.encoder.frame_features(batch["complete"], fold(batch["noise"], 1), "pre")
        standing = batch["standing"][:, self.encoder.frame_index(batch["partial"].shape[1]).to(student.device)]
        places = torch.arange(student.shape[1], device=student.device)
        return student, teacher, torch.where(standing, places, -1)[:, None].expand(-1, 2, -1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's part of the batch to the loss of the whole batch, and its terms and monitors, detached.

        Monitors: embedding_std and frame_std, as CrossVideo's, of the partial clips' features; short; seen, the share of points.
        """
        config = self.config
        student, teacher, partners = self.frame_pair(batch)
        standing = partners[:, 0] >= 0
        if config.stop_gradient:
            teacher = teacher.detach()
        losses: dict[str, tuple[float, Tensor]] = {}
        if config.distill:
            losses["distill"] = config.distill, self._contrast(student, teacher, standing, standing)
        if self.next_head is not None:
            ahead = by_frame(self.next_head, student[:, :-1])
            losses["forward"] = config.forward, self._contrast(ahead, teacher[:, 1:], standing[:, :-1], standing[:, 1:])
        if self.previous_head is not None:
            back = by_frame(self.previous_head, student[:, 1:])
            losses["backward"] = config.backward, self._contrast(back, teacher[:, :-1], standing[:, 1:], standing[:, :-1])
        loss = torch.stack([weight * value for weight, value in losses.values()]).sum()
        with torch.no_grad():
            rows = functional.normalize(gather(student.detach().float()), dim=2)
            terms = {f"loss_{name}": value.detach() for name, (_, value) in losses.items()}
            terms["embedding_std"] = functional.normalize(rows.amax(1), dim=1).std(0, unbiased=False).mean() * rows.shape[2] ** 0.5
            terms["frame_std"] = rows.std(1, unbiased=False).mean() * rows.shape[2] ** 0.5
            terms["short"], terms["seen"] = gather(batch["short"]).mean(), gather(batch["seen"]).mean()
        return loss, terms

    def _contrast(self, queries: Tensor, keys: Tensor, asking: Tensor, answering: Tensor) -> Tensor:
        """Mean over the clips of the global batch of the mean cross entropy of their queries (b, L, C) among their keys (b, L, C); asking,
        answering (b, L) bool: which of them stand. A clip without a standing pair is left out; 0 where all are."""
        wide = torch.promote_types(queries.dtype, torch.float32)
        with torch.autocast(queries.device.type, enabled=False):
            a, b = (functional.normalize(z.to(wide), dim=2) for z in (queries, keys))
            places = torch.arange(a.shape[1], device=a.device)
            negative = answering[:, None] | (places[:, None] == places)  # with its own key a row stays finite where it does not count
            scores = (a @ b.transpose(1, 2) / self.config.temperature).masked_fill(~negative, -torch.inf)
            rows = functional.cross_entropy(scores.transpose(1, 2), places.expand(len(scores), -1), reduction="none")
        asked = asking & answering
        means = rows.masked_fill(~asked, 0).sum(1) / asked.sum(1).clamp(min=1)
        return gather(means).sum() / gather(asked.any(1).to(means.dtype)).sum().clamp(min=1)
