"""The objectives that an encoder can be pretrained with. A new one: a file here and its case in each of the three functions.

An objective is a `training.loop.Trained` with the point encoder as `encoder`, and `feature_head` and `image_branch` for retrieval, which
are None where it has none. Objectives of clips also have `frame_pair`, what the monitor of the index shortcut looks at.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from pipeline.reader import Dataset
from training import encoder_file
from training.batches import Sample
from training.encoders import (
    P4TransformerConfig,
    P4UNetConfig,
    PointEncoderConfig,
    PointTransformerConfig,
    PPTrConfig,
    check_clip,
    is_video,
    output_frames,
    temporal_stride,
)
from training.files import FileError
from training.objectives import c2p, crossbert, crosspoint, crossvideo
from training.objectives.c2p import C2P, C2PConfig
from training.objectives.crossbert import CrossBert, CrossBertConfig
from training.objectives.crosspoint import CrossPoint, CrossPointConfig
from training.objectives.crossvideo import CrossVideo, CrossVideoConfig
from training.tokenizer.train import load_tokenizer

ObjectiveConfig = Annotated[CrossPointConfig | CrossBertConfig | CrossVideoConfig | C2PConfig, Field(discriminator="kind")]
Objective = CrossPoint | CrossBert | CrossVideo | C2P

_CALIBRATED = 1024
_LOGITS = 1 << 25
_AT_ONCE = 64
"""clouds from which the target's temperature is found, the most logits, clouds that are tokenized together"""

__all__ = [
    "C2P",
    "C2PConfig",
    "CrossBert",
    "CrossBertConfig",
    "CrossPoint",
    "CrossPointConfig",
    "CrossVideo",
    "CrossVideoConfig",
    "Objective",
    "ObjectiveConfig",
    "begin",
    "build",
    "check_encoder",
    "prepare",
]


def check_encoder(config: CrossPointConfig | CrossBertConfig | CrossVideoConfig | C2PConfig, encoder: PointEncoderConfig) -> None:
    """Does the encoder fit the objective? ValueError, in one sentence."""
    match config:
        case CrossVideoConfig() | C2PConfig():
            if not is_video(encoder):
                raise ValueError(
                    f"encoder.kind: {config.kind} needs an encoder of point-cloud videos (p4transformer, …), not a {encoder.kind}"
                )
            columns = len(config.point_augment.features)
            if getattr(encoder, "features", 0) != columns:
                raise ValueError(
                    f"encoder.features is {getattr(encoder, 'features', 0)} and objective.point_augment.features names {columns}: "
                    "give the encoder as many"
                )
            check_clip(encoder, config.point_augment.frames, config.point_augment.count)
            if isinstance(config, C2PConfig) and output_frames(encoder, config.point_augment.frames) < 2:
                raise ValueError(
                    f"c2p tells frames of a clip apart, and the encoder makes one of {config.point_augment.frames}: "
                    "raise point_augment.frames or lower encoder.temporal_stride"
                )
        case _:
            if is_video(encoder):
                raise ValueError(f"encoder.kind: {config.kind} looks at single clouds, and a {encoder.kind} takes videos: use crossvideo")
            if isinstance(config, CrossBertConfig) and not isinstance(encoder, PointTransformerConfig):
                raise ValueError(f"encoder.kind: crossbert hides patches and needs a point_transformer, not a {encoder.kind}")


def check_members(config: CrossPointConfig | CrossBertConfig | CrossVideoConfig | C2PConfig, dataset: Dataset, split: str) -> None:
    """Have the split's samples what the objective looks at? Reads the manifest alone. ValueError for the first without."""
    match config:
        case CrossVideoConfig() | C2PConfig():
            needed = ["clip.npy"]
            needed += ["f000.png"] if isinstance(config, CrossVideoConfig) and config.uses_images else []
            needed += ["features.npy"] if config.point_augment.features else []
        case _:
            needed = ["points.npy", "v00.png"]
    advice = {
        "clip.npy": "name a dataset of clips",
        "f000.png": "set weights.cross_video and weights.cross_frame to 0, or name a dataset whose clips have frames of images",
        "features.npy": "leave point_augment.features and encoder.features out",
        "points.npy": "name a dataset of single clouds, or train crossvideo",
        "v00.png": "name a dataset with views",
    }
    for index in dataset.indices(split).tolist():
        has = dataset.members(index)
        member = next((name for name in needed if name not in has), None)
        if member is not None:
            raise ValueError(
                f"{config.kind} needs {member}, which the sample {dataset.keys[index]} of {dataset.uri} does not have: {advice[member]}."
            )


