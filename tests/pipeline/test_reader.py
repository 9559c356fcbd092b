import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset import DatasetError
from pipeline.generate import generate
from pipeline.reader import Dataset, decode_npy, epoch_order
from pipeline.recipe import DEPTH_UNIT, Recipe
from pipeline.status import status
from pipeline.verify import on_mask, verify
from render import cameras, checks, surface
from render.raster import RasterRenderer

VALUES: dict[str, Any] = {
    "source": {"kind": "shapes", "classes": ["mug", "chair"], "per_class": 4},
    "points": {"count": 500, "parts": True},
    "views": {"rig": {"kind": "fibonacci", "count": 4, "size": 96}, "depth": True, "mask": True},
    "shard_assets": 4,
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("read") / "dataset"
    generate(Recipe.model_validate(VALUES), str(folder), isolate=False, progress=False)
    return str(folder)


@pytest.fixture
def copy(uri: str, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(uri, tmp_path / "copy"))


def test_only_the_bytes_asked_for_are_read(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    dataset = Dataset.open(uri)
    reads: list[tuple[int, int]] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        reads.append((size, offset))
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    one = dataset.read(2, ["v02.png"])
    assert [size for size, _ in reads] == [len(one["v02.png"])]
    reads.clear()
    both = dataset.read(2, ["points.npy", "d00.png"])
    assert list(both) == ["points.npy", "d00.png"]
    # d00.png is the first member and points.npy one of the last: what lies between is fetched only where the gap is small.
    assert sum(size for size, _ in reads) <= sum(map(len, both.values())) + 4096


def test_members_agree_with_a_rendering_of_their_own(uri: str) -> None:
    from pipeline import sources
    from pipeline.worker import seed_of

    dataset, recipe = Dataset.open(uri), Recipe.model_validate(VALUES)
    for index in (0, len(dataset) - 1):
        row = dataset.table.slice(index, 1).to_pylist()[0]
        mesh, centre, scale = checks.normalize(checks.check(sources.open_mesh(recipe.source, row["source"], parts=True)))
        rig = cameras.build(recipe.views.rig, seed_of(recipe, row["sha256"], "rig"))
        views = RasterRenderer().render(mesh, rig, recipe.style)
        found = dataset.load(index, dataset.members(index))
        cloud = surface.sample(mesh, 500, seed_of(recipe, row["sha256"], "points"))
        np.testing.assert_array_equal(found["points.npy"], cloud.points)
        np.testing.assert_array_equal(found["parts.npy"], cloud.parts)
        for view in range(4):
            np.testing.assert_array_equal(found[f"v{view:02d}.png"], views.color[view, ..., :3])
            np.testing.assert_array_equal(found[f"m{view:02d}.png"][..., 0] == 255, views.mask[view])
            depth = found[f"d{view:02d}.png"][..., 0] * DEPTH_UNIT
            np.testing.assert_allclose(depth, views.depth[view], atol=DEPTH_UNIT / 2)
        facts = found["json"]
        np.testing.assert_array_equal(facts["cameras"]["K"], rig.K)
        np.testing.assert_array_equal(facts["cameras"]["world_to_camera"], rig.world_to_camera)
        np.testing.assert_array_equal(facts["normalisation"]["centre"], centre)
        assert facts["normalisation"]["scale"] == scale
        assert facts["part_names"] == list(mesh.part_names)
        assert (facts["class"], facts["split"]) == (dataset.classes[index], dataset.splits[index])


def test_points_project_onto_every_mask_and_lie_behind_its_depth(uri: str) -> None:
    dataset = Dataset.open(uri)
    for index in range(len(dataset)):
        found = dataset.load(index, dataset.members(index))
        points = np.c_[found["points.npy"].astype(np.float64), np.ones(500)]
        for view, (K, world_to_camera) in enumerate(
            zip(found["json"]["cameras"]["K"], found["json"]["cameras"]["world_to_camera"], strict=True)
        ):
            x, y, z = (np.array(world_to_camera) @ points.T)[:3]
            column = np.floor(K[0][0] * x / z + K[0][2]).astype(int)
            row = np.floor(K[1][1] * y / z + K[1][2]).astype(int)
            mask, depth = found[f"m{view:02d}.png"][..., 0] > 0, found[f"d{view:02d}.png"][..., 0] * DEPTH_UNIT
            on = mask[row, column]
            assert on.mean() > 0.9
            # A pixel may see over an edge to what lies farther; hardly any point is nearer to the camera than what is seen there.
            assert (z[on] > depth[row, column][on] - 0.05).mean() > 0.9


def test_numbers_are_in_the_order_of_split_shard_and_key(uri: str) -> None:
    dataset = Dataset.open(uri)
    assert list(dataset.splits) == ["train"] * 6 + ["test"] * 2
    assert dataset.indices("test").tolist() == [6, 7]
    assert dataset.indices("val").tolist() == []
    shards = dataset.table["shard"].to_pylist()
    assert sorted(zip(shards[:6], dataset.keys[:6], strict=True)) == list(zip(shards[:6], dataset.keys[:6], strict=True))


def test_a_copy_by_pickle_and_in_a_spawned_process_reads_the_same(uri: str) -> None:
    import multiprocessing

    dataset = Dataset.open(uri)
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied.fingerprint == dataset.fingerprint
    assert copied.read(1, ["json"]) == dataset.read(1, ["json"])
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(dataset.read, (1, ["json"])) == dataset.read(1, ["json"])


def test_an_unknown_member_is_named_with_those_there_are(uri: str) -> None:
    with pytest.raises(DatasetError, match=r"has no v09.png; it has d00.png, .*"):
        Dataset.open(uri).read(0, ["v09.png"])


def test_no_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"holds no dataset \(dataset.json is not there\); give a dataset's folder or generate it first\."
    ):
        Dataset.open(str(tmp_path))


def test_an_unfinished_dataset_is_one_sentence(copy: Path) -> None:
    os.remove(copy / "manifest/test-000000.parquet")
    with pytest.raises(DatasetError, match=r"has 2 of its 3 shards; run the same generate command again to finish it\."):
        Dataset.open(str(copy))
    rows = {row["split"]: row for row in status(str(copy))}
    assert (rows["all"]["shards"], rows["all"]["of_shards"], rows["all"]["assets"], rows["all"]["of_assets"]) == (2, 3, 6, 8)
    assert (rows["test"]["shards"], rows["train"]["samples"]) == (0, 6)
    assert ["1 shards are not made yet" in str(problem) for problem in verify(str(copy))] == [True, False]


@pytest.mark.parametrize("cut", [1, 512, 5000])
def test_a_shard_cut_short_is_one_sentence_when_opened(copy: Path, cut: int) -> None:
    shard = copy / "shards/train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(
        DatasetError, match=r"train-000001.tar is cut short or changed: \d+ bytes instead of \d+; remove manifest/train-000001"
    ):
        Dataset.open(str(copy))
    assert [problem.where for problem in verify(str(copy))] == ["shards/train-000001.tar"]


