"""CrossVideo and C2P through the whole training: exact resume, two workers as one, clear refusals, the shortcut in the journal."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.reader import Dataset
from tests.training.clip_cases import ADAM, ENCODER, OBJECTIVE, gradients, gradients_main, write_clips
from tests.training.training_cases import CONFIG, rank_main, train
from training import checkpoint, encoder_file
from training.distributed import World
from training.journal import curves
from training.loop import OptimizerConfig
from training.pretrain import PretrainConfig, load_objective

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {"encoder": ENCODER, "objective": OBJECTIVE, "fit": {"epochs": 2, "batch": 4, "seed": 3, "optimizer": ADAM}}
C2P: dict[str, Any] = {
    "kind": "c2p",
    "hidden": 16,
    "point_augment": {"frames": 8, "count": 48, "normalise": "clip"},
    "camera": {"height": 24, "width": 36, "focal": 30},
}


@pytest.fixture(scope="module")
def left_alone(clips_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, clips_dataset, World(), **CHANGES)
    return folder


def test_a_run_leaves_an_encoder_of_clips_and_a_journal_of_every_loss(left_alone: Path) -> None:
    result = json.loads((left_alone / "result.json").read_text())
    assert result["steps"] == 6  # 12 clips, batch 4, 2 epochs
    encoder = encoder_file.load(left_alone / "encoder")
    assert encoder.config.kind == "p4transformer"
    assert encoder.fingerprint == result["fingerprint"]
    metrics = result["metrics"]
    losses = [name for name in metrics if name.startswith("loss_")]
    assert sorted(losses) == ["loss_cross_frame", "loss_cross_video", "loss_intra_frame", "loss_intra_video"]
    assert metrics["loss"] == pytest.approx(sum(metrics[name] for name in losses))
    journal = curves(left_alone / "journal.jsonl")
    assert [step for step, _ in journal["loss_intra_frame"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in journal["shortcut"]] == [3, 6]  # after each epoch
    assert {value for _, value in journal["shortcut_chance"]} == {1 / 8}
    assert all(4 <= value <= 8 for _, value in journal["frame_pairs"])


def test_killed_and_started_again_ends_with_the_weights_and_losses_of_the_one_left_alone(
    left_alone: Path, clips_dataset: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.training_cases", str(run), clips_dataset, json.dumps(CHANGES)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        # step 2 lies inside the first epoch of 3 steps
        while not (run / "checkpoints" / "step-00000002").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert checkpoint.steps(run / "checkpoints")
    assert not (run / "result.json").exists()
    train(run, clips_dataset, World(), **CHANGES)
    first, second = load_objective(left_alone).state_dict(), load_objective(run).state_dict()
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]
    one, two = curves(left_alone / "journal.jsonl"), curves(run / "journal.jsonl")
    for name in ("loss", "loss_cross_frame", "grad_norm", "shortcut"):
        assert dict(one[name]) == dict(two[name]), name


NONE = {"cross_video": 0.0, "cross_frame": 0.0}
UNET = {
    "kind": "p4unet",
    "radius": 0.5,
    "neighbours": 8,
    "spatial_strides": [4, 2],
    "kernels": [1, 3],
    "widths": [[8, 16], [16, 32]],
    "up_widths": [[16, 16], [16, 16]],
    "depth": 1,
    "heads": 2,
    "head_dim": 16,
    "mlp_width": 64,
}
ARMS: dict[str, dict[str, Any]] = {
    "all": {"objective": OBJECTIVE},
    "strided": {"encoder": {**ENCODER, "temporal_stride": 2, "padding": [1, 0]}, "objective": OBJECTIVE | {"frame_negatives": "video"}},
    "pre": {"objective": OBJECTIVE | {"frame_feature": "pre"}},
    "bins": {"objective": OBJECTIVE | {"point_augment": OBJECTIVE["point_augment"] | {"mode": "bins"}}},
    "points": {"objective": OBJECTIVE | {"weights": NONE, "exclude_window": 1}},
    "one-loss": {"objective": OBJECTIVE | {"weights": {"intra_video": 0.0, "intra_frame": 0.0, "cross_video": 0.0}}},
    "cross-video": {"objective": OBJECTIVE | {"weights": {"intra_video": 0.0, "intra_frame": 0.0, "cross_frame": 0.0}}},
    "unet": {"encoder": UNET, "objective": OBJECTIVE | {"weights": NONE}},
    "c2p": {"objective": C2P},
}


def run_two(target: Any, *arguments: Any) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=target, args=(rank, 2, *arguments)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]


@pytest.mark.parametrize("arm", ["all", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ARMS if arm != "all")])
def test_the_gradients_of_two_workers_are_those_of_one(arm: str, clips_dataset: str, tmp_path: Path) -> None:
    # In double precision: what differs by more than rounding is another loss.
    config = {"encoder": ENCODER} | ARMS[arm]
    gradients(World(), tmp_path, clips_dataset, config)
    run_two(gradients_main, str(tmp_path), clips_dataset, config)
    one, two = (load_file(tmp_path / f"{size}.safetensors") for size in (1, 2))
    assert one.keys() == two.keys()
    assert one["loss"].item() == pytest.approx(two["loss"].item(), abs=1e-10)
    length = torch.cat([value.flatten() for value in one.values()]).norm()
    for name in one:
        assert float((one[name] - two[name]).norm() / length) < 1e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["all", "c2p"])
def test_the_training_of_two_workers_is_that_of_one(arm: str, clips_dataset: str, tmp_path: Path) -> None:
    # At a larger rate Adam turns the rounding of small gradients into whole steps.
    fit = {"epochs": 1, "batch": 6, "seed": 3, "optimizer": ADAM | {"lr": 1e-10}}
    config = {"encoder": ENCODER} | ARMS[arm] | {"fit": fit}
    train(tmp_path / "one", clips_dataset, World(), **config)
    run_two(rank_main, str(tmp_path), clips_dataset, config)
    one, two = curves(tmp_path / "one" / "journal.jsonl"), curves(tmp_path / "run" / "journal.jsonl")
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("loss", "short", "frame_")) or name in ("grad_norm", "embedding_std", "image_std", "seen"):
            assert [v for _, v in one[name]] == pytest.approx([v for _, v in two[name]], rel=1e-5, abs=1e-5), name


# ---- refusals and defaults -------------------------------------------------------------------------------------------


def test_encoders_and_objectives_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"crossvideo needs an encoder of point-cloud videos .*, not a dgcnn"):
        PretrainConfig.model_validate({"objective": OBJECTIVE})
    with pytest.raises(ValidationError, match="c2p needs an encoder of point-cloud videos"):
        PretrainConfig.model_validate({"encoder": {"kind": "pointnet"}, "objective": C2P})
    with pytest.raises(ValidationError, match="crosspoint looks at single clouds, and a p4transformer takes videos"):
        PretrainConfig.model_validate({"encoder": ENCODER})
    with pytest.raises(ValidationError, match="crossbert looks at single clouds"):
        PretrainConfig.model_validate({"encoder": ENCODER, "objective": {"kind": "crossbert"}})
    with pytest.raises(ValidationError, match=r"encoder\.features is 2"):
        PretrainConfig.model_validate({"encoder": ENCODER | {"features": 2}, "objective": OBJECTIVE})


IMPOSSIBLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"temporal_stride": 3}, {}, "8 frames padded to 10 does not divide into temporal kernels of 3 at stride 3"),
    ({"temporal_stride": 2, "padding": [1, 0]}, {"frames": 9}, "9 frames padded to 10 does not divide"),
    ({"kind": "pptr", "groups": 4}, {}, "6 anchors of a frame do not divide into 4 groups"),
    ({"spatial_stride": 49}, {}, "48 points of a frame leave no anchor at a spatial stride of 49"),
]


@pytest.mark.parametrize(("encoder", "view", "what"), IMPOSSIBLE)
@pytest.mark.parametrize("objective", [OBJECTIVE, C2P], ids=["crossvideo", "c2p"])
def test_views_that_the_encoder_cannot_take_are_refused_with_the_configuration(
    objective: dict[str, Any], encoder: dict[str, Any], view: dict[str, Any], what: str
) -> None:
    changed = objective | {"point_augment": OBJECTIVE["point_augment"] | view}
    PretrainConfig.model_validate({"encoder": ENCODER, "objective": changed})
    with pytest.raises(ValidationError, match=what):
        PretrainConfig.model_validate({"encoder": ENCODER | encoder, "objective": changed})
    if "points" in what or "groups" in what:  # how many points all are is not known before the data are
        unknown = objective | {"point_augment": OBJECTIVE["point_augment"] | view | {"count": None}}
        PretrainConfig.model_validate({"encoder": ENCODER | encoder, "objective": unknown})


def test_c2p_with_an_encoder_that_makes_one_frame_of_all_is_refused_with_the_configuration() -> None:
    encoder = ENCODER | {"temporal_stride": 2, "padding": [1, 0]}
    with pytest.raises(ValidationError, match=r"the encoder makes one of 2"):
        PretrainConfig.model_validate({"encoder": encoder, "objective": C2P | {"point_augment": C2P["point_augment"] | {"frames": 2}}})


def test_datasets_without_what_is_needed_are_refused_before_the_first_step(small_dataset: str, clips_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"crossvideo needs clip\.npy, which the sample .* does not have: name a dataset of clips"):
        train(tmp_path / "a", small_dataset, World(), **CHANGES)
    bare = write_clips(tmp_path / "bare", train=4, test=0, images=False)
    with pytest.raises(ValueError, match=r"crossvideo needs f000\.png, .*: set weights\.cross_video and weights\.cross_frame to 0"):
        train(tmp_path / "b", bare, World(), **CHANGES)
    features = OBJECTIVE | {"point_augment": {"features": ["height"]}}
    with pytest.raises(ValueError, match=r"crossvideo needs features\.npy"):
        train(tmp_path / "c", clips_dataset, World(), **CHANGES | {"objective": features, "encoder": ENCODER | {"features": 1}})
    with pytest.raises(ValueError, match=r"crosspoint needs (points\.npy|v00\.png), .*: name a dataset"):
        train(tmp_path / "d", clips_dataset, World())
    assert not list(tmp_path.glob("*/checkpoints/*"))
    done = train(tmp_path / "e", bare, World(), **CHANGES | {"objective": OBJECTIVE | {"weights": NONE}})
    assert "image_encoder" not in done["parameters"]
    assert Dataset.open(bare).fingerprint == done["dataset"]


def test_each_objective_starts_from_a_training_of_its_own() -> None:
    sgd = OptimizerConfig(kind="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="warm_steps", warmup_epochs=10)
    for objective in ({"kind": "crossvideo"}, {"kind": "c2p"}):
        fit = PretrainConfig.model_validate({"encoder": {"kind": "p4transformer"}, "objective": objective, "fit": {"seed": 4}}).fit
        assert (fit.epochs, fit.batch, fit.optimizer, fit.seed) == (100, 8, sgd, 4)
    assert PretrainConfig.model_validate({"objective": CONFIG["objective"]}).fit.optimizer == OptimizerConfig()
