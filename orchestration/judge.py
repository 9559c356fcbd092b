"""The evaluation stage: a trained encoder and its twin with random weights, side by side, as figures and evidence.

A protocol that the objective has nothing for (retrieval of images that it never saw) is left out and named.

FOLDER/evidence afterwards: keys.json (keys, classes, indices, views of the test samples, in one order), features_pretrained.npy and
features_random.npy (n, F) of clouds as they are, points.npy and images.npy (n, D), the pretrained embeddings with length 1.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.reader import Dataset
from training import encoder_file
from training.augment import FramesAugment, ImageAugment
from training.clip_views import ClipAugment
from training.encoders import is_video
from training.evaluation.clips import clips, videos, with_count
from training.evaluation.evaluate import EvaluateConfig, Gathered, evaluate
from training.evaluation.features import chosen_views, clouds, images
from training.evaluation.figure import Figure
from training.evaluation.knn import unit_rows
from training.evaluation.norms import settle
from training.files import digest
from training.objectives import C2PConfig, CrossVideo, CrossVideoConfig, Objective
from training.pretrain import PretrainConfig, fresh, load_objective

Weights = Literal["pretrained", "random"]


def judge(folder: Path, trained: Path, dataset_uri: str, config: EvaluateConfig, device: str = "cpu") -> dict[str, Any]:
    """Evaluates the pretraining in `trained` and random weights of the same configuration; returns the stage's outputs."""
    dataset = Dataset.open(dataset_uri)
    module = load_objective(trained)
    training = PretrainConfig.model_validate(json.loads((trained / "objective" / "objective.json").read_text())["config"])
    left_out = [protocol for protocol in config.protocols if not _possible(protocol, module)]
    config = config.model_copy(update={"protocols": tuple(p for p in config.protocols if p not in left_out)})
    if not config.protocols:
        raise ValueError(f"{training.objective.kind} has nothing for {', '.join(left_out)}: choose other protocols")
    figures = _objective_figures(module, training, dataset, config, "pretrained", device, _keeper(folder, dataset, "pretrained"))
    twin = fresh(training).to(device)
    _settle_all(twin, training, dataset, config, device)
    figures += _objective_figures(twin, training, dataset, config, "random", device, _keeper(folder, dataset, "random"))
    return outputs(figures) | ({"left_out_protocols": left_out} if left_out else {})


def view_of(objective: BaseModel) -> ClipAugment | None:
    """How an objective's encoder sees clips; None for one of single clouds."""
    return objective.point_augment if isinstance(objective, CrossVideoConfig | C2PConfig) else None


def _possible(protocol: str, module: Objective) -> bool:
    """Whether an objective has what a protocol looks at."""
    if protocol == "frame_retrieval":
        return isinstance(module, CrossVideo)
    return protocol != "retrieval" or module.image_branch is not None


def outputs(figures: Sequence[Figure]) -> dict[str, Any]:
    """Figures as the plain outputs of a stage: all of them, the table of pretrained beside random, a flat summary for trackers."""
    rows = table(figures)
    summary = {
        f"{row['figure']}{'.turned' if row['clouds'] == 'turned' else ''}.{w}": row[w] for row in rows for w in ("pretrained", "random")
    }
    fingerprint = digest([figure.record() for figure in figures])
    return {
        "figures": [figure.record() for figure in figures],
        "table": rows,
        "summary": {name: value for name, value in summary.items() if value is not None},
        "fingerprint": fingerprint,
    }


