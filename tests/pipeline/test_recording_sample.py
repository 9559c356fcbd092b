import contextlib
import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import recording_sample
from pipeline.config import ConfigError
from pipeline.generate import Summary, generate
from pipeline.importers.recording import Recording, RecordingError
from pipeline.manifest import read_all
from pipeline.outcome import STAGES, Outcome, Stopwatch
from pipeline.plan import Planned
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.sources import recordings
from pipeline.sources.recordings import RecordingSource
from pipeline.storage import Store
from pipeline.verify import verify
from tests.pipeline.importers import recording_files as files


def write_msr(root: Path) -> Path:
    for person in (1, 2, 6):
        files.write_msr(root / f"a01_s{person:02d}_e01_sdepth.bin", files.msr_depth(24 + person, person))
    return root


def write_hoi4d(root: Path, labels: str) -> Path:
    files.write_hoi4d(root / "train1.h5", 2, 1, labels=labels)
    files.write_hoi4d(root / "test1.h5", 1, 2, labels=labels)
    return root


def write_synthia(root: Path) -> Path:
    for scene, numbers in (("01-DAWN", (0, 1, 2)), ("05-FOG", (5,)), ("06-SPRING", (7, 9))):
        for number in numbers:
            files.write_synthia(root / f"SYNTHIA-SEQS-{scene}", number)
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "msr_action3d": write_msr,
    "hoi4d_actions": lambda root: write_hoi4d(root, "label"),
    "hoi4d_semantic": lambda root: write_hoi4d(root, "semantic"),
    "synthia4d": write_synthia,
    "radhar": files.write_radhar,
    "mhomeges": files.write_mhomeges,
}
# split → samples
COUNTS = {
    "msr_action3d": {"train": 2, "test": 1},
    "hoi4d_actions": {"train": 2, "test": 1},
    "hoi4d_semantic": {"train": 4, "test": 2},
    "synthia4d": {"train": 3, "val": 1, "test": 2},
    "radhar": {"train": 4, "test": 2},
    "mhomeges": {"train": 12, "test": 4},
}
MEMBERS = {
    "msr_action3d": set(),
    "hoi4d_actions": {"actions.npy"},
    "hoi4d_semantic": {"parts.npy"},
    "synthia4d": {"features.npy", "parts.npy"},
    "radhar": {"features.npy"},
    "mhomeges": {"features.npy"},
}


def recipe(name: str, path: Path, count: int = 20, **changes: Any) -> Recipe:
    source = {"kind": "recording", "format": name, "path": path} | changes.pop("source", {})
    return Recipe.model_validate({"source": source, "points": {"count": count}, "shard_assets": 4} | changes)


def make(config: Recipe, to: Path, isolate: bool = False) -> Summary:
    return generate(config, str(to), progress=False, isolate=isolate)


def digests(folder: Path) -> dict[str, str]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "dataset.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_folder_of_each_format_becomes_a_whole_dataset(tmp_path: Path, name: str) -> None:
    summary = make(recipe(name, WRITERS[name](tmp_path / "in")), tmp_path / "out")
    assert summary.failed == {}
    assert verify(str(tmp_path / "out"), deep=True) == []
    dataset = Dataset.open(str(tmp_path / "out"))
    assert {split: len(dataset.indices(split)) for split in ("train", "val", "test") if len(dataset.indices(split))} == COUNTS[name]
    for index in range(len(dataset)):
        assert set(dataset.members(index)) - {"valid.npy"} == {"clip.npy", "json"} | MEMBERS[name]
        sample = dataset.load(index, dataset.members(index))
        facts, clip = sample["json"], sample["clip.npy"]
        assert clip.shape == (len(facts["clip"]["times_s"]), 20, 3)
        assert clip.dtype == np.float32
        assert facts["clip"]["points"] == "recorded"
        assert facts["normalisation"] == {"centre": [0.0, 0.0, 0.0], "scale": 1.0}
        assert str(tmp_path) not in json.dumps(facts)


