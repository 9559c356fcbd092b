"""Fine-tuning: an encoder and a labelled dataset become a model of a task and its figures on the test split.

Any point encoder, any task of `training.tasks`, through the loop, checkpoints and journal of pretraining. After each epoch all ranks
score the validation items; FOLDER/best holds the weights of the best epoch (the task's first metric, equal ones by the loss). At the end
these are loaded, and the test split is opened once. Source of the protocol: Point-BERT's and Point-MAE's code, but for the choice of the
epoch, which they make on the test split.

FOLDER/ afterwards: journal.jsonl, checkpoints/, best/, model/ (all weights and the label space), encoder/ (see `training.encoder_file`),
for parts evidence/ (test shapes to look at), result.json (written last: its presence says that all is done).
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from pipeline.reader import Dataset
from training import encoder_file
from training.augment import PointAugment, augment_points, normalise, rng_for, take
from training.batches import Sample, collate
from training.best_epoch import BestEpoch
from training.distributed import World, barrier, gather
from training.encoders import PointEncoderConfig
from training.encoders import build as build_encoder
from training.encoders.dgcnn import DGCNNConfig
from training.evaluation.figure import Figure
from training.evaluation.norms import settle
from training.files import FileError, check_folder, read_plain, read_tensors, write_folder, write_json
from training.journal import curves
from training.loop import FitConfig, OptimizerConfig, Place, Trained, TrainingError, facts, fit
from training.noise import key_for
from training.ops.batchnorm import sum_over_ranks
from training.partial import over
from training.tasks import ClassificationConfig, Parts, Task, TaskConfig, open_task, task_from_record
from training.tasks.items import Items, divide

_SCORED_AT_ONCE = 32
_SHOWN = 8
"""test shapes whose parts are kept to be looked at"""


def _default_fit(values: dict[str, Any]) -> FitConfig:
    parts = getattr(values.get("task"), "kind", "") == "parts"
    optimizer = OptimizerConfig(
        lr=2e-4 if parts else 5e-4,
        weight_decay=0.05,
        decoupled=True,
        spare_vectors=True,
        clip=10.0,
        schedule="cosine_warm",
        warmup_epochs=10,
        floor=1e-6,
    )
    return FitConfig(epochs=300, batch=16 if parts else 32, optimizer=optimizer)


def _default_augment(values: dict[str, Any]) -> PointAugment:
    still: dict[str, Any] = {"rotation": "none", "translate": 0.0, "jitter_sigma": 0.0, "dropout": 0.0}
    if getattr(values.get("task"), "kind", "") == "parts":
        return PointAugment(scale=(0.8, 1.25), shift=0.1, **still)
    return PointAugment(scale=(2 / 3, 1.5), per_axis=True, shift=0.2, **still)


class FinetuneConfig(BaseModel):
    """One fine-tuning as a value. `fit` and `augment` start from Point-BERT's (classification) or Point-MAE's (parts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskConfig = ClassificationConfig()
    encoder: PointEncoderConfig = Field(default=DGCNNConfig(), description="where no encoder is given; else that one's sizes count")
    fit: FitConfig = Field(default_factory=_default_fit)
    augment: PointAugment = Field(default_factory=_default_augment, description="of training clouds; `points` says how many points")
    points: int | None = Field(default=None, ge=1, description="drawn for training, the first ones for scoring; all if not given")
    labels: float = Field(default=1.0, gt=0, le=1, description="share of the training items whose labels are used, per class, at least one")
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="share of the training split held out where there is no validation split"
    )
    validate_every: int = Field(default=1, ge=1, description="epochs")
    freeze_encoder: bool = Field(default=False, description="train the head alone on the encoder as it is in eval mode")
    encoder_lr_scale: float = Field(default=1.0, gt=0, description="the encoder's learning rate, in that of the head")
    votes: int = Field(
        default=0, ge=0, description="augmented passes whose mean logits are scored beside the plain pass, as a protocol of its own"
    )
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"

    @field_validator("fit", "augment", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_default_fit(info.data) if info.field_name == "fit" else _default_augment(info.data), value)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.augment.count is not None:
            raise ValueError("augment.count: say how many points with `points` instead")
        if self.task.kind == "parts" and self.augment.dropout:
            raise ValueError("augment.dropout moves points away from their labels: set it to 0 for parts")
        return self


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
        clouds = (_scored(task, config, dataset, int(index), None)["points"] for index in items.labelled[:1024])
        settle(start.module, clouds, "cpu", _SCORED_AT_ONCE)  # as evaluations of random weights do
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
        if not (rows[:, 1] > 0).any():
            return {}
        rows = rows[rows[:, 1] > 0]
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
        _keep_evidence(module, config, dataset, items.test, folder, world.device)
        about = {**identity, "task": config.task.kind, "start_weights": weights, "epochs": epoch or config.fit.epochs}
        mark = encoder_file.save(folder / "encoder", module.encoder, start.config, {"weights": "finetuned", "steps": done.steps, **about})
        write_folder(folder / "model", {"model": module.state_dict()}, {"model": {**about, "labels": task.record()}})
        result = {
            **identity,
            "task": config.task.kind,
            "weights": weights,
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
    task = open_task(config.task, dataset, dataset.indices(config.train_split))
    splits = (config.train_split, config.validation_split, config.test_split)
    items = divide(dataset, splits, config.validation, config.labels, task.categories, config.fit.seed)
    if not len(items.test):
        raise ValueError(f"The dataset {dataset.uri} has nothing to test on in the split {config.test_split!r}: name another split.")
    return task, items


def _chosen(item: Sample, task: Task, config: FinetuneConfig, rng: np.random.Generator | None) -> Sample:
    """The item with `points` of its points: drawn, or without `rng` the first ones; what is said of each point goes with it."""
    if config.points is None:
        return item
    # Of a column of numbers, `take` keeps which points it took.
    chosen = take(np.arange(len(item["points"])), config.points, rng)  # type: ignore[arg-type]
    return {name: values[chosen] if name in task.per_point else values for name, values in item.items()}


def _prepare(task: Task, config: FinetuneConfig, dataset: Dataset, index: int, epoch: int) -> Sample:
    """What one object brings to a step: the task's item, its cloud augmented, and `noise`."""
    seed, key = config.fit.seed, dataset.keys[index]
    rng = rng_for(seed, epoch, key, "finetune")
    item = _chosen(task.item(dataset, index), task, config, rng if config.augment.draw == "random" else None)
    return {**item, "points": augment_points(item["points"], config.augment, rng), "noise": np.asarray(np.int64(key_for(seed, epoch, key)))}


def _scored(task: Task, config: FinetuneConfig, dataset: Dataset, index: int, vote: int | None) -> Sample:
    """The item as it is scored: the first points, as they are, or augmented for a vote."""
    item = _chosen(task.item(dataset, index), task, config, None)
    if vote is not None:
        rng = rng_for(config.fit.seed, vote, dataset.keys[index], "vote")
        return {**item, "points": augment_points(item["points"], config.augment, rng)}
    return {**item, "points": normalise(item["points"])} if config.augment.normalise else item


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
    task = module.task
    rows = torch.zeros(len(items), task.row_width, dtype=torch.float64, device=world.device)
    mine = np.arange(world.rank, len(items), world.size)
    for places in np.split(mine, range(_SCORED_AT_ONCE, len(mine), _SCORED_AT_ONCE)):
        if not len(places):
            continue
        logits: Tensor | float = 0.0
        for vote in range(votes) if votes else (None,):
            samples = [_scored(task, config, dataset, int(index), vote) for index in items[places]]
            batch = {name: values.to(world.device) for name, values in collate(samples).items()}
            logits = logits + module.logits(batch).float() / max(votes, 1)
        assert isinstance(logits, Tensor)
        rows[torch.from_numpy(places).to(world.device)] = task.rows(logits, batch)
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
    for votes in dict.fromkeys((0, config.votes)):
        rows = _score(module, config, dataset, items.test, world, votes)
        use = rows[:, 1] > 0
        if not use.any():
            raise TrainingError(f"No item of the split {config.test_split!r} of {dataset.uri} has labels that the training knows.")
        keys = [dataset.keys[i] for i in items.test[use].tolist()]
        about = {
            **items.details,
            "items": _digest(keys),
            "test_items_without_labels": int((~use).sum()),
            "labels": config.labels,
            "freeze_encoder": config.freeze_encoder,
            "votes": votes,
            "points": config.points or "all",
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


@torch.no_grad()
def _keep_evidence(
    module: Finetuned, config: FinetuneConfig, dataset: Dataset, test: npt.NDArray[np.int64], folder: Path, device: torch.device
) -> None:
    """For parts, test shapes to look at: FOLDER/evidence/parts.npz with points (k, N, 3), truth and predicted (k, N), −1 for none;
    parts.json with their keys and classes, and the category and part of each label. The same shapes for every start, one a category."""
    task = module.task
    if not isinstance(task, Parts):
        return
    order = sorted(test.tolist(), key=lambda index: hashlib.sha256(dataset.keys[index].encode()).hexdigest())
    shown = list({str(dataset.classes[index]): index for index in reversed(order)}.values())[:_SHOWN]
    batch = {name: values.to(device) for name, values in collate([_scored(task, config, dataset, i, None) for i in shown]).items()}
    predicted = task.predict(module.logits(batch), batch["category"])
    arrays = {"points": batch["points"], "truth": batch["label"], "predicted": predicted}
    home = folder / "evidence"
    home.mkdir(exist_ok=True)
    np.savez(home / "parts.npz", **{name: values.cpu().numpy() for name, values in arrays.items()})  # type: ignore[arg-type]
    labels = [[category, part] for category, names in zip(task.categories, task.parts, strict=True) for part in names]
    about = {"keys": [dataset.keys[i] for i in shown], "classes": [str(dataset.classes[i]) for i in shown], "labels": labels}
    write_json(home / "parts.json", about)


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
