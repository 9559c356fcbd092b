"""The chosen protocols for one encoder on one dataset: frozen features of the training and test split become figures.

Everything that is chosen (C of the SVM, k of the neighbours) is chosen on the training split; the test split is opened once, at the
end. Classification is over the classes that both splits have. Test items whose asset is, byte for byte, one of the training split are
left out of every protocol. Clouds are given to the encoder as they are stored and, for sets without a common up axis, turned at random.
An encoder of clips is measured in the same way on the clips' middle windows (`training.evaluation.clips`), and its retrieval is between
point-cloud and image videos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from pipeline.reader import Dataset
from training.augment import FramesAugment, ImageAugment
from training.clip_views import ClipAugment, frame_names, plain_frames
from training.evaluation import clips as clip_source
from training.evaluation import knn, retrieval, svm
from training.evaluation.features import chosen_views, clouds, extract, images
from training.evaluation.fewshot import FewShot, few_shot, usable
from training.evaluation.figure import Figure
from training.evaluation.owners import numbered, owners
from training.objectives import CrossVideo

Protocol = Literal["svm", "knn", "fewshot", "retrieval", "frame_retrieval"]


class EvaluateConfig(BaseModel):
    """What is measured, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocols: tuple[Protocol, ...] = ("svm", "knn", "fewshot", "retrieval")
    turned: tuple[bool, ...] = Field(default=(False, True), min_length=1, description="clouds as they are, turned at random, or both")
    points: int | None = Field(
        default=None, ge=1, description="of each cloud the first, of each frame drawn by the clip's key; if not given, all, or the view's"
    )
    normalise: bool | None = Field(
        default=None, description="of clouds: mean to the origin, largest norm to 1 (if not given: true; the paper leaves them as they are)"
    )
    clips: ClipAugment | None = Field(default=None, description="how an encoder of clips sees them; as in its pretraining if not given")
    batch: int = Field(default=32, ge=1, description="clouds, clips or images at a time; no figure depends on it")
    train_split: str = "train"
    test_split: str = "test"
    svm_grid: tuple[float, ...] = Field(
        default=svm.GRID, min_length=1, description="values of C to choose from, relative to the features' scale"
    )
    svm_folds: int = Field(default=5, ge=2)
    knn_grid: tuple[int, ...] = Field(default=knn.GRID, min_length=1, description="numbers of neighbours to choose from")
    fewshot: tuple[FewShot, ...] = (FewShot(),)
    recall: tuple[int, ...] = Field(default=(1, 5), min_length=1, description="k of recall@k")
    views: Literal["one", "all"] = Field(default="one", description="images of an object in retrieval: one, drawn by seed and key, or all")
    seed: int = Field(default=0, description="of folds, episodes, rotations and views")

    @model_validator(mode="after")
    def _names_apart(self) -> Self:
        names = [setting.name for setting in self.fewshot]
        if len(set(names)) < len(names):
            raise ValueError("fewshot: two settings differ in `runs` alone; keep one of them")
        return self


@dataclass(frozen=True)
class Gathered:
    """What the figures are computed from, of one encoder on clouds as stored or turned.

    train, test: indices into the dataset, (n,) and (m,). train_features (n, F), test_features (m, F) float32. labels (n,), (m,): numbers
    of `classes`. point_embeddings (m, D) of the test clouds; image_embeddings (g, D) and image_owner (g,): the row of `test` that the
    image belongs to, image_names its member, of a video its middle; empty without retrieval. frames: of frame retrieval.
    """

    turned: bool
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    train_features: NDArray[np.float32]
    test_features: NDArray[np.float32]
    point_embeddings: NDArray[np.float32]
    image_embeddings: NDArray[np.float32]
    image_owner: NDArray[np.int64]
    image_names: tuple[str, ...]
    frames: tuple[clip_source.FrameScores, ...] = ()


def check(dataset: Dataset, config: EvaluateConfig) -> None:
    """Can this dataset be evaluated so? Cheap: nothing is read but the manifest, so it can be asked before a long pretraining.

    ValueError, in one sentence, for splits that are empty, share no two classes or are too small for a few-shot setting.
    """
    _Split.of(dataset, config)


