"""An experiment file as a value, and the stages that it stands for.

    dataset ─▶ tokenizer/ARM/sSEED ─▶ pretrain/ARM/sSEED ─▶ evaluate/ARM/sSEED        ─▶ report
    dataset/TASK ─────────────────────────────────────────▶ finetune/TASK/ARM/sSEED   ─▶

`data` is a recipe; `pretrain` holds named arms; each arm is trained with each of `seeds` and evaluated beside random weights. Arms that
predict a tokenizer's codes share the tokenizer that an equal configuration describes. Each task of `finetune` goes on from each arm's
encoder, and once from random weights of each different encoder. `launch`, `workers` and `tracking` say where things run and never change a
result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestration.graph import Outcome, Stage, StageError, Work
from orchestration.judge import view_of
from orchestration.launch import Launch, Training, run_training
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from training.encoders import PointEncoderConfig, check_clip
from training.evaluation.clips import with_count
from training.evaluation.evaluate import EvaluateConfig, check
from training.finetune import FinetuneConfig
from training.finetune import check as check_finetuning
from training.objectives import CrossBertConfig
from training.pretrain import PretrainConfig
from training.tasks import fits

_NAME = r"^[A-Za-z0-9_-]+$"


class Downstream(BaseModel):
    """One task of fine-tuning: `training` without encoder and seed, which the arms and the experiment's seeds give.

    data: another dataset than the experiment's; labels: shares of the training labels, a training for each; arms: those that it goes on
    from, all if none is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: FinetuneConfig = FinetuneConfig()
    data: Recipe | None = None
    labels: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0,), min_length=1)
    arms: tuple[str, ...] = ()


class Experiment(BaseModel):
    """One experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    data: Recipe
    pretrain: dict[Annotated[str, Field(pattern=_NAME)], PretrainConfig]
    finetune: dict[Annotated[str, Field(pattern=_NAME)], Downstream] = {}
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
            if isinstance(config.objective, CrossBertConfig) and "seed" in config.objective.tokenizer.fit.model_fields_set:
                raise ValueError(f"pretrain.{arm}.objective.tokenizer.fit.seed: an experiment's seeds stand in `seeds`; move it there")
            if arm == "random" or arm.startswith("random-"):
                raise ValueError(f"pretrain.{arm}: random weights stand beside every arm under this name; choose another")
            if config.fit.batch % self.launch.workers:
                raise ValueError(f"pretrain.{arm}.fit.batch: {config.fit.batch} does not divide among {self.launch.workers} workers")
            if (view := view_of(config.objective)) is not None:
                seen = with_count(self.evaluate.clips or view, self.evaluate.points)
                try:
                    check_clip(config.encoder, seen.frames, seen.count)
                except ValueError as error:
                    raise ValueError(f"evaluate, after the arm {arm}: {error}") from error
        for task, downstream in self.finetune.items():
            if unknown := sorted(set(downstream.arms) - self.pretrain.keys()):
                raise ValueError(f"finetune.{task}.arms: there is no arm {unknown[0]!r}; name some of {', '.join(self.pretrain)}")
            if {"seed"} & downstream.training.fit.model_fields_set or {"encoder", "labels"} & downstream.training.model_fields_set:
                raise ValueError(
                    f"finetune.{task}.training: encoder, labels and fit.seed come from the arms, `labels` and `seeds`; remove them"
                )
            if downstream.training.fit.batch % self.launch.workers:
                batch = downstream.training.fit.batch
                raise ValueError(f"finetune.{task}.training.fit.batch: {batch} does not divide among {self.launch.workers} workers")
            for arm in downstream.arms or self.pretrain:
                try:
                    fits(downstream.training.task, self.pretrain[arm].encoder, downstream.training.viewing())
                except ValueError as error:
                    raise ValueError(f"finetune.{task}, after the arm {arm}: {error}") from error
        return self


def stages(experiment: Experiment, render_progress: bool = True) -> list[Stage]:
    """The experiment's graph, needs first."""
    datasets = _datasets(experiment)
    recipes = {name: recipe for recipe, name in datasets.items()}
    found = [_dataset_stage(name, Recipe.model_validate_json(recipe), experiment, render_progress) for name, recipe in recipes.items()]
    for seed in experiment.seeds:
        tokenizers: dict[str, str] = {}
        for arm, config in experiment.pretrain.items():
            seeded = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
            needs: tuple[str, ...] = ("dataset",)
            objective = config.objective
            if isinstance(objective, CrossBertConfig) and objective.uses_tokenizer:
                tokenizer = objective.tokenizer.model_copy(update={"fit": objective.tokenizer.fit.model_copy(update={"seed": seed})})
                name = tokenizers.setdefault(tokenizer.model_dump_json(), f"tokenizer/{arm}/s{seed}")
                if name not in {stage.name for stage in found}:
                    found.append(Stage(name, "tokenizer", _plain(tokenizer), needs, _train(tokenizer, experiment, "dataset")))
                needs = ("dataset", name)
            train, judge = f"pretrain/{arm}/s{seed}", f"evaluate/{arm}/s{seed}"
            found.append(Stage(train, "pretrain", _plain(seeded), needs, _train(seeded, experiment, *needs)))
            found.append(Stage(judge, "evaluate", _plain(experiment.evaluate), ("dataset", train), _evaluate(experiment, train)))
        found += _finetunings(experiment, seed, datasets)
    needs = tuple(stage.name for stage in found)
    found.append(Stage("report", "report", {"name": experiment.name}, needs, _report(experiment)))
    return found


