"""One training, here or by Ray Train: the same function either way.

Checkpoints, journal and result are files of the training's folder, which all workers must reach; Ray places the workers, opens their
process group and starts them anew when one dies, and the training goes on from its own newest checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.distributed import World
from training.finetune import FinetuneConfig
from training.loop import Place
from training.pretrain import PretrainConfig
from training.tokenizer.train import TokenizerConfig

Training = PretrainConfig | TokenizerConfig | FinetuneConfig
_KINDS: dict[str, type[Training]] = {"pretrain": PretrainConfig, "tokenizer": TokenizerConfig, "finetune": FinetuneConfig}


class LaunchError(Exception):
    """A training could not be started or ended badly. The text is one sentence."""


class Launch(BaseModel):
    """Where trainings run; nothing here changes their result. `workers` divide the global batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launcher: Literal["local", "ray"] = "ray"
    workers: int = Field(1, gt=0)
    gpu: bool = Field(False, description="a GPU for each Ray worker")
    cpus: float = Field(1.0, gt=0, description="CPUs for each Ray worker")
    address: str | None = Field(None, description="the Ray cluster; without it one is started here for the run")
    restarts: int = Field(2, ge=0, description="times that Ray starts the workers anew after one died")
    place: Place = Place()


def train(config: Training, dataset_uri: str, folder: Path, world: World, place: Place, given: Path | None) -> dict[str, Any]:
    """Any of the trainings, in this process: what its function in `training` returns and raises."""
    from pipeline.reader import Dataset
    from training.finetune import finetune
    from training.pretrain import pretrain
    from training.tokenizer.train import train_tokenizer

    dataset = Dataset.open(dataset_uri)
    match config:
        case TokenizerConfig():
            return train_tokenizer(config, dataset, folder, world, place, given)
        case PretrainConfig():
            return pretrain(config, dataset, folder, world, place, given)
        case FinetuneConfig():
            return finetune(config, dataset, folder, world, place, given)


def run_training(config: Training, dataset_uri: str, folder: Path, launch: Launch, given: Path | None = None) -> dict[str, Any]:
    """Trains in `folder` and returns its result.json. given: the folder of what the training builds on, a tokenizer or an encoder.

    Raises what the training raises, or LaunchError.
    """
    if launch.launcher == "local":
        from training.distributed import current_world

        return train(config, dataset_uri, folder, current_world(launch.place.device), launch.place, given)
    return _with_ray(config, dataset_uri, folder, launch, given)


def _with_ray(config: Training, dataset_uri: str, folder: Path, launch: Launch, given: Path | None) -> dict[str, Any]:
    from pipeline.ray_workers import session

    folder = folder.resolve()
    if "://" not in dataset_uri:
        dataset_uri = str(Path(dataset_uri).resolve())
    task = {
        "kind": next(kind for kind, model in _KINDS.items() if isinstance(config, model)),
        "given": None if given is None else str(given.resolve()),
        "config": config.model_dump(mode="json"),
        "dataset": dataset_uri,
        "folder": str(folder),
        "place": launch.place.model_dump(mode="json"),
    }
    # Workers find the packages as this process does; the controller's polls decide how fast short trainings end.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    failed = folder / "error.json"
    failed.unlink(missing_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    with session(math.ceil(launch.workers * launch.cpus), launch.address):  # before Ray is imported: it says how Ray authenticates
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
        from ray.train.torch import TorchConfig, TorchTrainer

        needed = {"GPU": float(launch.workers)} if launch.gpu else {"CPU": launch.workers * launch.cpus}
        for name, amount in needed.items():
            there = ray.cluster_resources().get(name, 0.0)
            if there < amount:
                raise LaunchError(f"The training wants {amount:g} {name}s and the Ray cluster has {there:g}: lower `workers` or add nodes.")
        trainer = TorchTrainer(
            _worker,
            train_loop_config=task,
            torch_config=TorchConfig(backend="nccl" if launch.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=launch.workers,
                use_gpu=launch.gpu,
                resources_per_worker=None if launch.gpu else {"CPU": launch.cpus},
            ),
            run_config=RunConfig(
                name=f"{folder.parent.name}-{folder.name}-{os.urandom(4).hex()}",
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(max_failures=launch.restarts),
            ),
        )
        try:
            with _interruptible():
                trainer.fit()
        except WorkerGroupError as error:
            if failed.exists():
                raise LaunchError(json.loads(failed.read_text())["message"]) from error
            first = str(next(iter(error.worker_failures.values()), error)).strip().splitlines()[-1]
            raise LaunchError(f"A training worker failed {launch.restarts + 1} times, last with: {first}") from error
    if not (folder / "result.json").exists():
        raise LaunchError(
            json.loads(failed.read_text())["message"] if failed.exists() else f"The training in {folder} left no result: run it again."
        )
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C leaves the block as KeyboardInterrupt: Ray Train takes the signal for itself, ends its workers and then exits the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _worker(task: dict[str, Any]) -> None:
    """One Ray Train worker. An error that trying again would repeat is written down and ends the worker quietly."""
    import ray.train

    from pipeline.dataset import DatasetError
    from training.distributed import current_world
    from training.files import FileError, write_json
    from training.loop import TrainingError

    folder = Path(task["folder"])
    place = Place.model_validate(task["place"])
    world = current_world("cuda" if ray.train.torch.get_device().type == "cuda" else "cpu")
    try:
        config = _KINDS[task["kind"]].model_validate(task["config"])
        train(config, task["dataset"], folder, world, place, None if task["given"] is None else Path(task["given"]))
    except (TrainingError, FileError, DatasetError, ValueError) as error:
        write_json(folder / "error.json", {"message": str(error)})
        if world.size > 1:
            raise  # the others may wait for this rank in a collective: Ray must end them
    ray.train.report({"rank": world.rank})
