"""A tokenizer small enough for tests, and training it in a process of its own or in two."""

from pathlib import Path
from typing import Any

from pipeline.reader import Dataset
from tests.training.gloo import gloo
from training.distributed import World
from training.loop import Place
from training.tokenizer.train import TokenizerConfig, train_tokenizer

TINY: dict[str, Any] = {
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
CONFIG: dict[str, Any] = {
    "model": TINY,
    "augment": {"count": 64, "scale": [0.8, 1.25], "rotation": "so3", "translate": 0.0, "jitter_sigma": 0.0, "dropout": 0.0},
    "fit": {"epochs": 2, "batch": 8, "seed": 3, "optimizer": {"lr": 1e-3, "decoupled": True}},
    "gate": False,
    "judge": {"steps": 10, "batch": 32, "pictures": 4},
}


def train(folder: Path, data: str, world: World, **changes: Any) -> dict[str, Any]:
    """Trains CONFIG with a checkpoint at every step, all kept."""
    place = Place(device="cpu", threads=1, checkpoint_seconds=0.0, keep_checkpoints=99)
    return train_tokenizer(TokenizerConfig.model_validate(CONFIG | changes), Dataset.open(data), folder, world, place)


def rank_main(rank: int, size: int, folder: str, data: str) -> None:
    """One of several gloo workers that meet in a file."""
    with gloo(rank, size, folder):
        train(Path(folder) / "run", data, World(rank, size))
