"""Trainings resume exactly, are the same for one worker and two, and refuse what does not belong to them."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.reader import Dataset
from tests.training.training_cases import CONFIG, rank_main, train
from training import checkpoint, encoder_file
from training.distributed import World
from training.files import FileError
from training.journal import curves
from training.loop import OptimizerConfig, TrainingError, learning_rate
from training.pretrain import load_objective

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def left_alone(small_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, small_dataset, World())
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_objective(folder).state_dict()


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_leaves_an_encoder_a_journal_and_a_result(left_alone: Path, small_dataset: str) -> None:
    result = json.loads((left_alone / "result.json").read_text())
    assert result["steps"] == 6  # 24 train objects, batch 8, 2 epochs
    encoder = encoder_file.load(left_alone / "encoder")
    assert encoder.fingerprint == result["fingerprint"]
    assert encoder.provenance["dataset"] == Dataset.open(small_dataset).fingerprint
    assert [step for step, _ in curves(left_alone / "journal.jsonl")["loss"]] == [1, 2, 3, 4, 5, 6]
    assert result["metrics"]["loss"] == pytest.approx(result["metrics"]["loss_intra"] + result["metrics"]["loss_cross"])


def test_the_same_training_twice_gives_the_same_bits(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    train(tmp_path, small_dataset, World())
    assert same(left_alone, tmp_path)


def test_another_seed_gives_another_encoder(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    train(tmp_path, small_dataset, World(), fit={**CONFIG["fit"], "seed": 4})
    assert not same(left_alone, tmp_path)


def test_killed_and_started_again_ends_with_the_weights_of_the_one_left_alone(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.training_cases", str(run), small_dataset, "{}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "step-00000002").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert checkpoint.steps(run / "checkpoints")
    train(run, small_dataset, World())
    assert same(left_alone, run)


def test_a_checkpoint_cut_short_is_passed_over_for_the_one_before(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    newest = run / "checkpoints" / f"step-{checkpoint.steps(run / 'checkpoints')[-1]:08d}"
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert train(run, small_dataset, World())["steps_this_run"] == 1
    assert same(left_alone, run)


def test_a_finished_training_does_nothing_again(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    assert train(run, small_dataset, World())["steps_this_run"] == 0
    assert same(left_alone, run)


def test_a_checkpoint_of_another_encoder_is_refused_in_one_sentence(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    with pytest.raises(checkpoint.CheckpointError, match=r"another training \(its config differs\).*another folder"):
        train(run, small_dataset, World(), encoder={"kind": "pointnet"})


def test_weights_of_another_encoder_are_refused(left_alone: Path, tmp_path: Path) -> None:
    shutil.copytree(left_alone / "encoder", tmp_path / "encoder")
    file = tmp_path / "encoder" / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileError, match=r"encoder\.safetensors"):
        encoder_file.load(tmp_path / "encoder")


def test_two_workers_are_one(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=rank_main, args=(rank, 2, str(tmp_path), small_dataset)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    one, two = curves(left_alone / "journal.jsonl"), curves(tmp_path / "run" / "journal.jsonl")
    for name in ("loss_intra", "loss_cross", "grad_norm"):
        assert one[name][0][1] == pytest.approx(two[name][0][1], rel=1e-5, abs=1e-5)
    np.testing.assert_allclose([v for _, v in one["loss"]], [v for _, v in two["loss"]], rtol=1e-3)  # rounding grows over steps
    assert abs(one["loss"][0][1] - two["loss"][0][1]) < 1e-5


def test_a_batch_that_does_not_divide_is_refused(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 does not divide among 3 workers"):
        train(tmp_path, small_dataset, World(0, 3))


def test_a_split_smaller_than_a_batch_is_refused(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="24 objects, fewer than one batch of 32"):
        train(tmp_path, small_dataset, World(), fit={"batch": 32})


def test_a_loss_that_is_not_finite_stops_before_it_is_kept(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(tmp_path, small_dataset, World(), fit={"batch": 8, "epochs": 4, "optimizer": {"lr": 1e18}})
    # the step that broke the weights is not the step whose loss shows it: nothing of either may be kept as finished
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(("epoch", "rate"), [(0, 9.9975e-4), (49, 5e-4), (98, 2.47e-7), (99, 0.0)])
def test_the_released_schedule(epoch: int, rate: float) -> None:
    # methods: 5e-4·(1+cos(π(e+1)/100)), stepped at the start of each epoch
    config = OptimizerConfig(schedule="cosine_compat")
    assert learning_rate(config, epoch * 7 + 3, 7, 100) == pytest.approx(rate, rel=2e-3, abs=1e-12)


def test_the_clean_schedule_starts_at_the_full_rate() -> None:
    assert learning_rate(OptimizerConfig(), 0, 7, 100) == 1e-3
    assert learning_rate(OptimizerConfig(warmup_steps=4), 0, 7, 100) == 2.5e-4


def test_a_damaged_newer_checkpoint_does_not_crowd_out_the_one_just_written(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint.save(tmp_path, 100, model, optimizer, {}, keep=1)
    (tmp_path / "step-00000100" / "model.safetensors").write_bytes(b"torn")
    (tmp_path / ".step-00000050.0a.part").mkdir()
    assert checkpoint.load_latest(tmp_path, model, optimizer, {}, sweep=True) == 0
    assert not list(tmp_path.glob(".step-*"))
    checkpoint.save(tmp_path, 10, model, optimizer, {}, keep=1)
    assert checkpoint.load_latest(tmp_path, model, optimizer, {}, sweep=False) == 10
