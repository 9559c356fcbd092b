"""The weights of the best epoch of a training: FOLDER/best, beside its checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from training.distributed import World, barrier
from training.files import FileError, check_folder, read_plain, read_tensors, write_folder


class BestEpoch:
    """Keeps the weights with the highest score so far, the first of equal ones.

    What a training repeats after a kill is offered again and, being no better, changes nothing. Weights kept under another `identity` than
    this training's do not count.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], world: World) -> None:
        self.folder = folder / "best"
        self.identity = identity
        self.leads = world.leads
        self.score: tuple[float, ...] | None = None
        if world.leads:
            for left in (*folder.glob(".best.*.part"), *folder.glob(".best.*.old")):
                shutil.rmtree(left, ignore_errors=True)
            record = self._record()
            if record is not None:
                self.score = tuple(record["score"])

    def _record(self) -> dict[str, Any] | None:
        try:
            check_folder(self.folder)
            record: dict[str, Any] = read_plain(self.folder, "best")
        except FileError:
            return None
        return record if record["identity"] == self.identity else None

    def offer(self, epochs: int, score: tuple[float, ...], module: nn.Module) -> None:
        """The module after so many epochs; scores are compared as tuples. Raises OSError."""
        if self.leads and (self.score is None or score > self.score):
            self.score = score
            record = {"epochs": epochs, "score": list(score), "identity": self.identity}
            write_folder(self.folder, {"model": module.state_dict()}, {"best": record})

    def load(self, module: nn.Module) -> int | None:
        """Gives the module, on every rank, the best weights; returns the epochs done then, None where nothing was offered."""
        barrier()
        record = self._record()
        if record is None:
            return None
        module.load_state_dict(read_tensors(self.folder, "model"))
        epochs: int = record["epochs"]
        return epochs
