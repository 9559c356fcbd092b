"""Datasets of made-up clips, written by the real plan, shards and manifests in well under a second.

A clip is a body (an ellipsoid of its own proportions, part 0) and an arm (a small ball, part 1) that moves about it; how it moves is the
action: "rise", "swing", "circle". Pictures show the two in orthographic projection along z (x to the right, y up), each sample in its own
colours, so frames of both modalities tell whose clip and which instant they are of.

    blob_clip(rng, actions (T,), points, size)   one clip as arrays: clip, parts, pictures
    write_clips(folder, ...) -> uri              a whole dataset; every member can be left out or added
    ENCODER, OBJECTIVE, ADAM                     a P4Transformer, CrossVideo and an optimiser small enough for tests
    gradients, gradients_main                    one step's gradients, alone or as one of several workers
The session fixture `clips_dataset` (tests/training/conftest.py) is write_clips with its defaults and parts.
"""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline import dataset, manifest, png
from pipeline.plan import Planned, make_plan
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.storage import Store
from pipeline.worker import Outcome, make_shard
from tests.training.gloo import gloo
from training.batches import collate
from training.distributed import World, wrap
from training.objectives import prepare
from training.pretrain import PretrainConfig, fresh

ACTIONS = ("rise", "swing", "circle")
PARTS = ("body", "arm")


@dataclass(frozen=True)
class Blobs:
    """clip (T, N, 3) float32, parts (T, N) int16, pictures (T, S, S, 3) uint8."""

    clip: NDArray[np.float32]
    parts: NDArray[np.int16]
    pictures: NDArray[np.uint8]


