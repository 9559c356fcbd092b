"""An encoder on disk: encoder.safetensors and encoder.json (configuration, provenance), the form in which encoders travel.

The fingerprint is a hash over configuration and weights; provenance does not enter it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from training.encoders import PointEncoderConfig, build
from training.files import FileError, check_folder, digest, read_plain, read_tensors, write_folder

FORMAT = 1
_config: TypeAdapter[PointEncoderConfig] = TypeAdapter(PointEncoderConfig)


@dataclass(frozen=True)
class Encoder:
    """A point encoder with its configuration and where it comes from."""

    module: nn.Module
    config: PointEncoderConfig
    fingerprint: str
    provenance: dict[str, Any]


def fingerprint(module: nn.Module, config: BaseModel) -> str:
    """64 hexadecimal digits: sha256 over configuration and all tensors by name."""
    hasher = hashlib.sha256(digest(config.model_dump(mode="json")).encode())
    for name, tensor in sorted(module.state_dict().items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def save(folder: Path, module: nn.Module, config: PointEncoderConfig, provenance: dict[str, Any]) -> str:
    """Writes the encoder and returns its fingerprint."""
    mark = fingerprint(module, config)
    record = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "feature_dim": module.feature_dim,
        "fingerprint": mark,
        "provenance": provenance,
    }
    write_folder(folder, {"encoder": module.state_dict()}, {"encoder": record})
    return mark


def load(folder: Path) -> Encoder:
    """Reads an encoder in eval mode. Raises FileError where files are damaged or the weights do not fit the configuration."""
    check_folder(folder)
    record = read_plain(folder, "encoder")
    if record["format"] != FORMAT:
        raise FileError(
            f"{folder / 'encoder.json'} has format {record['format']}, and this version reads {FORMAT}: export the encoder again."
        )
    try:
        config = _config.validate_python(record["config"])
    except ValidationError as error:
        raise FileError(
            f"{folder / 'encoder.json'} names an encoder that this version does not know: {error.errors()[0]['msg']}."
        ) from error
    module = build(config)
    try:
        module.load_state_dict(read_tensors(folder, "encoder"))
    except RuntimeError as error:
        raise FileError(
            f"The weights in {folder} are not those of a {config.kind} with the sizes in encoder.json: name another folder."
        ) from error
    if fingerprint(module, config) != record["fingerprint"]:
        raise FileError(f"The weights in {folder} have another fingerprint than encoder.json records: export the encoder again.")
    return Encoder(module.eval(), config, record["fingerprint"], record["provenance"])


def random(config: PointEncoderConfig, seed: int) -> Encoder:
    """The same encoder with random weights from a seed: what stands beside every figure."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(config)
    return Encoder(module.eval(), config, fingerprint(module, config), {"weights": "random", "seed": seed})
