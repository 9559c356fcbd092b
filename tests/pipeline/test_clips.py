"""Clips made of small characters: members, instants, points, cameras, and the contracts of a dataset."""

import hashlib
import io
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline import film
from pipeline.clips import Camera, Clips
from pipeline.dataset import DatasetError
from pipeline.film import drawn_style, film_cameras, part_number
from pipeline.generate import Summary, generate
from pipeline.manifest import read_all
from pipeline.outcome import seed_of
from pipeline.plan import Planned
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.stats import stats
from pipeline.storage import Store
from pipeline.verify import verify
from pipeline.worker import make_sample
from render.animation import load_animated
from render.cameras import Cameras
from render.raster import RasterRenderer
from render.views import Light, Style
from tests.pipeline.clip_files import character
from tests.render.gltf_files import TRIANGLE, Document

DATA = Path(__file__).parents[2] / ".data/animated/characters"
ACTIONS = {"go": ["walk", "march"], "fall": ["fall*"], "stand": ["stand"]}
PARTS = {"arm": ["arm.*"], "body": ["torso", "*"]}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "zoo"
    for number, name in enumerate(("cats/Tom", "cats/Tim", "dogs/Rex")):
        character(folder / f"{name}.glb", 1 + 0.2 * number)
    return folder


def recipe(path: Path, points: str = "surface", count: int = 96, **changes: Any) -> Recipe:
    clips = {"frames": 7, "fps": 10, "points": points, "parts": PARTS, "camera": {"size": 48}} | changes.pop("clips", {})
    source = {"kind": "animated", "path": path, "actions": ACTIONS, "test": ["dogs/*"]} | changes.pop("source", {})
    values = {"source": source, "points": {"count": count, "parts": True}, "clips": clips, "shard_assets": 4}
    return Recipe.model_validate(values | changes)


def make(to: Path, config: Recipe, **options: Any) -> Summary:
    return generate(config, str(to), progress=False, **({"isolate": False} | options))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for item in read_all(Store(folder)) for row in item.table.to_pylist()}


def loaded(dataset: Dataset, source: str) -> dict[str, Any]:
    index = dataset.table["source"].to_pylist().index(source)
    return dataset.load(index, dataset.members(index))


@pytest.fixture(scope="module")
def made(zoo: Path) -> Path:
    make(zoo.parent / "made", recipe(zoo))
    return zoo.parent / "made"


@pytest.fixture(scope="module")
def tracked(zoo: Path) -> Dataset:
    make(zoo.parent / "tracked", recipe(zoo, "track"))
    return Dataset.open(str(zoo.parent / "tracked"))


def truth(zoo: Path, sample: dict[str, Any]) -> np.ndarray:
    """The vertices (T, V, 3) at the instants that the json states, in the clip's frame of reference."""
    facts = sample["json"]
    path, _, number = facts["source"].rpartition("#")
    animated = load_animated(zoo / path)
    about, clip = animated.clips[int(number)], facts["clip"]
    since = np.array(clip["times_s"]) + clip["start_s"]
    since = since % clip["period_s"] if clip["period_s"] else np.minimum(since, about.duration_s)
    return (animated.pose(int(number), about.start_s + since) - facts["normalisation"]["centre"]) / facts["normalisation"]["scale"]


