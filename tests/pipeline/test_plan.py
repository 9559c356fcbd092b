import csv
import hashlib
import json
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Plan, _keys, make_plan
from pipeline.recipe import Recipe
from pipeline.sources import FolderSource, assets, folder, inventory
from pipeline.sources.asset import SourceError

ROOT = Path(__file__).parents[2]
PSB, SH3D, LPSB = (ROOT / ".data" / name for name in ("psb", "sh3d", "lpsb"))


def put(root: Path, *names: str, content: str = "") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or name)


def source(path: Path, **changes: Any) -> FolderSource:
    return FolderSource.model_validate({"path": path} | changes)


def plan(path: Path, shard_assets: int = 32, seed: int = 0, val_fraction: float = 0.0, **changes: Any) -> Plan:
    values = {
        "source": {"kind": "folder", "path": path} | changes,
        "shard_assets": shard_assets,
        "seed": seed,
        "val_fraction": val_fraction,
    }
    return make_plan(Recipe.model_validate(values))


def listed(path: Path, **changes: Any) -> list[tuple[str, str, str]]:
    return [(asset.uri, asset.cls, asset.split) for asset in assets(source(path, **changes))]


def test_class_folders_without_splits(tmp_path: Path) -> None:
    put(tmp_path, "b/y.off", "a/x.obj", "a/deep/er/z.PLY", "a/note.txt", "a/.hidden.off", "models.csv")
    assert sorted(listed(tmp_path)) == [("a/deep/er/z.PLY", "a", "train"), ("a/x.obj", "a", "train"), ("b/y.off", "b", "train")]


def test_splits_above_and_below_the_classes(tmp_path: Path) -> None:
    put(tmp_path / "above", "train/a/1.off", "test/a/2.off", "val/b/3.stl", "other/c/4.off")
    put(tmp_path / "below", "a/train/1.off", "a/test/2.off", "b/train/3.off")
    assert sorted(listed(tmp_path / "above")) == [
        ("test/a/2.off", "a", "test"),
        ("train/a/1.off", "a", "train"),
        ("val/b/3.stl", "b", "val"),
    ]
    assert listed(tmp_path / "below") == [("a/test/2.off", "a", "test"), ("a/train/1.off", "a", "train"), ("b/train/3.off", "b", "train")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.off", "b/readme.txt"], r"The class folder .*/b holds no mesh"),
        (["x.off", "a/y.off"], r"x.off lies in no class folder; move it into"),
        (["notes.txt"], r"holds no meshes; give a folder with class folders"),
    ],
)
def test_a_folder_that_is_none_of_meshes_is_one_sentence(tmp_path: Path, names: list[str], message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path)


def test_labels_from_a_csv(tmp_path: Path) -> None:
    put(tmp_path, "a/m1.off", "a/m2/m2.obj", "b/m3.off", "b/m4.off")
    put(tmp_path, "models.csv", content="id,kind,split,rights\nm1,cat,train,CC0\nm2,dog,test,MIT\nm3,cat,test,CC0\nm4,,test,CC0\n")
    labels = {"csv": "models.csv", "key": "id", "class": "kind", "split": "split", "licence": "rights"}
    found = list(assets(source(tmp_path, labels=labels)))
    assert [(asset.uri, asset.cls, asset.split, asset.licence) for asset in found] == [
        ("a/m1.off", "cat", "train", "CC0"),
        ("a/m2/m2.obj", "dog", "test", "MIT"),
        ("b/m3.off", "cat", "test", "CC0"),
    ]
    with pytest.raises(SourceError, match=r"models.csv has no column 'name'; use some of id, kind"):
        listed(tmp_path, labels=labels | {"class": "name"})
    put(tmp_path, "b/m5.off")
    with pytest.raises(SourceError, match=r"has no row for 1 of the meshes, the first being b/m5.off"):
        listed(tmp_path, labels=labels)


