"""The graph that an experiment file stands for: which stages there are and what each builds on."""

from typing import Any

import pytest
from pydantic import ValidationError

from orchestration.experiment import Experiment, stages
from orchestration.graph import identity
from tests.training.objectives.crossbert_cases import ENCODER, OBJECTIVE, merged

SHAPES: dict[str, Any] = {"source": {"kind": "shapes", "classes": ["chair", "mug"], "per_class": 4}, "points": {"count": 128}}
ARM: dict[str, Any] = {"encoder": ENCODER, "objective": OBJECTIVE, "fit": {"epochs": 1, "batch": 4}}


def experiment(**changes: Any) -> Experiment:
    values = {"name": "x", "data": SHAPES, "pretrain": {"both": ARM}, "launch": {"launcher": "local"}} | changes
    return Experiment.model_validate(values)


def graph(found: Experiment) -> dict[str, tuple[str, ...]]:
    return {stage.name: stage.needs for stage in stages(found)}


def test_arms_share_the_tokenizer_that_they_describe_alike() -> None:
    arms = {
        "both": ARM,
        "modelling": merged(ARM, {"objective": {"alignment": {"weight": 0.0}}}),
        "alignment": merged(ARM, {"objective": {"modelling": {"weight": 0.0}}}),
        "other": merged(ARM, {"objective": {"tokenizer": {"model": {"vocabulary": 64}}}}),
        "points": {"encoder": ENCODER, "fit": {"batch": 4}},
    }
    needs = graph(experiment(pretrain=arms, seeds=[0, 1]))
    assert needs["pretrain/both/s1"] == needs["pretrain/modelling/s1"] == ("dataset", "tokenizer/both/s1")
    assert needs["pretrain/other/s0"] == ("dataset", "tokenizer/other/s0")
    assert needs["pretrain/alignment/s0"] == needs["pretrain/points/s0"] == ("dataset",)
    assert [name for name in needs if name.startswith("tokenizer")] == [f"tokenizer/{a}/s{s}" for s in (0, 1) for a in ("both", "other")]
    seeds = {stage.name: stage.inputs["fit"]["seed"] for stage in stages(experiment(seeds=[5])) if "fit" in stage.inputs}
    assert set(seeds.values()) == {5}


def test_fine_tuning_goes_on_from_every_arm_and_once_from_random_weights() -> None:
    task = {"training": {"task": {"kind": "parts"}, "fit": {"batch": 4}}, "data": SHAPES | {"name": "other"}, "labels": [1.0, 0.1]}
    arms = {"both": ARM, "again": merged(ARM, {"objective": {"momentum": 0.5}})}
    needs = graph(experiment(pretrain=arms, finetune={"parts": task, "classes": {"training": {"fit": {"batch": 4}}}}))
    assert needs["finetune/parts-10/both/s0"] == ("dataset/parts", "pretrain/both/s0")
    assert needs["finetune/parts-100/random/s0"] == ("dataset/parts",)
    assert needs["finetune/classes/again/s0"] == ("dataset", "pretrain/again/s0")
    assert len([name for name in needs if name.startswith("finetune/")]) == 9
    assert len(needs["report"]) == len(needs) - 1
    found = {stage.name: stage for stage in stages(experiment(pretrain=arms, finetune={"parts": task}))}
    assert found["finetune/parts-10/both/s0"].inputs == found["finetune/parts-10/random/s0"].inputs
    assert found["finetune/parts-10/both/s0"].inputs["labels"] == 0.1


def test_tasks_share_a_dataset_and_may_go_on_from_some_arms_alone() -> None:
    task = {"training": {"task": {"kind": "parts"}, "fit": {"batch": 4}}, "data": SHAPES | {"name": "other"}, "arms": ["both"]}
    arms = {"both": ARM, "again": merged(ARM, {"objective": {"momentum": 0.5}})}
    needs = graph(experiment(pretrain=arms, finetune={"parts": task, "few": task | {"labels": [0.1]}}))
    assert [name for name in needs if name.startswith("dataset")] == ["dataset", "dataset/parts"]
    assert needs["finetune/few/both/s0"] == ("dataset/parts", "pretrain/both/s0")
    assert not [name for name in needs if name.startswith("finetune/") and "again" in name]