def test_a_sample_has_a_cloud_and_a_frame_for_each_instant(made: Path) -> None:
    dataset = Dataset.open(str(made))
    assert sorted(dataset.classes.tolist()) == ["fall"] * 3 + ["go"] * 6
    sample = loaded(dataset, "cats/Tom.glb#0")
    frames = [f"f{number:03d}.png" for number in range(7)]
    assert sorted(sample) == sorted(["actions.npy", "clip.npy", "json", "parts.npy", *frames])
    assert sample["clip.npy"].shape == (7, 96, 3)
    assert sample["clip.npy"].dtype == np.float32
    assert sample["f006.png"].shape == (48, 48, 3)
    assert (sample["actions.npy"].dtype, sample["actions.npy"].tolist()) == (np.int16, [0] * 7)
    assert (sample["parts.npy"].dtype, sample["parts.npy"].shape) == (np.int16, (7, 96))
    facts = sample["json"]
    assert facts["action_names"] == ["go", "fall", "stand"]
    assert facts["part_names"] == ["arm", "body"]
    assert set(np.unique(sample["parts.npy"])) == {0, 1}
    assert facts["clip"]["times_s"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert {facts["clip"][name] for name in ("name", "character", "points")} == {"Rig|Walk", "cats/Tom", "surface"}
    assert np.array(facts["cameras"]["world_to_camera"]).shape == (7, 4, 4)
    assert np.array(facts["cameras"]["K"]).shape == (7, 3, 3)
    assert verify(str(made), deep=True) == []


def test_what_does_not_move_and_what_has_no_action_is_named(made: Path) -> None:
    found = rows(made)
    assert {source: row["reason"] for source, row in found.items() if row["reason"]} == {
        f"{name}.glb#2": "no_motion" for name in ("cats/Tom", "cats/Tim", "dogs/Rex")
    }
    info = Dataset.open(str(made)).info
    assert info["plan"]["left_out"] == {"clip of no action": 3}
    assert {row["split"] for source, row in found.items() if source.startswith("dogs")} == {"test"}
    assert {row["split"] for source, row in found.items() if source.startswith("cats")} == {"train"}


def test_min_motion_0_keeps_a_stance(zoo: Path, tmp_path: Path) -> None:
    make(tmp_path / "all", recipe(zoo, clips={"min_motion": 0}))
    assert not any(row["reason"] for row in rows(tmp_path / "all").values())


def test_other_processes_and_other_workers_make_the_same_bytes(zoo: Path, made: Path, tmp_path: Path) -> None:
    make(tmp_path / "isolated", recipe(zoo), isolate=True)
    assert digests(tmp_path / "isolated") == digests(made)


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_worker_makes_the_same_bytes(zoo: Path, made: Path, tmp_path: Path) -> None:
    make(tmp_path / "ray", recipe(zoo), isolate=True, workers=1)
    assert digests(tmp_path / "ray") == digests(made)


SCRIPT = """
import sys
from pipeline.generate import generate
from pipeline.recipe import Recipe
generate(Recipe.model_validate_json(sys.argv[1]), sys.argv[2], progress=False, isolate=False)
"""


def test_a_killed_run_is_completed_to_the_same_bytes(zoo: Path, made: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, recipe(zoo).model_dump_json(by_alias=True), str(tmp_path / "killed")])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("shards/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert list((tmp_path / "killed").glob("shards/*"))
    make(tmp_path / "killed", recipe(zoo))
    assert digests(tmp_path / "killed") == digests(made)


def test_the_order_of_assets_and_what_was_loaded_before_change_nothing(zoo: Path, made: Path, tmp_path: Path) -> None:
    # one asset a shard: other neighbours, other states of what is kept
    make(tmp_path / "single", recipe(zoo, shard_assets=1))
    ours, theirs = Dataset.open(str(made)), Dataset.open(str(tmp_path / "single"))
    for index, key in enumerate(ours.keys):
        other = theirs.keys.index(key)
        assert ours.read(index, ours.members(index)) == theirs.read(other, theirs.members(other))


def test_tracked_points_stay_at_their_place_on_rigid_parts(zoo: Path, tracked: Dataset) -> None:
    sample = loaded(tracked, "cats/Tom.glb#0")
    clip, parts = sample["clip.npy"].astype(np.float64), sample["parts.npy"]
    assert (parts == parts[0]).all()
    for part in (0, 1):
        here = clip[:, parts[0] == part]
        distances = np.linalg.norm(here[:, :, None] - here[:, None], axis=-1)
        assert np.abs(distances - distances[0]).max() < 1e-6
    arm = clip[:, parts[0] == 0]
    assert np.abs(arm - arm[0]).max() > 0.2
    assert np.abs(clip[:, parts[0] == 1] - clip[:1, parts[0] == 1]).max() < 1e-6


@pytest.mark.parametrize("source", ["cats/Tom.glb#0", "cats/Tim.glb#1", "dogs/Rex.glb#3"])
def test_points_lie_on_the_pose_of_their_own_instant(zoo: Path, made: Path, tracked: Dataset, source: str) -> None:
    for dataset in (Dataset.open(str(made)), tracked):
        sample = loaded(dataset, source)
        vertices = truth(zoo, sample)
        for number, cloud in enumerate(sample["clip.npy"].astype(np.float64)):
            planes = vertices[number].reshape(-1, 3, 3)
            assert off_surface(cloud, planes) < 1e-5
        # not so on the pose of another instant
        assert off_surface(sample["clip.npy"][0].astype(np.float64), vertices[3].reshape(-1, 3, 3)) > 1e-3


def off_surface(points: np.ndarray, triangles: np.ndarray) -> float:
    """The largest distance of a point from the nearest face's plane, of faces whose inside it is over."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    normal = np.cross(b - a, c - a)
    area = (normal**2).sum(1)
    offset = points[:, None] - a
    weight_c = (np.cross(b - a, offset) * normal).sum(-1) / area
    weight_b = (np.cross(offset, c - a) * normal).sum(-1) / area
    inside = (weight_b > -1e-4) & (weight_c > -1e-4) & (weight_b + weight_c < 1 + 1e-4)
    height = np.abs((offset * normal).sum(-1)) / np.sqrt(area)
    return float(np.where(inside, height, np.inf).min(axis=1).max())


def test_surface_points_are_fresh_in_every_frame(made: Path) -> None:
    sample = loaded(Dataset.open(str(made)), "cats/Tom.glb#0")
    # the body stands still, so a point that were carried would be found again
    body = [{*map(tuple, cloud[parts == 1].tolist())} for cloud, parts in zip(sample["clip.npy"], sample["parts.npy"], strict=True)]
    assert not body[0] & body[1]


@pytest.mark.parametrize("count", [64, 3000])
def test_visible_points_fall_back_into_their_own_pixel_at_its_depth(zoo: Path, tmp_path: Path, count: int) -> None:
    make(tmp_path / "seen", recipe(zoo, "visible", count, clips={"camera": {"size": 40, "orbit_deg": 90}}))
    assert verify(str(tmp_path / "seen"), deep=True) == []
    sample = loaded(Dataset.open(str(tmp_path / "seen")), "cats/Tom.glb#0")
    rig = sample["json"]["cameras"]
    cameras = Cameras(np.array(rig["K"]), np.array(rig["world_to_camera"]), rig["width"], rig["height"])
    mesh = load_animated(zoo / "cats/Tom.glb").mesh
    views = RasterRenderer().render_frames(mesh, truth(zoo, sample), cameras, Style())
    for number, cloud in enumerate(sample["clip.npy"].astype(np.float64)):
        pose = cameras.world_to_camera[number]
        seen = cloud @ pose[:3, :3].T + pose[:3, 3]
        image = seen @ cameras.K[number].T
        places = image[:, :2] / image[:, 2:]
        column, row = np.floor(places).astype(int).T
        assert np.abs(places - np.floor(places) - 0.5).max() < 0.01
        assert views.mask[number, row, column].all()
        assert np.allclose(seen[:, 2], views.depth[number, row, column], atol=1e-5)
        pixels, times = np.unique(row * 40 + column, return_counts=True)
        whole = int(views.mask[number].sum())
        assert len(pixels) == min(count, whole)
        assert times.max() - times.min() <= 1
        part = np.array([1, 0])[load_animated(zoo / "cats/Tom.glb").face_nodes[views.face_ids[number, row, column]]]
        assert np.array_equal(sample["parts.npy"][number], part)


def test_one_centre_and_scale_keep_the_motion_of_the_whole(zoo: Path, tracked: Dataset) -> None:
    sample = loaded(tracked, "cats/Tim.glb#1")
    clip, scale = sample["clip.npy"].astype(np.float64), sample["json"]["normalisation"]["scale"]
    # it falls by (2, 0, 0) in half a second and lies there: 0.4 a tenth
    moved = np.minimum(np.arange(7) * 0.4, 2.0)
    assert np.allclose((clip - clip[0]) * scale, np.stack([moved, 0 * moved, 0 * moved], 1)[:, None], atol=1e-5)
    radius = np.linalg.norm(truth(zoo, sample), axis=-1)
    assert radius.max() == pytest.approx(1.0)


def test_cameras_stand_still_or_sweep_and_see_every_frame(zoo: Path) -> None:
    fixed = film_cameras(Camera(), 5, 3)
    assert (fixed.world_to_camera == fixed.world_to_camera[0]).all()
    assert not np.array_equal(fixed.world_to_camera[0], film_cameras(Camera(), 5, 4).world_to_camera[0])
    swept = film_cameras(Camera(azimuth_deg=10, elevation_deg=20, orbit_deg=80), 5, 3)
    eyes = -np.einsum("vji,vj->vi", swept.world_to_camera[:, :3, :3], swept.world_to_camera[:, :3, 3])
    assert np.allclose(np.degrees(np.arctan2(eyes[:, 0], eyes[:, 2])), [10, 30, 50, 70, 90])
    assert np.allclose(np.degrees(np.arcsin(eyes[:, 1] / np.linalg.norm(eyes, axis=1))), 20)


def test_light_and_background_are_drawn_for_a_clip_and_not_for_a_frame(zoo: Path, made: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(str(made))
    grounds = []
    for index in range(len(dataset)):
        sample = dataset.load(index, dataset.members(index))
        corners = {tuple(sample[f"f{number:03d}.png"][0, 0].tolist()) for number in range(7)}
        assert len(corners) == 1
        grounds.append(corners.pop())
        assert np.allclose(np.array(grounds[-1]) / 255, sample["json"]["clip"]["background"], atol=0.5 / 255 + 1e-9)
    assert len(set(grounds)) == len(dataset)
    make(tmp_path / "plain", recipe(zoo, clips={"light": False, "background": False}))
    plain = Dataset.open(str(tmp_path / "plain"))
    assert (plain.load(0, ["f000.png"])["f000.png"][0, 0] == 255).all()
    # a body at rest under a light that stays has the same look in all frames
    sample = loaded(plain, "cats/Tim.glb#1")
    assert np.array_equal(sample["f005.png"], sample["f006.png"])


def test_loops_are_told_by_their_period(made: Path) -> None:
    dataset = Dataset.open(str(made))
    clips = [loaded(dataset, f"cats/Tom.glb#{number}")["json"]["clip"] for number in (0, 1, 3)]
    assert [clip["period_s"] for clip in clips] == [1.0, None, None]
    assert clips[1]["start_s"] == 0.0 <= clips[2]["start_s"] <= 4.0 - 0.6


def test_sequences_are_labelled_frame_by_frame(zoo: Path, tmp_path: Path) -> None:
    source = {"sequences": 2, "joined": [3, 4]}
    make(tmp_path / "joined", recipe(zoo, source=source, clips={"frames": 40}))
    assert verify(str(tmp_path / "joined"), deep=True) == []
    dataset = Dataset.open(str(tmp_path / "joined"))
    assert sorted(set(dataset.classes.tolist())) == ["cats", "dogs"]
    assert len(dataset) == 6
    drawn = set()
    for index in range(len(dataset)):
        found = dataset.load(index, ["actions.npy", "json"])
        about = found["json"]["clip"]
        changes = int((np.diff(found["actions.npy"]) != 0).sum())
        assert changes == len(about["plays"]) - 1 in (2, 3)
        assert about["period_s"] is None
        drawn.add(tuple(found["actions.npy"].tolist()))
    assert len(drawn) == 6


def test_plain_webdataset_reads_the_shards(made: Path) -> None:
    import webdataset
    from PIL import Image

    urls = [str(path) for path in sorted((made / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == 9
    for sample in samples:
        facts = json.loads(sample["json"])
        assert np.load(io.BytesIO(sample["clip.npy"])).shape == (7, 96, 3)
        assert np.load(io.BytesIO(sample["actions.npy"])).max() < len(facts["action_names"])
        assert Image.open(io.BytesIO(sample["f006.png"])).size == (48, 48)


def test_counts_are_of_frames(made: Path, zoo: Path) -> None:
    row = stats(str(made))[-1]
    assert (row["samples"], row["frames"], row["points"], row["views"]) == (9, 63, 9 * 7 * 96, 0)
    text = (made / "README.md").read_text()
    assert "9 point-cloud videos" in text
    assert "f000.png" in text
    summary = make(zoo.parent / "counted", recipe(zoo, source={"files": ["dogs/*"], "test": []}))
    assert summary.images_made == 21
    assert "frames/s of each" in summary.text()
    assert summary.throughput["share_pose"] > 0


def test_bad_files_and_clips_cost_one_asset_each(zoo: Path, tmp_path: Path) -> None:
    for name in ("good", "cut"):
        character(tmp_path / f"in/cats/{name}.glb")
    data = (tmp_path / "in/cats/cut.glb").read_bytes()
    (tmp_path / "in/cats/cut.glb").write_bytes(data[:-3000])
    (tmp_path / "in/cats/none.glb").write_bytes(b"nothing of the kind")
    actions = ACTIONS | {"gone": ["vanish"]}
    summary = make(tmp_path / "out", recipe(tmp_path / "in", source={"actions": actions, "test": []}))
    found = rows(tmp_path / "out")
    assert summary.samples == 3
    assert found["cats/good.glb#4"]["reason"] == "blank_view"
    assert found["cats/none.glb#0"]["status"] == "failed"
    assert all(row["status"] == "failed" for source, row in found.items() if "cut" in source)
    for row in found.values():
        assert str(tmp_path) not in row["message"]
        assert bool(row["message"]) == (row["status"] == "failed")


def test_a_static_mesh_is_filmed_on_a_turntable(tmp_path: Path) -> None:
    config = Recipe.model_validate(
        {
            "source": {"kind": "shapes", "classes": ["mug"], "per_class": 2},
            "points": {"count": 50, "parts": True},
            "clips": {"frames": 5, "points": "track", "camera": {"size": 32}},
        }
    )
    make(tmp_path / "turned", config)
    assert verify(str(tmp_path / "turned"), deep=True) == []
    dataset = Dataset.open(str(tmp_path / "turned"))
    assert set(dataset.classes.tolist()) == {"mug"}
    sample = dataset.load(0, dataset.members(0))
    assert (sample["clip.npy"] == sample["clip.npy"][0]).all()
    assert sample["json"]["action_names"] == []
    assert (sample["actions.npy"] == -1).all()
    assert sample["parts.npy"].max() < len(sample["json"]["part_names"])
    poses = np.array(sample["json"]["cameras"]["world_to_camera"])
    assert np.allclose(poses[0], poses[4])
    assert np.allclose(poses[0, 0, :3], -poses[2, 0, :3])


def test_parts_are_the_first_pattern_that_matches() -> None:
    parts = {"hand": ("*hand*",), "arm": ("*arm*", "hand_arm"), "rest": ("leg?",)}
    assert [part_number(parts, name) for name in ("LeftHand_arm", "Forearm.L", "Leg1", "leg12", "")] == [0, 1, 2, -1, -1]


def test_without_a_table_of_parts_the_nodes_are_parts(zoo: Path, tmp_path: Path) -> None:
    make(tmp_path / "nodes", recipe(zoo, clips={"parts": {}}))
    facts = loaded(Dataset.open(str(tmp_path / "nodes")), "cats/Tom.glb#0")["json"]
    assert facts["part_names"] == ["Torso", "Arm.L"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"points": {"normals": True}}, "neither normals nor colors"),
        ({"views": {"depth": True}}, "frames in place of views"),
        ({"clips": {"frames": 0}}, "greater than or equal to 1"),
        ({"clips": {"points": "inside"}}, "surface"),
        ({"clips": {"fps": float("inf")}}, "finite number"),
        ({"clips": {"camera": {"orbit_deg": (0, float("nan"))}}}, "finite number"),
        ({"clips": {"camera": {"elevation_deg": (0, 200)}}}, "less than or equal to 90"),
        ({"clips": {"camera": {"elevation_deg": (-100, 0)}}}, "greater than or equal to -90"),
        ({"clips": None, "source": {"kind": "animated", "path": "x"}}, "is filmed"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({"clips": {}} | values)


def test_damage_to_a_clip_is_found(made: Path, zoo: Path) -> None:
    from pipeline.verify import _frames
    from pipeline.verify_clips import clip_problems

    config = recipe(zoo)
    sample = loaded(Dataset.open(str(made)), "cats/Tim.glb#1")
    assert clip_problems(config, sample) == _frames(config, sample) == []
    turned = sample | {"clip.npy": sample["clip.npy"][::-1]}
    assert "of the points fall on the frames" in _frames(config, turned)[0]
    assert "index into action_names" in clip_problems(config, sample | {"actions.npy": sample["actions.npy"] + np.int16(7)})[0]
    assert "index into part_names" in clip_problems(config, sample | {"parts.npy": sample["parts.npy"][:, :5]})[0]
    assert "finite clouds" in clip_problems(config, sample | {"clip.npy": sample["clip.npy"] * np.float32(np.nan)})[0]
    assert "unit sphere" in clip_problems(config, sample | {"clip.npy": sample["clip.npy"] * np.float32(1.5)})[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="the data set animated is not here")
def test_two_real_characters_with_their_oddities(tmp_path: Path) -> None:
    source = {"path": DATA, "files": ["**/Bee.glb", "**/Fox.glb"], "actions": {}, "test": []}
    config = recipe(DATA, source=source, clips={"parts": {}, "camera": {"size": 64}})
    make(tmp_path / "real", config)
    assert verify(str(tmp_path / "real"), deep=True) == []
    dataset = Dataset.open(str(tmp_path / "real"))
    assert {"survey", "walk", "run"} <= set(dataset.classes.tolist())
    for index in range(len(dataset)):
        clip = dataset.load(index, ["clip.npy"])["clip.npy"]
        assert np.isfinite(clip).all()
        assert 0.3 < np.linalg.norm(clip, axis=-1).max() <= 1 + 1e-6


def test_the_order_of_a_table_is_part_of_the_recipe(zoo: Path, tmp_path: Path) -> None:
    config = recipe(zoo, clips={"parts": {"arm": ["arm.*"], "all": ["*"]}})
    make(tmp_path / "begun", config)
    for path in (*(tmp_path / "begun/shards").glob("*"), *(tmp_path / "begun/manifest").glob("*")):
        path.unlink()
    for other in (
        recipe(zoo, clips={"parts": {"all": ["*"], "arm": ["arm.*"]}}),
        recipe(zoo, clips={"parts": {"arm": ["arm.*"], "all": ["*"]}}, source={"actions": dict(reversed(ACTIONS.items()))}),
    ):
        with pytest.raises(DatasetError, match=r"dataset of another recipe.*(clips.parts|source.actions) is \[\("):
            make(tmp_path / "begun", other)
    assert (
        Recipe.model_validate(json.loads((tmp_path / "begun/dataset.json").read_text())["recipe"]).resolved_hash() == config.resolved_hash()
    )
    assert make(tmp_path / "begun", config).shards_made > 0


def odd_characters(folder: Path) -> None:
    """Files that go wrong with words of their own, and a good one beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    character(folder / "good.glb")
    odd = "EXT_\ud800odd\x00" + "y" * 10_000
    Document(extensionsRequired=[odd]).save(folder / "extension.glb")
    document = Document(nodes=[{"mesh": 0, "skin": 0}], scenes=[{"nodes": [0]}], skins=[{"joints": [odd]}])
    document.mesh(TRIANGLE, JOINTS_0=0, WEIGHTS_0=0)
    document.animate((0, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]], "LINEAR"), name="walk")
    document.save(folder / "joint.glb")
    tree = {"asset": {"version": "2.0"}, "buffers": [{"uri": "gone\udcff\n.bin", "byteLength": 36}], "nodes": [{"mesh": 0}]}
    tree |= {"bufferViews": [{"buffer": 0, "byteLength": 36}], "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}]}
    tree |= {"accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}]}
    tree |= {"animations": [{"name": "walk", "channels": [], "samplers": []}]}
    (folder / "buffer.gltf").write_text(json.dumps(tree))


def test_words_of_a_document_cost_its_own_row_and_name_no_place(zoo: Path, tmp_path: Path) -> None:
    fingerprints = []
    for name in ("one", "two"):
        odd_characters(tmp_path / name)
        summary = make(tmp_path / f"{name}-made", recipe(tmp_path / name, source={"test": []}))
        fingerprints.append(summary.fingerprint)
        found = rows(tmp_path / f"{name}-made")
        assert {uri: row["reason"] for uri, row in found.items() if "good" not in uri} == {
            "extension.glb#0": "unsupported",
            "joint.glb#0": "unreadable",
            "buffer.gltf#0": "io_error",
        }
        assert summary.samples == 3
        for row in found.values():
            assert str(tmp_path) not in row["message"]
            assert row["message"].isprintable()
            assert len(row["message"]) <= 300
    assert fingerprints[0] == fingerprints[1]


def test_any_words_of_a_crash_become_a_row(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise LookupError("\ud800 \x07 of " + str((tmp_path / "real").resolve() / "a.glb"))

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(film, "make_clip", crash)
    planned = Planned("a", "", "train", "a.glb#0", "", "00")
    outcome = make_sample(recipe(tmp_path / "link"), RasterRenderer(), planned)
    assert (outcome.reason, outcome.message) == ("crashed", "LookupError: ? of a.glb")


def test_more_nodes_than_parts_can_be_numbered_is_said(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "MAX_PARTS", 1)
    make(tmp_path / "many", recipe(zoo, clips={"parts": {}}, source={"files": ["dogs/*"], "test": []}))
    found = rows(tmp_path / "many")
    assert {row["reason"] for row in found.values()} == {"too_large"}
    assert found["dogs/Rex.glb#0"]["message"].startswith("dogs/Rex.glb#0 has 2 parts, more than the 1 that can be numbered; ")


def test_a_drawn_light_comes_from_where_its_docstring_says() -> None:
    style = Style(
        lights=(Light(direction=(0, 0, 1), intensity=0.4, frame="camera"), Light(direction=(0, -1, 0), intensity=0.6, frame="world"))
    )
    seen = []
    for seed in range(200):
        camera, world = drawn_style(style, Clips(), seed).lights
        assert (camera.intensity, world.intensity, camera.frame, world.frame) == (0.4, 0.6, "camera", "world")
        x, y, z = camera.direction
        # along the line of sight, away from the camera
        assert math.degrees(math.atan2(math.hypot(x, y), z)) < 41
        down = -world.direction[1] / math.hypot(*world.direction)
        assert 19.9 < math.degrees(math.asin(down)) < 80.1
        seen.append((camera.direction, world.direction))
    assert len({first for first, _ in seen}) == len({second for _, second in seen}) == 200
    round_about = np.degrees(np.arctan2(*np.array([second for _, second in seen])[:, [0, 2]].T))
    assert np.histogram(round_about, 8, (-180, 180))[0].min() > 5
    assert drawn_style(style, Clips(), 3) == drawn_style(style, Clips(), 3)
    assert drawn_style(style, Clips(light=False), 3).lights == style.lights
    assert drawn_style(style, Clips(light=False, background=False), 3) == style


def test_frames_are_drawn_under_the_light_of_their_clip(zoo: Path, made: Path) -> None:
    config = recipe(zoo)
    sample = loaded(Dataset.open(str(made)), "cats/Tim.glb#1")
    rig, mesh = sample["json"]["cameras"], load_animated(zoo / "cats/Tim.glb").mesh
    cameras = Cameras(np.array(rig["K"]), np.array(rig["world_to_camera"]), rig["width"], rig["height"])
    assert config.clips is not None
    style = drawn_style(config.style, config.clips, seed_of(config, sample["json"]["sha256"], "style"))
    assert style.lights != config.style.lights
    views = RasterRenderer().render_frames(mesh, truth(zoo, sample), cameras, style)
    for number in range(7):
        assert np.abs(views.color[number, ..., :3].astype(int) - sample[f"f{number:03d}.png"]).max() <= 1


def test_a_static_mesh_is_turned_fully_by_a_range_of_nothing_too() -> None:
    plain, empty = (film_cameras(Camera(orbit_deg=turn), 5, 3, turntable=True) for turn in (0, (0, 0)))
    assert np.array_equal(plain.world_to_camera, empty.world_to_camera)
    assert not np.array_equal(plain.world_to_camera[0], plain.world_to_camera[2])


def test_frames_of_a_camera_that_is_not_theirs_are_found(made: Path, zoo: Path) -> None:
    from pipeline.verify import _frames

    sample = loaded(Dataset.open(str(made)), "cats/Tim.glb#1")
    for axis, value in ((0, 100.0), (2, -3.0)):
        facts = json.loads(json.dumps(sample["json"]))
        for pose in facts["cameras"]["world_to_camera"]:
            pose[axis][3] = value
        assert "only 0% of the points fall on the frames" in _frames(recipe(zoo), sample | {"json": facts})[0]
