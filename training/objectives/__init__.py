"""The objectives that an encoder can be pretrained with. A new one: a file here and its case in each of the three functions.

An objective is a `training.loop.Trained` with the point encoder as `encoder`, and `feature_head` and `image_branch` for retrieval.
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
from training.encoders import PointEncoderConfig, PointTransformerConfig
from training.files import FileError
from training.objectives import crossbert, crosspoint
from training.objectives.crossbert import CrossBert, CrossBertConfig
from training.objectives.crosspoint import CrossPoint, CrossPointConfig
from training.tokenizer.train import load_tokenizer

ObjectiveConfig = Annotated[CrossPointConfig | CrossBertConfig, Field(discriminator="kind")]
Objective = CrossPoint | CrossBert

_CALIBRATED = 1024
_LOGITS = 1 << 25
_AT_ONCE = 64
"""clouds from which the target's temperature is found, the most logits, clouds that are tokenized together"""

__all__ = ["CrossBert", "CrossBertConfig", "CrossPoint", "CrossPointConfig", "Objective", "ObjectiveConfig", "begin", "build", "prepare"]


def build(config: CrossPointConfig | CrossBertConfig, encoder: PointEncoderConfig) -> Objective:
    """The module that computes an objective's loss, with fresh weights from torch's global generator. ValueError: encoder does not fit."""
    match config:
        case CrossPointConfig():
            return CrossPoint(config, encoder)
        case CrossBertConfig():
            if not isinstance(encoder, PointTransformerConfig):
                raise ValueError(f"crossbert masks patches: it needs an encoder of the kind point_transformer, not {encoder.kind}")
            return CrossBert(config, encoder)


def prepare(config: CrossPointConfig | CrossBertConfig, dataset: Dataset, seed: int, index: int, epoch: int) -> Sample:
    """What the object `index` brings to a step of an epoch."""
    match config:
        case CrossPointConfig():
            return crosspoint.prepare(config, dataset, index, seed, epoch)
        case CrossBertConfig():
            return crossbert.prepare(config, dataset, index, seed, epoch)


def begin(module: Objective, dataset: Dataset, split: str, seed: int, given: Path | None) -> dict[str, str]:
    """Brings in what the objective builds on: images' weights from their file, the tokenizer's from its folder, its targets' temperature.

    Returns what that adds to the training's identity. Raises FileError; ValueError where a tokenizer is needed and none is given, or one
    of another configuration.
    """
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