def test_identical_contents_and_rare_classes_can_be_left_out(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.off", "train/b/2.off", "test/a/3.off", "test/c/4.off")
    put(tmp_path, "test/a/5.off", content="train/b/2.off")
    made = plan(tmp_path, leave_out_identical=True, common_classes=True)
    assert made.table["source"].to_pylist() == ["train/a/1.off", "test/a/3.off"]
    assert made.left_out == {"identical to a train asset": 1, "class not in every split": 2}


def test_fractions_go_by_content(tmp_path: Path) -> None:
    put(tmp_path, *(f"a/{number}.off" for number in range(400)))
    put(tmp_path, *(f"b/{number}.off" for number in range(40)), content="one and the same")
    made = plan(tmp_path, test_fraction=0.25, val_fraction=0.2)
    splits = Counter(made.table["split"].to_pylist())
    # Binomial: 400 draws, five standard deviations.
    assert (
        abs(
            Counter(s for s, c in zip(made.table["split"].to_pylist(), made.table["class"].to_pylist(), strict=True) if c == "a")["test"]
            - 100
        )
        < 44
    )
    assert splits["val"] > 0
    twins = [s for s, c in zip(made.table["split"].to_pylist(), made.table["class"].to_pylist(), strict=True) if c == "b"]
    assert len(set(twins)) == 1
    again = plan(tmp_path, test_fraction=0.25, val_fraction=0.2)
    assert again.hash == made.hash
    assert plan(tmp_path, test_fraction=0.25, val_fraction=0.2, seed=1).hash != made.hash


def test_shards_hold_every_asset_once_and_mix_the_classes(tmp_path: Path) -> None:
    put(tmp_path, *(f"{cls}/{number}.off" for cls in "abcd" for number in range(25)))
    made = plan(tmp_path, shard_assets=30)
    assert list(made.starts) == ["train-000000", "train-000001", "train-000002", "train-000003"]
    shards = [made.assets(shard) for shard in made.starts]
    assert [len(shard) for shard in shards] == [30, 30, 30, 10]
    keys = [asset.key for shard in shards for asset in shard]
    assert len(set(keys)) == 100
    assert all(len({asset.cls for asset in shard}) == 4 for shard in shards)


def test_the_plan_knows_contents_not_places(tmp_path: Path) -> None:
    put(tmp_path / "here", "a/1.off", "a/2.off")
    put(tmp_path / "there", "a/2.off", "a/1.off")
    assert plan(tmp_path / "here").hash == plan(tmp_path / "there").hash
    put(tmp_path / "there", "a/2.off", content="changed")
    assert plan(tmp_path / "here").hash != plan(tmp_path / "there").hash


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aAbB.-_/ é0", min_size=1, max_size=12).map(lambda text: f"{text}.off"), unique=True, max_size=12))
def test_keys_are_unique_and_plain(uris: list[str]) -> None:
    keys = _keys(uris)
    assert len(set(keys)) == len(uris)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,80}", key) for key in keys)


def test_a_key_is_the_same_in_any_company_without_rivals() -> None:
    assert _keys(["train/Chair/m1.off", "test/b/x/x.obj"]) == ["train-chair-m1", "test-b-x"]
    first = _keys(["a/M.off", "a/m.off", "b/n.off"])
    assert _keys(["b/n.off", "a/m.off", "a/M.off"]) == first[::-1]
    assert len(_keys(["x" * 300 + ".off"])[0]) <= 80


def test_one_file_has_its_own_sha256(tmp_path: Path) -> None:
    put(tmp_path, "a/x.off")
    assert folder.content_sha256(tmp_path / "a/x.off") == hashlib.sha256(b"a/x.off").hexdigest()


def test_an_objects_content_is_that_of_all_its_files(tmp_path: Path) -> None:
    put(tmp_path, "x.obj", content="mtllib my  mat.mtl\nv 0 0 0\n")
    put(tmp_path, "my  mat.mtl", content="newmtl a\r\n  map_Kd -s 1 1 1 skin\\red.png\r\n")
    put(tmp_path, "skin/red.png", content="red")
    found = [folder.content_sha256(tmp_path / "x.obj")]
    for name, content in (("skin/red.png", "blue"), ("my  mat.mtl", "newmtl b\nmap_Kd skin/red.png\n"), ("x_labels.txt", "wing\n1\n")):
        put(tmp_path, name, content=content)
        found.append(folder.content_sha256(tmp_path / "x.obj"))
    put(tmp_path, "unrelated.png")
    (tmp_path / "skin/red.png").unlink()
    found.append(folder.content_sha256(tmp_path / "x.obj"))
    assert len(set(found)) == 5
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "x.obj", tmp_path / "my  mat.mtl"))
    assert found[-1] == hashlib.sha256(digests + bytes(32) + hashlib.sha256(b"wing\n1\n").digest()).hexdigest()


