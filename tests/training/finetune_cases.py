"""Fine-tunings small enough for tests, and running one in a process of its own or in two."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.reader import Dataset
from tests.training.gloo import gloo
from training.distributed import World
from training.encoders import DGCNNConfig, P4TransformerConfig, P4UNetConfig, PointNetConfig, PointTransformerConfig
from training.finetune import FinetuneConfig, finetune
from training.loop import Place

ENCODERS = {
    "dgcnn": DGCNNConfig(k=5, widths=(8, 16), embedding=32),
    "pointnet": PointNetConfig(widths=(8, 16, 32)),
    "point_transformer": PointTransformerConfig(
        groups=8, group_size=8, patch_widths=(8, 16, 32), patch_feature=16, width=32, depth=2, heads=2, drop_path=0.1
    ),
}
TASKS: dict[str, dict[str, Any]] = {
    "classification": {"kind": "classification", "hidden": [16, 16]},
    "parts": {"kind": "parts", "embed": 16, "category": 4, "hidden": [16, 16]},
}
CONFIG: dict[str, Any] = {
    "encoder": ENCODERS["point_transformer"].model_dump(),
    "fit": {"epochs": 3, "batch": 4, "seed": 3, "optimizer": {"lr": 3e-3, "decoupled": True, "clip": 10.0}},
    "points": 64,
    "validation": 0.25,
}

VIDEO_ENCODERS = {
    "p4transformer": P4TransformerConfig(
        radius=0.5, neighbours=8, spatial_stride=16, width=32, depth=1, heads=2, head_dim=16, mlp_width=32, drop_path=0.1
    ),
    "p4unet": P4UNetConfig(
        radius=0.3,
        neighbours=8,
        spatial_strides=(4, 4),
        kernels=(1, 3),
        widths=((16, 16), (32, 32)),
        up_widths=((32,), (32,)),
        depth=1,
        heads=2,
        head_dim=16,
        mlp_width=32,
    ),
}
VIDEO_TASKS: dict[str, dict[str, Any]] = {
    "recognition": {"kind": "recognition", "hidden": [16], "windows": 2},
    "action_segmentation": {"kind": "action_segmentation"},
    "point_segmentation": {"kind": "point_segmentation", "hidden": [16]},
}
VIDEO_CONFIG: dict[str, Any] = {
    **CONFIG,
    "encoder": VIDEO_ENCODERS["p4transformer"].model_dump(),
    "fit": {"epochs": 3, "batch": 4, "seed": 3, "optimizer": {"kind": "adam", "lr": 3e-3, "decoupled": True, "clip": 10.0}},
    "augment": {"frames": 8, "normalise": "clip"},
    "points": 32,
}


def run(folder: Path, data: str, kind: str, world: World | None = None, given: Path | None = None, **changes: Any) -> dict[str, Any]:
    """Fine-tunes CONFIG or VIDEO_CONFIG for a task with a checkpoint at every step."""
    base = {"task": TASKS[kind]} | CONFIG if kind in TASKS else {"task": VIDEO_TASKS[kind]} | VIDEO_CONFIG
    config = FinetuneConfig.model_validate(base | changes)
    place = Place(device="cpu", threads=1, checkpoint_seconds=0.0)
    return finetune(config, Dataset.open(data), folder, world or World(), place, given)


def rank_main(rank: int, size: int, folder: str, data: str, cases: dict[str, dict[str, Any]]) -> None:
    """One of several gloo workers that meet in a file; a run for each kind of task with its changes."""
    with gloo(rank, size, folder):
        for kind, changes in cases.items():
            run(Path(folder) / "together" / kind, data, kind, World(rank, size), **changes)


if __name__ == "__main__":
    target, source, kind, more = sys.argv[1:5]
    run(Path(target), source, kind, **json.loads(more))