def arm_at(action: int, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the arm's centre is at phases from 0 to 1: (T,) to (T, 3)."""
    turn = 2 * np.pi * phase
    zero = np.zeros_like(phase)
    if action == 0:
        return np.stack([zero + 0.55, 1.1 * phase - 0.55, zero], 1)
    if action == 1:
        return np.stack([0.6 * np.sin(turn), zero + 0.6, zero], 1)
    return 0.6 * np.stack([np.cos(turn), np.sin(turn), zero], 1)


def blob_clip(rng: np.random.Generator, actions: NDArray[np.int64], points: int = 64, size: int = 16) -> Blobs:
    """One clip whose frame t shows action actions[t]; the phase runs over each stretch of one action, from a start of its own."""
    frames = len(actions)
    radii, arm, start = rng.uniform(0.12, 0.4, 3), rng.uniform(0.08, 0.2), rng.uniform(0, 0.4)
    edges = [0, *(np.flatnonzero(np.diff(actions)) + 1).tolist(), frames]
    centres = np.zeros((frames, 3))
    for first, last in itertools.pairwise(edges):
        centres[first:last] = arm_at(int(actions[first]), start + (1 - start) * np.arange(last - first) / max(last - first, 2))
    parts = np.zeros((frames, points), np.int16)
    parts[:, points // 2 :] = 1
    direction = rng.standard_normal((frames, points, 3))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    clip = np.where(parts[:, :, None] == 0, direction * radii, direction * arm + centres[:, None])
    y, x = np.mgrid[1 : -1 : size * 1j, -1 : 1 : size * 1j]
    colours = rng.integers(60, 256, (2, 3))
    pictures = np.full((frames, size, size, 3), 20, np.uint8)
    for t in range(frames):
        pictures[t][(x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1] = colours[0]
        pictures[t][(x - centres[t, 0]) ** 2 + (y - centres[t, 1]) ** 2 < max(arm, 1.5 / size) ** 2] = colours[1]
    return Blobs(clip.astype(np.float32), parts, pictures)


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
    return buffer.getvalue()


def write_clips(
    folder: Path,
    *,
    train: int = 12,
    test: int = 6,
    frames: int = 16,
    points: int = 64,
    size: int = 16,
    images: bool = True,
    parts: bool = False,
    sequences: bool = False,
    features: bool = False,
    valid: bool = False,
    lengths: tuple[int, ...] = (),
    still: bool = False,
    copies: bool = False,
    unlabelled: tuple[int, ...] = (),
    centres: tuple[float, float, float] | None = None,
) -> str:
    """URI of a dataset of `train` + `test` clips, their actions in turn.

    sequences: each clip joins all actions, class "sequence"; else the class is the action. features: features.npy with the columns
    "height" (y) and "part". valid: the last quarter of each frame's points repeats its first point. lengths: frames of the clips in
    turn, instead of `frames`. still: every frame is the first one. copies: all clips of an action are equal but for their colours.
    unlabelled: numbers of the clips without actions.npy and parts.npy. centres: where all clips stand, and say that they do.
    """
    names = [f"{split}/{ACTIONS[i % 3]}/{i:03d}" for split, count in (("train", train), ("test", test)) for i in range(count)]
    if sequences:
        names = [f"{split}/sequence/{name}" for split, _, name in (name.split("/") for name in names)]
    for number, name in enumerate(names):
        path = folder / "meshes" / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"OFF {number}")
    recipe = Recipe.model_validate(
        {"name": "clips", "source": {"kind": "folder", "path": str(folder / "meshes")}, "points": {"count": points}, "shard_assets": 8}
    )
    store = Store(str(folder / "data"))
    plan = make_plan(recipe)
    info = dataset.begin(store, recipe, plan, "none")

    def make(asset: Planned) -> Outcome:
        number = names.index(asset.source.removesuffix(".off"))
        length = lengths[number % len(lengths)] if lengths else frames
        rng = np.random.default_rng(number % 3 if copies else [number, 7])
        action = np.full(length, number % 3)
        if sequences:
            action = (np.arange(length) * 3 // length + number) % 3
        blobs = blob_clip(rng, action, points, size)
        clip, seen, labels = blobs.clip, blobs.pictures, blobs.parts
        if still:
            clip, seen = np.repeat(clip[:1], length, 0), np.repeat(seen[:1], length, 0)
        if valid:
            clip[:, -(points // 4) :] = clip[:, :1]
        if centres is not None:
            clip = clip + np.float32(centres)
        facts: dict[str, Any] = {
            "class": asset.cls,
            "split": asset.split,
            "action_names": list(ACTIONS),
            "clip": {"name": names[number], "fps": 12, "times_s": (np.arange(length) / 12).tolist(), "period_s": None, "points": "surface"},
        }
        if centres is not None:
            facts["clip"]["centres"] = [centres] * length
        members = {"clip.npy": npy(clip), "actions.npy": npy(action.astype(np.int16))}
        if images:
            members |= {f"f{t:03d}.png": png.encode(picture) for t, picture in enumerate(seen)}
        if parts:
            members["parts.npy"], facts["part_names"] = npy(labels), list(PARTS)
        if features:
            members["features.npy"] = npy(np.stack([clip[:, :, 1], labels.astype(np.float32)], 2).astype(np.float32))
            facts["feature_names"] = ["height", "part"]
        if valid:
            real = np.ones(clip.shape[:2], bool)
            real[:, -(points // 4) :] = False
            members["valid.npy"] = npy(real)
        if number in unlabelled:
            members = {name: values for name, values in members.items() if name not in ("actions.npy", "parts.npy")}
        return Outcome({**members, "json": json.dumps(facts).encode()}, (), "00")

    for shard in plan.starts:
        make_shard(store, shard, plan.assets(shard), plan.hash, make)
    dataset.finish(store, info, manifest.read_all(store))
    return store.uri


def gradients(world: World, folder: Path, data: str, config: dict[str, Any]) -> None:
    """Writes loss and gradients of one step on the dataset's first 6 clips, in double precision: folder/{size}.safetensors."""
    torch.set_num_threads(1)
    training = PretrainConfig.model_validate(config)
    source = Dataset.open(data)
    module = fresh(training).double().train()
    chosen = list(range(6))[world.share(6)]
    samples = collate([prepare(training.objective, training.encoder, source, 3, index, 0) for index in chosen])
    batch = {name: value.double() if value.is_floating_point() else value for name, value in samples.items()}
    wrapped = wrap(module, world)  # it must outlive the backward pass, in which it averages
    loss, _ = wrapped(batch)
    loss.backward()
    if world.leads:
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        save_file(found | {"loss": loss.detach()[None]}, folder / f"{world.size}.safetensors")


def gradients_main(rank: int, size: int, folder: str, data: str, config: dict[str, Any]) -> None:
    """`gradients` as one of several gloo workers that meet in a file."""
    with gloo(rank, size, folder):
        gradients(World(rank, size), Path(folder), data, config)


ENCODER: dict[str, Any] = {
    "kind": "p4transformer",
    "radius": 0.5,
    "neighbours": 8,
    "spatial_stride": 8,
    "width": 32,
    "depth": 1,
    "heads": 2,
    "head_dim": 16,
    "mlp_width": 64,
}
OBJECTIVE: dict[str, Any] = {
    "kind": "crossvideo",
    "projection": 16,
    "image": {"image": {"kind": "resnet", "depth": 10, "width": 4}, "width": 32, "depth": 1, "heads": 2, "head_dim": 16, "mlp_width": 64},
    "point_augment": {"frames": 8, "count": 48, "normalise": "clip", "angle": 0.5},
    "image_augment": {"size": 16, "crop": [0.9, 1.0], "hue": 0.02},
}
ADAM: dict[str, Any] = {"kind": "adam", "lr": 1e-3, "schedule": "constant", "warmup_epochs": 0}
