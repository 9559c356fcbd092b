"""MLflow holds an experiment as one tree: a parent run, and a child for each stage.

Nothing waits for a tracking server. Stages write records and journals to their folders; `Tracker` copies those to MLflow, remembers in
tracking.json what it has copied, and takes up there the next time, so that a server which was away misses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestration.graph import Outcome, Stage
from training.files import write_json
from training.journal import entries

BATCH = 1000  # MLflow's REST interface takes no more metrics in one call


def sqlite_uri(folder: Path) -> str:
    """The store in a folder that holds experiments."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """A plain tree as dotted names and texts, as MLflow's parameters want it."""
    if isinstance(value, Mapping):
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()}
    return {prefix: value if isinstance(value, str) else json.dumps(value)}


def _name(text: str) -> str:
    """A figure's name in the letters that MLflow allows."""
    return text.replace("@", "_at_")


class Tracker:
    """Copies stages to MLflow. Every failure of the tracking server is told once through `warn` and stops nothing."""

    def __init__(self, uri: str, name: str, out: Path, warn: Any) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        self.uri, self.name, self.out, self.warn = uri, name, out, warn
        self._client: Any = None
        self._experiment = ""
        self._warned = False
        self._lock = threading.Lock()

    def _tell(self, error: Exception) -> None:
        if not self._warned:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.warn(
                f"Tracking at {self.uri} does not answer ({first}); the run goes on, and the next `crossloom run` copies what is missing."
            )
        self._warned = True
        self._client = None

    def _connect(self) -> Any:
        if self._client is None:
            import logging

            import mlflow
            from mlflow import MlflowClient

            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            mlflow.set_tracking_uri(self.uri)
            client = MlflowClient(self.uri)
            found = client.get_experiment_by_name("crossloom")
            artifacts = (
                Path(self.uri.removeprefix("sqlite:///")).resolve().with_name("mlartifacts").as_uri()
                if self.uri.startswith("sqlite:")
                else None
            )
            self._experiment = found.experiment_id if found else client.create_experiment("crossloom", artifact_location=artifacts)
            self._client = client
        return self._client

    def parent(self, configuration: str, dataset_fingerprint: str | None) -> None:
        """Makes or finds the experiment's run and gives it the configuration."""
        with self._lock:
            try:
                client = self._connect()
                run = self._run(self.out / "tracking.json", self.name, None, {})
                client.set_tag(run, "crossloom.folder", str(self.out))
                client.update_run(run, status="RUNNING")
                if dataset_fingerprint:
                    client.set_tag(run, "crossloom.dataset", dataset_fingerprint)
                client.log_text(run, configuration, "experiment.yaml")
            except Exception as error:
                self._tell(error)

    def end(self, status: str, figures: Mapping[str, float] | None = None) -> None:
        """Closes the experiment's run, FINISHED, FAILED or KILLED, with its figures by name."""
        from mlflow.entities import Metric

        with self._lock:
            try:
                client = self._connect()
                run = self._run(self.out / "tracking.json", self.name, None, {})
                if figures:
                    now = int(time.time() * 1000)
                    client.log_batch(run, metrics=[Metric(_name(name), value, now, 0) for name, value in figures.items()])
                client.set_terminated(run, status)
            except Exception as error:
                self._tell(error)

    def _run(self, memory: Path, name: str, parent: str | None, tags: dict[str, str]) -> str:
        """The run that a folder remembers, or a new one."""
        kept = json.loads(memory.read_text()) if memory.exists() else {}
        if kept.get("uri") == self.uri:
            return str(kept["run"])
        if parent is not None:
            tags = {**tags, "mlflow.parentRunId": parent}
        run = self._connect().create_run(self._experiment, run_name=name, tags=tags).info.run_id
        write_json(memory, {"uri": self.uri, "run": run, "offset": 0, "done": False})
        return str(run)

    def copy(self, stage: Stage | Outcome, folder: Path, outcome: Outcome | None, fingerprint: str | None) -> None:
        """Brings a stage's child run up to what its folder holds: parameters, new lines of the journal, and results once there are some."""
        from mlflow.entities import Metric, Param

        with self._lock:
            try:
                memory = folder / "tracking.json"
                parent = self._run(self.out / "tracking.json", self.name, None, {})
                run = self._run(memory, stage.name, parent, {"crossloom.stage": stage.kind, "crossloom.folder": str(folder)})
                kept = json.loads(memory.read_text())
                if kept["done"]:
                    return
                client = self._connect()
                if not kept.get("described"):
                    params = [Param(k, v[:6000]) for k, v in flatten(stage.inputs).items() if v]
                    for first in range(0, len(params), 100):
                        client.log_batch(run, params=params[first : first + 100])
                    if fingerprint:
                        client.set_tag(run, "crossloom.dataset", fingerprint)
                    client.update_run(run, status="RUNNING")
                    kept["described"] = True
                batch: list[Any] = []
                fresh = list(entries(folder / "journal.jsonl", kept["offset"]))
                offset = fresh[-1][1] if fresh else kept["offset"]
                for entry, _ in fresh:
                    step, stamp = int(str(entry["step"])), int(float(str(entry["time"])) * 1000)
                    metrics = entry["metrics"]
                    assert isinstance(metrics, dict)
                    batch += [Metric(name, float(value), stamp, step) for name, value in metrics.items()]
                for first in range(0, len(batch), BATCH):
                    client.log_batch(run, metrics=batch[first : first + BATCH])
                if outcome is not None:
                    self._results(client, run, outcome)
                write_json(memory, {**kept, "offset": offset, "done": outcome is not None})
            except Exception as error:
                self._tell(error)

    def _results(self, client: Any, run: str, outcome: Outcome) -> None:
        from mlflow.entities import Metric

        stamp = int(outcome.finished * 1000)
        numbers = {"seconds": outcome.seconds, **outcome.outputs.get("summary", {})}
        for name in ("samples", "steps", "steps_per_second"):
            if isinstance(outcome.outputs.get(name), int | float):
                numbers[name] = outcome.outputs[name]
        client.log_batch(run, metrics=[Metric(_name(name), float(value), stamp, 0) for name, value in numbers.items()])
        client.set_tag(run, "crossloom.fingerprint", outcome.outputs["fingerprint"])
        client.log_dict(run, outcome.outputs, "outputs.json")
        for name in outcome.outputs.get("artifacts", ()):
            client.log_artifact(run, str(outcome.folder / name))
        client.set_terminated(run, "FINISHED")

    def reopen(self, folder: Path) -> None:
        """Has the run of a stage that is taken up again described anew, and as running."""
        memory = folder / "tracking.json"
        if memory.exists():
            write_json(memory, json.loads(memory.read_text()) | {"described": False, "done": False})

    def failed(self, folder: Path, status: str) -> None:
        """Closes the child run of a stage that did not finish."""
        with self._lock:
            try:
                memory = folder / "tracking.json"
                if memory.exists():
                    self._connect().set_terminated(json.loads(memory.read_text())["run"], status)
            except Exception as error:
                self._tell(error)

    @contextlib.contextmanager
    def following(self, stage: Stage, folder: Path, fingerprint: str | None, every: float = 3.0) -> Iterator[None]:
        """Copies the stage's journal every few seconds while the block runs."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(every):
                self.copy(stage, folder, None, fingerprint)

        self.reopen(folder)
        self.copy(stage, folder, None, fingerprint)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=30)
