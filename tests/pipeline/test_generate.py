import errno
import hashlib
import importlib.metadata
import json
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

from pipeline import generate as module
from pipeline.config import ConfigError
from pipeline.dataset import DatasetError
from pipeline.generate import Summary, generate
from pipeline.manifest import read_all
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.storage import StorageError, Store
from pipeline.verify import verify

HERE = Path(__file__).parent


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "source": {"kind": "shapes", "classes": ["mug", "table", "bottle", "lamp"], "per_class": 4},
        "points": {"count": 64, "normals": True, "colors": True, "parts": True},
        "views": {"rig": {"count": 2, "size": 32}, "color": "rgba", "depth": True, "mask": True},
        "shard_assets": 4,
    }
    return Recipe.model_validate(values | changes)


def make(to: Path | str, config: Recipe | None = None, **options: Any) -> Summary:
    return generate(config or recipe(), str(to), progress=False, **options)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "dataset"
    make(folder)
    return folder


def test_it_makes_every_asset_of_the_source(made: Path) -> None:
    dataset = Dataset.open(str(made))
    assert len(dataset) == 16
    assert sorted(set(dataset.classes)) == ["bottle", "lamp", "mug", "table"]
    assert [len(dataset.indices(split)) for split in ("train", "test")] == [12, 4]
    assert verify(str(made), deep=True) == []


def test_its_bytes_are_those_of_another_run_and_of_one_process(made: Path, tmp_path: Path) -> None:
    make(tmp_path / "again")
    make(tmp_path / "inside", isolate=False)
    assert digests(tmp_path / "again") == digests(made)
    assert digests(tmp_path / "inside") == digests(made)


def test_running_it_again_changes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    summary = make(made)
    assert (summary.shards_made, summary.shards_found, summary.assets_made) == (0, 4, 0)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_what_has_no_manifest_or_lost_bytes_is_made_again(made: Path, tmp_path: Path) -> None:
    make(tmp_path / "other")
    os.remove(tmp_path / "other/manifest/train-000001.parquet")
    shard = tmp_path / "other/shards/train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-700])
    (tmp_path / "other/shards/.train-000000.tar.123-abcd.tmp").write_bytes(b"half")
    summary = make(tmp_path / "other")
    assert summary.shards_made == 2
    assert digests(tmp_path / "other") == digests(made)


