"""Fine-tunings learn, are chosen without the test split, resume exactly, and are the same for one worker and two."""

import json
import multiprocessing
import os
import shutil
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

from pipeline.reader import Dataset
from tests.training.finetune_cases import CONFIG, ENCODERS, TASKS, rank_main, run
from training import checkpoint, encoder_file
from training.augment import PointAugment, augment_points, rng_for
from training.distributed import World
from training.evaluation.bootstrap import compare
from training.evaluation.figure import Figure
from training.files import FileError, read_tensors
from training.finetune import FinetuneConfig, Finetuned, _prepare, _score, finetune, load_finetuned
from training.journal import curves
from training.loop import Place, TrainingError, make_optimizer
from training.tasks import Classification, ClassificationConfig, Parts, PartsConfig, open_task

ROOT = Path(__file__).parents[2]
KINDS = ["classification", "parts"]


@pytest.fixture(scope="module", params=KINDS)
def left_alone(request: pytest.FixtureRequest, parts_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    run(folder, parts_dataset, request.param)
    return request.param, folder


def same(a: Path, b: Path) -> bool:
    first, second = read_tensors(a / "model", "model"), read_tensors(b / "model", "model")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_a_run_leaves_model_encoder_and_figures(left_alone: tuple[str, Path], parts_dataset: str) -> None:
    kind, folder = left_alone
    result = result_of(folder)
    dataset = Dataset.open(parts_dataset)
    assert result["weights"] == "random"
    assert result["labelled_items"] + result["validation_items"] == len(dataset.indices("train"))
    encoder = encoder_file.load(folder / "encoder")
    assert encoder.fingerprint == result["fingerprint"] != result["encoder_fingerprint"]
    assert encoder.provenance["weights"] == "finetuned"
    assert encoder.provenance["encoder_fingerprint"] == result["encoder_fingerprint"]
    figures = [Figure(**record) for record in result["figures"]]
    assert [figure.name for figure in figures] == {
        "classification": ["finetune.accuracy", "finetune.mean_class_accuracy"],
        "parts": ["parts.instance_miou", "parts.class_miou"],
    }[kind]
    for figure in figures:
        assert figure.value == pytest.approx(np.mean(figure.details["scores"]))
        assert figure.n == 4
        assert figure.encoder_fingerprint == result["encoder_fingerprint"]
        assert figure.split == "test"
    module = load_finetuned(folder)
    assert sum(p.numel() for p in module.parameters()) == result["parameters"]["encoder"] + result["parameters"]["head"]


def test_the_figures_are_those_of_the_saved_model(left_alone: tuple[str, Path], parts_dataset: str) -> None:
    kind, folder = left_alone
    dataset, module = Dataset.open(parts_dataset), load_finetuned(folder)
    scores = []
    for index in dataset.indices("test").tolist():
        item = module.task.item(dataset, index)
        points = item["points"][:64] - item["points"][:64].mean(0)
        points /= np.linalg.norm(points, axis=1).max()
        batch = {name: torch.as_tensor(values)[None] for name, values in item.items()} | {"points": torch.from_numpy(points)[None]}
        with torch.no_grad():
            logits = module.logits(batch)[0]
        if kind == "classification":
            scores.append(float(logits.argmax() == batch["label"][0]))
        else:
            own = np.flatnonzero(module.task.owner == int(item["category"]))
            predicted, truth = own[logits[:, own].argmax(1)], item["label"][:64]
            both = [((predicted == label) & (truth == label)).sum() for label in own]
            either = [((predicted == label) | (truth == label)).sum() for label in own]
            scores.append(float(np.mean([b / e if e else 1.0 for b, e in zip(both, either, strict=True)])))
    assert result_of(folder)["figures"][0]["details"]["scores"] == pytest.approx(scores)


def test_the_best_epoch_on_validation_is_kept(left_alone: tuple[str, Path]) -> None:
    kind, folder = left_alone
    result = result_of(folder)
    metric = {"classification": "val_accuracy", "parts": "val_instance_miou"}[kind]
    curve = [(value, -loss) for (_, value), (_, loss) in zip(result["validation"][metric], result["validation"]["val_loss"], strict=True)]
    assert [epoch for epoch, _ in result["validation"][metric]] == [1, 2, 3]
    assert result["epoch"] == 1 + max(range(3), key=lambda i: curve[i])
    best, model = read_tensors(folder / "best", "model"), read_tensors(folder / "model", "model")
    assert all(torch.equal(best[name], model[name]) for name in model)


def test_killed_and_started_again_ends_with_the_bits_of_the_one_left_alone(
    left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path
) -> None:
    kind, alone = left_alone
    if kind == "classification":
        pytest.skip("the loop is the same; one process to kill is enough")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.finetune_cases", str(folder), parts_dataset, kind, "{}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "step-00000003").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert checkpoint.steps(folder / "checkpoints")
    result = run(folder, parts_dataset, kind)
    expected = result_of(alone)
    assert same(alone, folder)
    for name in ("figures", "epoch", "validation", "fingerprint", "summary"):
        assert result[name] == expected[name]


