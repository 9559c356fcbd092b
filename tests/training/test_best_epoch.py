"""The best epoch is the first of the highest scores, of this training alone, and whole."""

import math
from pathlib import Path

import torch
from torch import nn

from training.best_epoch import BestEpoch
from training.distributed import World


def model(value: float) -> nn.Module:
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, value)
    return module


def kept(folder: Path, identity: dict[str, int]) -> tuple[int | None, float]:
    module = model(math.nan)
    epochs = BestEpoch(folder, identity, World()).load(module)
    return epochs, float(module.weight.detach())


def test_the_first_of_the_highest_scores_is_kept(tmp_path: Path) -> None:
    best = BestEpoch(tmp_path, {"a": 1}, World())
    for epochs, score in enumerate([(0.2, -1.0), (0.5, -3.0), (0.5, -2.0), (0.5, -2.0), (0.4, -0.1)], start=1):
        best.offer(epochs, score, model(epochs))
    assert kept(tmp_path, {"a": 1}) == (3, 3.0)


def test_what_is_repeated_after_a_kill_changes_nothing(tmp_path: Path) -> None:
    scores = [(0.2, 0.0), (0.3, 0.0), (0.6, 0.0), (0.1, 0.0)]
    for start in (0, 1, 3):
        best = BestEpoch(tmp_path, {"a": 1}, World())
        for epochs in range(start, 4):
            best.offer(epochs + 1, scores[epochs], model(epochs + 1))
        assert kept(tmp_path, {"a": 1}) == (3, 3.0)


def test_another_trainings_and_damaged_weights_do_not_count(tmp_path: Path) -> None:
    BestEpoch(tmp_path, {"a": 1}, World()).offer(7, (0.9,), model(7))
    assert kept(tmp_path, {"a": 2})[0] is None
    (tmp_path / "best" / "model.safetensors").write_bytes(b"torn")
    assert kept(tmp_path, {"a": 1})[0] is None
    BestEpoch(tmp_path, {"a": 1}, World()).offer(1, (0.1,), model(1))
    assert kept(tmp_path, {"a": 1}) == (1, 1.0)


def test_only_the_leader_writes(tmp_path: Path) -> None:
    BestEpoch(tmp_path, {}, World(1, 2, torch.device("cpu"))).offer(1, (0.5,), model(1))
    assert not list(tmp_path.iterdir())
