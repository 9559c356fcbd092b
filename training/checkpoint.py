"""Checkpoints: the full state of a training, so that a run that was killed ends with the weights of one left alone.

FOLDER/step-00001200/ holds model.safetensors (all parameters and buffers), optimizer.safetensors and state.json (step, configuration,
dataset fingerprint, the optimiser's plain part). Random numbers need no state: each is a function of (seed, epoch or step, sample).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.files import FileError, check_folder, read_plain, read_tensors, write_folder


class CheckpointError(FileError):
    """A checkpoint belongs to another training or none is usable."""


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes the checkpoint of `step` (steps done) and removes all but the `keep` newest. Raises OSError."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    target = folder / f"step-{step:08d}"
    record = {"step": step, "identity": identity, "optimizer": {"groups": state["param_groups"], "plain": plain}}
    write_folder(target, {"model": model.state_dict(), "optimizer": tensors}, {"state": record})
    # A newer one that is there was damaged, or it would have been gone on from; it must not crowd out this one.
    for old in [found for found in steps(folder) if found <= step][:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return target


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first; leftovers of writers that were killed do not count."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.is_dir())


def load_latest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any], *, sweep: bool) -> int:
    """Brings model and optimiser to the newest whole checkpoint and returns its step; 0 where there is none.

    `sweep` removes what killed writers left, for the one worker that writes. Raises CheckpointError where the newest belongs to another
    configuration or dataset (`identity` names both).
    """
    if sweep:
        for left in (*folder.glob(".step-*.part"), *folder.glob(".step-*.old")):
            shutil.rmtree(left, ignore_errors=True)
    for step in reversed(steps(folder)):
        path = folder / f"step-{step:08d}"
        try:
            check_folder(path)
        except FileError:
            continue  # a copy that was cut short; the one before it is as good
        record = read_plain(path, "state")
        if record["identity"] != identity:
            differing = sorted(k for k in identity if record["identity"].get(k) != identity[k])
            raise CheckpointError(
                f"{path} is the checkpoint of another training (its {', '.join(differing) or 'record'} differs): "
                "give this one another folder, or remove that checkpoint."
            )
        model.load_state_dict(read_tensors(path, "model"))
        values: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in record["optimizer"]["plain"].items()}
        for name, tensor in read_tensors(path, "optimizer").items():
            index, field = name.split(".", 1)
            values.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({"state": values, "param_groups": record["optimizer"]["groups"]})
        return step
    return 0
