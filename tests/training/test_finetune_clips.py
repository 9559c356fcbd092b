"""Tasks of clips are fine-tuned as those of clouds are: they learn, resume, agree for one worker and two, and start where told."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.config import ConfigError, checked
from pipeline.reader import Dataset
from tests.training.clip_cases import write_clips
from tests.training.finetune_cases import VIDEO_CONFIG, VIDEO_ENCODERS, VIDEO_TASKS, rank_main, run
from tests.training.test_finetune import result_of, same
from training import checkpoint, encoder_file
from training.augment import PointAugment
from training.clip_views import ClipAugment
from training.evaluation.figure import Figure
from training.files import FileError, read_tensors
from training.finetune import FinetuneConfig, check, load_finetuned
from training.journal import curves
from training.loop import TrainingError

ROOT = Path(__file__).parents[2]
FIRST = {"recognition": "accuracy", "action_segmentation": "frame_accuracy", "point_segmentation": "miou"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 train and 6 test clips of three actions, their points with parts."""
    return write_clips(tmp_path_factory.mktemp("clips"), parts=True, images=False)


@pytest.fixture(scope="module", params=sorted(VIDEO_TASKS))
def left_alone(request: pytest.FixtureRequest, clips: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    run(folder, clips, request.param)
    return request.param, folder


def test_a_run_leaves_model_encoder_and_figures(left_alone: tuple[str, Path], clips: str) -> None:
    kind, folder = left_alone
    result = result_of(folder)
    assert result["weights"] == "random"
    assert result["labelled_items"] == 9
    assert result["validation_items"] == 3
    assert result["training_clips_shorter_than_a_view"] == 0
    assert encoder_file.load(folder / "encoder").fingerprint == result["fingerprint"] != result["encoder_fingerprint"]
    figures = [Figure(**record) for record in result["figures"]]
    assert figures[0].name == f"{kind}.{FIRST[kind]}"
    assert [epoch for epoch, _ in result["validation"][f"val_{FIRST[kind]}"]] == [1, 2, 3]
    for figure in figures:
        assert figure.value == pytest.approx(np.mean(figure.details["scores"]))
        assert figure.n == len(figure.details["scores"]) == 6
        assert figure.chance is not None
        assert 0 <= figure.chance <= 1
        assert figure.details["owners"] == list(range(6))  # each clip has a file of its own
    assert load_finetuned(folder).task.record() == json.loads((folder / "model" / "model.json").read_text())["labels"]


def test_what_is_kept_to_be_looked_at(left_alone: tuple[str, Path], clips: str) -> None:
    kind, folder = left_alone
    dataset = Dataset.open(clips)
    name = {"action_segmentation": "timelines", "point_segmentation": "clips"}.get(kind)
    if name is None:
        assert not (folder / "evidence").exists()
        return
    about = json.loads((folder / "evidence" / f"{name}.json").read_text())
    kept = np.load(folder / "evidence" / f"{name}.npz")
    assert sorted(about["keys"]) == sorted(dataset.keys[i] for i in dataset.indices("test"))
    assert sorted(about["classes"][:3]) == ["circle", "rise", "swing"]
    assert about["fps"] == [12] * 6
    for row, key in enumerate(about["keys"]):
        sample = dataset.load(dataset.keys.index(key), ("actions.npy", "parts.npy", "json"))
        if name == "timelines":
            assert about["frames"][row] == len(sample["actions.npy"])
            assert [about["labels"][label] for label in kept["truth"][row]] == [
                sample["json"]["action_names"][a] for a in sample["actions.npy"]
            ]
        else:
            assert kept["points"].shape == (6, 8, 32, 3)
            assert about["labels"] == ["arm", "body"]
            assert 0 < (kept["truth"][row] == 0).mean() < 1
        assert set(np.unique(kept["predicted"][row])) <= {0, 1, 2}
    scores = result_of(folder)["figures"][0]["details"]["scores"]
    if name == "timelines":
        order = [about["keys"].index(dataset.keys[i]) for i in dataset.indices("test")]
        right = [(kept["truth"][row] == kept["predicted"][row]).mean() for row in order]
        assert right == pytest.approx(scores)


def test_killed_and_started_again_ends_with_the_bits_of_the_one_left_alone(
    left_alone: tuple[str, Path], clips: str, tmp_path: Path
) -> None:
    kind, alone = left_alone
    if kind != "recognition":
        pytest.skip("the loop is the same; one process to kill is enough")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.finetune_cases", str(folder), clips, kind, "{}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "step-00000003").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert checkpoint.steps(folder / "checkpoints")
    result = run(folder, clips, kind)
    assert same(alone, folder)
    assert all(result[name] == result_of(alone)[name] for name in ("figures", "epoch", "validation", "fingerprint"))