def test_different_encoders_have_random_twins_of_their_own() -> None:
    arms = {"both": ARM, "pointnet": {"encoder": {"kind": "pointnet"}, "fit": {"batch": 4}}}
    needs = graph(experiment(pretrain=arms, finetune={"classes": {"training": {"fit": {"batch": 4}}}}))
    assert {"finetune/classes/random-both/s0", "finetune/classes/random-pointnet/s0"} <= needs.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"a": {"training": {"labels": 0.5}}}}, "labels"),
        ({"finetune": {"a": {"training": {"fit": {"seed": 3}}}}}, "seed"),
        ({"finetune": {"a b": {}}}, "pattern"),
        ({"finetune": {"a": {"arms": ["bothe"]}}}, "no arm 'bothe'"),
        ({"pretrain": {}}, "at least one arm"),
        ({"pretrain": {"random-x": ARM}}, "choose another"),
        ({"pretrain": {"both": merged(ARM, {"fit": {"seed": 1}})}}, "seeds"),
        ({"pretrain": {"both": merged(ARM, {"objective": {"tokenizer": {"fit": {"seed": 1}}}})}}, r"tokenizer\.fit\.seed"),
        ({"launch": {"launcher": "ray", "workers": 3}}, "does not divide among 3 workers"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        experiment(**changes)


@pytest.mark.parametrize(
    ("encoder", "changes", "where"),
    [
        ({"temporal_stride": 3}, {}, r"pretrain\.video\n"),
        ({"temporal_stride": 2, "padding": [1, 0]}, {"task": 9}, r"error, finetune\.actions, after the arm video: A clip of 9"),
        ({"kind": "pptr", "groups": 8}, {"task_points": 100}, r"error, finetune\.actions, after the arm video: 6 anchors"),
        ({"kind": "pptr", "groups": 8}, {"evaluate": 100}, r"error, evaluate, after the arm video: 6 anchors"),
    ],
)
def test_clips_that_no_encoder_takes_are_refused_before_anything_is_made(
    encoder: dict[str, Any], changes: dict[str, int], where: str
) -> None:
    sizes = {"kind": "p4transformer", "radius": 0.3, "neighbours": 8, "spatial_stride": 16, "width": 32, "depth": 1, "heads": 2}
    objective = {"kind": "crossvideo", "point_augment": {"frames": 8, "count": 128}}
    training = {
        "task": {"kind": "recognition"},
        "points": changes.get("task_points", 128),
        "augment": {"frames": changes.get("task", 8)},
        "fit": {"batch": 4},
    }
    values = {
        "data": {"source": {"kind": "creatures"}, "points": {"count": 128}, "clips": {}},
        "pretrain": {"video": {"encoder": sizes | encoder, "objective": objective, "fit": {"batch": 4}}},
        "finetune": {"actions": {"training": training}},
        "evaluate": {"points": changes.get("evaluate", 128)},
    }
    with pytest.raises(ValidationError, match=where):
        experiment(**values)
    values["pretrain"]["video"]["encoder"] = sizes
    experiment(**values)


def test_the_order_of_a_table_of_parts_is_part_of_the_dataset() -> None:
    source = {"kind": "creatures", "per_kind": 1}
    tables = [{"arm": ["arm*"], "all": ["*"]}, {"all": ["*"], "arm": ["arm*"]}]
    made = [
        stages(experiment(data={"source": source, "points": {"count": 64, "parts": True}, "clips": {"parts": table}}))[0]
        for table in tables
    ]
    assert identity(made[0], {}) != identity(made[1], {})
