from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_yaml
from pipeline.recipe import Recipe, load_recipe


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points:\n  cuont: 4\n", r"recipe.yaml, line 2: points.cuont is no key here; did you mean count\?"),
        ("name: a\nrendrer: raster\n", r"recipe.yaml, line 2: rendrer is no key here; did you mean renderer\?"),
        ("renderer: rastr\n", r"recipe.yaml, line 1: renderer cannot be 'rastr'; did you mean raster\?"),
        ("points:\n  count: many\n", r"line 2: points.count should be a valid integer.*, not 'many'\."),
        ("points:\n  count: 0\n", r"line 2: points.count should be greater than or equal to 1, not 0\."),
        ("points: 7\n", r"line 1: points should be a valid dictionary"),
        ("views:\n  rig:\n    kind: ring\n    cuont: 3\n", r"line 4: views.rig.cuont is no key here; did you mean count\?"),
        ("source:\n  kind: foldr\n  path: x\n", r"line 1: source.kind cannot be 'foldr'; did you mean folder\?"),
        ("source:\n  path: x\n", r"line 1: source.kind is missing; add it\."),
        ("source:\n  kind: folder\n", r"line 1: source.path is missing; add it\."),
        ("source:\n  kind: folder\n  path: x\n  labels:\n    csv: a.csv\n    clas: b\n", r"line 6: source.labels.clas is no key here"),
        (
            "style:\n  lights:\n    - {direction: [0, 0, 1], intensity: 1}\n    - {direction: [0, 0, 1], power: 1}\n",
            r"line 4: style.lights.1.\w+ is",
        ),
        ("name: a\nname: b\n", r"line 2: the key name stands twice; keep one of the two\."),
        ("name: [a\n", r"line 2: this is not valid YAML"),
        ("- a\n", r"the file must hold keys with values, not a list\."),
        ("views: {depth: true, rig: {distance: 9}}\n", r"views.depth holds up to 8 radii; choose a views.rig.distance below 7"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?", ")."))


def test_an_absent_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read \(No such file or directory\); give"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "# nothing\n")) == Recipe()


def test_overrides_win_and_reach_into_lists_and_absent_parts(tmp_path: Path) -> None:
    path = write(tmp_path, "points: {count: 5}\nstyle:\n  lights:\n    - {direction: [0, 0, 1], intensity: 1}\n")
    recipe = load_recipe(path, ["points.count=9", "style.lights.0.intensity=0.5", "views.rig.size=64", "views.mask=true", "seed=1"])
    assert (recipe.points.count, recipe.style.lights[0].intensity, recipe.views.rig.size, recipe.views.mask, recipe.seed) == (
        9,
        0.5,
        64,
        True,
        1,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("points.cuont=3", r"'points.cuont=3': points.cuont is no key here; did you mean count\?"),
        ("points.count=x", r"'points.count=x': points.count should be a valid integer"),
        ("points.count", r"'points.count' sets nothing; write KEY=VALUE"),
        ("name.first=3", r"'name.first=3': name is the value 'a' and has no keys of its own"),
        ("style.lights.4.intensity=1", r"is a list of 1; use a number from 0 to 0"),
    ],
)
def test_a_wrong_override_is_named_itself(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "name: a\nstyle:\n  lights:\n    - {direction: [0, 0, 1], intensity: 1}\n")
    with pytest.raises(ConfigError, match=message):
        load_yaml(path, Recipe, [override])


def test_the_identity_is_what_changes_bytes() -> None:
    base = Recipe.model_validate({"source": {"kind": "folder", "path": "a"}})
    same = [{"name": "b"}, {"limits": {"seconds": 1, "memory_mb": 100}}, {"source": {"kind": "folder", "path": "b"}}]
    other = [
        {"seed": 1},
        {"points": {"count": 5}},
        {"views": {"mask": True}},
        {"shard_assets": 5},
        {"val_fraction": 0.1},
        {"limits": {"max_faces": 5}},
        {"style": {"ambient": 0.5}},
        {"source": {"kind": "folder", "path": "a", "common_classes": True}},
    ]
    values = base.model_dump(mode="json")
    assert {Recipe.model_validate(values | change).resolved_hash() for change in same} == {base.resolved_hash()}
    hashes = {Recipe.model_validate(values | change).resolved_hash() for change in other}
    assert len(hashes) == len(other)
    assert base.resolved_hash() not in hashes


def test_the_order_of_tables_that_number_their_entries_is_part_of_the_identity() -> None:
    def hashed(actions: dict[str, list[str]], parts: dict[str, list[str]]) -> str:
        source = {"kind": "animated", "path": "a", "actions": actions}
        return Recipe.model_validate({"source": source, "clips": {"parts": parts}}).resolved_hash()

    one, two = {"a": ["x"], "b": ["*"]}, {"b": ["*"], "a": ["x"]}
    assert len({hashed(actions, parts) for actions in ({}, one, two) for parts in ({}, one, two)}) == 9
    assert hashed(one, two) == hashed(dict(one), dict(two))


def test_a_dumped_recipe_is_read_as_the_same(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"source": {"kind": "folder", "path": "a", "labels": {"csv": "b.csv", "key": "id", "class": "group"}}})
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
