"""What a file leaves out of a configuration keeps the default of the place where it stands."""

from typing import Any

import pytest

from training.augment import PointAugment
from training.finetune import FinetuneConfig
from training.loop import FitConfig, OptimizerConfig
from training.partial import over
from training.pretrain import PretrainConfig
from training.tokenizer.train import TokenizerConfig

TRANSFORMER: dict[str, Any] = {"kind": "point_transformer"}


def test_a_mapping_changes_the_default_level_by_level() -> None:
    default = FitConfig(epochs=7, optimizer=OptimizerConfig(lr=0.5, clip=3.0))
    assert over(default, {"optimizer": {"lr": 0.1}}) == {"epochs": 7, "optimizer": {"lr": 0.1, "clip": 3.0}}
    assert over(default, {}) == {"epochs": 7, "optimizer": {"lr": 0.5, "clip": 3.0}}
    assert over(default, default) is default


def test_another_kind_brings_its_own_defaults() -> None:
    default = PretrainConfig.model_validate({"encoder": {**TRANSFORMER, "width": 96, "heads": 3}, "objective": {"kind": "crosspoint"}})
    assert over(default, {"encoder": {"kind": "pointnet"}})["encoder"] == {"kind": "pointnet"}
    assert over(default, {"encoder": {"depth": 2}})["encoder"] == {**TRANSFORMER, "width": 96, "heads": 3, "depth": 2}


@pytest.mark.parametrize("kind", ["classification", "parts"])
def test_a_fine_tuning_with_fewer_epochs_is_otherwise_the_published_one(kind: str) -> None:
    plain = FinetuneConfig.model_validate({"task": {"kind": kind}})
    short = FinetuneConfig.model_validate({"task": {"kind": kind}, "fit": {"epochs": 5}, "augment": {"rotation": "y"}})
    assert short.fit == plain.fit.model_copy(update={"epochs": 5})
    assert short.augment == plain.augment.model_copy(update={"rotation": "y"})
    assert plain.fit.optimizer.clip == 10
    assert plain.augment.dropout == 0


def test_tokenizers_and_cross_bert_keep_what_is_theirs() -> None:
    tokenizer = TokenizerConfig.model_validate({"fit": {"optimizer": {"lr": 0.001}}, "augment": {"count": 512}})
    assert tokenizer.fit.optimizer == TokenizerConfig().fit.optimizer.model_copy(update={"lr": 0.001})
    assert tokenizer.augment == PointAugment.model_validate(TokenizerConfig().augment.model_dump() | {"count": 512})
    crossbert = PretrainConfig.model_validate({"encoder": TRANSFORMER, "objective": {"kind": "crossbert"}, "fit": {"batch": 64}})
    assert crossbert.fit.optimizer.decoupled
    assert crossbert.fit.batch == 64
    assert PretrainConfig.model_validate({"fit": {"batch": 64}}).fit == FitConfig(batch=64)