def test_two_workers_are_one(clips: str, tmp_path: Path) -> None:
    # Adam divides a gradient of rounding noise by itself, so only small steps leave the two runs comparable beyond the first.
    slow = {"fit": {**VIDEO_CONFIG["fit"], "epochs": 1, "optimizer": {**VIDEO_CONFIG["fit"]["optimizer"], "lr": 1e-6}}}
    cases = {"action_segmentation": slow, "point_segmentation": {**slow, "encoder": VIDEO_ENCODERS["p4unet"].model_dump()}}
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=rank_main, args=(rank, 2, str(tmp_path), clips, cases)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for kind, changes in cases.items():
        run(tmp_path / "alone" / kind, clips, kind, **changes)
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for kind in cases:
        one, two = (curves(tmp_path / name / kind / "journal.jsonl") for name in ("alone", "together"))
        for name in ("loss", "grad_norm", "train_accuracy", "val_loss"):
            assert [step for step, _ in one[name]] == [step for step, _ in two[name]]
            np.testing.assert_allclose([v for _, v in one[name]], [v for _, v in two[name]], rtol=1e-5, atol=1e-5)
        alone, together = (result_of(tmp_path / name / kind) for name in ("alone", "together"))
        assert alone["epoch"] == together["epoch"]
        assert alone["figures"][0]["details"]["items"] == together["figures"][0]["details"]["items"]


@pytest.mark.parametrize(
    ("kind", "encoder", "epochs"),
    [("recognition", "p4transformer", 25), ("action_segmentation", "p4transformer", 90), ("point_segmentation", "p4unet", 25)],
)
def test_a_few_clips_are_learned_by_heart(kind: str, encoder: str, epochs: int, tmp_path: Path) -> None:
    uri = write_clips(tmp_path / "data", train=6, test=3, parts=True, images=False, sequences=kind == "action_segmentation")
    still = {"rotation": "none", "scale": [1, 1], "translate": 0, "jitter_sigma": 0, "normalise": "none", "frames": 16}
    result = run(
        tmp_path / "run",
        uri,
        kind,
        task={**VIDEO_TASKS[kind], "dropout": 0.0},
        encoder=VIDEO_ENCODERS[encoder].model_copy(update={"drop_path": 0.0}).model_dump(),
        augment=still,
        points=None,
        fit={"epochs": epochs, "batch": 6, "optimizer": {"kind": "adam", "lr": 1e-2}},
        validation=0.0,
        validate_every=epochs,
    )
    assert result["chosen_by"] == "last epoch"
    assert curves(tmp_path / "run" / "journal.jsonl")["train_accuracy"][-1][1] >= 0.99
    if encoder == "p4transformer":
        # the actions are the same, though the bodies are not
        assert result["figures"][0]["value"] > result["figures"][0]["chance"]


def test_every_tensor_of_the_given_encoder_is_loaded_and_no_head_comes_with_it(clips: str, tmp_path: Path) -> None:
    start = encoder_file.random(VIDEO_ENCODERS["p4transformer"], 11)
    encoder_file.save(tmp_path / "pretraining" / "encoder", start.module, start.config, {"weights": "pretrained"})
    stored = read_tensors(tmp_path / "pretraining" / "encoder", "encoder")
    fit = {**VIDEO_CONFIG["fit"], "epochs": 1}
    result = run(tmp_path / "run", clips, "recognition", given=tmp_path / "pretraining", freeze_encoder=True, fit=fit)
    model = read_tensors(tmp_path / "run" / "model", "model")
    loaded = {name.removeprefix("encoder."): tensor for name, tensor in model.items() if name.startswith("encoder.")}
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert result["loaded_tensors"] == len(stored) > 0
    assert result["weights"] == "pretrained"
    assert result["encoder_fingerprint"] == start.fingerprint == result["fingerprint"]
    assert {name.partition(".")[0] for name in model} == {"encoder", "head"}
    assert read_tensors(tmp_path / "run" / "encoder", "encoder").keys() == stored.keys()


def test_weights_that_are_none_of_the_encoders_are_an_error(clips: str, tmp_path: Path) -> None:
    start = encoder_file.random(VIDEO_ENCODERS["p4transformer"], 11)
    module = torch.nn.ModuleDict({"module": start.module})  # what wrapping for several workers would write
    module.feature_dim = start.module.feature_dim
    encoder_file.save(tmp_path / "encoder", module, start.config, {})  # type: ignore[arg-type]
    with pytest.raises(FileError, match="are not those of a p4transformer"):
        run(tmp_path / "run", clips, "recognition", given=tmp_path / "encoder")


