import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import DatasetError
from pipeline.generate import Summary, generate
from pipeline.reader import Dataset
from pipeline.recipe import Recipe

HERE = Path(__file__).parent
pytestmark = pytest.mark.ray


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "source": {"kind": "shapes", "classes": ["mug", "table", "chair"], "per_class": 6},
        "points": {"count": 64},
        "views": {"rig": {"count": 2, "size": 32}},
        "shard_assets": 3,
    }
    return Recipe.model_validate(values | changes)


def make(to: Path, workers: int, **options: Any) -> Summary:
    return generate(recipe(), str(to), workers=workers, progress=False, **options)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One session for this file; its workers find `child_hooks`. Gives the file whose presence says that a worker was killed."""
    from pipeline.ray_workers import session

    mark = tmp_path_factory.mktemp("mark") / "killed"
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": str(HERE), "KILLED_MARK": str(mark)}
    with session(2, None):
        yield mark
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "dataset"
    make(folder, 0)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same_bytes(ray_here: Path, made: Path, tmp_path: Path, workers: int) -> None:
    summary = make(tmp_path / "other", workers)
    assert (summary.samples, summary.failed, summary.shards_made) == (18, {}, 6)
    assert digests(tmp_path / "other") == digests(made)


def test_a_killed_worker_costs_nothing(ray_here: Path, made: Path, tmp_path: Path) -> None:
    summary = make(tmp_path / "killed", 2, entry="child_hooks:kill_worker_once")
    assert ray_here.exists()
    assert summary.failed == {}
    assert digests(tmp_path / "killed") == digests(made)


def test_a_worker_that_cannot_start_is_one_sentence(ray_here: Path, tmp_path: Path) -> None:
    from pipeline.isolation import WorkerError

    with pytest.raises(WorkerError, match="no_such_module"):
        make(tmp_path / "out", 1, entry="no_such_module:make")


def test_a_driver_killed_with_workers_under_way_is_completed_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    import psutil

    folder = tmp_path / "killed"
    script = (
        "import sys\nfrom pipeline.generate import generate\nfrom pipeline.recipe import Recipe\n"
        "generate(Recipe.model_validate_json(sys.argv[1]), sys.argv[2], workers=2, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, recipe().model_dump_json(by_alias=True), str(folder)])
    deadline = time.monotonic() + 180
    while len(list(folder.glob("manifest/*.parquet"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    writers = [p for p in tree if any(word in " ".join(p.cmdline()) for word in ("ShardWorker", "pipeline.isolation"))]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DatasetError):
        Dataset.open(str(folder))
    make(folder, 0)
    assert digests(folder) == digests(made)
    deadline = time.monotonic() + 30
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in writers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert digests(folder) == digests(made)