@pytest.mark.skipif(not PSB.is_dir(), reason="the data set psb is not there")
def test_psb_by_group() -> None:
    labels = {"csv": "models.csv", "key": "id", "class": "group"}
    with open(PSB / "models.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    groups = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "test")}
    kept = [row for row in rows if row["group"] in groups["train"] & groups["test"]]
    split_of = {row["id"]: row["split"] for row in rows}
    twins = [row for row in kept if row["split"] == "test" and split_of.get(row["identical_to"]) == "train"]
    twins += [
        row for row in kept if row["split"] == "test" for other in rows if other["identical_to"] == row["id"] and other["split"] == "train"
    ]
    common = plan(PSB, labels=labels, common_classes=True)
    assert len(set(common.table["class"].to_pylist())) == 21
    assert Counter(common.table["split"].to_pylist()) == {"train": 700, "test": 691}
    without = plan(PSB, labels=labels, common_classes=True, leave_out_identical=True)
    assert Counter(without.table["split"].to_pylist()) == {"train": 700, "test": 691 - len({row["id"] for row in twins})}
    assert len(plan(PSB).table) == 1548


@pytest.mark.skipif(not (SH3D.is_dir() and LPSB.is_dir()), reason="the data sets sh3d and lpsb are not there")
def test_sh3d_and_lpsb() -> None:
    made = plan(SH3D, labels={"csv": "models.csv", "key": "id", "class": "category", "licence": "licence"}, test_fraction=0.2)
    assert len(made.table) == 669
    assert set(made.table["licence"].to_pylist()) >= {"CC0-1.0 (public domain)"}
    assert len(plan(LPSB).table) == 228


def test_a_test_fraction_beside_a_test_split_is_refused(tmp_path: Path) -> None:
    for name in ("train/a/1.off", "test/a/2.off"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("OFF\n")
    recipe = Recipe.model_validate({"source": {"kind": "folder", "path": str(tmp_path), "test_fraction": 0.2}})
    with pytest.raises(SourceError, match="set test_fraction to 0"):
        make_plan(recipe)


def test_a_mesh_that_changes_at_equal_size_changes_the_inventory(tmp_path: Path) -> None:
    file = tmp_path / "a" / "1.off"
    file.parent.mkdir()
    source = Recipe.model_validate({"source": {"kind": "folder", "path": str(tmp_path)}}).source
    marks = []
    for text in ("OFF\n3 1 0\n0", "OFF\n3 1 0\n1", "OFF\n3 1 0\n0"):
        file.write_text(text)
        marks.append(inventory(source))
    assert marks[0] == marks[2] != marks[1]


def test_a_gltfs_content_is_that_of_all_its_files(tmp_path: Path) -> None:
    put(tmp_path, "my data.bin", content="numbers")
    put(tmp_path, "Textures/skin.png", content="red")
    tree = {"asset": {"version": "2.0"}, "buffers": [{"uri": "my%20data.bin"}], "images": [{"uri": "Textures/Skin.png"}]}
    text = json.dumps(tree).encode()
    (tmp_path / "x.gltf").write_bytes(text)
    (tmp_path / "x.glb").write_bytes(struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text)
    for name in ("x.gltf", "x.glb"):
        found = {folder.content_sha256(tmp_path / name)}
        for other in ("my data.bin", "Textures/skin.png"):
            before = (tmp_path / other).read_bytes()
            put(tmp_path, other, content="changed")
            found.add(folder.content_sha256(tmp_path / name))
            (tmp_path / other).write_bytes(before)
        assert len(found) == 3


def test_material_files_named_in_another_case_count_too(tmp_path: Path) -> None:
    put(tmp_path, "x.obj", content="mtllib X.MTL\nv 0 0 0\n")
    found = set()
    for content in ("newmtl a\nKd 1 0 0\n", "newmtl a\nKd 0 1 0\n"):
        put(tmp_path, "x.mtl", content=content)
        found.add(folder.content_sha256(tmp_path / "x.obj"))
    assert len(found) == 2


def test_a_source_of_nothing_is_no_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.assets", lambda source: iter(()))
    with pytest.raises(SourceError, match="The source gives nothing"):
        make_plan(Recipe())


def test_a_class_of_shapes_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'mug' stands there twice"):
        Recipe.model_validate({"source": {"kind": "shapes", "classes": ["mug", "chair", "mug"]}})
