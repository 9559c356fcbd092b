"""From meshes through tokenizer, pretraining and fine-tuning to the report and the MLflow tree; and a second run that does nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestration.cli import main
from orchestration.experiment import Experiment
from orchestration.graph import StageError
from orchestration.run import plan_table, run_experiment
from orchestration.tracking import sqlite_uri
from tests.training.objectives.crossbert_cases import ENCODER, OBJECTIVE, merged

TINY: dict[str, Any] = {
    "name": "tiny-crossbert",
    "data": {
        "source": {"kind": "shapes", "classes": ["chair", "mug", "airplane"], "per_class": 16, "test_fraction": 0.5},
        "points": {"count": 160, "parts": True},
        "views": {"rig": {"kind": "ring", "count": 2, "size": 48}},
    },
    "pretrain": {
        "both": {"encoder": ENCODER, "objective": OBJECTIVE, "fit": {"epochs": 2, "batch": 8}},
        "alignment": {
            "encoder": ENCODER,
            "objective": merged(OBJECTIVE, {"modelling": {"weight": 0.0}}),
            "fit": {"epochs": 2, "batch": 8},
        },
    },
    "finetune": {
        "parts": {
            "labels": [1.0, 0.5],
            "training": {
                "task": {"kind": "parts", "embed": 32, "hidden": [32, 16], "category": 8},
                "points": 128,
                "validation": 0.25,
                "fit": {"epochs": 2, "batch": 4},
            },
        }
    },
    "evaluate": {"points": 128, "fewshot": [{"ways": 2, "shots": 2, "queries": 2, "runs": 3}], "svm_folds": 2},
    "workers": 0,
    "launch": {"launcher": "local", "place": {"device": "cpu", "threads": 1}},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "tiny"


def test_the_whole_way_and_then_nothing(out: Path) -> None:
    from mlflow import MlflowClient

    experiment = Experiment.model_validate(TINY)
    console = Console(quiet=True)
    outcomes = run_experiment(experiment, out, console, tracking=sqlite_uri(out))
    assert list(outcomes) == [
        "dataset",
        "tokenizer/both/s0",
        "pretrain/both/s0",
        "evaluate/both/s0",
        "pretrain/alignment/s0",
        "evaluate/alignment/s0",
        *(f"finetune/parts-{share}/{start}/s0" for share in (100, 50) for start in ("random", "both", "alignment")),
        "report",
    ]
    # the fine-tunings differ in what they start from, and in nothing else
    first, second = (outcomes[f"finetune/parts-100/{start}/s0"] for start in ("random", "both"))
    assert first.inputs == second.inputs
    assert first.outputs["encoder_fingerprint"] != second.outputs["encoder_fingerprint"]
    assert second.outputs["encoder_fingerprint"] == outcomes["pretrain/both/s0"].outputs["fingerprint"]

    page = (outcomes["report"].folder / "index.html").read_text()
    for words in ("Tokenizer", "Arms compared", "mIoU", "not known"):
        assert words in page, words

    client = MlflowClient(sqlite_uri(out))
    runs = client.search_runs([client.get_experiment_by_name("crossloom").experiment_id])
    children = {run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert children == set(outcomes)
    curves = {run.info.run_name: run.data.metrics for run in runs}
    assert {"loss_pi", "loss_ii", "loss_mcm", "target_entropy"} <= curves["pretrain/both/s0"].keys()
    assert "loss_mcm" not in curves["pretrain/alignment/s0"]
    assert {"loss_reconstruction", "loss_kl", "perplexity"} <= curves["tokenizer/both/s0"].keys()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    run_experiment(experiment, out, console, tracking="none")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert {row["action"] for row in plan_table(experiment, out)} == {"skip"}


def test_a_task_that_cannot_be_done_is_told_before_the_pretraining(tmp_path: Path) -> None:
    changed = merged(TINY, {"data": {"points": {"parts": False}}})
    with pytest.raises(StageError, match=r"fine-tuning parts could not be made afterwards.*points\.parts"):
        run_experiment(Experiment.model_validate(changed), tmp_path, Console(quiet=True), tracking="none")
    assert not list(tmp_path.glob("tokenizer*"))


def test_another_weight_of_a_loss_trains_that_arm_and_what_needs_it(out: Path) -> None:
    changed = merged(TINY, {"pretrain": {"both": {"objective": {"alignment": {"weight": 2.0}}}}})
    rows = {row["stage"]: row for row in plan_table(Experiment.model_validate(changed), out)}
    assert rows["pretrain/both/s0"]["detail"] == "objective.alignment.weight"
    untouched = ("dataset", "tokenizer/both/s0", "pretrain/alignment/s0", "evaluate/alignment/s0", "finetune/parts-50/random/s0")
    assert {rows[name]["action"] for name in untouched} == {"skip"}
    assert rows["finetune/parts-50/both/s0"]["action"] == "run"


def test_the_verbs_alone_train_the_tokenizer_first_and_fine_tune_what_comes_out(
    small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"encoder": ENCODER, "objective": OBJECTIVE, "fit": {"epochs": 1, "batch": 8, "seed": 2}}
    (tmp_path / "crossbert.yaml").write_text(yaml.safe_dump(config))
    assert here("pretrain", "crossbert.yaml", "--data", small_dataset, "--to", "run", monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "run" / "tokenizer" / "result.json").read_text())["config"]["fit"]["seed"] == 2
    assert "next: crossloom evaluate run" in capsys.readouterr().out

    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"points": 128, "validation": 0.25, "fit": {"epochs": 1, "batch": 8}}))
    command = ("finetune", "classes.yaml", "--data", small_dataset, "--encoder", "run", "--to", "tuned")
    assert here(*command, monkeypatch=monkeypatch) == 0
    assert "chosen on validation items" in capsys.readouterr().out
    result = json.loads((tmp_path / "tuned" / "result.json").read_text())
    assert result["encoder_fingerprint"] == json.loads((tmp_path / "run" / "result.json").read_text())["fingerprint"]

    other = merged(config, {"objective": {"tokenizer": {"model": {"vocabulary": 64}}}})
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    command = ("pretrain", "other.yaml", "--data", small_dataset, "--to", "other", "--tokenizer", "run/tokenizer")
    assert here(*command, monkeypatch=monkeypatch) == 1
    assert "other sizes than objective.tokenizer.model" in capsys.readouterr().err


def here(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["crossloom", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code