def table(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """A row per figure and clouds: figure, clouds, pretrained, random, chance, n."""
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    for figure in figures:
        name = f"{figure.protocol}.{figure.metric}"
        clouds = "turned" if figure.turned else "as they are"
        row = rows.setdefault(
            (name, figure.turned),
            {"figure": name, "clouds": clouds, "pretrained": None, "random": None, "chance": figure.chance, "n": figure.n},
        )
        row[figure.weights] = figure.value
    return list(rows.values())


def evaluate_folder(trained: Path, dataset_uri: str, protocols: Sequence[str], to: Path | None) -> list[dict[str, Any]]:
    """The table for a training's folder, or for an encoder's folder alone (then without retrieval). Raises FileError, ValueError."""
    from pipeline.config import checked

    whole = (trained / "objective").exists()
    values: dict[str, Any] = {"protocols": protocols} if protocols else {} if whole else {"protocols": ("svm", "knn", "fewshot")}
    config = checked(EvaluateConfig, values, "--protocol")
    if whole:
        with tempfile.TemporaryDirectory() as scratch:
            found = judge(to or Path(scratch), trained, dataset_uri, config)
    else:
        dataset = Dataset.open(dataset_uri)
        encoder = encoder_file.load(trained if (trained / "encoder.json").exists() else trained / "encoder")
        view = _recorded_view(encoder)
        twin = encoder_file.random(encoder.config, 0).module
        settle(twin, _training_items(dataset, config, view), "cpu", config.batch)
        figures = evaluate(encoder.module, dataset, config, weights="pretrained", fingerprint=encoder.fingerprint, view=view)
        mark = encoder_file.fingerprint(twin, encoder.config)
        figures += evaluate(twin, dataset, config, weights="random", fingerprint=mark, view=view)
        found = outputs(figures)
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        (to / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    rows: list[dict[str, Any]] = found["table"]
    return rows


def _training_items(dataset: Dataset, config: EvaluateConfig, view: ClipAugment | None) -> Iterator[NDArray[np.float32]]:
    """At most 1,024 clouds, or clips, of the training split, in random order, as the evaluation gives them to the encoder."""
    order = _some(dataset, config)
    if view is None:
        return clouds(dataset, order, config.points, config.normalise is not False, None)
    return clips(dataset, order, with_count(config.clips or view, config.points), None)


def _settle_all(twin: Objective, training: PretrainConfig, dataset: Dataset, config: EvaluateConfig, device: str) -> None:
    """Batch statistics for all that the protocols read of random weights: the encoder, then the heads and the images' side."""
    view = view_of(training.objective)
    settle(twin.encoder, _training_items(dataset, config, view), device, config.batch)
    if "retrieval" in config.protocols and twin.feature_head is not None and twin.image_branch is not None:
        encoder, head = twin.encoder, twin.feature_head
        settle(head, _training_items(dataset, config, view), device, config.batch, lambda points: head(encoder(points)))
        settle(twin.image_branch, _training_images(dataset, config, training, view), device, config.batch)
    if "frame_retrieval" in config.protocols and isinstance(twin, CrossVideo):
        settle(twin.point_frame_head, _training_items(dataset, config, view), device, config.batch, twin.point_frames)
        if twin.image_encoder is not None:
            if "retrieval" not in config.protocols:
                settle(twin.image_encoder, _training_images(dataset, config, training, view), device, config.batch)
            settle(twin.image_frame_head, _training_images(dataset, config, training, view), device, config.batch, twin.image_frames)


def _training_images(
    dataset: Dataset, config: EvaluateConfig, training: PretrainConfig, view: ClipAugment | None
) -> Iterator[NDArray[np.float32]]:
    """The images, or image videos, of the samples of `_training_items`."""
    order, image = _some(dataset, config), getattr(training.objective, "image_augment", None)
    if view is None:
        return images(dataset, order, chosen_views(dataset, order, "one", config.seed), image or ImageAugment())
    seen = with_count(config.clips or view, config.points)
    return videos(dataset, order, seen, image if isinstance(image, FramesAugment) else FramesAugment())


def _some(dataset: Dataset, config: EvaluateConfig) -> NDArray[np.int64]:
    """At most 1,024 samples of the training split, in random order."""
    return np.random.default_rng(config.seed).permutation(dataset.indices(config.train_split))[:1024]


def _recorded_view(encoder: encoder_file.Encoder) -> ClipAugment | None:
    """How the encoder saw clips in the pretraining or fine-tuning that it comes from, or the default where that is not known; None for one
    of clouds."""
    if not is_video(encoder.config):
        return None
    recorded = encoder.provenance.get("config", {})
    if "augment" in recorded:
        return with_count(ClipAugment.model_validate(recorded["augment"]), recorded.get("points"))
    return ClipAugment.model_validate(recorded.get("objective", {}).get("point_augment", {}))


def _objective_figures(
    module: Objective,
    training: PretrainConfig,
    dataset: Dataset,
    config: EvaluateConfig,
    weights: Weights,
    device: str,
    keep: Callable[[Gathered], None],
) -> list[Figure]:
    module.to(device).eval()
    return evaluate(
        module.encoder,
        dataset,
        config,
        weights=weights,
        fingerprint=encoder_file.fingerprint(module.encoder, training.encoder),
        device=device,
        point_head=module.feature_head,
        image_branch=module.image_branch,
        image=getattr(training.objective, "image_augment", None),
        keep=keep,
        view=view_of(training.objective),
        objective=module if isinstance(module, CrossVideo) else None,
    )


def _keeper(folder: Path, dataset: Dataset, weights: Weights) -> Callable[[Gathered], None]:
    """Saves the evidence of clouds as they are."""

    def keep(gathered: Gathered) -> None:
        if gathered.turned:
            return
        home = folder / "evidence"
        home.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[Any]] = {f"features_{weights}": gathered.test_features}
        owners, first = np.unique(gathered.image_owner, return_index=True)
        if weights == "pretrained" and len(owners) == len(gathered.test):
            arrays["points"] = unit_rows(gathered.point_embeddings).astype(np.float32)
            arrays["images"] = unit_rows(gathered.image_embeddings[first]).astype(np.float32)
        for name, array in arrays.items():
            np.save(home / f"{name}.npy", array, allow_pickle=False)
        indices = gathered.test.tolist()
        names = [gathered.image_names[i] for i in first.tolist()]
        about = {
            "keys": [dataset.keys[i] for i in indices],
            "classes": [str(dataset.classes[i]) for i in indices],
            "indices": indices,
            "views": names if len(names) == len(indices) else [],
        }
        (home / "keys.json").write_text(json.dumps(about) + "\n")

    return keep