@pytest.mark.parametrize("name", ["radhar", "hoi4d_semantic"])
def test_bytes_are_the_same_elsewhere_on_resume_and_in_a_child(tmp_path: Path, name: str) -> None:
    make(recipe(name, WRITERS[name](tmp_path / "in")), tmp_path / "one")
    make(recipe(name, WRITERS[name](tmp_path / "other/place")), tmp_path / "two", isolate=name == "radhar")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    (tmp_path / "one/manifest/train-000000.parquet").unlink()
    assert make(recipe(name, tmp_path / "in"), tmp_path / "one").shards_made == 1
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_one_bad_file_costs_one_asset_and_says_why(tmp_path: Path) -> None:
    write_msr(tmp_path / "in")
    bad = tmp_path / "in/a01_s02_e01_sdepth.bin"
    bad.write_bytes(bad.read_bytes()[:-1])
    summary = make(recipe("msr_action3d", tmp_path / "in"), tmp_path / "out")
    assert (summary.samples, summary.failed) == (2, {"unreadable": 1})
    (row,) = [row for item in read_all(Store(tmp_path / "out")) for row in item.table.to_pylist() if row["reason"]]
    assert row["source"] == bad.name
    assert "bytes" in row["message"]
    assert str(tmp_path) not in row["message"]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some of them changed, or cut off."""
    if rng.random() < 0.3:
        return data[: rng.integers(len(data))]
    changed = np.frombuffer(data, np.uint8).copy()
    changed[rng.integers(len(data), size=6)] = rng.integers(0, 256, 6)
    return changed.tobytes()


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_damaged_ends_as_a_reason(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    if name == "msr_action3d":
        files.write_msr_npz(tmp_path / "a02_s01_e01_sdepth.npz", files.msr_clouds(files.msr_depth(30)))
    there = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    config = recipe(name, tmp_path).source
    assert isinstance(config, RecordingSource)
    rng = np.random.default_rng(1)
    for _ in range(12):
        path = there[rng.integers(len(there))]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        try:
            for asset in list(recordings.assets(config))[:6]:
                with contextlib.suppress(RecordingError):
                    recordings.open_recording(config, asset.uri)
                with contextlib.suppress(OSError):
                    recordings.content_sha256(config, asset.uri)
        except ConfigError:
            assert path.name == "index.csv"
        path.write_bytes(whole)


def test_what_rules_leave_out_is_counted(tmp_path: Path) -> None:
    files.write_mhomeges(tmp_path / "in")
    assert make(recipe("mhomeges", tmp_path / "in"), tmp_path / "out").left_out == {"shorter than 4 frames": 8}


def test_windows_of_one_recording_stay_on_one_side_of_a_validation_cut(tmp_path: Path) -> None:
    files.write_radhar(tmp_path / "in", {f"Train/walk/{n}": 12 for n in range(12)})
    config = recipe("radhar", tmp_path / "in", source={"window": 4, "step": 4}, val_fraction=0.5)
    make(config, tmp_path / "out")
    dataset = Dataset.open(str(tmp_path / "out"))
    sides: dict[str, set[str]] = {}
    for index in range(len(dataset)):
        sides.setdefault(dataset.load(index, ("json",))["json"]["source"].partition("@")[0], set()).add(str(dataset.splits[index]))
    assert {len(found) for found in sides.values()} == {1}
    assert {side for found in sides.values() for side in found} == {"train", "val"}


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_sample_names_the_recording_that_it_was_cut_from(tmp_path: Path, name: str, window: int) -> None:
    if name == "synthia4d" and window:
        pytest.skip("its clips are three frames of a sequence as they are")
    config = recipe(name, WRITERS[name](tmp_path / "in"), source={"window": window, "step": 2})
    assert make(config, tmp_path / "out").failed == {}
    assert isinstance(config.source, RecordingSource)
    groups = {asset.uri: asset.group for asset in recordings.assets(config.source)}
    dataset = Dataset.open(str(tmp_path / "out"))
    found = [dataset.load(index, ("json",))["json"] for index in range(len(dataset))]
    assert {about["source"]: about["clip"]["recording"] for about in found} == {about["source"]: groups[about["source"]] for about in found}
    assert not any("@" in about["clip"]["recording"] for about in found)
    example = {
        "msr_action3d": "a01_s02_e01_sdepth.bin",
        "hoi4d_actions": "train1.h5#00001",
        "hoi4d_semantic": "train1.h5#00001",
        "synthia4d": "SYNTHIA-SEQS-06-SPRING",
        "radhar": "Data/Train/jack/20_jack_1.txt.xz",
        "mhomeges": "longGes_1.8m/805/point_805_1.8m_z.csv",
    }[name]
    assert sum(about["clip"]["recording"] == example for about in found) >= (2 if window or name == "synthia4d" else 1)


def made(
    monkeypatch: pytest.MonkeyPatch, recording: Recording, count: int, sha256: str = "ab", seed: int = 0
) -> tuple[dict[str, Any], Outcome]:
    """The arrays of a recording's sample, and its outcome."""
    monkeypatch.setattr(recording_sample, "open_recording", lambda source, uri: recording)
    config = recipe("radhar", Path("nowhere"), count, seed=seed)
    asset = Planned("key", "walk", "train", "a.txt", "", sha256)
    outcome = recording_sample.make_recording(config, asset, Stopwatch(dict.fromkeys(STAGES, 0.0)))
    return {name: np.load(io.BytesIO(data)) for name, data in outcome.members.items() if name != "json"}, outcome


