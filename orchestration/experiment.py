"""An experiment file as a value, and the stages that it stands for.

    dataset ─▶ pretrain/ARM/sSEED ─▶ evaluate/ARM/sSEED ─▶ report

`data` is a recipe; `pretrain` holds named arms; each arm is trained with each of `seeds` and evaluated beside random weights.
`launch`, `workers` and `tracking` say where things run and never change a result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestration.graph import Outcome, Stage, StageError
from orchestration.launch import Launch, run_pretrain
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from training.evaluation.evaluate import EvaluateConfig, check
from training.pretrain import PretrainConfig


class Experiment(BaseModel):
    """One experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    data: Recipe
    pretrain: dict[str, PretrainConfig]
    evaluate: EvaluateConfig = EvaluateConfig()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1)
    workers: int = Field(1, ge=0, description="rendering workers; 0: this process")
    launch: Launch = Launch()
    tracking: str = Field("", description='MLflow tracking URI; "none"; empty: sqlite beside the experiments\' folders')

    @model_validator(mode="after")
    def _arms(self) -> Experiment:
        if not self.pretrain:
            raise ValueError("pretrain: name at least one arm")
        for arm, config in self.pretrain.items():
            if "seed" in config.fit.model_fields_set:
                raise ValueError(f"pretrain.{arm}.fit.seed: an experiment's seeds stand in `seeds`; move it there")
            if config.fit.batch % self.launch.workers:
                raise ValueError(f"pretrain.{arm}.fit.batch: {config.fit.batch} does not divide among {self.launch.workers} workers")
            if not arm.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"pretrain.{arm}: names of arms hold letters, digits, - and _ only")
        return self


def stages(experiment: Experiment, render_progress: bool = True) -> list[Stage]:
    """The experiment's graph, needs first."""
    recipe = experiment.data
    found = [Stage("dataset", "dataset", _dataset_inputs(recipe), (), _dataset(experiment, render_progress))]
    evaluations = []
    for seed in experiment.seeds:
        for arm, config in experiment.pretrain.items():
            seeded = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
            train, judge = f"pretrain/{arm}/s{seed}", f"evaluate/{arm}/s{seed}"
            found.append(
                Stage(
                    train,
                    "pretrain",
                    seeded.model_dump(mode="json"),
                    ("dataset",),
                    _pretrain(seeded, experiment.evaluate, experiment.launch),
                )
            )
            inputs = experiment.evaluate.model_dump(mode="json")
            found.append(Stage(judge, "evaluate", inputs, ("dataset", train), _evaluate(experiment, train)))
            evaluations.append(judge)
    needs = tuple(stage.name for stage in found)
    found.append(Stage("report", "report", {"name": experiment.name}, needs, _report(experiment)))
    return found


def _uri(dataset: Outcome) -> str:
    """Where the dataset is now: with its folder, wherever that was moved to."""
    return str(dataset.folder / dataset.outputs["uri"])


def _dataset_inputs(recipe: Recipe) -> dict[str, Any]:
    from pipeline.sources import inventory

    return {"recipe": json.loads(recipe.model_dump_json()), "inventory": inventory(recipe.source)}


def _dataset(experiment: Experiment, progress: bool) -> Callable[[Path, Mapping[str, Outcome]], dict[str, Any]]:
    def run(folder: Path, _: Mapping[str, Outcome]) -> dict[str, Any]:
        from pipeline.gallery import write_gallery
        from pipeline.generate import generate

        uri = str(folder / "data")
        summary = generate(experiment.data, uri, workers=experiment.workers, progress=progress, address=experiment.launch.address)
        dataset = Dataset.open(uri)
        if not len(dataset):
            raise StageError(f"None of the {sum(summary.failed.values())} assets became a sample: see `crossloom status {uri}`.")
        write_gallery(uri, folder / "gallery.html")
        return {
            "uri": "data",  # relative to the stage's folder, so that an experiment can be moved
            "fingerprint": dataset.fingerprint,
            "samples": len(dataset),
            "failed": summary.failed,
            "throughput": summary.throughput,
            "artifacts": ["gallery.html"],
        }

    return run


def _pretrain(
    config: PretrainConfig, evaluation: EvaluateConfig, launch: Launch
) -> Callable[[Path, Mapping[str, Outcome]], dict[str, Any]]:
    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        uri = _uri(needs["dataset"])
        try:
            check(Dataset.open(uri), evaluation)  # now, not after hours of training
        except ValueError as error:
            raise StageError(f"The evaluation could not be made afterwards: {error}.") from error
        result = run_pretrain(config, uri, folder, launch)
        return {**result, "fingerprint": result["encoder_fingerprint"]}

    return run


def _evaluate(experiment: Experiment, train: str) -> Callable[[Path, Mapping[str, Outcome]], dict[str, Any]]:
    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        from orchestration.judge import judge
        from training.distributed import current_world

        # The evaluation runs in this process, which may have no GPU where the workers have.
        device = current_world("cpu" if experiment.launch.place.device == "cpu" else "auto").device
        return judge(folder, needs[train].folder, _uri(needs["dataset"]), experiment.evaluate, str(device))

    return run


def _report(experiment: Experiment) -> Callable[[Path, Mapping[str, Outcome]], dict[str, Any]]:
    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        from orchestration.report import write_report

        page = write_report(folder, experiment.name, needs)
        return {"fingerprint": "", "artifacts": [page.name]}

    return run