def test_a_best_epoch_from_after_the_checkpoint_changes_nothing(left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path) -> None:
    kind, alone = left_alone
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    (folder / ".best.0a.part").mkdir()
    result = run(folder, parts_dataset, kind)
    assert result["steps_this_run"] == result["steps"]
    assert same(alone, folder)
    assert result["epoch"] == result_of(alone)["epoch"]
    assert not list(folder.glob(".best.*"))


def test_a_finished_one_is_left_alone_and_the_test_split_stays_closed(
    left_alone: tuple[str, Path], parts_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder = left_alone
    monkeypatch.setattr(Dataset, "load", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(folder, parts_dataset, kind)["steps_this_run"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_the_test_split_says_changes_no_weight(
    left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, alone = left_alone
    dataset = Dataset.open(parts_dataset)
    test = set(dataset.indices("test").tolist())
    opened: list[tuple[int, bool]] = []
    load = Dataset.load

    def altered(self: Dataset, index: int, members: tuple[str, ...]) -> dict[str, Any]:
        sample = load(self, index, members)
        opened.append((index, (tmp_path / "checkpoints").exists() and checkpoint.steps(tmp_path / "checkpoints")[-1] == 6))
        if index in test and "parts.npy" in sample:
            sample["parts.npy"] = sample["parts.npy"][::-1].copy()
        return sample

    monkeypatch.setattr(Dataset, "load", altered)
    if kind == "classification":
        dataset.classes[sorted(test)] = dataset.classes[sorted(test)][::-1]
    config = FinetuneConfig.model_validate({"task": TASKS[kind]} | CONFIG)
    result = finetune(config, dataset, tmp_path, World(), Place(device="cpu", threads=1))
    assert same(alone, tmp_path)
    assert result["epoch"] == result_of(alone)["epoch"]
    assert result["figures"][0]["details"]["scores"] != result_of(alone)["figures"][0]["details"]["scores"]
    reads = [(index, finished) for index, finished in opened if index in test]
    assert all(finished for _, finished in reads)
    # each item once to be scored, and those that are kept to be looked at once more
    kept = json.loads((tmp_path / "evidence" / "parts.json").read_text())["keys"] if kind == "parts" else []
    assert sorted(index for index, _ in reads) == sorted([*test, *(dataset.keys.index(key) for key in kept)])


def test_two_workers_are_one(parts_dataset: str, tmp_path: Path) -> None:
    # Adam divides a gradient of rounding noise by itself, so only small steps leave the two runs comparable beyond the first.
    slow = {"fit": {**CONFIG["fit"], "optimizer": {**CONFIG["fit"]["optimizer"], "lr": 1e-6}}}
    # DGCNN's features of points leave its embedding untrained: a rank that waited for its gradient would hang or raise.
    cases = {"classification": slow, "parts": {**slow, "encoder": ENCODERS["dgcnn"].model_dump()}}
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=rank_main, args=(rank, 2, str(tmp_path), parts_dataset, cases)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for kind, changes in cases.items():
        run(tmp_path / "alone" / kind, parts_dataset, kind, **changes)
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
    ("kind", "encoder", "head", "epochs"),
    [("classification", "point_transformer", {}, 15), ("parts", "pointnet", {"embed": 64, "hidden": [64, 64]}, 90)],
)
def test_eight_shapes_are_learned_by_heart(
    kind: str, encoder: str, head: dict[str, Any], epochs: int, parts_dataset: str, tmp_path: Path
) -> None:
    still = PointAugment(scale=(1.0, 1.0), rotation="none", translate=0.0, jitter_sigma=0.0, dropout=0.0, draw="first")
    optimizer = {"lr": 1e-2, "weight_decay": 0.0}
    result = run(
        tmp_path,
        parts_dataset,
        kind,
        task={**TASKS[kind], **head, "dropout": 0.0},
        encoder=ENCODERS[encoder].model_copy(update={"drop_path": 0.0} if encoder == "point_transformer" else {}).model_dump(),
        augment=still.model_dump(),
        fit={"epochs": epochs, "batch": 8, "optimizer": optimizer},
        labels=0.7,
        validation=0.0,
    )
    assert result["labelled_items"] == 8
    assert result["chosen_by"] == "last epoch"
    assert curves(tmp_path / "journal.jsonl")["train_accuracy"][-1][1] == 1


def test_it_starts_from_the_encoder_that_is_given(left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path) -> None:
    kind, folder = left_alone
    encoder = encoder_file.load(folder / "encoder")
    encoder_file.save(tmp_path / "pretraining" / "encoder", encoder.module, encoder.config, {"weights": "pretrained"})
    run(tmp_path / "a", parts_dataset, kind, given=tmp_path / "pretraining", encoder={"kind": "pointnet"})
    run(tmp_path / "b", parts_dataset, kind, given=folder / "encoder")
    result = result_of(tmp_path / "a")
    assert result["weights"] == "pretrained"
    assert result["encoder_fingerprint"] == encoder.fingerprint
    assert result["config"]["encoder"] == encoder.config.model_dump(mode="json")
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", folder)
    pretrained, random = (Figure(**result_of(path)["figures"][0]) for path in (tmp_path / "a", folder))
    assert compare(pretrained, random).value == pytest.approx(pretrained.value - random.value)


def test_another_start_is_refused_in_the_same_folder(left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path) -> None:
    kind, folder = left_alone
    run_folder = tmp_path / "run"
    shutil.copytree(folder, run_folder)
    with pytest.raises(checkpoint.CheckpointError, match="encoder_fingerprint"):
        run(run_folder, parts_dataset, kind, given=folder / "encoder")


def test_damaged_weights_are_refused(left_alone: tuple[str, Path], parts_dataset: str, tmp_path: Path) -> None:
    kind, folder = left_alone
    shutil.copytree(folder / "encoder", tmp_path / "encoder")
    file = tmp_path / "encoder" / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileError, match=r"encoder\.safetensors"):
        run(tmp_path / "run", parts_dataset, kind, given=tmp_path / "encoder")


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_a_frozen_encoder_stays_what_it_was_to_the_bit(kind: str, parts_dataset: str, tmp_path: Path) -> None:
    config = ENCODERS[kind]
    start = encoder_file.random(config, 3)
    encoder_file.save(tmp_path / "start", start.module, config, {})
    values = CONFIG | {"task": TASKS["classification"], "encoder": config.model_dump(), "freeze_encoder": True}
    place = Place(device="cpu", threads=1)
    dataset = Dataset.open(parts_dataset)
    result = finetune(FinetuneConfig.model_validate(values), dataset, tmp_path / "given", World(), place, tmp_path / "start")
    assert result["fingerprint"] == start.fingerprint
    assert result["parameters"]["trained"] == result["parameters"]["head"]
    # random weights get the batch statistics of training clouds, and nothing else changes
    finetune(FinetuneConfig.model_validate(values), dataset, tmp_path / "random", World(), place)
    ended = encoder_file.load(tmp_path / "random" / "encoder").module
    assert all(torch.equal(a, b) for a, b in zip(ended.parameters(), start.module.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(ended.buffers(), start.module.buffers(), strict=True))


def test_the_encoder_has_a_rate_of_its_own() -> None:
    task = Classification(ClassificationConfig(hidden=(8,)), ("a", "b"), 0)
    module = Finetuned(task, encoder_file.random(ENCODERS["pointnet"], 0).module, encoder_lr_scale=0.1)
    optimizer = make_optimizer(FinetuneConfig().fit.optimizer, module)
    factors = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert {factors[id(p)] for p in module.encoder.parameters()} == {0.1}
    assert {factors[id(p)] for p in module.head.parameters()} == {1.0}


def test_the_head_starts_the_same_for_pretrained_and_random_weights() -> None:
    task = Classification(ClassificationConfig(hidden=(8,)), ("a", "b"), 0)
    one, other = (Finetuned(task, encoder_file.random(ENCODERS["pointnet"], seed).module, seed=5) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True))


def test_points_are_drawn_as_the_augmentation_draws_them_and_labels_go_with_them(parts_dataset: str) -> None:
    dataset = Dataset.open(parts_dataset)
    config = FinetuneConfig(task=PartsConfig(), points=50)
    task = open_task(config.task, dataset, dataset.indices("train"))
    key, whole, sample = dataset.keys[9], task.item(dataset, 9), _prepare(task, config, dataset, 9, 4)
    by_augmentation = augment_points(whole["points"], config.augment.model_copy(update={"count": 50}), rng_for(0, 4, key, "finetune"))
    np.testing.assert_array_equal(sample["points"], by_augmentation)
    # without scale, shift and normalisation each point is a stored one, and has its label
    still = config.augment.model_copy(update={"normalise": False, "scale": (1.0, 1.0), "shift": 0.0})
    sample = _prepare(task, config.model_copy(update={"augment": still}), dataset, 9, 4)
    stored = {point.tobytes(): label for point, label in zip(whole["points"], whole["label"], strict=True)}
    assert [stored[point.tobytes()] for point in sample["points"]] == sample["label"].tolist()
    assert len({point.tobytes() for point in sample["points"]}) == 50


def test_the_loss_is_the_mean_over_all_labelled_points_of_the_batch() -> None:
    task = Parts(PartsConfig(embed=8, hidden=(8,), dropout=0.0), ("cup",), (("body", "handle"),), (0,))
    module = Finetuned(task, encoder_file.random(ENCODERS["pointnet"], 0).module)
    label = torch.tensor([[0, 1, 0, 0, 1], [1, -1, -1, -1, -1], [-1] * 5])
    batch = {"points": torch.randn(3, 5, 3), "label": label, "category": torch.zeros(3, dtype=torch.int64)}
    loss, terms = module.train()(batch)
    logits = module.logits(batch)
    right = [(logits[i, n].argmax() == label[i, n]).item() for i, n in [(0, n) for n in range(5)] + [(1, 0)]]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=-1))
    assert float(terms["train_accuracy"]) == pytest.approx(sum(right) / 6)