def evaluate(
    encoder: nn.Module,
    dataset: Dataset,
    config: EvaluateConfig,
    *,
    weights: Literal["pretrained", "random"],
    fingerprint: str,
    device: torch.device | str = "cpu",
    point_head: nn.Module | None = None,
    image_branch: nn.Module | None = None,
    image: ImageAugment | None = None,
    keep: Callable[[Gathered], None] | None = None,
    view: ClipAugment | None = None,
    objective: CrossVideo | None = None,
) -> list[Figure]:
    """The figures of one encoder, (B, N, 3) to (B, F), under every chosen protocol; with a `view`, of clips (B, T, N, 3 + F).

    Retrieval needs `point_head`, features to embedding, `image_branch`, (B, 3, S, S) or with a view (B, T, 3, S, S) to embedding, and
    `image`, the training's image configuration; retrieval of frames needs the trained `objective`. `keep` is given what the figures come
    from, once for each of `config.turned`. ValueError as `check`, before the encoder runs, and for retrieval without projections or images.
    """
    if view is not None and config.normalise is not None:
        raise ValueError("normalise is of single clouds: an encoder of clips sees them as clips.normalise says")
    split = _Split.of(dataset, config)
    view = None if view is None else clip_source.with_count(config.clips or view, config.points)
    wants_images = "retrieval" in config.protocols
    embeddings, chosen = np.zeros((0, 0), np.float32), []
    if wants_images:
        if point_head is None or image_branch is None:
            raise ValueError("retrieval needs the projections of a pretraining: evaluate its folder, or leave retrieval out of protocols")
        if view is None:
            chosen = chosen_views(dataset, split.test, config.views, config.seed)
            seen = images(dataset, split.test, chosen, image or ImageAugment())
        else:
            chosen = _middles(dataset, split.test, view)
            seen = clip_source.videos(dataset, split.test, view, image if isinstance(image, FramesAugment) else FramesAugment())
        embeddings = extract(image_branch, seen, device, config.batch)
    frames: list[clip_source.FrameScores] = []
    if "frame_retrieval" in config.protocols:
        if objective is None:
            raise ValueError("frame_retrieval needs a pretraining by crossvideo: evaluate its folder, or leave it out of protocols")
        frames = clip_source.frame_retrieval(objective, dataset, split.test, config.recall, config.seed, device, config.batch)
    whose = {} if view is None else dict(zip((dataset.keys[i] for i in split.test), owners(dataset, split.test)[split.test], strict=True))
    about = split.details if view is None else split.details | {"points": view.count or "all", "normalise": view.normalise}
    figures = []
    for turned in config.turned:
        rotation = config.seed if turned else None
        short: list[str] = []
        train, test = (
            extract(
                encoder,
                clouds(dataset, part, config.points, config.normalise is not False, rotation)
                if view is None
                else clip_source.clips(dataset, part, view, rotation, short),
                device,
                config.batch,
            )
            for part in (split.train, split.test)
        )
        if view is not None:
            about = about | {"frames": view.frames, "step": view.step, "mode": view.mode, "short_clips": len(short)}
        gathered = Gathered(
            turned=turned,
            classes=split.classes,
            train=split.train,
            test=split.test,
            train_labels=split.labels[split.train],
            test_labels=split.labels[split.test],
            train_features=train,
            test_features=test,
            point_embeddings=extract(point_head, test, device, config.batch) if wants_images and point_head else embeddings,
            image_embeddings=embeddings,
            image_owner=np.array([place for place, _ in chosen], np.int64),
            image_names=tuple(name for _, name in chosen),
            frames=tuple(frames) if turned == config.turned[0] else (),
        )
        if keep:
            keep(gathered)
        for measured in measure(gathered, config, dataset.keys):
            details = {**about, **measured.details}
            if whose and all(item in whose for item in measured.items):
                details["owners"] = numbered(np.array([whose[item] for item in measured.items]))
            figures.append(
                Figure(
                    protocol=measured.protocol,
                    metric=measured.metric,
                    value=float(np.mean(measured.scores)),
                    n=len(measured.scores),
                    split=config.test_split,
                    turned=turned,
                    weights=weights,
                    encoder_fingerprint=fingerprint,
                    dataset_fingerprint=dataset.fingerprint,
                    seed=config.seed,
                    details=details,
                    chance=measured.chance,
                )
            )
    return figures


