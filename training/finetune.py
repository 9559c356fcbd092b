"""Fine-tuning: an encoder and a labelled dataset become a model of a task and its figures on the test split.

Any point encoder, any task of `training.tasks`, of clouds or of clips, through the loop, checkpoints and journal of pretraining: how items
are drawn, augmented and seen is the task's. After each epoch all ranks score the validation items; FOLDER/best holds the weights of the
best epoch (the task's first metric, equal ones by the loss). At the end these are loaded, and the test split is opened once. Source of the
protocol: Point-BERT's and Point-MAE's code, but for the choice of the epoch, which they make on the test split.

FOLDER/ afterwards: journal.jsonl, checkpoints/, best/, model/ (all weights and the label space), encoder/ (see `training.encoder_file`),
evidence/ (what a task keeps of test items to look at), result.json (written last: its presence says that all is done).
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from pipeline.reader import Dataset
from training import encoder_file
from training.augment import PointAugment
from training.batches import Sample, collate
from training.best_epoch import BestEpoch
from training.clip_views import ClipAugment
from training.distributed import World, barrier, gather
from training.encoders import PointEncoderConfig
from training.encoders import build as build_encoder
from training.encoders.dgcnn import DGCNNConfig
from training.evaluation.figure import Figure
from training.evaluation.norms import settle
from training.evaluation.owners import numbered
from training.files import FileError, check_folder, read_plain, read_tensors, write_folder, write_json
from training.journal import curves
from training.loop import FitConfig, Place, Trained, TrainingError, facts, fit
from training.noise import key_for
from training.ops.batchnorm import sum_over_ranks
from training.partial import over
from training.tasks import ClassificationConfig, Task, TaskConfig, fits, open_task, task_from_record
from training.tasks.items import Items, divide
from training.tasks.layers import labelled
from training.tasks.viewing import Item, Viewing


class _OfClips(dict[str, Any]):
    """Values of a ClipAugment: without it they could not be told from those of a PointAugment."""


def _augment_kind(value: Any) -> str:
    return "ClipAugment" if isinstance(value, _OfClips | ClipAugment) else "PointAugment"


Augment = Annotated[Annotated[PointAugment, Tag("PointAugment")] | Annotated[ClipAugment, Tag("ClipAugment")], Discriminator(_augment_kind)]


def _default_fit(values: dict[str, Any]) -> FitConfig:
    task: TaskConfig = values.get("task", ClassificationConfig())
    return task.default_fit()


def _default_augment(values: dict[str, Any]) -> PointAugment | ClipAugment:
    task: TaskConfig = values.get("task", ClassificationConfig())
    return task.default_augment()


class FinetuneConfig(BaseModel):
    """One fine-tuning as a value. `fit` and `augment` start from the task's own: what is known of its published training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskConfig = ClassificationConfig()
    encoder: PointEncoderConfig = Field(default=DGCNNConfig(), description="where no encoder is given; else that one's sizes count")
    fit: FitConfig = Field(default_factory=_default_fit)
    augment: Augment = Field(default_factory=_default_augment, description="of training clouds or clips; `points` says how many points")
    points: int | None = Field(
        default=None,
        ge=1,
        description="drawn for training, the first ones for scoring (of a frame: drawn by the clip's key); all if not given",
    )
    labels: float = Field(default=1.0, gt=0, le=1, description="share of the training items whose labels are used, per class, at least one")
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="share of the training split held out where there is no validation split"
    )
    validate_every: int = Field(default=1, ge=1, description="epochs")
    freeze_encoder: bool = Field(default=False, description="train the head alone on the encoder as it is in eval mode")
    encoder_lr_scale: float = Field(default=1.0, gt=0, description="the encoder's learning rate, in that of the head")
    votes: int = Field(
        default=0, ge=0, description="of clouds: augmented passes whose mean logits are scored beside the plain one, a protocol of its own"
    )
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"

    @field_validator("fit", "augment", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "fit":
            return over(_default_fit(info.data), value)
        default = _default_augment(info.data)
        merged = over(default, value)
        return _OfClips(merged) if isinstance(merged, dict) and isinstance(default, ClipAugment) else merged

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.augment.count is not None:
            raise ValueError("augment.count: say how many points with `points` instead")
        wanted = type(self.task.default_augment())
        if not isinstance(self.augment, wanted):
            raise ValueError(f"augment: the task {self.task.kind} needs a {wanted.__name__}, not a {type(self.augment).__name__}")
        if isinstance(self.augment, ClipAugment) and self.votes:
            raise ValueError(f"votes are those of clouds: set votes to 0 for the task {self.task.kind}")
        if isinstance(self.augment, PointAugment) and self.task.kind == "parts" and self.augment.dropout:
            raise ValueError("augment.dropout moves points away from their labels: set it to 0 for parts")
        return self

    def viewing(self) -> Viewing:
        """How the task's items are seen."""
        return Viewing(self.augment, self.points, self.fit.seed)


class Finetuned(Trained):
    """Encoder, head and the loss of a batch."""

    def __init__(self, task: Task, encoder: nn.Module, seed: int = 0, freeze_encoder: bool = False, encoder_lr_scale: float = 1.0) -> None:
        super().__init__()
        self.task = task
        self.encoder = encoder
        self.frozen = freeze_encoder
        self.encoder_lr_scale = encoder_lr_scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the head starts the same for every encoder of one width
            self.head = task.head(encoder)
        if freeze_encoder:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def rate_factor(self, parameter: str) -> float:
        return self.encoder_lr_scale if parameter.startswith("encoder.") else 1.0

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The task's logits; with batch["noise"] (B,) int64 and in training mode, of a pass with dropout and drop path."""
        return self.task.logits(self.encoder, self.head, batch, batch.get("noise"))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's part of the batch to the loss of the whole batch and its terms. `train_accuracy`: the share of right answers."""
        logits = self.logits(batch)
        loss, weight = self.task.loss(logits, batch)
        total = gather(weight).sum().clamp(min=1)
        mean = gather(loss).sum() / total
        with torch.no_grad():
            accuracy = gather(self.task.hits(logits, batch)).sum() / total
        return mean, {"train_accuracy": accuracy}


def check(config: FinetuneConfig, dataset: Dataset) -> None:
    """Can this dataset be fine-tuned on so? ValueError, in one sentence, where splits or labels are missing."""
    _open(config, dataset)


def finetune(
    config: FinetuneConfig, dataset: Dataset, folder: Path, world: World, place: Place, given: Path | None = None
) -> dict[str, Any]:
    """Fine-tunes, or goes on with, the training in `folder` and returns what result.json holds.

    given: the folder of an encoder, or of a pretraining with encoder/ inside; without it random weights from fit.seed. A training that is
    finished is left as it is. Raises TrainingError, FileError, and as `training.loop.fit` does.
    """
    began = time.time()
    start = encoder_file.random(config.encoder, config.fit.seed) if given is None else encoder_file.load(_encoder_folder(given))
    weights: Literal["pretrained", "random"] = "random" if start.provenance.get("weights") == "random" else "pretrained"
    config = config.model_copy(update={"encoder": start.config})
    identity = {"config": config.model_dump(mode="json"), "dataset": dataset.fingerprint, "encoder_fingerprint": start.fingerprint}
    result_path = folder / "result.json"
    finished = _finished(result_path, identity)
    if finished is not None:
        return finished
    try:
        task, items = _open(config, dataset)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if config.freeze_encoder and given is None:
        viewing = config.viewing()
        seen = (next(task.seen(dataset, int(index), viewing, 0))["points"] for index in items.labelled[:1024])
        settle(start.module, seen, "cpu", task.at_once)  # as evaluations of random weights do
    module = Finetuned(task, start.module, config.fit.seed, config.freeze_encoder, config.encoder_lr_scale)
    prepared = functools.partial(_prepare, task, config, dataset)
    _freeze_unused(module, collate([prepared(int(index), 0) for index in items.labelled[:2]]))
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    best = BestEpoch(folder, identity, world)

    def after_epoch(epoch: int) -> dict[str, float]:
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.fit.epochs
        if not (due and len(items.validation)):
            return {}
        rows = _score(module, config, dataset, items.validation, world)
        if not labelled(rows).any():
            return {}
        rows = rows[task.counted(rows)]
        found = {metric.name: metric.value for metric in task.metrics(rows)}
        loss = float(rows[:, 0].sum() / rows[:, 1].sum())
        best.offer(epoch + 1, (next(iter(found.values())), -loss), module)
        return {f"val_{name}": value for name, value in found.items()} | {"val_loss": loss}

    done = fit(module, prepared, items.labelled, config.fit, folder, identity, world, place, after_epoch)
    epoch = best.load(module)
    module.to(world.device).eval()
    # The test split is read here for the first time, and not again once result.json is written.
    figures = _figures(module, config, dataset, items, world, weights, start.fingerprint)
    if world.leads:
        with torch.no_grad():
            task.evidence(module.logits, dataset, items.test, config.viewing(), folder / "evidence", world.device)
        about = {**identity, "task": config.task.kind, "start_weights": weights, "epochs": epoch or config.fit.epochs}
        mark = encoder_file.save(folder / "encoder", module.encoder, start.config, {"weights": "finetuned", "steps": done.steps, **about})
        write_folder(folder / "model", {"model": module.state_dict()}, {"model": {**about, "labels": task.record()}})
        result = {
            **identity,
            "task": config.task.kind,
            "weights": weights,
            "loaded_tensors": 0 if given is None else len(module.encoder.state_dict()),
            "fingerprint": mark,
            "figures": [figure.record() for figure in figures],
            "summary": {figure.name: figure.value for figure in figures},
            "epoch": epoch or config.fit.epochs,
            "chosen_by": "validation" if epoch else "last epoch",
            "validation": _validation_curve(folder, done.steps, config.fit.epochs),
            **items.details,
            "test_items": len(items.test),
            "parameters": {
                "encoder": sum(p.numel() for p in module.encoder.parameters()),
                "head": sum(p.numel() for p in module.head.parameters()),
                "trained": trained,
            },
            **facts(done, began, world),
        }
        write_json(result_path, result)
    barrier()
    loaded: dict[str, Any] = json.loads(result_path.read_text())
    return loaded


def load_finetuned(folder: Path) -> Finetuned:
    """The model of a finished fine-tuning in eval mode: `logits` of batches as its task's `item` describes them. Raises FileError."""
    check_folder(folder / "model")
    record = read_plain(folder / "model", "model")
    config = FinetuneConfig.model_validate(record["config"])
    module = Finetuned(task_from_record(config.task, record["labels"]), build_encoder(config.encoder))
    try:
        module.load_state_dict(read_tensors(folder / "model", "model"))
    except RuntimeError as error:
        raise FileError(f"The weights in {folder / 'model'} do not fit the configuration beside them: train again.") from error
    return module.eval()


# ---- what comes in ---------------------------------------------------------------------------------------------------


def _encoder_folder(given: Path) -> Path:
    return given / "encoder" if (given / "encoder").is_dir() else given


def _finished(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    if any(result.get(name) != value for name, value in identity.items()):
        return None
    return {**result, "steps_this_run": 0, "seconds_this_run": 0.0, "steps_per_second": None}


def _open(config: FinetuneConfig, dataset: Dataset) -> tuple[Task, Items]:
    fits(config.task, config.encoder, config.viewing())
    train = dataset.indices(config.train_split)
    task = open_task(config.task, dataset, train)
    splits = (config.train_split, config.validation_split, config.test_split)
    items = divide(dataset, splits, config.validation, config.labels, task.categories, config.fit.seed, task.owners(dataset, train))
    if not len(items.test):
        raise ValueError(f"The dataset {dataset.uri} has nothing to test on in the split {config.test_split!r}: name another split.")
    return task, replace(items, details=items.details | task.facts(dataset, items, config.viewing()))


def _prepare(task: Task, config: FinetuneConfig, dataset: Dataset, index: int, epoch: int) -> Sample:
    """What one object brings to a step: the task's view of it, and `noise`."""
    noise = key_for(config.fit.seed, epoch, dataset.keys[index])
    return {**task.drawn(dataset, index, config.viewing(), epoch), "noise": np.asarray(np.int64(noise))}


def _freeze_unused(module: Finetuned, batch: dict[str, Tensor]) -> None:
    """Takes parameters that the task's loss does not reach out of the training: nothing decays them, no rank waits for their gradients."""
    module.eval()
    loss, _ = module.task.loss(module.logits(batch), batch)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter, gradient in zip(trained, torch.autograd.grad(loss.sum(), trained, allow_unused=True), strict=True):
        parameter.requires_grad_(gradient is not None)


# ---- scores ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _score(
    module: Finetuned, config: FinetuneConfig, dataset: Dataset, items: npt.NDArray[np.int64], world: World, votes: int = 0
) -> npt.NDArray[np.float64]:
    """The task's row of each item, (n, row_width), on every rank; each scores its share. `votes`: passes whose mean logits count."""
    task, viewing = module.task, config.viewing()
    rows = torch.zeros(len(items), task.row_width, dtype=torch.float64, device=world.device)
    mine = np.arange(world.rank, len(items), world.size)
    for places in np.split(mine, range(task.at_once, len(mine), task.at_once)):
        if not len(places):
            continue
        views = [task.seen(dataset, int(index), viewing, votes) for index in items[places]]
        first: list[Item] = []
        kept: list[list[Tensor]] = [[] for _ in views]
        # Items have their first pass together, then those that have a second one that, and so on.
        while waiting := [(number, sample) for number, view in enumerate(views) if (sample := next(view, None)) is not None]:
            first = first or [sample for _, sample in waiting]
            batch = {name: values.to(world.device) for name, values in collate([sample for _, sample in waiting]).items()}
            for (number, _), one in zip(waiting, task.kept(module.logits(batch), batch), strict=True):
                kept[number].append(one)
        rows[torch.from_numpy(places).to(world.device)] = task.scored(kept, first)
    return sum_over_ranks(rows).cpu().numpy()


def _figures(
    module: Finetuned,
    config: FinetuneConfig,
    dataset: Dataset,
    items: Items,
    world: World,
    weights: Literal["pretrained", "random"],
    fingerprint: str,
) -> list[Figure]:
    found = []
    whose = module.task.owners(dataset, items.test)
    for votes in dict.fromkeys((0, config.votes)):
        rows = _score(module, config, dataset, items.test, world, votes)
        use = module.task.counted(rows)
        if not labelled(rows).any():
            raise TrainingError(f"No item of the split {config.test_split!r} of {dataset.uri} has labels that the training knows.")
        keys = [dataset.keys[i] for i in items.test[use].tolist()]
        about = {
            **items.details,
            "items": _digest(keys),
            "test_items_without_labels": int((~labelled(rows)).sum()),
            "labels": config.labels,
            "freeze_encoder": config.freeze_encoder,
            "votes": votes,
            "points": config.points or "all",
            **({} if whose is None else {"owners": numbered(whose[items.test[use]])}),
        }
        found += [
            Figure(
                protocol=module.task.protocol + (f"_vote{votes}" if votes else ""),
                metric=metric.name,
                value=metric.value,
                n=len(metric.scores),
                split=config.test_split,
                turned=False,
                weights=weights,
                encoder_fingerprint=fingerprint,
                dataset_fingerprint=dataset.fingerprint,
                seed=config.fit.seed,
                details={**metric.details, **about, "scores": metric.scores.tolist()},
                chance=metric.chance,
            )
            for metric in module.task.metrics(rows[use])
        ]
    return found


def _digest(items: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(items).encode()).hexdigest()


def _validation_curve(folder: Path, steps: int, epochs: int) -> dict[str, list[list[float]]]:
    """Each value of `after_epoch` as [epochs done, value] pairs."""
    per_epoch = steps // epochs
    return {
        name: [[step // per_epoch, value] for step, value in points]
        for name, points in curves(folder / "journal.jsonl").items()
        if name.startswith("val_")
    }
