"""Animated files as a source: which clips become assets, of which class, on which side."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline import sources
from pipeline.plan import make_plan
from pipeline.recipe import Recipe
from pipeline.sources import kept
from pipeline.sources.animated import AnimatedSource, open_animated
from pipeline.sources.asset import Asset, SourceError
from render.animation import Clip, load_animated
from render.meshes import MeshError
from tests.pipeline.clip_files import character
from tests.render.gltf_files import TRIANGLE, Document


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    for number, name in enumerate(("cats/Tom", "cats/Tim", "dogs/Rex", "dogs/small/Pip")):
        character(tmp_path / f"zoo/{name}.glb", 1 + 0.1 * number)
    (tmp_path / "zoo/readme.txt").write_text("not a mesh")
    return tmp_path / "zoo"


def source(path: Path, **values: Any) -> AnimatedSource:
    return AnimatedSource.model_validate({"path": path} | values)


def recipe(path: Path, **values: Any) -> Recipe:
    more = {key: values.pop(key) for key in ("seed", "val_fraction") if key in values}
    return Recipe.model_validate({"source": {"kind": "animated", "path": path} | values, "clips": {}} | more)


def listed(path: Path, **values: Any) -> list[Asset]:
    return list(sources.assets(source(path, **values)))


def test_every_clip_is_an_asset_named_by_its_number(zoo: Path) -> None:
    found = listed(zoo, files=["cats/*"])
    assert [asset.uri for asset in found] == [f"cats/{name}.glb#{n}" for name in ("Tim", "Tom") for n in range(5)]
    assert [asset.cls for asset in found[:5]] == ["walk", "fall_down", "stand", "march", "vanish"]


def test_the_table_of_actions_gives_classes_and_leaves_the_rest_out(zoo: Path) -> None:
    actions = {"go": ["walk", "rig|mar*"], "fall": ["FALL*"], "never": ["*"]}
    found = listed(zoo, files=["dogs/Rex.glb"], actions=actions)
    assert [asset.cls for asset in found] == ["go", "fall", "never", "go", "never"]
    del actions["never"]
    found = listed(zoo, files=["dogs/Rex.glb"], actions=actions)
    assert [bool(asset.left_out) for asset in found] == [False, False, True, False, True]
    plan = make_plan(recipe(zoo, actions=actions))
    assert plan.left_out == {"clip of no action": 8}
    assert sorted(set(plan.table["class"].to_pylist())) == ["fall", "go"]


def test_a_file_without_clips_or_without_an_action_is_counted(zoo: Path) -> None:
    found = listed(zoo, actions={"swim": ["swim"]}, sequences=3)
    assert [asset.left_out for asset in found] == ["file without a clip of an action"] * 4
    with pytest.raises(SourceError, match="Everything in the source is left out"):
        make_plan(recipe(zoo, actions={"swim": ["swim"]}))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*", {"Tom", "Tim", "Rex", "Pip"}),
        ("**/*.glb", {"Tom", "Tim", "Rex", "Pip"}),
        ("*/*", {"Tom", "Tim", "Rex"}),
        ("dogs/**", {"Rex", "Pip"}),
        ("**/T?m.glb", {"Tom", "Tim"}),
        ("**/pip.glb", set()),
    ],
)
def test_patterns_of_files(zoo: Path, pattern: str, names: set[str]) -> None:
    if names:
        assert {Path(asset.uri.split("#")[0]).stem for asset in listed(zoo, files=[pattern])} == names
    else:
        with pytest.raises(SourceError, match="correct the path or the patterns"):
            listed(zoo, files=[pattern])


def test_excluded_files_are_not_there(zoo: Path) -> None:
    assert {asset.uri.split("#")[0] for asset in listed(zoo, exclude=["dogs/**", "**/Tim.glb"])} == {"cats/Tom.glb"}


def test_files_named_for_test_and_val_go_there_whole(zoo: Path) -> None:
    found = listed(zoo, test=["dogs/**"], val=["**/Tim.glb"])
    assert {(asset.uri.split("/")[-1].split(".")[0], asset.split) for asset in found} == {
        ("Tom", "train"),
        ("Tim", "val"),
        ("Rex", "test"),
        ("Pip", "test"),
    }
    with pytest.raises(SourceError, match=r"No file .* matches the pattern 'birds/\*'"):
        listed(zoo, test=["birds/*"])


def test_a_drawn_test_split_takes_whole_files_and_keeps_twins_on_one_side(zoo: Path) -> None:
    together = [["cats/*"], ["**/Rex.glb", "**/Pip.glb"], ["**/Nobody.glb"]]
    seen = set()
    for seed in range(24):
        table = make_plan(recipe(zoo, test_fraction=0.5, together=together, seed=seed, val_fraction=0.3)).table.to_pydict()
        side: dict[str, set[str]] = {}
        for uri, split in zip(table["source"], table["split"], strict=True):
            side.setdefault(uri.split("/")[0], set()).add(split)
        assert all(len(splits) == 1 for splits in side.values())
        seen.add(tuple(sorted((name, min(splits)) for name, splits in side.items())))
    assert len(seen) >= 5


def test_groups_that_share_a_file_are_one_group(zoo: Path) -> None:
    chain = [["cats/*"], ["**/Tom.glb", "**/Rex.glb"], ["dogs/**"]]
    assert len({asset.group for asset in listed(zoo, together=chain)}) == 1
    assert len({asset.group for asset in listed(zoo)}) == 4


def test_a_split_that_parts_what_stays_together_is_refused(zoo: Path) -> None:
    with pytest.raises(SourceError, match="name all of it or none"):
        listed(zoo, test=["**/Tom.glb"], together=[["cats/*"]])


def test_sequences_have_the_folder_as_class_and_all_actions_as_names(zoo: Path) -> None:
    actions = {"go": ["walk", "march"], "fall": ["fall*"], "stand": ["stand"]}
    config = source(zoo, sequences=2, joined=[3, 5], actions=actions)
    found = list(sources.assets(config))
    assert [asset.uri for asset in found[:2]] == ["cats/Tim.glb#s0", "cats/Tim.glb#s1"]
    assert [asset.cls for asset in found] == ["cats"] * 4 + ["dogs"] * 2 + ["small"] * 2
    script = sources.open_clip(config, found[0].uri, 7)
    assert script.action_names == ("go", "fall", "stand")
    assert 3 <= len(script.plays) <= 5
    for item in script.plays:
        name = script.animated.clips[item.clip or 0].name.lower()
        assert {"rig|walk": 0, "rig|march": 0, "rig|fall_down": 1, "rig|stand": 2}[name] == item.action
    assert script.blend_s == 0.2
    assert script.character == "cats/Tim"


def test_a_clip_knows_its_action_and_its_period(zoo: Path) -> None:
    config = source(zoo, actions={"go": ["walk", "march"], "fall": ["fall*"]})
    walk, fall = (sources.open_clip(config, f"cats/Tim.glb#{n}", 0) for n in (0, 1))
    assert (walk.plays[0].action, walk.plays[0].period_s) == (0, 1.0)
    assert (fall.plays[0].action, fall.plays[0].period_s) == (1, None)
    assert (walk.name, walk.character) == ("Rig|Walk", "cats/Tim")


def test_content_differs_by_file_and_by_clip_and_not_by_place(zoo: Path, tmp_path: Path) -> None:
    config = source(zoo)
    digests = {sources.content_sha256(config, f"cats/{name}.glb#{n}") for name in ("Tom", "Tim") for n in ("0", "1", "s0")}
    assert len(digests) == 6
    zoo.rename(tmp_path / "moved")
    assert sources.content_sha256(source(tmp_path / "moved"), "cats/Tom.glb#0") in digests


def test_the_loaded_file_is_kept_until_it_changes(zoo: Path) -> None:
    config = source(zoo)
    first = open_animated(config, "cats/Tom.glb#0")
    assert open_animated(config, "cats/Tom.glb#3") is first
    character(zoo / "cats/Tom.glb", 3.0)
    os.utime(zoo / "cats/Tom.glb", ns=(1, 1))
    assert open_animated(config, "cats/Tom.glb#0") is not first


def test_what_is_kept_is_bounded(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 20_000)
    kept.forget()
    for number in range(5):
        for name in ("cats/Tom", "cats/Tim", "dogs/Rex"):
            open_animated(source(zoo), f"{name}.glb#{number}")
            assert sum(size for _, size in kept._held.values()) <= 20_000


def test_a_file_that_cannot_be_read_is_one_asset(zoo: Path) -> None:
    (zoo / "cats/Bad.glb").write_bytes(b"glTF but not really")
    bad = [asset for asset in listed(zoo) if "Bad" in asset.uri]
    assert [asset.uri for asset in bad] == ["cats/Bad.glb#0"]
    with pytest.raises(MeshError):
        sources.open_clip(source(zoo), bad[0].uri, 0)
    (zoo / "cats/Bad.glb").unlink()
    with pytest.raises(MeshError) as caught:
        sources.open_clip(source(zoo), bad[0].uri, 0)
    assert caught.value.reason == "io_error"


def test_keys_of_clips_are_plain_and_unique(zoo: Path) -> None:
    keys = make_plan(recipe(zoo)).table["key"].to_pylist()
    assert len(set(keys)) == 20
    assert "cats-tom-3" in keys
    assert "dogs-small-pip-0" in keys


@pytest.mark.parametrize(
    "values", [{"joined": [5, 3]}, {"joined": [0, 3]}, {"test_fraction": 0.2, "test": ["*"]}, {"loops": ["fly"], "actions": {"go": ["*"]}}]
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"joined is|use one of the two|none of actions"):
        source(tmp_path, **values)


def test_names_without_a_table_are_what_follows_the_last_bar(zoo: Path) -> None:
    from pipeline.sources.animated import action_of

    config = source(zoo)
    assert action_of(config, Clip("A|b|Jump High ", 0, 1), 0) == "jump high"
    assert action_of(config, Clip("", 0, 1), 4) == "clip 4"


def test_the_clips_of_a_creature_stay_on_one_side_of_a_validation_split() -> None:
    values = {"source": {"kind": "creatures", "per_kind": 6, "test_fraction": 0}, "clips": {}, "val_fraction": 0.4}
    table = make_plan(Recipe.model_validate(values)).table.to_pydict()
    sides: dict[str, set[str]] = {}
    for uri, split in zip(table["source"], table["split"], strict=True):
        sides.setdefault(uri.partition("#")[0], set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    assert {min(found) for found in sides.values()} == {"train", "val"}


def test_a_file_beside_a_character_counts_at_the_next_look(zoo: Path) -> None:
    tree = {"asset": {"version": "2.0"}, "images": [{"uri": "skin.png"}], "animations": [{"channels": [], "samplers": []}]}
    (zoo / "odd").mkdir()
    (zoo / "odd/a.gltf").write_text(json.dumps(tree))
    digests = []
    for content in ("red", "blue"):
        (zoo / "odd/skin.png").write_text(content)
        table = make_plan(recipe(zoo, files=["odd/*"])).table.to_pydict()
        digests += table["sha256"]
    assert len(set(digests)) == 2


def test_names_that_cannot_be_written_cost_nothing_but_themselves(zoo: Path) -> None:
    document = Document(nodes=[{"mesh": 0, "name": "arm \ud800"}], scenes=[{"nodes": [0]}])
    document.mesh(TRIANGLE)
    document.animate((0, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]], "LINEAR"), name="walk \udc00")
    document.save(zoo / "cats/Odd.glb")
    assert load_animated(zoo / "cats/Odd.glb").node_names == ("arm ?",)
    (zoo / "cats/Tim.glb").rename(os.fsdecode(os.fsencode(zoo) + b"/cats/T\xffm.glb"))
    plan = make_plan(recipe(zoo, files=["cats/*"]))
    assert plan.left_out == {"name that is not UTF-8": 5}
    assert sorted(set(plan.table["class"].to_pylist())) == ["fall_down", "march", "stand", "vanish", "walk", "walk ?"]


def test_what_the_folder_is_called_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for name in ("one", "two"):
        character(tmp_path / name / "Tom.glb")
        (tmp_path / name / "Bad.glb").write_bytes(b"glTF but not really")
        plans.append(make_plan(recipe(tmp_path / name, actions={"go": ["walk"]})))
    monkeypatch.chdir(tmp_path / "two")
    plans.append(make_plan(recipe(Path("."), actions={"go": ["walk"]})))
    assert len({plan.hash for plan in plans}) == 1
    assert sorted(plans[0].table["class"].to_pylist()) == ["", "go"]


def test_sequences_want_the_folder_that_is_their_class(zoo: Path) -> None:
    character(zoo / "Sam.glb")
    with pytest.raises(SourceError, match=r"Sam\.glb lies in no folder.*CLASS"):
        listed(zoo, sequences=1)
    assert len(listed(zoo, sequences=1, files=["*/**"])) == 4


def test_a_group_whose_first_name_is_not_utf_8_is_still_a_group(zoo: Path) -> None:
    (zoo / "cats/Tim.glb").rename(os.fsdecode(os.fsencode(zoo) + b"/cats/A\xffm.glb"))
    table = make_plan(recipe(zoo, files=["cats/*"], together=[["cats/*"]], test_fraction=0.5, val_fraction=0.5)).table
    assert len(table) == 5
    assert len(set(table["split"].to_pylist())) == 1


def test_an_action_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'walk' stands there twice"):
        source(tmp_path, classes=["walk", "run", "walk"])