def build(config: CrossPointConfig | CrossBertConfig | CrossVideoConfig | C2PConfig, encoder: PointEncoderConfig) -> Objective:
    """The module that computes an objective's loss, with fresh weights from torch's global generator. ValueError: encoder does not fit."""
    check_encoder(config, encoder)
    match config:
        case CrossPointConfig():
            return CrossPoint(config, encoder)
        case CrossBertConfig():
            assert isinstance(encoder, PointTransformerConfig)
            return CrossBert(config, encoder)
        case CrossVideoConfig():
            assert isinstance(encoder, P4TransformerConfig | PPTrConfig | P4UNetConfig)
            return CrossVideo(config, encoder)
        case C2PConfig():
            assert isinstance(encoder, P4TransformerConfig | PPTrConfig | P4UNetConfig)
            return C2P(config, encoder)


def prepare(
    config: CrossPointConfig | CrossBertConfig | CrossVideoConfig | C2PConfig,
    encoder: PointEncoderConfig,
    dataset: Dataset,
    seed: int,
    index: int,
    epoch: int,
) -> Sample:
    """What the object `index` brings to a step of an epoch in which an objective trains this encoder."""
    match config:
        case CrossPointConfig():
            return crosspoint.prepare(config, dataset, index, seed, epoch)
        case CrossBertConfig():
            return crossbert.prepare(config, dataset, index, seed, epoch)
        case CrossVideoConfig():
            return crossvideo.prepare(config, dataset, index, seed, epoch, temporal_stride(encoder))
        case C2PConfig():
            return c2p.prepare(config, dataset, index, seed, epoch)


def begin(module: Objective, dataset: Dataset, split: str, seed: int, given: Path | None) -> dict[str, str]:
    """Brings in what the objective builds on: images' weights from their file, the tokenizer's from its folder, its targets' temperature.

    Returns what that adds to the training's identity. Raises FileError; ValueError where a tokenizer is needed and none is given, or one
    of another configuration, and where clips lack what the objective looks at.
    """
    check_members(module.config, dataset, split)
    if not isinstance(module, CrossBert):
        return {}
    config = module.config
    found = {} if config.image_weights is None else {"image_weights": _start_images(module, config.image_weights)}
    if not config.uses_tokenizer:
        return found
    if given is None:
        raise ValueError("crossbert predicts a tokenizer's codes and no tokenizer is given: name its folder")
    tokenizer = load_tokenizer(given)
    if tokenizer.config != config.tokenizer.model:
        raise ValueError(f"the tokenizer in {given} has other sizes than objective.tokenizer.model: name another folder")
    assert module.tokenizer is not None
    module.tokenizer.load_state_dict(tokenizer.state_dict())
    if config.modelling.temperature is None:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(dataset.indices(split))[:_CALIBRATED].tolist()
        rows: list[Tensor] = []
        # every k-th patch is enough, and bounds the memory
        step = max(1, len(order) * config.tokenizer.model.groups * config.tokenizer.model.vocabulary // _LOGITS)
        with torch.no_grad():
            for start in range(0, len(order), _AT_ONCE):
                clouds = [crossbert.view_of_points(config, dataset, index, seed, 0, "a") for index in order[start : start + _AT_ONCE]]
                logits = tokenizer.logits(module.encoder.patch(torch.from_numpy(np.stack(clouds)))).flatten(0, 1)
                rows.append(logits[-start * config.tokenizer.model.groups % step :: step].clone())
        module.temperature.fill_(crossbert.calibrate(torch.cat(rows), config.modelling.perplexity))
    return found | {"tokenizer": encoder_file.fingerprint(tokenizer, tokenizer.config)}


def _start_images(module: CrossBert, path: Path) -> str:
    """Reads the image encoder's weights and returns the file's sha256."""
    try:
        content = path.read_bytes()
        module.start_images(safetensors.torch.load(content))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileError(f"{path} holds no weights of the image encoder that objective.image describes: name another file.") from error
    return hashlib.sha256(content).hexdigest()
