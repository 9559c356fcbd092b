"""`crossloom run` and `crossloom plan`: an experiment file is brought up to date before a person's eyes."""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from orchestration.experiment import Experiment, stages
from orchestration.graph import Outcome, Stage, StageError, Step, bring_up_to_date, plan
from orchestration.tracking import Tracker
from training.journal import entries


class BusyError(StageError):
    """Another process works in the same folder."""


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds the folder's lock; it is released with the process, however that ends. Raises BusyError."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"Another crossloom works in {out}: wait for it, or name another folder with --out.") from None
        yield


def plan_table(experiment: Experiment, out: Path) -> list[dict[str, str]]:
    """What a run would do: a row of stage, action and reason for each stage."""
    return [
        {"stage": s.stage.name, "action": "run" if s.runs else "skip", "reason": s.reason, "detail": s.detail}
        for s in plan(stages(experiment), out)
    ]


def run_experiment(
    experiment: Experiment, out: Path, console: Console, *, tracking: str, text: str = "", force: Sequence[str] = ()
) -> dict[str, Outcome]:
    """Brings every stage up to date and returns the outcomes by stage name.

    tracking: an MLflow URI or "none"; text: the experiment as YAML, kept with its run. Raises StageError and what the stages raise.
    """
    unknown = sorted(set(force) - {stage.name for stage in stages(experiment)})
    if unknown:
        names = ", ".join(stage.name for stage in stages(experiment))
        raise StageError(f"There is no stage {unknown[0]!r} to force: name one of {names}.")
    with alone(out):
        return _Run(experiment, out, console, tracking, text).go(force)


class _Run:
    def __init__(self, experiment: Experiment, out: Path, console: Console, tracking: str, text: str) -> None:
        self.out, self.console, self.text = out, console, text
        self.stages = stages(experiment, render_progress=console.is_terminal)
        self.tracker = (
            None if tracking == "none" else Tracker(tracking, experiment.name, out, lambda line: console.print(f"[yellow]{line}"))
        )
        self.datasets: dict[str, str] = {}  # fingerprints by stage
        self.open = contextlib.ExitStack()
        self.folder: Path | None = None

    def go(self, force: Sequence[str]) -> dict[str, Outcome]:
        if self.tracker:
            self.tracker.parent(self.text, None)
        try:
            outcomes = bring_up_to_date(self.stages, self.out, started=self.started, finished=self.finished, force=force)
        except BaseException as error:
            self.open.close()
            if self.tracker:
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                if self.folder is not None:
                    self.tracker.failed(self.folder, status)
                self.tracker.end(status)
            raise
        if self.tracker:
            self.tracker.end("FINISHED", figures(outcomes))
        return outcomes

    def started(self, step: Step) -> None:
        number = self.stages.index(step.stage) + 1
        head = f"[bold]\\[{number}/{len(self.stages)}] {step.stage.name}[/]"
        if not step.runs:
            return
        why = f"{step.reason}: {step.detail}" if step.detail else step.reason
        self.console.print(f"{head}  [dim]{why}[/]")
        assert step.folder is not None
        step.folder.mkdir(parents=True, exist_ok=True)
        self.folder = step.folder
        if self.tracker:
            self.open.enter_context(self.tracker.following(step.stage, step.folder, self.dataset_of(step.stage.name)))
        if "fit" in step.stage.inputs:
            self.open.enter_context(watching(step.stage, step.folder, self.console))

    def dataset_of(self, name: str) -> str | None:
        """The fingerprint of the dataset that a stage works on: its own, or the first that it needs."""
        needs = next(stage.needs for stage in self.stages if stage.name == name)
        return next((self.datasets[found] for found in (name, *needs) if found in self.datasets), None)

    def finished(self, outcome: Outcome, ran: bool) -> None:
        self.open.close()
        if outcome.kind == "dataset":
            self.datasets[outcome.name] = outcome.outputs["fingerprint"]
        if self.tracker:
            self.tracker.copy(outcome, outcome.folder, outcome, self.dataset_of(outcome.name))
            if outcome.name == "dataset":
                self.tracker.parent(self.text, self.datasets["dataset"])
        number = [stage.name for stage in self.stages].index(outcome.name) + 1
        if ran:
            self.console.print(f"      done in {duration(outcome.seconds)}{headline(outcome)}")
        else:
            self.console.print(f"[dim]\\[{number}/{len(self.stages)}] {outcome.name}  finished and unchanged{headline(outcome)}[/]")


def headline(outcome: Outcome) -> str:
    """The one figure of a stage that a person waits for."""
    o = outcome.outputs
    if outcome.kind == "dataset":
        failed = sum(o["failed"].values())
        return f": {o['samples']} samples" + (f", {failed} assets failed" if failed else "")
    if outcome.kind in ("pretrain", "tokenizer"):
        return f": loss {o['metrics']['loss']:.3f} after {o['steps']} steps" if o.get("metrics") else f": {o['steps']} steps"
    if outcome.kind == "finetune":
        return ": " + ", ".join(f"{name.split('.')[-1].replace('_', ' ')} {100 * value:.1f} %" for name, value in o["summary"].items())
    return ""


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def watching(stage: Stage, folder: Path, console: Console) -> Iterator[None]:
    """Shows a training's journal as a progress bar; without a terminal a line every half minute."""
    stop = threading.Event()
    journal = folder / "journal.jsonl"
    columns = (TextColumn("      {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar: Any = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def work() -> None:
        task = bar.add_task("starting", total=None) if bar else None
        offset, printed = (journal.stat().st_size if journal.exists() else 0), time.monotonic()
        while not stop.wait(0.5):
            fresh = list(entries(journal, offset))
            if not fresh:
                continue
            last, offset = fresh[-1]
            metrics: Any = last["metrics"]
            step = int(str(last["step"]))
            total = int(metrics["total_steps"])
            words = f"loss {metrics['loss']:.3f}  {metrics['samples_per_second']:.0f} samples/s"
            if bar:
                bar.update(task, completed=step, total=total, description=words)
            elif time.monotonic() - printed > 30:
                printed = time.monotonic()
                left = (total - step) * float(stage.inputs["fit"]["batch"]) / max(metrics["samples_per_second"], 1e-9)
                console.print(f"      step {step} of {total}  {words}  ETA {duration(left)}")

    thread = threading.Thread(target=work, daemon=True)
    with bar or contextlib.nullcontext():
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=5)


def figures(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Every figure of all evaluations by arm, seed, name and weights, and of all fine-tunings by task, arm, seed and name."""
    judged = [outcome for outcome in outcomes.values() if outcome.kind in ("evaluate", "finetune")]
    return {f"{o.name.removeprefix('evaluate/')}/{name}": float(value) for o in judged for name, value in o.outputs["summary"].items()}


def result_table(outcomes: dict[str, Outcome]) -> Table:
    """The main figures in percent, over seeds, for the terminal; the report has them all."""
    from orchestration.report.figures import measures, percent

    table = Table(box=None, pad_edge=False)
    for name in ("figure", "clouds", "arm", "pretrained", "random", "chance"):
        table.add_column(name, justify="left" if name in ("figure", "clouds", "arm") else "right", no_wrap=True, overflow="fold")
    before = ""
    for m in measures(outcomes, intervals=False):
        if m.headline and not m.metric.startswith("image_to_point"):
            chance = "" if m.chance is None else f"{100 * m.chance:.1f}"
            table.add_row("" if m.label == before else m.label, m.clouds, m.arm, percent(m.pretrained), percent(m.random), chance)
            before = m.label
    return table
