"""Cross-BERT at the size of tests, and made-up batches for it."""

from typing import Any

import torch
from torch import Tensor

from training.encoders import PointTransformerConfig
from training.noise import key_for
from training.objectives.crossbert import CrossBert, CrossBertConfig

ENCODER: dict[str, Any] = {
    "kind": "point_transformer",
    "groups": 8,
    "group_size": 8,
    "patch_widths": [8, 16, 32],
    "patch_feature": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "drop_path": 0.1,
}
TOKENIZER: dict[str, Any] = {
    "groups": 8,
    "group_size": 8,
    "patch_widths": [8, 16, 32],
    "patch_feature": 16,
    "vocabulary": 32,
    "codebook": 16,
    "dgcnn_in": 16,
    "dgcnn_widths": [16, 16, 16, 32],
    "k": 3,
    "decoder": 32,
}
OBJECTIVE: dict[str, Any] = {
    "kind": "crossbert",
    "alignment": {"width": 16, "queue": 64, "temperature": 0.1},
    "modelling": {"temperature": 1.0},
    "fusion": {"depth": 1, "heads": 2},
    "image": {"kind": "vit", "size": 32, "patch": 16, "width": 32, "depth": 2, "heads": 2},
    "momentum": 0.9,
    "tokenizer": {
        "model": TOKENIZER,
        "fit": {"epochs": 2, "batch": 8, "optimizer": {"lr": 0.001, "decoupled": True}},
        "augment": {"count": 128},
        "gate": False,
    },
    "point_augment": {"count": 128, "scale": [0.67, 1.5], "per_axis": True, "rotation": "so3", "translate": 0, "dropout": 0},
    "image_augment": {"size": 32, "crop": [0.8, 1.0], "flip": 0},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested values replaced."""
    return base | {k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in changes.items()}


def objective(**changes: Any) -> CrossBertConfig:
    return CrossBertConfig.model_validate(merged(OBJECTIVE, changes))


def module(seed: int = 0, encoder: dict[str, Any] | None = None, **changes: Any) -> CrossBert:
    torch.manual_seed(seed)
    return CrossBert(objective(**changes), PointTransformerConfig.model_validate(ENCODER | (encoder or {}))).train()


def batch(clouds: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "points_a": torch.randn(clouds, 128, 3, generator=generator),
        "points_b": torch.randn(clouds, 128, 3, generator=generator),
        "image_a": torch.randn(clouds, 3, 32, 32, generator=generator),
        "image_b": torch.randn(clouds, 3, 32, 32, generator=generator),
        "id": torch.arange(clouds) + 100 * seed,
        "noise": torch.tensor([key_for(seed, 0, str(i)) for i in range(clouds)]),
    }