def test_a_linear_probe_trains_the_last_layer_alone(clips: str, tmp_path: Path) -> None:
    result = run(tmp_path, clips, "recognition", task={"kind": "recognition", "hidden": [], "windows": 1}, freeze_encoder=True)
    assert result["parameters"]["trained"] == result["parameters"]["head"] == 32 * 3 + 3
    start = encoder_file.random(VIDEO_ENCODERS["p4transformer"], 3).module
    ended = encoder_file.load(tmp_path / "encoder").module
    assert all(torch.equal(a, b) for a, b in zip(ended.parameters(), start.parameters(), strict=True))


def test_features_of_points_reach_the_encoder(tmp_path: Path) -> None:
    uri = write_clips(tmp_path / "data", train=6, test=3, images=False, features=True, valid=True)
    encoder = VIDEO_ENCODERS["p4transformer"].model_copy(update={"features": 2}).model_dump()
    augment = {"frames": 8, "features": ["height", "part"]}
    result = run(tmp_path / "run", uri, "recognition", encoder=encoder, augment=augment, validation=0.0)
    assert result["config"]["augment"]["features"] == ["height", "part"]
    with pytest.raises(TrainingError, match=r"takes 2 features .* augment\.features names 0"):
        run(tmp_path / "none", uri, "recognition", encoder=encoder, validation=0.0)


def test_clips_need_an_encoder_of_clips_and_clouds_one_of_clouds(clips: str, parts_dataset: str) -> None:
    dataset = Dataset.open(clips)
    video = FinetuneConfig.model_validate({"task": {"kind": "recognition"}})
    with pytest.raises(ValueError, match="recognition is one of clips, and dgcnn encodes single clouds: name an encoder of videos"):
        check(video, dataset)
    still = FinetuneConfig.model_validate({"encoder": VIDEO_ENCODERS["p4transformer"].model_dump()})
    with pytest.raises(ValueError, match="classification is one of single clouds, and p4transformer encodes clips"):
        check(still, Dataset.open(parts_dataset))
    with pytest.raises(ValueError, match=r"has no clip\.npy: this task needs a dataset of clips"):
        check(video.model_copy(update={"encoder": VIDEO_ENCODERS["p4transformer"]}), Dataset.open(parts_dataset))


def test_defaults_follow_the_task() -> None:
    configs = {kind: FinetuneConfig.model_validate({"task": {"kind": kind}}) for kind in VIDEO_TASKS}
    assert {kind: (config.augment.frames, config.fit.batch, config.fit.optimizer.warmup_epochs) for kind, config in configs.items()} == {
        "recognition": (24, 14, 10),
        "action_segmentation": (150, 8, 5),
        "point_segmentation": (3, 8, 5),
    }
    for config in configs.values():
        assert isinstance(config.augment, ClipAugment)
        assert (config.fit.epochs, config.fit.optimizer.kind, config.fit.optimizer.decoupled) == (50, "adam", True)
        assert FinetuneConfig.model_validate(json.loads(config.model_dump_json())) == config
        assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config
    some = FinetuneConfig.model_validate({"task": {"kind": "action_segmentation"}, "augment": {"frames": 16}})
    assert (some.augment.frames, some.augment.normalise) == (16, "none")
    assert isinstance(FinetuneConfig.model_validate({"augment": {"rotation": "y"}}).augment, PointAugment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"count": 64}}, r"augment\.count"),
        ({"augment": PointAugment()}, "recognition needs a ClipAugment, not a PointAugment"),
        ({"votes": 3}, "votes are those of clouds"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig.model_validate({"task": {"kind": "recognition"}} | changes)


def test_a_wrong_key_of_the_views_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match=r"augment\.frame is no key here; did you mean frames\?"):
        checked(FinetuneConfig, {"task": {"kind": "recognition"}, "augment": {"frame": 3}}, "file")


# ---- test clips without labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["action_segmentation", "point_segmentation"])
def test_test_clips_without_labels_are_counted_and_not_scored(kind: str, tmp_path: Path) -> None:
    uri = write_clips(tmp_path / "data", parts=True, images=False, sequences=True, unlabelled=(13, 16))
    run(tmp_path / "out", uri, kind)
    figures = result_of(tmp_path / "out")["figures"]
    assert {figure["n"] for figure in figures} == {4}
    assert {figure["details"]["test_items_without_labels"] for figure in figures} == {2}


@pytest.mark.parametrize("kind", ["action_segmentation", "point_segmentation"])
def test_a_test_split_without_any_labels_is_refused_before_the_training(kind: str, tmp_path: Path) -> None:
    uri = write_clips(tmp_path / "data", parts=True, images=False, sequences=True, unlabelled=tuple(range(12, 18)))
    config = FinetuneConfig.model_validate(VIDEO_CONFIG | {"task": VIDEO_TASKS[kind]})
    with pytest.raises(ValueError, match=r"No test clip of .* has (actions|parts)\.npy, the labels to test on"):
        check(config, Dataset.open(uri))
