"""Pretraining: an objective, an encoder and a dataset become an encoder on disk.

FOLDER/ afterwards: journal.jsonl, checkpoints/, objective/ (all weights, for retrieval), encoder/ (the point encoder, see
`training.encoder_file`), result.json (written last: its presence says that the training is finished).
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pipeline.reader import Dataset
from training import encoder_file
from training.distributed import World, barrier
from training.encoders import DGCNNConfig, PointEncoderConfig
from training.evaluation.clips import shortcut
from training.files import FileError, check_folder, read_plain, read_tensors, write_folder, write_json
from training.loop import FitConfig, OptimizerConfig, Place, TrainingError, facts, fit
from training.objectives import (
    C2P,
    C2PConfig,
    CrossBertConfig,
    CrossPointConfig,
    CrossVideo,
    CrossVideoConfig,
    Objective,
    ObjectiveConfig,
    begin,
    build,
    check_encoder,
    prepare,
)
from training.partial import over

# Cross-BERT's own training is not known; that of Point-BERT (arXiv 2111.14819, its released configuration), with a clipped gradient, is the
# reconstruction's.
_CROSSBERT_FIT = FitConfig(
    epochs=300,
    batch=128,
    optimizer=OptimizerConfig(
        lr=5e-4,
        weight_decay=0.05,
        decoupled=True,
        spare_vectors=True,
        clip=10.0,
        schedule="cosine_warm",
        warmup_epochs=3,
        floor=1e-6,
    ),
)
# CrossVideo's own training is not known; that of C2P on the actions of HOI4D (its released configuration) stands in for it.
_CLIPS_FIT = FitConfig(
    epochs=100,
    batch=8,
    optimizer=OptimizerConfig(kind="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="warm_steps", warmup_epochs=10),
)


def _default_fit(values: dict[str, Any]) -> FitConfig:
    match values.get("objective"):
        case CrossBertConfig():
            return _CROSSBERT_FIT
        case CrossVideoConfig() | C2PConfig():
            return _CLIPS_FIT
        case _:
            return FitConfig()


class PretrainConfig(BaseModel):
    """One pretraining as a value: what is trained, on which split, and how. `fit` starts from the objective's published training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: PointEncoderConfig = DGCNNConfig()
    objective: ObjectiveConfig = CrossPointConfig()
    fit: FitConfig = Field(default_factory=_default_fit)
    split: str = "train"

    @field_validator("fit", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_default_fit(info.data), value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_encoder(self.objective, self.encoder)
        if isinstance(self.objective, CrossBertConfig):
            sizes, tokens = self.encoder, self.objective.tokenizer.model
            ours, theirs = ((each.groups, each.group_size, each.skip_origin) for each in (sizes, tokens))  # type: ignore[union-attr]
            if self.objective.uses_tokenizer and ours != theirs:
                raise ValueError(
                    "objective.tokenizer.model: groups, group_size and skip_origin must be the encoder's, for both see the same patches"
                )
        return self


def fresh(config: PretrainConfig) -> Objective:
    """The objective's module with random weights from the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        return build(config.objective, config.encoder)


def pretrain(
    config: PretrainConfig, dataset: Dataset, folder: Path, world: World, place: Place, given: Path | None = None
) -> dict[str, Any]:
    """Trains, or goes on with, the training in `folder` and returns what result.json holds. Raises as `training.loop.fit` does.

    given: the folder of what the objective builds on, a tokenizer, where it needs one (ValueError where it is missing or does not fit).
    """
    result_path = folder / "result.json"
    identity: dict[str, Any] = {"config": config.model_dump(mode="json"), "dataset": dataset.fingerprint}
    indices = dataset.indices(config.split)
    if not len(indices):
        raise TrainingError(f"The dataset {dataset.uri} has no finished sample in the split {config.split!r}: name another split.")
    module = fresh(config)
    identity |= begin(module, dataset, config.split, config.fit.seed, given)
    began = time.time()

    def after_epoch(epoch: int) -> dict[str, float]:
        return shortcut(module, dataset, indices, config.fit.seed) if isinstance(module, CrossVideo | C2P) else {}

    done = fit(
        module,
        functools.partial(prepare, config.objective, config.encoder, dataset, config.fit.seed),
        indices,
        config.fit,
        folder,
        identity,
        world,
        place,
        after_epoch if isinstance(module, CrossVideo | C2P) else None,
    )
    if world.leads:
        provenance = {"weights": "pretrained", **identity, "steps": done.steps}
        mark = encoder_file.save(folder / "encoder", module.encoder, config.encoder, provenance)
        write_folder(folder / "objective", {"objective": module.state_dict()}, {"objective": identity})
        parameters = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
        result = {
            **identity,
            "fingerprint": mark,
            **facts(done, began, world),
            "objects": len(indices),
            "parameters": parameters,
        }
        write_json(result_path, result)
    barrier()
    loaded: dict[str, Any] = json.loads(result_path.read_text())
    return loaded


def load_objective(folder: Path) -> Objective:
    """The trained objective of a finished pretraining in eval mode, for embeddings of points and images. Raises FileError."""
    check_folder(folder / "objective")
    record = read_plain(folder / "objective", "objective")
    module = fresh(PretrainConfig.model_validate(record["config"]))
    try:
        module.load_state_dict(read_tensors(folder / "objective", "objective"))
    except RuntimeError as error:
        raise FileError(f"The weights in {folder / 'objective'} do not fit the configuration beside them: train again.") from error
    return module.eval()