def numbered(sizes: list[int], **changes: Any) -> Recording:
    """Frames whose points are their own numbers: point k of frame t is (t, k, 0), its feature 100 t + k, its part k."""
    frames = [np.float32([[t, k, 0] for k in range(size)]).reshape(-1, 3) for t, size in enumerate(sizes)]
    values: dict[str, Any] = {
        "features": [100 * frame[:, :1] + frame[:, 1:2] for frame in frames],
        "feature_names": ("number",),
        "parts": [frame[:, 1].astype(np.int16) for frame in frames],
        "part_names": tuple(map(str, range(100))),
    }
    return Recording("a", 10.0, np.arange(len(sizes)) / 10, frames, **(values | changes))


def test_more_points_than_wanted_are_drawn_without_repeating_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = made(monkeypatch, numbered([30, 12, 10]), 10)
    clip = arrays["clip.npy"]
    assert "valid.npy" not in arrays
    for t in range(3):
        assert len(set(clip[t, :, 1].tolist())) == 10
        assert (clip[t, :, 0] == t).all()
    assert clip[2, :, 1].tolist() == list(range(10))
    np.testing.assert_array_equal(arrays["features.npy"][..., 0], 100 * clip[..., 0] + clip[..., 1])
    np.testing.assert_array_equal(arrays["parts.npy"], clip[..., 1])


def test_every_point_is_drawn_about_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = made(monkeypatch, numbered([20] * 2000), 5)
    often = np.bincount(arrays["clip.npy"][..., 1].astype(int).ravel(), minlength=20)
    assert np.abs(often - 500).max() < 5 * np.sqrt(500 * 0.75)


def test_fewer_points_than_wanted_are_repeated_evenly_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = made(monkeypatch, numbered([3, 10, 4]), 10)
    clip, valid = arrays["clip.npy"], arrays["valid.npy"]
    assert valid.sum(axis=1).tolist() == [3, 10, 4]
    for t, size in enumerate((3, 10, 4)):
        assert sorted(clip[t, valid[t], 1].tolist()) == list(range(size))
        often = np.bincount(clip[t, :, 1].astype(int), minlength=size)
        assert often.max() - often.min() <= 1
    np.testing.assert_array_equal(arrays["features.npy"][..., 0], 100 * clip[..., 0] + clip[..., 1])


def test_frames_without_points_repeat_a_neighbour_and_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, outcome = made(monkeypatch, numbered([0, 4, 0, 0, 5]), 4)
    assert arrays["clip.npy"][:, 0, 0].tolist() == [1, 1, 1, 1, 4]
    assert arrays["valid.npy"].any(axis=1).tolist() == [False, True, False, False, True]
    assert outcome.flags == ("empty_frames",)
    with pytest.raises(RecordingError, match="no point in any frame"):
        made(monkeypatch, numbered([0, 0]), 4)


def test_frames_that_fill_up_are_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = made(monkeypatch, numbered([4, 4, 4], fillers=np.array([False, False, True])), 4)
    assert arrays["valid.npy"].all(axis=1).tolist() == [True, True, False]


def test_draws_belong_to_content_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def clip(**options: Any) -> bytes:
        return made(monkeypatch, numbered([30, 30]), 10, **options)[1].members["clip.npy"]

    assert clip() == clip()
    assert len({clip(), clip(sha256="cd"), clip(seed=1)}) == 3


@pytest.mark.parametrize("where", ["frames", "features", "centres", "facts"])
def test_values_that_are_no_numbers_are_a_reason(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    recording = numbered([4, 4], centres=np.zeros((2, 3)))
    if where == "facts":
        recording = replace(recording, facts={"start_s": math.nan})
    else:
        getattr(recording, where)[1][..., 0] = np.nan
    with pytest.raises(RecordingError) as caught:
        made(monkeypatch, recording, 4)
    assert caught.value.reason == "not_finite"


def test_an_empty_or_absent_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder; give"):
        make(recipe("radhar", tmp_path / "nowhere"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for name in WRITERS:
        with pytest.raises(ConfigError, match=f"holds no file of the format {name}"):
            make(recipe(name, tmp_path / "empty"), tmp_path / "out")


def test_each_format_has_the_defaults_of_its_protocol_and_the_recipe_may_say_else() -> None:
    assert recipe("msr_action3d", Path("a")).source.model_dump()["short"] == "leave_out"
    assert recipe("msr_action3d", Path("a"), source={"short": "keep"}).source.model_dump()["short"] == "keep"
    assert recipe("hoi4d_semantic", Path("a"), source={"window": 0}).source.model_dump()["window"] == 0
    with pytest.raises(ValueError, match="no lists of names"):
        recipe("radhar", Path("a"), source={"lists": {"train": "a.txt"}})
    with pytest.raises(ValueError, match="three frames, newest first"):
        recipe("synthia4d", Path("a"), source={"window": 5})
