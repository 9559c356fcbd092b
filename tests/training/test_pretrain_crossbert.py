"""Cross-BERT's training with all its state (queues, momentum copies, schedules): resumed exactly, the same for one worker and two."""

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
from tests.training.objectives.crossbert_cases import ENCODER, OBJECTIVE, merged
from tests.training.training_cases import rank_main, train
from training import checkpoint, encoder_file
from training.distributed import World
from training.journal import curves
from training.loop import Place
from training.objectives import CrossBert
from training.pretrain import PretrainConfig, load_objective
from training.tokenizer.train import TokenizerConfig, load_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {
    "encoder": ENCODER,
    "objective": merged(OBJECTIVE, {"modelling": {"temperature": None, "perplexity": 4.0, "ramp": 0.5}, "alignment": {"queue": 20}}),
    "fit": {"epochs": 2, "batch": 8, "seed": 3, "optimizer": {"decoupled": True, "spare_vectors": True, "weight_decay": 0.05, "clip": 10}},
}


@pytest.fixture(scope="module")
def tokenizer(small_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig.model_validate(OBJECTIVE["tokenizer"])
    train_tokenizer(config, Dataset.open(small_dataset), folder, World(), Place(device="cpu", threads=1))
    return str(folder)


@pytest.fixture(scope="module")
def left_alone(small_dataset: str, tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, small_dataset, World(), tokenizer, **CHANGES)
    return folder


def test_the_run_holds_the_tokenizer_and_a_calibrated_temperature(left_alone: Path, tokenizer: str) -> None:
    module = load_objective(left_alone)
    assert isinstance(module, CrossBert)
    given = load_tokenizer(Path(tokenizer)).state_dict()
    kept = module.tokenizer.state_dict()
    assert all(torch.equal(given[name], kept[name]) for name in given)  # after as before the training
    assert float(module.temperature) not in (0.0, 1.0)
    assert json.loads((left_alone / "result.json").read_text())["tokenizer"]
    assert encoder_file.load(left_alone / "encoder").config.kind == "point_transformer"


def test_killed_and_started_again_ends_with_queues_copies_and_weights_of_the_one_left_alone(
    left_alone: Path, small_dataset: str, tokenizer: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.training_cases", str(run), small_dataset, json.dumps({**CHANGES, "given": tokenizer})]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "step-00000002").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert checkpoint.steps(run / "checkpoints")
    assert not (run / "result.json").exists()
    train(run, small_dataset, World(), tokenizer, **CHANGES)
    first, second = load_objective(left_alone).state_dict(), load_objective(run).state_dict()
    assert first.keys() == second.keys()
    assert {"point_queue.keys", "image_queue.ids", "teacher.encoder.norm.weight", "temperature"} <= first.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


ARMS: dict[str, dict[str, Any]] = {
    "both": {},
    "alignment": {"modelling": {"weight": 0.0}, "alignment": {"keys": "online", "head_norm": True}},
    "modelling": {"alignment": {"weight": 0.0}},
}


@pytest.mark.parametrize(
    ("size", "changes"),
    [*((2, changes) for changes in ARMS.values()), pytest.param(4, {}, marks=pytest.mark.slow)],
    ids=[*(f"two-{arm}" for arm in ARMS), "four-both"],
)
def test_several_workers_are_one(size: int, changes: dict[str, Any], small_dataset: str, tokenizer: str, tmp_path: Path) -> None:
    # Two steps of 12: the second meets a filled queue. At a larger rate Adam turns the rounding of small gradients into whole steps.
    fit = {"epochs": 1, "batch": 12, "seed": 3, "optimizer": {"lr": 1e-10}}
    config = CHANGES | {"objective": merged(CHANGES["objective"], changes), "fit": fit, "given": tokenizer}
    train(tmp_path / "one", small_dataset, World(), **config)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=rank_main, args=(rank, size, str(tmp_path), small_dataset, config)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0] * size
    one, two = curves(tmp_path / "one" / "journal.jsonl"), curves(tmp_path / "run" / "journal.jsonl")
    for name in one:
        if name.startswith("loss") or name in ("grad_norm", "target_entropy", "embedding_std", "token_perplexity", "queue_similarity"):
            assert [v for _, v in one[name]] == pytest.approx([v for _, v in two[name]], rel=1e-5, abs=1e-5), name
    first, second = (load_file(tmp_path / run / "checkpoints" / "step-00000002" / "optimizer.safetensors") for run in ("one", "run"))
    # Adam's first moments are the gradients; what a sum in another order changes is measured against the whole gradient's length
    gradients = [
        torch.cat([found[name].flatten() for name in sorted(found) if "exp_avg" in name and "sq" not in name]) for found in (first, second)
    ]
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-5
    weights, others = (load_objective(tmp_path / run).state_dict() for run in ("one", "run"))
    assert torch.equal(weights["point_queue.ids"], others["point_queue.ids"])
    for name in ("point_queue.keys", "image_queue.keys"):
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=1e-5)


def test_a_tokenizer_that_is_missing_or_of_another_size_is_refused(small_dataset: str, tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer is given"):
        train(tmp_path, small_dataset, World(), **CHANGES)
    other = merged(CHANGES["objective"], {"tokenizer": {"model": {"vocabulary": 64}}})
    with pytest.raises(ValueError, match="other sizes"):
        train(tmp_path, small_dataset, World(), tokenizer, **CHANGES | {"objective": other})


def test_encoder_and_tokenizer_must_see_the_same_patches() -> None:
    with pytest.raises(ValidationError, match="groups, group_size"):
        PretrainConfig.model_validate(CHANGES | {"encoder": ENCODER | {"groups": 4}})
    with pytest.raises(ValidationError, match="skip_origin"):
        PretrainConfig.model_validate(CHANGES | {"encoder": ENCODER | {"skip_origin": True}})
    with pytest.raises(ValidationError, match="needs a point_transformer"):
        PretrainConfig.model_validate(CHANGES | {"encoder": {"kind": "pointnet"}})