def test_votes_are_a_protocol_of_their_own_and_change_nothing_else(parts_dataset: str, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", parts_dataset, "parts")
    voted = run(tmp_path / "voted", parts_dataset, "parts", votes=3)
    assert voted["figures"][0]["details"]["scores"] == plain["figures"][0]["details"]["scores"]
    assert same(tmp_path / "plain", tmp_path / "voted")
    assert sorted(voted["summary"]) == ["parts.class_miou", "parts.instance_miou", "parts_vote3.class_miou", "parts_vote3.instance_miou"]
    module, dataset = load_finetuned(tmp_path / "voted"), Dataset.open(parts_dataset)
    config = FinetuneConfig.model_validate(voted["config"])
    index = dataset.indices("test")[:1]
    with torch.no_grad():
        logits = []
        for vote in range(3):
            item = module.task.item(dataset, int(index[0]))
            points = augment_points(item["points"][:64], config.augment, rng_for(3, vote, dataset.keys[index[0]], "vote"))
            logits.append(module.logits({"points": torch.from_numpy(points)[None], "category": torch.as_tensor(item["category"])[None]}))
    own = np.flatnonzero(module.task.owner == int(item["category"]))
    truth = torch.from_numpy(item["label"][:64] - own[0])
    loss = torch.nn.functional.cross_entropy(torch.stack(logits).mean(0)[0][:, own], truth, reduction="sum")
    assert _score(module, config, dataset, index, World(), 3)[0, 0] == pytest.approx(float(loss), rel=1e-5)
    assert _score(module, config, dataset, index, World())[0, 0] != pytest.approx(float(loss), rel=1e-5)


def test_defaults_follow_the_task() -> None:
    whole, parts = FinetuneConfig(), FinetuneConfig.model_validate({"task": {"kind": "parts"}})
    assert (whole.augment.scale, whole.augment.per_axis, whole.augment.shift) == ((2 / 3, 1.5), True, 0.2)
    assert (parts.augment.scale, parts.augment.per_axis, parts.augment.shift) == ((0.8, 1.25), False, 0.1)
    assert (whole.fit.batch, parts.fit.batch) == (32, 16)
    assert FinetuneConfig.model_validate(json.loads(parts.model_dump_json())) == parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"count": 64}}, "augment.count"),
        ({"task": {"kind": "parts"}, "augment": {"dropout": 0.5}}, "away from their labels"),
        ({"labels": 0.0}, "greater than 0"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig.model_validate(changes)


def test_a_dataset_without_parts_is_refused(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no parts: generate it with points\.parts true"):
        run(tmp_path, small_dataset, "parts")


def test_a_dataset_without_the_test_split_is_refused_before_training(parts_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to test on in the split 'held'"):
        run(tmp_path, parts_dataset, "classification", test_split="held")
    assert not (tmp_path / "checkpoints").exists()
