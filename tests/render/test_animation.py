"""Meshes that move: against a slow evaluator written after the specification, and against other programs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy._core import _multiarray_umath as numpy_core
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation, Slerp

from render.animation import Animated, Clip, list_clips, load_animated, still
from render.meshes import load
from tests.render.gltf_files import BYTE, FLOAT, SHORT, TRIANGLE, UBYTE, USHORT, Document, Evaluator, rigged

ROOT = Path(__file__).parents[2] / ".data"
DATA, DRACO = ROOT / "animated", ROOT / "animated-draco"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data set animated is not here")
needs_draco = pytest.mark.skipif(not DRACO.is_dir(), reason="the data set animated-draco is not here")


def diagonal(vertices: np.ndarray) -> float:
    return float(np.linalg.norm(vertices.max(axis=0) - vertices.min(axis=0)))


def files(folder: Path, pattern: str = "**/*") -> list[Path]:
    found = sorted(path for path in folder.glob(pattern) if path.suffix in (".glb", ".gltf") and "meshopt" not in path.parts)
    assert found
    return found


def agree(path: Path, clips: int, times: int, vertices: int) -> None:
    """Poses of some clips at some times, before the first key and behind the last one too, against the evaluator at some vertices."""
    animated, slow = load_animated(path), Evaluator(path)
    size = diagonal(animated.mesh.vertices[np.unique(animated.mesh.faces)])
    every = max(len(animated.mesh.vertices) // vertices, 1)
    count = len(animated.clips)
    chosen = [None, *sorted({round(c) for c in np.linspace(0, count - 1, min(count, clips))})]
    for clip in chosen:
        at = np.zeros(1)
        if clip is not None:
            start, duration = animated.clips[clip].start_s, animated.clips[clip].duration_s
            at = start + duration * np.linspace(-0.1, 1.1, times)
        for time, found in zip(at, animated.pose(clip, at), strict=True):
            expected = slow.vertices(clip, float(time), every)
            assert expected.shape == found.shape
            known = ~np.isnan(expected[:, 0])
            assert known.any()
            assert np.abs(found - expected)[known].max() <= 1e-5 * size, (clip, time)


# One or more for each line of the table of features in the notes that came with the files.
FEATURES = [
    "features/SimpleSkin-glTF/SimpleSkin.gltf",
    "features/RiggedSimple.glb",
    "features/RecursiveSkeletons.glb",
    "features/InterpolationTest.glb",
    "features/BoxAnimated.glb",
    "features/CesiumMilkTruck.glb",
    "features/AnimatedTriangle.gltf",
    "features/AnimatedCube-glTF/AnimatedCube.gltf",
    "features/MorphStressTest.glb",
    "features/MorphPrimitivesTest.glb",
    "features/AnimatedMorphCube.glb",
    "features/AnimatedMorphCube-glTF-Quantized/AnimatedMorphCube.gltf",
    "features/AnimatedMorphSphere.glb",
    "features/SimpleMorph.gltf",
    "features/SimpleSparseAccessor.gltf",
    "features/singleBlendshapeCube_sparse.glb",
    "features/unsupported/CesiumMan-glTF-Draco/CesiumMan.gltf",
    *(f"features/asset-generator/Animation_Node/Animation_Node_0{n}.gltf" for n in range(6)),
    *(f"features/asset-generator/Animation_NodeMisc/Animation_NodeMisc_0{n}.gltf" for n in range(9)),
    *(f"features/asset-generator/Animation_SamplerType/Animation_SamplerType_0{n}.gltf" for n in range(3)),
    *(f"features/asset-generator/Animation_Skin/Animation_Skin_{n:02d}.gltf" for n in range(12)),
    *(f"features/asset-generator/Animation_SkinType/Animation_SkinType_0{n}.gltf" for n in range(4)),
    "characters/three-birds/*",
    "characters/kaykit-adventurers/Barbarian.glb",
    "characters/kenney-mini-characters/*",
    "characters/kenney-platformer-kit/character.glb",
    "characters/khronos-samples/*",
    "characters/quaternius-cube-world/*at*",
    "characters/quaternius-easy-enemies/Wasp.glb",
    "characters/quaternius-platformer/*",
    "characters/quaternius-tanks/*",
    "characters/quaternius-toon-shooter/*",
    "characters/robot-expressive/*",
]


@needs_data
@pytest.mark.parametrize("pattern", FEATURES)
def test_poses_are_those_of_the_specification_for_every_feature(pattern: str) -> None:
    few = "features" in pattern
    for path in files(DATA, pattern)[: 3 if few else 2]:
        agree(path, clips=9 if few else 2, times=4 if few else 3, vertices=30 if few else 20)


@pytest.mark.slow
@needs_data
@needs_draco
def test_every_clip_of_every_character_is_that_of_the_specification() -> None:
    for path in files(DATA) + files(DRACO):
        agree(path, clips=1000, times=3, vertices=30)


@needs_data
@pytest.mark.parametrize("name", ["animated", "animated-draco"])
def test_movement_is_what_another_program_measured(name: str) -> None:
    """Columns of clips.csv, over nine times of each clip on at most 1,500 vertices. Displacements are relative to the first frame's box."""
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip("the data set is not here")
    with (folder / "clips.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["motion"]]
    loaded: dict[str, Animated] = {}
    off = []
    # The other program's last time lies before the last key of these, which a step does not reach.
    rows = [row for row in rows if "STEP" not in row["interpolation"]][::61]
    for row in rows:
        if row["file"] not in loaded:
            loaded[row["file"]] = load_animated(folder / row["file"])
        animated = loaded[row["file"]]
        clip = animated.clips[int(row["clip_index"])]
        assert clip.name == row["clip"]
        assert clip.start_s == pytest.approx(float(row["start_s"]), abs=1e-4)
        assert clip.duration_s == pytest.approx(float(row["duration_s"]), abs=1e-4)
        frames = animated.pose(int(row["clip_index"]), np.linspace(clip.start_s, clip.start_s + clip.duration_s, 9))
        frames = frames[:, np.unique(animated.mesh.faces)]
        moved = np.linalg.norm(frames - frames[0], axis=2) / diagonal(frames[0])
        centroid = np.linalg.norm((frames - frames[0]).mean(axis=1), axis=1).max() / diagonal(frames[0])
        for column, value in (("motion", moved.max()), ("loop_gap", moved[-1].max()), ("travel", centroid)):
            off.append(abs(value - float(row[column])) / max(value, 0.1))
    assert len(rows) > 8
    assert np.quantile(off, 0.9) < 0.02
    assert max(off) < 0.15


@needs_data
def test_the_same_character_with_and_without_draco_moves_alike() -> None:
    plain = load_animated(DATA / "characters/khronos-samples/CesiumMan.glb")
    compressed = load_animated(DATA / "features/unsupported/CesiumMan-glTF-Draco/CesiumMan.gltf")
    assert len(plain.mesh.faces) == len(compressed.mesh.faces)
    times = np.linspace(0, 2, 7)
    for a, b in zip(plain.pose(0, times), compressed.pose(0, times), strict=True):
        size = diagonal(a)
        assert np.abs(a.min(axis=0) - b.min(axis=0)).max() < 1e-3 * size
        assert np.abs(a.max(axis=0) - b.max(axis=0)).max() < 1e-3 * size
        # faces come in another order: compare them by their centres, sorted
        centres = (np.sort(np.linalg.norm(v[m.faces].mean(axis=1), axis=1)) for v, m in ((a, plain.mesh), (b, compressed.mesh)))
        first, second = centres
        assert np.abs(first - second).max() < 1e-3 * size


@needs_data
@needs_draco
@pytest.mark.slow
def test_every_character_loads_and_the_repaired_ones_are_flagged() -> None:
    flagged = set()
    for path in files(DATA) + files(DRACO):
        animated = load_animated(path)
        assert animated.clips == list_clips(path)
        assert set(np.unique(animated.face_nodes)) <= set(range(len(animated.node_names)))
        assert np.isfinite(animated.mesh.vertices).all()
        assert np.array_equal(animated.pose(None, np.zeros(1))[0], load(path).vertices)
        flagged |= {path.stem for flag in animated.mesh.flags if flag == "skin_weights_repaired"}
    assert flagged == {"Wasp", "Bee", "Crab", "RobotExpressive"}


# small documents


def moving(tmp_path: Path, path: str, times: Any, values: Any, mode: str, **node: Any) -> Animated:
    document = Document(nodes=[{"mesh": 0} | node])
    document.mesh(TRIANGLE)
    document.animate((0, path, times, values, mode), name="move")
    return load_animated(document.save(tmp_path / "a.glb"))


def test_steps_lines_and_splines_of_a_translation(tmp_path: Path) -> None:
    keys = np.array([0.5, 1.0, 3.0])
    random = np.random.default_rng(1)
    into, value, out = random.normal(size=(3, 3, 3)).astype(np.float32)
    at = np.array([-1, 0.5, 0.75, 0.999, 1.0, 1.5, 2.5, 3.0, 9.0])
    held = np.clip(at, 0.5, 3)
    expected = {
        "STEP": value[[0, 0, 0, 0, 1, 1, 1, 2, 2]],
        "LINEAR": np.stack([np.interp(held, keys, value[:, axis]) for axis in range(3)], axis=1),
    }
    for mode, truth in expected.items():
        animated = moving(tmp_path, "translation", keys, value, mode)
        assert animated.clips == (Clip("move", 0.5, 2.5),)
        assert np.abs(animated.pose(0, at)[:, 0] - truth).max() < 1e-6
    spline = moving(tmp_path, "translation", keys, np.stack((into, value, out), axis=1).reshape(-1, 3), "CUBICSPLINE")
    for k in range(2):
        truth = CubicHermiteSpline(keys[k : k + 2], value[k : k + 2], np.stack((out[k], into[k + 1])))
        inside = (held >= keys[k]) & (held <= keys[k + 1])
        assert np.abs(spline.pose(0, at)[inside, 0] - truth(held[inside])).max() < 1e-6


def test_linear_rotations_take_the_shorter_arc(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    keys = np.cumsum(random.uniform(0.01, 1, 40)).astype(np.float32)
    turns = Rotation.random(40, random_state=3)
    # steps of every size, from none over the tiny and the small to half a turn
    steps = np.array([0, 1e-12, 1e-7, 1e-4, 0.1, 1.5, 3.1, np.pi - 1e-6])
    for k, angle in enumerate(steps, start=1):
        axis = random.normal(size=3)
        turns[k] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle) * turns[k - 1]
    stored = (turns.as_quat() * random.choice([-1, 1], (40, 1))).astype(np.float32)
    at = np.sort(random.uniform(keys[0], keys[-1], 500))
    truth = Slerp(keys, Rotation.from_quat(stored))(at).as_matrix()
    found = moving(tmp_path, "rotation", keys, stored, "LINEAR").pose(0, at)
    # the triangle's corners are the origin and the ends of the x and y axes
    assert np.abs(found[:, 1] - truth[:, :, 0]).max() < 1e-6
    assert np.abs(found[:, 2] - truth[:, :, 1]).max() < 1e-6


def test_splines_of_rotations_are_brought_to_length_one(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    keys = np.array([0.0, 0.25, 1.0])
    value = Rotation.random(3, random_state=5).as_quat()
    into, out = random.normal(size=(2, 3, 4))
    stored = np.stack((into, value, out), axis=1).reshape(-1, 4)
    animated = moving(tmp_path, "rotation", keys, stored, "CUBICSPLINE")
    at = np.linspace(0.25, 1, 20)
    spline = CubicHermiteSpline(keys[1:], value[1:], np.stack((out[1], into[2])))(at)
    truth = Rotation.from_quat(spline).as_matrix()
    assert np.abs(animated.pose(0, at)[:, 1] - truth[:, :, 0]).max() < 1e-5


@pytest.mark.parametrize(("component", "steps"), [(BYTE, 127), (UBYTE, 255), (SHORT, 32767), (USHORT, 65535)])
def test_rotations_and_weights_stored_as_normalised_integers(tmp_path: Path, component: int, steps: int) -> None:
    quarter = np.array([[0, 0, 0, 1], [0, 0, np.sqrt(0.5), np.sqrt(0.5)]])
    animated = moving(tmp_path, "rotation", [0, 1], (np.round(quarter * steps), component), "LINEAR")
    turned = animated.pose(0, np.array([0.5, 1.0]))[:, 1]
    # √½ in few bits is off, but the same in both numbers, and the result has length one
    assert np.abs(turned - [[np.sqrt(0.5), np.sqrt(0.5), 0], [0, 1, 0]]).max() < 1e-6
    document = Document(nodes=[{"mesh": 0}])
    document.mesh(TRIANGLE, targets=[np.ones((3, 3))])
    document.animate((0, "weights", [0, 1], (np.array([0, steps // 3]), component), "LINEAR"))
    found = load_animated(document.save(tmp_path / "b.glb")).pose(0, np.array([0.5, 1.0]))
    assert np.abs(found[:, 0, 0] - np.array([0.5, 1.0]) * (steps // 3) / steps).max() < 1e-6


def test_the_most_negative_integer_stands_for_minus_one(tmp_path: Path) -> None:
    animated = moving(tmp_path, "rotation", [0, 1], (np.array([[-128, 0, 0, 0], [-127, 0, 0, 0]]), BYTE), "STEP")
    assert np.array_equal(*animated.pose(0, np.array([0.0, 1.0])))


def test_channels_of_other_spans_single_keys_and_channels_to_ignore(tmp_path: Path) -> None:
    document = Document(
        nodes=[{"mesh": 0, "translation": [9, 9, 9], "scale": [1, 1, 2]}, {"translation": [5, 0, 0]}], scenes=[{"nodes": [0]}]
    )
    document.mesh(TRIANGLE)
    document.animate(
        (0, "translation", [1, 2], [[0, 0, 0], [1, 0, 0]], "LINEAR"),
        (0, "scale", [0.5, 4], [[1, 1, 1], [8, 1, 1]], "LINEAR"),
        (0, "rotation", [3], [[0, 0, 1, 0]], "LINEAR"),
        (None, "translation", [0, 50], [[0, 0, 0], [7, 7, 7]], "LINEAR"),
        (0, "pointer", [0, 60], [[0, 0, 0], [7, 7, 7]], "LINEAR"),
        (1, "translation", [1, 2], [[0, 0, 0], [7, 7, 7]], "LINEAR"),
        (0, "weights", [1, 2], [0, 1], "LINEAR"),
    )
    document.animate((None, "translation", [3, 4], [[0, 0, 0], [7, 7, 7]], "LINEAR"))
    document.animate((0, "translation", [1], [[0, 0, 3]], "STEP"))
    animated = load_animated(document.save(tmp_path / "a.glb"))
    assert animated.clips == (Clip("", 0.5, 3.5), Clip("", 0.0, 0.0), Clip("", 1.0, 0.0))
    assert list_clips(tmp_path / "a.glb") == animated.clips
    # the x axis is turned to −x throughout, moved from 1 s to 2 s, stretched from 0.5 s to 4 s
    assert np.allclose(animated.pose(0, np.array([0, 1.5, 2.25, 9]))[:, 1, 0], [-1, 0.5 - 3, 1 - 4.5, 1 - 8])
    assert np.array_equal(animated.pose(1, np.array([3.5]))[0], animated.mesh.vertices)
    assert np.allclose(animated.pose(2, np.array([0, 2]))[:, 0], [0, 0, 3])


def test_morph_weights_from_mesh_node_and_keys(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    deltas = random.normal(size=(3, 3, 3)).astype(np.float32)
    for given, weights in (({}, [0.5, 0, 0.25]), ({"weights": [1, 2, 3]}, [1, 2, 3])):
        document = Document(nodes=[{"mesh": 0, "scale": [2, 2, 2]} | given])
        # the third target lies in a sparse accessor without a buffer of its own: two vertices moved, the other not
        sparse = {
            "count": 2,
            "indices": {"bufferView": document.view(np.array([0, 2], "<u2").tobytes()), "componentType": USHORT},
            "values": {"bufferView": document.view(deltas[2, [0, 2]].tobytes())},
        }
        document.tree["accessors"].append({"componentType": FLOAT, "count": 3, "type": "VEC3", "sparse": sparse})
        deltas[2, 1] = 0
        document.mesh(TRIANGLE, targets=[deltas[0], deltas[1], 0], weights=[0.5, 0, 0.25])
        keys = random.normal(size=(2, 3, 3)).astype(np.float32)
        document.animate((0, "weights", [0, 2], keys[:, 1].reshape(-1), "LINEAR"))
        document.animate((0, "weights", [0, 2], keys.reshape(-1), "CUBICSPLINE"))
        animated = load_animated(document.save(tmp_path / "a.glb"))
        assert np.allclose(animated.mesh.vertices, 2 * (TRIANGLE + np.tensordot(weights, deltas, 1)), atol=1e-6)
        at = np.array([0.3, 1.7])
        lines = np.array([np.interp(at, [0, 2], keys[:, 1, k]) for k in range(3)]).T
        splines = CubicHermiteSpline([0, 2], keys[:, 1], np.stack((keys[0, 2], keys[1, 0])))(at)
        for clip, truth in enumerate((lines, splines)):
            assert np.allclose(animated.pose(clip, at), 2 * (TRIANGLE + np.tensordot(truth, deltas, 1)), atol=1e-5)


def test_skins_with_eight_influences_and_odd_weights(tmp_path: Path) -> None:
    path = rigged(11).save(tmp_path / "a.glb")
    animated, slow = load_animated(path), Evaluator(path)
    assert animated.mesh.flags == ("skin_weights_repaired",)
    assert np.array_equal(animated.mesh.vertices, load(path).vertices)
    for clip in (None, 0, 1, 2):
        at = np.array([0, 0.2, 0.9, 1.4, 3])
        truth = np.stack([slow.vertices(clip, t) for t in at])
        assert np.abs(animated.pose(clip, at) - truth).max() < 1e-5


def test_poses_do_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    animated = load_animated(rigged(12).save(tmp_path / "a.glb"))
    at = np.linspace(0, 2, 9)
    whole = animated.pose(1, at)
    animated.pose(2, at[::-1])
    assert np.array_equal(animated.pose(1, at), whole)
    for k in (8, 0, 3):
        assert np.array_equal(animated.pose(1, at[k : k + 1])[0], whole[k])
    assert np.array_equal(animated.pose(None, at), np.repeat(animated.mesh.vertices[None], 9, axis=0))
    assert animated.pose(1, at[:0]).shape == (0, 30, 3)
    for clip in (-1, 3):
        with pytest.raises(IndexError):
            animated.pose(clip, at)
    with pytest.raises(ValueError, match="times"):
        animated.pose(0, np.array([np.nan]))


def test_faces_belong_to_the_node_that_moves_most_of_them(tmp_path: Path) -> None:
    joints = [[0, 1, 0, 0]] * 9
    weights = [
        *([1, 0, 0, 0], [0, 1, 0, 0], [0.4, 0.6, 0, 0]),  # 1.4 : 1.6
        *([0, 1, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]),  # a tie: the skin's first joint
        *([0, 1, 0, 0], [0, 1, 0, 0], [9, 0, 0, 0]),  # 1 : 2 once the weights sum to one
    ]
    document = Document(
        nodes=[
            {"mesh": 0, "skin": 0},
            {"name": "hip", "children": [2]},
            {"name": "knee", "children": [3]},
            {"name": "boot", "mesh": 1},
            {"mesh": 1},
            {"name": "nothing"},
        ],
    )
    document.mesh(np.random.default_rng(0).normal(size=(9, 3)), JOINTS_0=document.add(joints, UBYTE), WEIGHTS_0=document.add(weights))
    document.mesh(TRIANGLE)
    document.tree["skins"] = [{"joints": [2, 1]}]
    animated = load_animated(document.save(tmp_path / "a.glb"))
    assert animated.node_names == ("hip", "knee", "boot", "node4")
    assert animated.face_nodes.dtype == np.int32
    assert [animated.node_names[n] for n in animated.face_nodes] == ["hip", "knee", "hip", "boot", "node4"]


def test_what_does_not_move_can_be_posed_too(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    (tmp_path / "a.labels").write_text("wing\n1\n")
    for animated, names in ((load_animated(path), ()), (still(load(path, labels=tmp_path / "a.labels")), ("wing",))):
        assert animated.clips == ()
        assert animated.node_names == names
        assert animated.mesh.parts is None
        assert animated.face_nodes.tolist() == [len(names) - 1]
        assert animated.pose(None, np.zeros(4)).tolist() == [TRIANGLE] * 4
    assert list_clips(path) == ()


CODE = """
import hashlib, sys
import numpy as np
from render.animation import load_animated

animated = load_animated(sys.argv[1])
digest = hashlib.sha256(animated.mesh.vertices.tobytes())
for clip in range(len(animated.clips)):
    digest.update(animated.pose(clip, np.linspace(-0.1, 2.1, 500)).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_poses_do_not_depend_on_the_processor(tmp_path: Path) -> None:
    path = rigged(16).save(tmp_path / "a.glb")
    able = " ".join(name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__.get(name))
    least = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": able}
    digests = set()
    for name, limits in (("full", {}), ("least", least)):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / name)} | limits
        run = subprocess.run(
            [sys.executable, "-c", CODE, str(path)], cwd=ROOT.parent, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