# ---- which items -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """Indices of the two splits without repeated assets; labels (whole dataset,): numbers of `classes`; details for every figure."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    details: dict[str, Any]

    @classmethod
    def of(cls, dataset: Dataset, config: EvaluateConfig) -> _Split:
        train, test = (np.asarray(dataset.indices(name), np.int64) for name in (config.train_split, config.test_split))
        for name, indices in ((config.train_split, train), (config.test_split, test)):
            if not len(indices):
                raise ValueError(
                    f"the dataset {dataset.uri} has no samples in the split {name!r}: evaluation needs a training and a test split"
                )
        contents = dataset.table["sha256"].to_pylist()
        known = {contents[i] for i in train.tolist()} - {""}  # of an unknown content nothing is known
        repeated = np.array([contents[i] in known for i in test.tolist()])
        if repeated.all():
            raise ValueError(f"every sample of the split {config.test_split!r} of {dataset.uri} is also in {config.train_split!r}")
        classes, labels = np.unique(dataset.classes, return_inverse=True)
        details = {"left_out_as_training_items": sorted(dataset.keys[i] for i in test[repeated].tolist()), "points": config.points or "all"}
        test = test[~repeated]
        shared = len(np.intersect1d(labels[train], labels[test]))
        if {"svm", "knn"} & set(config.protocols) and shared < 2:
            raise ValueError(
                f"the splits {config.train_split!r} and {config.test_split!r} of {dataset.uri} share {shared} classes: "
                "svm and knn need at least 2"
            )
        for setting in config.fewshot if "fewshot" in config.protocols else ():
            usable(labels[train], labels[test], setting)
        return cls(train, test, labels.astype(np.int64), tuple(classes.tolist()), {**details, "normalise": config.normalise is not False})