def test_a_shard_cut_while_open_is_one_sentence(copy: Path) -> None:
    dataset = Dataset.open(str(copy))
    shard = copy / "shards/train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"train-000000.tar is cut short within"):
        dataset.load(3, ["v03.png"])


def test_a_shard_that_is_gone_is_one_sentence(copy: Path) -> None:
    os.remove(copy / "shards/test-000000.tar")
    with pytest.raises(DatasetError, match=r"test-000000.tar is missing; remove manifest/test-000000.parquet and run generate again\."):
        Dataset.open(str(copy))


def test_a_flipped_byte_is_found_by_verify_and_by_the_decoder(copy: Path) -> None:
    dataset = Dataset.open(str(copy))
    row = dataset.table.slice(0, 1).to_pylist()[0]
    member = next(member for member in row["members"] if member["name"] == "v00.png")
    shard = copy / f"shards/{row['shard']}.tar"
    data = bytearray(shard.read_bytes())
    data[member["offset"] + 12] ^= 255
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=r"v00.png of .* is damaged"):
        Dataset.open(str(copy)).load(0, ["v00.png"])
    assert "sha256" in str(verify(str(copy))[0])


def test_changed_manifests_are_found(copy: Path) -> None:
    from pipeline import manifest
    from pipeline.manifest import Row
    from pipeline.shards import ShardRecord

    item = manifest.decode((copy / "manifest/test-000000.parquet").read_bytes(), "x")
    row = Row("other", "mug", "test", "a", "", "00", "empty", "", (), "")
    (copy / "manifest/test-000000.parquet").write_bytes(
        manifest.encode(ShardRecord("test-000000", item.size, item.shard_sha256), [row], item.plan)
    )
    with pytest.raises(DatasetError, match=r"are not those that its dataset\.json names"):
        Dataset.open(str(copy))
    assert len(verify(str(copy))) >= 2