def _datasets(experiment: Experiment) -> dict[str, str]:
    """The stage of each different recipe, as JSON, the experiment's own first; tasks share one that they describe alike."""
    found = {experiment.data.model_dump_json(): "dataset"}
    for task, downstream in experiment.finetune.items():
        if downstream.data is not None:
            found.setdefault(downstream.data.model_dump_json(), f"dataset/{task}")
    return found


def _finetunings(experiment: Experiment, seed: int, datasets: Mapping[str, str]) -> list[Stage]:
    """The fine-tunings of one seed: every task and share of labels, from every arm and from random weights of every different encoder."""
    found = []
    for task, downstream in experiment.finetune.items():
        arms = {name: config for name, config in experiment.pretrain.items() if name in (downstream.arms or experiment.pretrain)}
        data = datasets[(downstream.data or experiment.data).model_dump_json()]
        for share in downstream.labels:
            name = task if len(downstream.labels) == 1 else f"{task}-{100 * share:g}"
            for start, encoder, pretrained in _starts(arms, seed):
                fit = downstream.training.fit.model_copy(update={"seed": seed})
                config = downstream.training.model_copy(update={"encoder": encoder, "labels": share, "fit": fit})
                needs = (data,) if pretrained is None else (data, pretrained)
                found.append(
                    Stage(f"finetune/{name}/{start}/s{seed}", "finetune", _plain(config), needs, _train(config, experiment, *needs))
                )
    return found


def _starts(arms: Mapping[str, PretrainConfig], seed: int) -> list[tuple[str, PointEncoderConfig, str | None]]:
    """(name, encoder, stage that trained it): random weights of every different encoder, then every arm."""
    encoders = {config.encoder.model_dump_json(): arm for arm, config in reversed(list(arms.items()))}
    starts: list[tuple[str, PointEncoderConfig, str | None]] = [
        (f"random-{arm}" if len(encoders) > 1 else "random", arms[arm].encoder, None) for arm in reversed(list(encoders.values()))
    ]
    return starts + [(arm, config.encoder, f"pretrain/{arm}/s{seed}") for arm, config in arms.items()]


def _plain(config: BaseModel) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


def _uri(dataset: Outcome) -> str:
    """Where the dataset is now: with its folder, wherever that was moved to."""
    return str(dataset.folder / dataset.outputs["uri"])


def _dataset_stage(name: str, recipe: Recipe, experiment: Experiment, progress: bool) -> Stage:
    from pipeline.sources import inventory

    def run(folder: Path, _: Mapping[str, Outcome]) -> dict[str, Any]:
        from pipeline.gallery import write_gallery
        from pipeline.generate import generate

        uri = str(folder / "data")
        summary = generate(recipe, uri, workers=experiment.workers, progress=progress, address=experiment.launch.address)
        dataset = Dataset.open(uri)
        if not len(dataset):
            raise StageError(f"None of the {sum(summary.failed.values())} assets became a sample: see `crossloom status {uri}`.")
        for task, downstream in experiment.finetune.items():
            if (downstream.data or experiment.data) == recipe:
                try:
                    arm = next(iter(downstream.arms or experiment.pretrain))
                    training = downstream.training.model_copy(update={"encoder": experiment.pretrain[arm].encoder})
                    check_finetuning(training, dataset)  # now, not after hours of pretraining
                except ValueError as error:
                    raise StageError(f"The fine-tuning {task} could not be made afterwards: {error}") from error
        write_gallery(uri, folder / "gallery.html")
        return {
            "uri": "data",  # relative to the stage's folder, so that an experiment can be moved
            "fingerprint": dataset.fingerprint,
            "samples": len(dataset),
            "failed": summary.failed,
            "throughput": summary.throughput,
            "artifacts": ["gallery.html"],
        }

    # the hash beside the values knows the order of the recipe's tables
    inputs = {"recipe": json.loads(recipe.model_dump_json()), "hash": recipe.resolved_hash(), "inventory": inventory(recipe.source)}
    return Stage(name, "dataset", inputs, (), run)


def _train(config: Training, experiment: Experiment, data: str, given: str | None = None) -> Work:
    """A training on the dataset of the stage `data`, building on what the stage `given` made."""

    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        uri = _uri(needs[data])
        if isinstance(config, PretrainConfig):
            try:
                check(Dataset.open(uri), experiment.evaluate)  # now, not after hours of training
            except ValueError as error:
                raise StageError(f"The evaluation could not be made afterwards: {error}.") from error
        return run_training(config, uri, folder, experiment.launch, None if given is None else needs[given].folder)

    return run


def _evaluate(experiment: Experiment, train: str) -> Work:
    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        from orchestration.judge import judge
        from training.distributed import current_world

        # The evaluation runs in this process, which may have no GPU where the workers have.
        device = current_world("cpu" if experiment.launch.place.device == "cpu" else "auto").device
        return judge(folder, needs[train].folder, _uri(needs["dataset"]), experiment.evaluate, str(device))

    return run


def _report(experiment: Experiment) -> Work:
    def run(folder: Path, needs: Mapping[str, Outcome]) -> dict[str, Any]:
        from orchestration.report import write_report

        page = write_report(folder, experiment.name, needs)
        return {"fingerprint": "", "artifacts": [page.name]}

    return run