def _middles(dataset: Dataset, indices: NDArray[np.int64], view: ClipAugment) -> list[tuple[int, str]]:
    """(place in `indices`, member) of the image in the middle of each video that is embedded. ValueError for a clip without images."""
    chosen = []
    for place, index in enumerate(indices.tolist()):
        names = frame_names(dataset, index)
        if not names:
            raise ValueError(f"retrieval needs images, but the sample {dataset.keys[index]} of {dataset.uri} has none")
        chosen.append((place, names[int(plain_frames(len(names), view)[view.frames // 2])]))
    return chosen


# ---- which protocols -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One figure without its family tree: scores (n,), one per item, whose names are `items`: keys, or few-shot runs; details are JSON
    values and hold scores and a digest of the items."""

    protocol: str
    metric: str
    scores: NDArray[np.float64]
    chance: float
    items: Sequence[str]
    details: dict[str, Any]

    @classmethod
    def of(cls, protocol: str, metric: str, scores: NDArray[np.float64], chance: float, items: Sequence[str], **details: Any) -> Measured:
        digest = hashlib.sha256("\n".join(items).encode()).hexdigest()
        rounded = [int(s) if s == int(s) else float(s) for s in scores]
        return cls(protocol, metric, scores, chance, items, {"scores": rounded, "items": digest, **details})


def measure(gathered: Gathered, config: EvaluateConfig, keys: Sequence[str]) -> list[Measured]:
    """Every protocol of the configuration on features that have been taken; `keys`: those of the whole dataset."""
    found: list[Measured] = []
    for protocol in config.protocols:
        match protocol:
            case "svm" | "knn":
                found += _classification(protocol, gathered, config, keys)
            case "fewshot":
                found += _few_shot(gathered, config, keys)
            case "retrieval":
                found += _retrieval(gathered, config, keys)
            case "frame_retrieval":
                for row in gathered.frames:
                    items = [keys[i] for i in row.clips]
                    seen = {name: getattr(row.view, name) for name in ("frames", "step", "mode", "normalise")}
                    seen["points"] = row.view.count or "all"
                    found.append(Measured.of("frame_retrieval", row.metric, row.scores, row.chance, items, k=row.k, **seen))
    return found


def _classification(protocol: Literal["svm", "knn"], gathered: Gathered, config: EvaluateConfig, keys: Sequence[str]) -> list[Measured]:
    """Accuracy over the common classes. Chance: always the commonest class of the training items."""
    common = np.intersect1d(gathered.train_labels, gathered.test_labels)
    if len(common) < 2:
        raise ValueError(
            f"the splits {config.train_split!r} and {config.test_split!r} share {len(common)} classes: {protocol} needs at least 2"
        )
    fit, ask = np.isin(gathered.train_labels, common), np.isin(gathered.test_labels, common)
    labels, truth = gathered.train_labels[fit], gathered.test_labels[ask]
    train, test = gathered.train_features[fit], gathered.test_features[ask]
    commonest = int(np.bincount(labels).argmax())
    chance, items = float((truth == commonest).mean()), [keys[i] for i in gathered.test[ask].tolist()]
    every = np.union1d(gathered.train_labels, gathered.test_labels)
    about: dict[str, Any] = {
        "classes": len(common),
        "training_items": len(labels),
        "left_out_classes": [gathered.classes[c] for c in np.setdiff1d(every, common)],
    }
    predictions: dict[str, NDArray[np.int64]]
    if protocol == "svm":
        machine = svm.linear_svm(train, labels, test, config.svm_grid, config.svm_folds, config.seed)
        about |= {"C": machine.C, "C_relative": machine.relative, "folds": machine.folds}
        about["validation"] = {f"{relative:g}": value for relative, value in machine.validation.items()}
        predictions = {"accuracy": machine.predictions} | {f"accuracy_C{C:g}": fixed for C, fixed in machine.fixed.items()}
    else:
        near = knn.nearest_neighbours(train, labels, test, config.knn_grid)
        about |= {"k": near.k, "validation": {str(k): value for k, value in near.validation.items()}}
        predictions = {"accuracy": near.predictions}
    found = []
    for metric, predicted in predictions.items():
        right = (predicted == truth).astype(np.float64)
        by_class = float(np.mean([right[truth == c].mean() for c in common]))
        own = about if metric == "accuracy" else {"classes": len(common), "C": float(metric.removeprefix("accuracy_C"))}
        found.append(Measured.of(protocol, metric, right, chance, items, mean_class_accuracy=by_class, **own))
    return found


def _few_shot(gathered: Gathered, config: EvaluateConfig, keys: Sequence[str]) -> list[Measured]:
    """Mean accuracy over runs, which are the items. Chance: 1 / ways, since every class has as many queries."""
    found = []
    for setting in config.fewshot:
        runs = few_shot(gathered.train_features, gathered.train_labels, gathered.test_features, gathered.test_labels, setting, config.seed)
        about = {
            **setting.model_dump(),
            "std": runs.std,
            "ddof": 0,
            "skipped_classes": [gathered.classes[c] for c in runs.skipped],
        }
        items = [setting.model_dump_json(), *(keys[i] for i in [*gathered.train.tolist(), *gathered.test.tolist()])]
        found.append(Measured.of("fewshot", setting.name, runs.accuracies, 1 / setting.ways, items, **about))
    return found


def _retrieval(gathered: Gathered, config: EvaluateConfig, keys: Sequence[str]) -> list[Measured]:
    """Recall among all test pairs in both directions. Chance: a gallery in random order."""
    points, point_owner = gathered.point_embeddings, np.arange(len(gathered.test))
    pictures, picture_owner = gathered.image_embeddings, gathered.image_owner
    found = []
    for name, queries, asked, gallery, owned in (
        ("point_to_image", points, point_owner, pictures, picture_owner),
        ("image_to_point", pictures, picture_owner, points, point_owner),
    ):
        items = [keys[gathered.test[owner]] for owner in asked.tolist()]
        about = {"gallery": len(owned), "views": config.views}
        for k in config.recall:
            scores, chance = retrieval.hits(queries, asked, gallery, owned, k), retrieval.chance(asked, owned, k)
            found.append(Measured.of("retrieval", f"{name}@{k}", scores, chance, items, k=k, **about))
    return found
