"""MLflow holds the tree, takes what it missed, and never stops a run."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestration.graph import Outcome, Stage, write_outcome
from orchestration.tracking import Tracker, sqlite_uri
from training.journal import Journal


def stage() -> Stage:
    return Stage("pretrain/net/s0", "pretrain", {"fit": {"epochs": 2, "optimizer": {"lr": 0.001}}}, (), lambda folder, needs: {})


def outcome(folder: Path) -> Outcome:
    found = Outcome(
        "pretrain/net/s0", "pretrain", folder, stage().inputs, {"fingerprint": "abc", "steps": 3, "summary": {"recall@5": 0.5}}, 1.5, 1e9
    )
    write_outcome(found)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sqlite_uri(tmp_path_factory.mktemp("store"))


def tracker(uri: str, out: Path, said: list[str]) -> Tracker:
    return Tracker(uri, "exp", out, said.append)


def test_a_tree_with_parameters_curves_and_fingerprints(store: str, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "stage"
    journal = Journal(folder / "journal.jsonl")
    journal.write(1, {"loss": 3.0})
    log = tracker(store, tmp_path, said)
    log.parent("name: exp\n", "fingerprint-of-data")
    log.copy(stage(), folder, None, "fingerprint-of-data")
    journal.write(2, {"loss": 2.0})
    log.copy(stage(), folder, outcome(folder), "fingerprint-of-data")
    log.copy(stage(), folder, outcome(folder), "fingerprint-of-data")
    log.end("FINISHED", {"net/s0/recall@5": 0.5})
    assert said == []
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("crossloom").experiment_id])
    child = next(run for run in runs if run.info.run_name == "pretrain/net/s0")
    parent = next(run for run in runs if run.info.run_name == "exp")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["fit.optimizer.lr"] == "0.001"
    assert child.data.tags["crossloom.dataset"] == parent.data.tags["crossloom.dataset"] == "fingerprint-of-data"
    assert [(m.step, m.value) for m in client.get_metric_history(child.info.run_id, "loss")] == [(1, 3.0), (2, 2.0)]
    assert child.data.metrics["recall_at_5"] == parent.data.metrics["net/s0/recall_at_5"] == 0.5
    assert {child.info.status, parent.info.status} == {"FINISHED"}
    assert len(runs) == 2


def test_a_server_that_is_away_stops_nothing_and_misses_nothing(store: str, tmp_path: Path) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    said: list[str] = []
    folder = tmp_path / "stage"
    journal = Journal(folder / "journal.jsonl")
    journal.write(1, {"loss": 3.0})
    away = tracker("http://127.0.0.1:9", tmp_path, said)
    away.parent("name: exp\n", None)
    away.copy(stage(), folder, outcome(folder), None)
    away.end("FINISHED")
    assert len(said) == 1
    assert "127.0.0.1:9 does not answer" in said[0]
    back = tracker(store, tmp_path, said)
    back.parent("name: exp\n", None)
    back.copy(outcome(folder), folder, outcome(folder), None)
    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("crossloom").experiment_id], f"tags.crossloom.folder = '{folder}'")
    assert [m.value for m in client.get_metric_history(found[0].info.run_id, "loss")] == [3.0]
    assert len(said) == 1


def test_a_store_by_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    (tmp_path / "out").mkdir()
    tracker("sqlite:///mlflow.db", tmp_path / "out", said).parent("name: exp\n", None)
    assert said == []
    assert (tmp_path / "mlflow.db").exists()