def test_wrong_cameras_are_found_by_a_deep_look(uri: str) -> None:
    found = Dataset.open(uri).load(0, ["points.npy", "m00.png", "json"])
    K, world_to_camera = (np.array(found["json"]["cameras"][name][0]) for name in ("K", "world_to_camera"))
    mask = found["m00.png"][..., 0] > 0
    assert on_mask(found["points.npy"], K, world_to_camera, mask) > 0.99
    moved = world_to_camera.copy()
    moved[0, 3] += 0.4
    assert on_mask(found["points.npy"], K, moved, mask) < 0.9
    assert verify(uri, deep=True) == []


@pytest.mark.parametrize("dtype", ["<f4", "u1", "<i2", "<i8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (4, 3)])
def test_npy_as_numpy_reads_it(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    buffer = io.BytesIO()
    np.save(buffer, array)
    found = decode_npy(buffer.getvalue())
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_an_npy_of_objects_is_never_unpickled() -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (13,)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Boom()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        decode_npy(buffer.getvalue())


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    orders = [epoch_order(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(epoch_order(1000, 1, 1), orders[3])


def test_points_outside_of_the_picture_count_unless_the_camera_stands_close(uri: str) -> None:
    found = Dataset.open(uri).load(0, ["points.npy", "m00.png", "json"])
    K, pose = (np.array(found["json"]["cameras"][name][0]) for name in ("K", "world_to_camera"))
    mask = found["m00.png"][..., 0] > 0
    for axis, value in ((0, 100.0), (2, -3.0)):
        moved = pose.copy()
        moved[axis, 3] = value
        assert on_mask(found["points.npy"], K, moved, mask) == on_mask(found["points.npy"], K, moved, mask, cut_off=True) == 0
    near = K.copy()
    near[[0, 1], [0, 1]] *= 3
    # of the picture's middle a third of each side is enlarged; what is in it lies on it
    middle = mask[32:64, 32:64].repeat(3, axis=0).repeat(3, axis=1)
    assert on_mask(found["points.npy"], near, pose, middle) < 0.8 < on_mask(found["points.npy"], near, pose, middle, cut_off=True)
    assert on_mask(found["points.npy"][:0], near, pose, middle, cut_off=True) == 1


def test_views_that_cut_their_mesh_off_are_whole(tmp_path: Path) -> None:
    for name, rig in (("near", {"count": 3, "size": 48, "distance": 1.2}), ("ring", {"kind": "shapenet24", "size": 48})):
        generate(Recipe.model_validate(VALUES | {"views": {"rig": rig}}), str(tmp_path / name), isolate=False, progress=False)
        assert verify(str(tmp_path / name), deep=True) == []
