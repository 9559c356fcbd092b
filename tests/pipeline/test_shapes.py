"""The built-in shapes: sound, labelled, varied, and the same everywhere."""

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from pipeline.sources.model import Dice
from pipeline.sources.shapes import CLASSES, make
from pipeline.sources.solids import (
    Solid,
    bar,
    box,
    cylinder,
    ellipsoid,
    lathe,
    mirrored,
    moved,
    prism,
    rounded_box,
    tapered_box,
    tube,
    turned,
)
from render.checks import check, normalize
from render.meshes import Mesh
from render.surface import sample

SEEDS = range(8)


def digest(mesh: Mesh) -> str:
    parts = (mesh.vertices, mesh.faces, mesh.face_material, mesh.parts, np.stack([material.base_color for material in mesh.materials]))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def test_there_are_enough_classes() -> None:
    assert len(CLASSES) >= 12
    assert len(set(CLASSES)) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_shape_is_sound_colored_and_labelled(cls: str) -> None:
    for seed in SEEDS:
        mesh = make(cls, seed)
        assert check(mesh).flags == ()
        assert 100 < len(mesh.faces) < 20_000
        assert len(mesh.materials) >= 2
        assert mesh.parts is not None
        assert set(mesh.parts.tolist()) == set(range(len(mesh.part_names)))
        assert len(mesh.part_names) >= 2
        assert set(mesh.face_material.tolist()) == set(range(len(mesh.materials)))
        for material in mesh.materials:
            assert 0 <= material.base_color.min() <= material.base_color.max() <= 1


@pytest.mark.parametrize("cls", CLASSES)
def test_a_seed_gives_one_shape_and_another_seed_another(cls: str) -> None:
    digests = [digest(make(cls, seed)) for seed in SEEDS]
    assert digests == [digest(make(cls, seed)) for seed in SEEDS]
    assert len(set(digests)) == len(digests)


def test_another_process_makes_the_same_shapes() -> None:
    code = (
        "import hashlib, numpy as np\nfrom pipeline.sources.shapes import CLASSES, make\n"
        "for cls in CLASSES:\n m = make(cls, 5)\n print(hashlib.sha256(m.vertices.tobytes() + m.faces.tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    ).stdout.split()
    here = [make(cls, 5) for cls in CLASSES]
    assert there == [hashlib.sha256(mesh.vertices.tobytes() + mesh.faces.tobytes()).hexdigest() for mesh in here]


@pytest.mark.parametrize("cls", CLASSES)
def test_shapes_of_a_class_differ_in_proportion(cls: str) -> None:
    # The widths of the box, as shares of the height, spread by at least a tenth.
    boxes = np.array([np.ptp(make(cls, seed).vertices, axis=0) for seed in range(25)])
    shares = boxes[:, [0, 2]] / boxes[:, 1:2]
    assert (shares.std(axis=0) / shares.mean(axis=0)).max() > 0.1
    assert len({make(cls, seed).part_names for seed in range(25)}) > 1


def test_classes_are_told_apart_by_shape_but_not_by_a_single_measure() -> None:
    # The nearest neighbour by a histogram of distances between points mostly has the same class, far above chance, and is not always right.
    features, labels = [], []
    for label, cls in enumerate(CLASSES):
        for seed in range(12):
            points = sample(normalize(check(make(cls, seed)))[0], 600, 1).points
            distances = np.linalg.norm(points[:300] - points[300:], axis=1)
            features.append(np.histogram(distances, 24, (0, 2))[0] / 300)
            labels.append(label)
    gaps = np.abs(np.array(features)[:, None] - np.array(features)[None]).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    right = (np.array(labels)[gaps.argmin(axis=1)] == np.array(labels)).mean()
    assert 3 / len(CLASSES) < right < 0.97


def test_upright_shapes_stand_up() -> None:
    for cls in ("bottle", "rocket", "lamp", "guitar", "bookshelf", "sailboat"):
        boxes = np.array([np.ptp(make(cls, seed).vertices, axis=0) for seed in range(10)])
        assert np.median(boxes[:, 1] / boxes[:, 2]) > 1
    for cls in ("car", "airplane", "bed"):
        boxes = np.array([np.ptp(make(cls, seed).vertices, axis=0) for seed in range(10)])
        assert np.median(boxes[:, 2] / boxes[:, 1]) > 1


def test_an_unknown_class_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'spaceship'.*airplane, bed"):
        make("spaceship", 0)


SOLIDS: dict[str, tuple[Solid, float, float]] = {
    "box": (box(1, 2, 3), 6, 1e-12),
    "frustum": (tapered_box((2, 2), (1, 1), 3), 7, 1e-12),
    "rounded box": (rounded_box(1, 2, 3, 0.01), 6, 0.01),
    "cylinder": (cylinder(1, 2, 400), 2 * np.pi, 1e-3),
    "cone": (cylinder(1, 3, 400, top_radius=0), np.pi, 1e-3),
    "ellipsoid": (ellipsoid(1, 2, 3, 90), 8 * np.pi, 0.04),
    "ring": (lathe([(0, 0), (2, 0), (2, 1), (1, 1), (1, 0.5), (0, 0.5)], 400), np.pi * 3.5, 1e-3),
    "prism": (prism(np.array([[0, 0], [2, 0], [0, 2.0]]), 3), 6, 1e-12),
    "bar": (bar((1, 2, 3), (1, 2, 8), 1, segments=300), 5 * np.pi, 1e-3),
    "tube": (tube(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 4.0]]), [1, 1, 1], 300), 4 * np.pi, 1e-3),
    "turned": (turned(box(1, 2, 3), "x", 0.7), 6, 1e-12),
    "mirrored": (mirrored(moved(bar((0, 0, 0), (0, 3, 0), 1, segments=300), 5)), 3 * np.pi, 1e-3),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_are_closed_wound_outwards_and_of_the_right_volume(name: str) -> None:
    (vertices, faces), volume, tolerance = SOLIDS[name]
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(volume, rel=tolerance)
    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    there, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts == 1).all()
    assert {tuple(edge) for edge in there} == {tuple(edge) for edge in there[:, ::-1]}


def test_turning_follows_the_right_hand() -> None:
    x, y, z = np.eye(3)
    for axis, start, end in (("x", y, z), ("y", z, x), ("z", x, y)):
        assert np.allclose(turned((start[None], np.zeros((0, 3), np.int64)), axis, np.pi / 2)[0], end)


def test_dice_reach_their_ends_and_no_further() -> None:
    dice = Dice(3)
    whole = [dice.whole(2, 5) for _ in range(400)]
    assert set(whole) == {2, 3, 4, 5}
    real = sorted(dice.real(-1, 2) for _ in range(400))
    assert -1 <= real[0] < -0.9
    assert 1.9 < real[-1] < 2
    assert max(b - a for a, b in pairwise(real)) < 0.1
    for _ in range(200):
        assert all(0 <= part <= 1 for part in (*dice.paint(), *dice.wood(), *dice.metal()))
