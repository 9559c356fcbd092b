"""Animated documents that do not hold together: each is refused in a sentence, and a damaged clip costs that clip alone."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from render.animation import list_clips, load_animated
from render.checks import REASONS
from render.gltf import item
from render.meshes import MeshError
from tests.render.gltf_files import BYTE, SHORT, TRIANGLE, UBYTE, UINT, Document, rigged


def refused(document: Document, tmp_path: Path) -> MeshError:
    """The error of loading it or of posing its clips, whichever comes first."""
    path = document.save(tmp_path / "bad.glb")
    with pytest.raises(MeshError) as caught:
        load_and_pose(path)
    text = str(caught.value)
    assert caught.value.reason in REASONS
    assert str(path) in text
    assert text.endswith(".")
    assert "\n" not in text
    return caught.value


def load_and_pose(path: Path) -> None:
    animated = load_animated(path)
    for clip in range(len(animated.clips)):
        animated.pose(clip, np.linspace(-1, 3, 5))


def damage_sampler(document: Document, what: str, number: int) -> None:
    document.tree["animations"][0]["samplers"][0][what] = number


def sparse(document: Document, places: np.ndarray, component: int) -> None:
    indices = {"bufferView": document.view(places.tobytes()), "componentType": component}
    values = {"bufferView": document.view(np.zeros(3, "<f4").tobytes())}
    document.tree["accessors"][4].update(sparse={"count": 1, "indices": indices, "values": values})


def textured(document: Document, info: dict[str, int], **texture: int) -> None:
    pixel = "data:image/png;base64,"
    more = {"images": [{"uri": pixel}], "samplers": [{}], "textures": [{"source": 0} | texture]}
    document.tree.update(more | {"materials": [{"pbrMetallicRoughness": {"baseColorTexture": info}}]})
    document.tree["meshes"][0]["primitives"][0].update(material=0)


IDENTITY = [0.0, 0, 0, 1]
DAMAGES: dict[str, Any] = {
    "key times that are NaN": lambda d: damage_sampler(d, "input", d.add([0, np.nan, 1, 2])),
    "key times that repeat": lambda d: damage_sampler(d, "input", d.add([0, 1, 1, 2])),
    "key times that fall": lambda d: damage_sampler(d, "input", d.add([0, 2, 1, 3])),
    "no keys": lambda d: damage_sampler(d, "input", d.add(np.zeros(0))),
    "times of three numbers": lambda d: damage_sampler(d, "input", d.add(np.cumsum(np.ones((4, 3)), axis=0))),
    "more values than keys": lambda d: damage_sampler(d, "output", d.add([IDENTITY] * 5)),
    "fewer values than keys": lambda d: damage_sampler(d, "output", d.add([IDENTITY] * 3)),
    "values that are NaN": lambda d: damage_sampler(d, "output", d.add([IDENTITY, [np.nan] * 4, IDENTITY, IDENTITY])),
    "a rotation of length 0": lambda d: damage_sampler(d, "output", d.add([IDENTITY, [0] * 4, IDENTITY, IDENTITY])),
    "an unknown interpolation": lambda d: d.tree["animations"][0]["samplers"][0].update(interpolation="BOUNCE"),
    "a sampler that is not there": lambda d: d.tree["animations"][0]["channels"][0].update(sampler=9),
    "a node that is not there": lambda d: d.tree["animations"][0]["channels"][0].update(target={"node": 77, "path": "rotation"}),
    "a node that is no number": lambda d: d.tree["animations"][0]["channels"][0].update(target={"node": "x", "path": "rotation"}),
    "a moved node with a matrix": lambda d: d.tree["nodes"][2].update(matrix=np.eye(4).ravel().tolist()),
    "animations that are no list": lambda d: d.tree.update(animations={"a": 1}),
    "a cut accessor": lambda d: d.tree["accessors"][d.tree["animations"][0]["samplers"][0]["output"]].update(byteOffset=1 << 20),
    "a negative offset": lambda d: d.tree["accessors"][1].update(byteOffset=-400),
    "a joint that is not there": lambda d: d.tree["meshes"][0]["primitives"][0]["attributes"].update(
        JOINTS_0=d.add([[9, 9, 9, 9]] * 30, UBYTE)
    ),
    "joints that are floats": lambda d: d.tree["meshes"][0]["primitives"][0]["attributes"].update(JOINTS_0=d.add([[0.0] * 4] * 30)),
    "joints below 0": lambda d: d.tree["meshes"][0]["primitives"][0]["attributes"].update(JOINTS_0=d.add([[-1] * 4] * 30, SHORT)),
    "too few weights": lambda d: d.tree["meshes"][0]["primitives"][0]["attributes"].update(WEIGHTS_0=d.add([[1, 0, 0, 0]] * 29)),
    "joints without weights": lambda d: d.tree["meshes"][0]["primitives"][0]["attributes"].pop("WEIGHTS_0"),
    "a joint outside the scene": lambda d: d.tree["scenes"][0].update(nodes=[0, 3]),
    "a skin without joints": lambda d: d.tree["skins"][0].update(joints=[]),
    "a skin that is not there": lambda d: d.tree["nodes"][0].update(skin=4),
    "too few inverse matrices": lambda d: d.tree["skins"][0].update(inverseBindMatrices=d.add(np.ones((4, 4, 4)))),
    "a ring of nodes": lambda d: d.tree["nodes"][6].update(children=[1]),
    "a node with two parents": lambda d: d.tree["nodes"][6].update(children=[5]),
    "a morph target of another length": lambda d: d.tree["meshes"][0]["primitives"][0].update(targets=[{"POSITION": d.add(TRIANGLE)}]),
    "morph targets without end": lambda d: d.tree["meshes"][0]["primitives"][0].update(targets=[{}] * 1_000_000),
    "a sparse vertex that is not there": lambda d: sparse(d, np.array([31], "<u4"), UINT),
    "a sparse vertex counted from the end": lambda d: sparse(d, np.array([-1], "<i1"), BYTE),
    "a skin counted from the end": lambda d: d.tree["nodes"][0].update(skin=-1),
    "a mesh counted from the end": lambda d: d.tree["nodes"][0].update(mesh=-1),
    "a scene counted from the end": lambda d: d.tree.update(scene=-1),
    "a sampler counted from the end": lambda d: d.tree["animations"][0]["channels"][0].update(sampler=-2),
    "an accessor counted from the end": lambda d: damage_sampler(
        d, "input", d.tree["animations"][0]["samplers"][0]["input"] - len(d.tree["accessors"])
    ),
    "a buffer view counted from the end": lambda d: d.tree["accessors"][4].update(bufferView=-len(d.tree["bufferViews"]) + 4),
    "a buffer counted from the end": lambda d: d.tree["bufferViews"][4].update(buffer=-1),
    "a skin that is a truth value": lambda d: d.tree["nodes"][0].update(skin=False),
    "a joint that is a truth value": lambda d: d.tree["skins"][0].update(joints=[4, 2, 6, 3, True]),
    "a child that is a truth value": lambda d: d.tree["scenes"][0].update(nodes=[0, True]),
    "a material counted from the end": lambda d: (d.tree.update(materials=[{}]), d.tree["meshes"][0]["primitives"][0].update(material=-1)),
    "a texture counted from the end": lambda d: textured(d, {"index": -1}),
    "a picture counted from the end": lambda d: textured(d, {"index": 0}, source=-1),
    "a texture's sampler counted from the end": lambda d: textured(d, {"index": 0}, sampler=-1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_documents_are_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    document = rigged(13)
    DAMAGES[damage](document)
    assert refused(document, tmp_path).reason in ("unreadable", "too_large")


def test_a_damaged_clip_leaves_the_others_usable(tmp_path: Path) -> None:
    document = rigged(14)
    document.tree["animations"][1]["samplers"][0]["output"] = document.add([[np.nan] * 4] * 4)
    animated = load_animated(document.save(tmp_path / "a.glb"))
    assert len(animated.clips) == 3
    with pytest.raises(MeshError, match="animation 1 has values"):
        animated.pose(1, np.zeros(1))
    assert np.isfinite(animated.pose(2, np.zeros(1))).all()


@pytest.mark.parametrize("kind", ["SCALAR", "MAT4"])
def test_damaged_key_times_cost_their_clip_and_little_memory(tmp_path: Path, kind: str) -> None:
    document = rigged(14)
    document.tree["accessors"].append({"componentType": 5126, "count": 50_000_000, "type": kind})
    document.tree["animations"][1]["samplers"][0]["input"] = len(document.tree["accessors"]) - 1
    document.tree["animations"][2]["samplers"][1]["input"] = document.add([0.5, 0.5])
    path = document.save(tmp_path / "a.glb")
    tracemalloc.start()
    try:
        clips = list_clips(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert [clip.duration_s for clip in clips] == [2, 0, 0]
    animated = load_animated(path)
    for number in (1, 2):
        with pytest.raises(MeshError, match=f"key times of animation {number}"):
            animated.pose(number, np.zeros(1))
    assert np.isfinite(animated.pose(0, np.zeros(1))).all()


def test_bytes_changed_at_random_never_do_worse_than_an_error(tmp_path: Path) -> None:
    whole = rigged(15).save(tmp_path / "a.glb").read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "b.glb"
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 12)):
            data[place] = random.choice(np.frombuffer(b'0123456789-[]{},.e"\xff\x00', np.uint8))
        path.write_bytes(bytes(data))
        try:
            load_and_pose(path)
            outcomes.add("usable")
        except MeshError as error:
            outcomes.add(error.reason)
    assert {"usable", "unreadable"} <= outcomes <= {"usable", *REASONS}


def test_items_are_taken_by_their_number_alone() -> None:
    assert [item("ab", number) for number in (0, 1)] == ["a", "b"]
    for number in (-1, 2, True, False, 0.0, "0", None):
        with pytest.raises(IndexError):
            item("ab", number)
