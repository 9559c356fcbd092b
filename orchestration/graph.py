"""A graph of stages that does what is missing and says why.

A stage is a name, the plain values that make its result (`inputs`), the stages it needs, and a function that does the work in a folder.
Its identity is a hash of inputs and of what its needs gave; its folder is OUT/<name>/<first ten digits of the identity>, so an older
result is never overwritten. stage.json in it, written last and by rename, says that the stage is finished.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.files import digest, write_json

VERSION = 3
"""Part of every identity; raise it when a stage's work changes its result for equal inputs."""

Reason = Literal[
    "finished", "first time", "interrupted", "configuration changed", "input changed", "record damaged", "forced", "after another"
]
Work = Callable[[Path, Mapping[str, "Outcome"]], dict[str, Any]]


class StageError(Exception):
    """A stage failed. The text is one sentence."""


@dataclass(frozen=True)
class Stage:
    """`run(folder, outcomes of needs)` returns plain outputs with a `fingerprint` of the result; calling it again completes it."""

    name: str
    kind: str
    inputs: dict[str, Any]
    needs: tuple[str, ...]
    run: Work


@dataclass(frozen=True)
class Outcome:
    """A finished stage, as stage.json holds it."""

    name: str
    kind: str
    folder: Path
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    seconds: float
    finished: float
    """seconds since the epoch"""


@dataclass(frozen=True)
class Step:
    """What would happen to a stage: `reason` from the closed list, `detail` names keys or stages; `outcome` where it is finished."""

    stage: Stage
    reason: Reason
    detail: str = ""
    outcome: Outcome | None = None
    folder: Path | None = None

    @property
    def runs(self) -> bool:
        return self.reason != "finished"


def identity(stage: Stage, outcomes: Mapping[str, Outcome]) -> str:
    """64 hexadecimal digits over version, kind, inputs and the fingerprints of what is needed."""
    needs = {name: outcomes[name].outputs["fingerprint"] for name in stage.needs}
    return digest({"version": VERSION, "kind": stage.kind, "name": stage.name, "inputs": stage.inputs, "needs": needs})


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome that a folder records; None where it holds none. Raises ValueError for a damaged record."""
    try:
        record = json.loads((folder / "stage.json").read_text())
    except FileNotFoundError:
        return None
    return Outcome(record["name"], record["kind"], folder, record["inputs"], record["outputs"], record["seconds"], record["finished"])


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [key for k in sorted({*old, *new}) for key in changed_keys(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if old == new else [prefix]


def examine(stage: Stage, outcomes: Mapping[str, Outcome], out: Path, forced: bool = False) -> Step:
    """Why a stage would run or not, its needs being finished."""
    mark = identity(stage, outcomes)
    home = out / stage.name.replace("/", "-")
    folder = home / mark[:10]
    try:
        outcome = read_outcome(folder)
    except (ValueError, KeyError, TypeError):
        return Step(stage, "record damaged", str(folder / "stage.json"), folder=folder)
    if outcome is not None:
        return Step(stage, "forced", folder=folder) if forced else Step(stage, "finished", outcome=outcome, folder=folder)
    if folder.exists():
        return Step(stage, "interrupted", folder=folder)
    earlier = []
    for path in home.iterdir() if home.exists() else ():
        try:
            found = read_outcome(path)
        except (ValueError, KeyError, TypeError):
            continue
        if found is not None:
            earlier.append(found)
    if not earlier:
        return Step(stage, "first time", folder=folder)
    latest = max(earlier, key=lambda o: o.finished)
    keys = changed_keys(latest.inputs, stage.inputs)
    if keys:
        return Step(stage, "configuration changed", _listed(keys), folder=folder)
    return Step(stage, "input changed", _listed(stage.needs), folder=folder)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def plan(stages: Sequence[Stage], out: Path) -> list[Step]:
    """What `bring_up_to_date` would do, without doing it. Stages come in an order in which needs stand first."""
    outcomes: dict[str, Outcome] = {}
    found: list[Step] = []
    for stage in stages:
        missing = [name for name in stage.needs if name not in outcomes]
        step = Step(stage, "after another", _listed(missing)) if missing else examine(stage, outcomes, out)
        if step.outcome is not None:
            outcomes[stage.name] = step.outcome
        found.append(step)
    return found


def bring_up_to_date(
    stages: Sequence[Stage],
    out: Path,
    *,
    started: Callable[[Step], None] = lambda step: None,
    finished: Callable[[Outcome, bool], None] = lambda outcome, ran: None,
    force: Sequence[str] = (),
) -> dict[str, Outcome]:
    """Runs what is not finished, in order, and returns all outcomes by name.

    `started` hears of each stage with its reason before it runs, `finished` of each outcome and whether it ran just now.
    What a stage raises passes through; the same call goes on from there.
    """
    outcomes: dict[str, Outcome] = {}
    for stage in stages:
        step = examine(stage, outcomes, out, stage.name in force)
        if step.reason == "forced" and step.folder is not None:
            shutil.rmtree(step.folder)  # what is there would be found finished
        started(step)
        outcome = step.outcome
        if outcome is None:
            assert step.folder is not None
            step.folder.mkdir(parents=True, exist_ok=True)
            began = time.time()
            outputs = stage.run(step.folder, {name: outcomes[name] for name in stage.needs})
            outcome = Outcome(stage.name, stage.kind, step.folder, stage.inputs, outputs, round(time.time() - began, 3), time.time())
            write_outcome(outcome)
        outcomes[stage.name] = outcome
        finished(outcome, step.runs)
    return outcomes


def write_outcome(outcome: Outcome) -> None:
    """Makes a stage finished."""
    record = {
        "name": outcome.name,
        "kind": outcome.kind,
        "inputs": outcome.inputs,
        "outputs": outcome.outputs,
        "seconds": outcome.seconds,
        "finished": outcome.finished,
    }
    write_json(outcome.folder / "stage.json", record)