SCRIPT = """
import sys
from pipeline.generate import generate
from pipeline.recipe import Recipe
generate(Recipe.model_validate_json(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


def start(to: Path, workers: int = 0, config: Recipe | None = None) -> subprocess.Popen[bytes]:
    values = (config or recipe()).model_dump_json(by_alias=True)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, values, str(to), str(workers)], stderr=subprocess.PIPE)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_driver_killed_anywhere_is_completed_to_the_same_bytes(made: Path, tmp_path: Path, shards: int) -> None:
    process = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("shards/*"))) < shards and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    make(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(made)


def test_no_child_outlives_a_killed_driver(tmp_path: Path) -> None:
    import psutil

    process = start(tmp_path / "killed")
    driver = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while not (children := driver.children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def test_an_interrupt_leaves_what_is_done_and_can_be_resumed(made: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "stopped")
    while not list((tmp_path / "stopped").glob("manifest/*.parquet")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 or b"KeyboardInterrupt" in errors
    assert not list((tmp_path / "stopped").rglob("*.tmp"))
    make(tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(made)


def test_two_at_once_do_not_mix(made: Path, tmp_path: Path) -> None:
    both = [start(tmp_path / "both") for _ in range(2)]
    errors = [process.communicate(timeout=300)[1].decode() for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, text in zip(codes, errors, strict=True):
        assert code == 0 or "Another process is writing to" in text
    assert digests(tmp_path / "both") == digests(made)


def test_an_asset_that_kills_hangs_or_hoards_costs_itself(monkeypatch: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    config = recipe(
        source={"kind": "shapes", "classes": ["mug", "table", "bottle", "lamp", "chair"], "per_class": 1},
        limits={"seconds": 3.0, "memory_mb": 400},
    )
    summary = make(tmp_path / "harmed", config, entry="child_hooks:harm")
    assert summary.samples == 1
    assert summary.failed == {"crashed": 2, "timeout": 1, "out_of_memory": 1}
    rows = {row["class"]: row for item in read_all(Store(tmp_path / "harmed")) for row in item.table.to_pylist()}
    assert rows["chair"]["status"] == "ok"
    assert "SIGSEGV" in rows["bottle"]["message"]
    assert "exit code 3" in rows["table"]["message"]
    assert "limits.seconds" in rows["mug"]["message"]
    assert "limits.memory_mb" in rows["lamp"]["message"]
    assert len(Dataset.open(str(tmp_path / "harmed"))) == 1
    assert verify(str(tmp_path / "harmed"), deep=True) == []


def test_resident_memory_is_watched_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("RESERVE", "1")
    config = recipe(source={"kind": "shapes", "classes": ["lamp", "chair"], "per_class": 1}, limits={"memory_mb": 300})
    assert make(tmp_path / "swollen", config, entry="child_hooks:swell").failed == {"out_of_memory": 1}


def test_one_death_is_not_charged_to_the_asset(monkeypatch: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("KILLED_MARK", str(tmp_path / "mark"))
    summary = make(tmp_path / "flaky", entry="child_hooks:flaky")
    assert (tmp_path / "mark").exists()
    assert any("exit code 9" in line for line in summary.log)
    assert digests(tmp_path / "flaky") == digests(made)


def write_off(path: Path, scale: float = 1.0, faces: str = "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * scale
    lines = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in corners)
    path.write_text(f"OFF\n4 {len(faces.splitlines())} 0\n{lines}{faces}")


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    root = tmp_path / "meshes"
    write_off(root / "good/a.off")
    write_off(root / "good/b.off", 2.0)
    write_off(root / "bad/nan.off", float("nan"))
    write_off(root / "bad/flat.off", 0.0)
    write_off(root / "bad/none.off", 1.0, "")
    (root / "bad/empty.off").write_bytes(b"")
    (root / "bad/noise.stl").write_bytes(bytes(range(256)) * 3)
    (root / "bad/cut.ply").write_text("ply\nformat ascii 1.0\nelement vertex 900\nproperty float x\nend_header\n1\n")
    (root / "bad/huge.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nproperty float y\nproperty float z\n"
        b"element face 1\nproperty list uchar int vertex_indices\nend_header\n1234567890123"
    )
    return root


def folder_recipe(path: Path, **changes: Any) -> Recipe:
    return recipe(source={"kind": "folder", "path": str(path)} | changes)


def test_bad_meshes_become_rows_with_reasons(meshes: Path, tmp_path: Path) -> None:
    summary = make(tmp_path / "out", folder_recipe(meshes))
    assert summary.samples == 2
    assert sum(summary.failed.values()) == 7
    rows = {row["source"]: row for item in read_all(Store(tmp_path / "out")) for row in item.table.to_pylist()}
    assert rows["bad/nan.off"]["reason"] == "not_finite"
    assert rows["bad/flat.off"]["reason"] == "zero_area"
    assert rows["bad/none.off"]["reason"] == "empty"
    for row in rows.values():
        if row["status"] == "failed":
            assert row["message"], row
            assert str(tmp_path) not in row["message"]
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_the_place_of_the_meshes_changes_nothing(meshes: Path, tmp_path: Path) -> None:
    make(tmp_path / "here", folder_recipe(meshes))
    moved = tmp_path / "elsewhere"
    meshes.rename(moved)
    make(tmp_path / "there", folder_recipe(moved))
    here, there = digests(tmp_path / "here"), digests(tmp_path / "there")
    del here["dataset.json"], there["dataset.json"]
    assert here == there
    assert make(tmp_path / "here", folder_recipe(moved)).shards_made == 0


def test_changed_meshes_are_refused_on_resume(meshes: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", folder_recipe(meshes))
    write_off(meshes / "good/b.off", 3.0)
    write_off(meshes / "good/c.off", 4.0)
    (meshes / "good/a.off").unlink()
    with pytest.raises(DatasetError, match=r"1 changed \(good/b.off\), 1 added \(good/c.off\), 1 removed \(good/a.off\)"):
        make(tmp_path / "out", folder_recipe(meshes))


def test_another_recipes_folder_is_refused_and_what_differs_named(made: Path) -> None:
    before = digests(made)
    with pytest.raises(DatasetError, match=r"points.count is 64 there and 128 here"):
        make(made, recipe(points={"count": 128, "normals": True, "colors": True, "parts": True}))
    assert digests(made) == before


def test_another_version_of_a_codec_is_refused_and_one_that_was_not_named_is_not(made: Path, tmp_path: Path) -> None:
    info = json.loads((made / "dataset.json").read_text())
    shutil.copytree(made, tmp_path / "older")
    del info["codecs"]["pillow"]
    (tmp_path / "older/dataset.json").write_text(json.dumps(info))
    assert make(tmp_path / "older").shards_found == 4
    info["codecs"]["numpy"] = "1.0"
    (tmp_path / "older/dataset.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"begun with the codecs .*'numpy': '1.0'.* finish it where it was begun"):
        make(tmp_path / "older")


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DatasetError, match="holds other files"):
        make(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_an_absent_source_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder; give"):
        make(tmp_path / "out", folder_recipe(tmp_path / "nowhere"))
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_full_disk_is_one_sentence_and_room_again_completes(monkeypatch: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    calls = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=r"There is no space left to write .*full/.*; free some and run the same command again\."):
        make(tmp_path / "full")
    assert not list((tmp_path / "full").rglob("*.tmp"))
    monkeypatch.undo()
    make(tmp_path / "full")
    assert digests(tmp_path / "full") == digests(made)


def test_a_file_limit_of_the_system_is_met_with_a_sentence(tmp_path: Path) -> None:
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"
    )
    values = recipe().model_dump_json(by_alias=True)
    done = subprocess.run([sys.executable, "-c", script + SCRIPT, values, str(tmp_path / "limited"), "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "StorageError" in done.stderr
    assert "is larger than files may be here" in done.stderr
    assert not list((tmp_path / "limited").glob("shards/*"))


def test_a_renderer_that_cannot_start_blames_no_asset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.isolation import WorkerError

    with pytest.raises(WorkerError, match="no_such_module"):
        make(tmp_path / "out", entry="no_such_module:make")
    assert not list((tmp_path / "out").glob("manifest/*"))


def test_plain_webdataset_yields_every_sample_with_views_and_points(made: Path) -> None:
    import io

    import webdataset
    from PIL import Image

    urls = [str(path) for path in sorted((made / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    ours = Dataset.open(str(made))
    assert sorted(sample["__key__"] for sample in samples) == sorted(ours.keys)
    for sample in samples:
        assert np.load(io.BytesIO(sample["points.npy"])).shape == (64, 3)
        facts = json.loads(sample["json"])
        assert facts["class"] in ("mug", "table", "bottle", "lamp")
        for view in range(2):
            assert Image.open(io.BytesIO(sample[f"v{view:02d}.png"])).size == (32, 32)
        index = ours.keys.index(sample["__key__"])
        assert {name for name in sample if not name.startswith("__")} == set(ours.members(index))
        assert ours.read(index, ours.members(index))["points.npy"] == sample["points.npy"]


def test_a_dataset_in_memory_storage(made: Path) -> None:
    uri = "memory://crossloom-test/dataset"
    make(uri)
    assert module.Store(uri).read("manifest/train-000000.parquet") == (made / "manifest/train-000000.parquet").read_bytes()
    there, here = Dataset.open(uri), Dataset.open(str(made))
    assert there.fingerprint == here.fingerprint
    assert there.read(3, ("v01.png", "points.npy")) == here.read(3, ("v01.png", "points.npy"))
    assert make(uri).shards_made == 0


def test_a_folder_of_somebody_elses_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "shards").mkdir(parents=True)
    theirs = tmp_path / "out" / "shards" / "train-000000.tar"
    theirs.write_bytes(b"theirs")
    with pytest.raises(DatasetError, match="holds other files and no dataset"):
        generate(Recipe(), str(tmp_path / "out"), workers=0, progress=False, isolate=False)
    assert theirs.read_bytes() == b"theirs"


def test_a_dataset_whose_recipe_was_identified_otherwise_says_so(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "older")
    info = json.loads((made / "dataset.json").read_text())
    (tmp_path / "older/dataset.json").write_text(json.dumps(info | {"recipe_sha256": "00" * 32}))
    with pytest.raises(DatasetError, match=r"was begun by another version of crossloom; finish it with that one"):
        make(tmp_path / "older")


def test_the_reader_of_compressed_geometry_is_named(made: Path, tmp_path: Path) -> None:
    info = json.loads((made / "dataset.json").read_text())
    assert info["codecs"]["dracopy"] == importlib.metadata.version("dracopy")
    shutil.copytree(made, tmp_path / "older")
    del info["codecs"]["dracopy"]
    (tmp_path / "older/dataset.json").write_text(json.dumps(info))
    assert make(tmp_path / "older").shards_made == 0
