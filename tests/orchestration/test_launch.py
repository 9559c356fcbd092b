"""Ray Train runs the same training: two workers give one worker's losses, and a worker that dies costs no step."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestration.launch import Launch, LaunchError, run_training
from tests.training.training_cases import CONFIG
from training.journal import curves
from training.loop import Place
from training.pretrain import PretrainConfig, load_objective

pytestmark = pytest.mark.ray
PLACE = Place(device="cpu", threads=1, checkpoint_seconds=0.0)
HERE = Launch(launcher="local", place=PLACE)
TWO = Launch(launcher="ray", workers=2, place=PLACE)


@pytest.fixture(scope="module")
def alone(small_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_training(PretrainConfig.model_validate(CONFIG), small_dataset, folder, HERE)
    return folder


def test_two_ray_workers_give_the_losses_of_one(alone: Path, small_dataset: str, tmp_path: Path) -> None:
    result = run_training(PretrainConfig.model_validate(CONFIG), small_dataset, tmp_path / "run", TWO)
    assert result["workers"] == 2
    one, two = curves(alone / "journal.jsonl")["loss"], curves(tmp_path / "run" / "journal.jsonl")["loss"]
    assert abs(one[0][1] - two[0][1]) < 1e-5
    assert [step for step, _ in two] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_a_run_left_alone(small_dataset: str, tmp_path: Path) -> None:
    import psutil

    config = PretrainConfig.model_validate(CONFIG | {"fit": {"epochs": 20, "batch": 8, "seed": 3}})
    run_training(config, small_dataset, tmp_path / "alone", HERE)
    run = tmp_path / "run"
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if len(curves(run / "journal.jsonl").get("loss", ())) >= 5:
                for process in psutil.Process().children(recursive=True):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    run_training(config, small_dataset, run, Launch(launcher="ray", workers=1, place=PLACE))
    thread.join()
    assert killed
    first, second = load_objective(tmp_path / "alone").state_dict(), load_objective(run).state_dict()
    assert all((first[name] == second[name]).all() for name in first)


def test_an_error_that_would_repeat_is_one_sentence_and_no_retry(small_dataset: str, tmp_path: Path) -> None:
    config = PretrainConfig.model_validate(CONFIG | {"fit": {"batch": 64}})
    with pytest.raises(LaunchError, match="fewer than one batch of 64"):
        run_training(config, small_dataset, tmp_path / "run", Launch(launcher="ray", workers=1, place=PLACE))


def test_more_workers_than_the_cluster_holds_is_said_at_once(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"wants 1 GPUs and the Ray cluster has 0"):
        run_training(PretrainConfig.model_validate(CONFIG), small_dataset, tmp_path / "run", Launch(launcher="ray", workers=1, gpu=True))


def test_where_it_runs_is_no_part_of_the_result(alone: Path) -> None:
    assert "place" not in json.dumps(json.loads((alone / "result.json").read_text())["config"])
