"""A training small enough for tests, and running one in a process of its own or in two."""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.reader import Dataset
from tests.training.gloo import gloo
from training.distributed import World
from training.loop import Place
from training.pretrain import PretrainConfig, pretrain

CONFIG: dict[str, Any] = {
    "encoder": {"kind": "dgcnn", "k": 5, "widths": [8, 16], "embedding": 32},
    "objective": {
        "kind": "crosspoint",
        "projection": 16,
        "point_hidden": 32,
        "image_hidden": 32,
        "image": {"kind": "resnet", "depth": 10, "width": 4},
        "point_augment": {"count": 64, "rotation": "so3", "translate": 0.0},
        "image_augment": {"size": 32},
    },
    "fit": {"epochs": 2, "batch": 8, "seed": 3},
}


def train(folder: Path, data: str, world: World, given: str | None = None, **changes: Any) -> dict[str, Any]:
    """Pretrains CONFIG with a checkpoint at every step."""
    config = PretrainConfig.model_validate(CONFIG | changes)
    place = Place(device="cpu", threads=1, checkpoint_seconds=0.0)
    return pretrain(config, Dataset.open(data), folder, world, place, None if given is None else Path(given))


def rank_main(rank: int, size: int, folder: str, data: str, changes: dict[str, Any] | None = None) -> None:
    """One of several gloo workers that meet in a file."""
    with gloo(rank, size, folder):
        train(Path(folder) / "run", data, World(rank, size), **(changes or {}))


if __name__ == "__main__":
    target, source, more = sys.argv[1:4]
    train(Path(target), source, World(), **json.loads(more))
